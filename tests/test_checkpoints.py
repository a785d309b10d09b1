"""Checkpoints survive damage and kills, and never run code."""

import hashlib
import io
import logging
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from study.training import checkpoints


def saved(folder: Path, *iterations: int) -> list[str]:
    for i in iterations:
        checkpoints.save(folder, i, {"iteration": i, "weights": torch.full((3,), float(i))})
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    assert saved(tmp_path, 9, 10, 100) == ["000000010.checkpoint", "000000100.checkpoint"]
    newest = checkpoints.load_newest(tmp_path)
    assert newest is not None and newest["iteration"] == 100 and newest["weights"].tolist() == [100.0] * 3


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoints.load_newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "000000002.checkpoint"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load_newest(tmp_path)
    assert state is not None and state["iteration"] == 1
    assert "000000002.checkpoint is damaged" in caplog.text
    assert (tmp_path / "000000002.damaged").exists()


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    saved(tmp_path, 1)
    checkpoints.save(tmp_path, 2, {"iteration": Evil()})
    older = checkpoints.load_newest(tmp_path)
    assert older is not None and older["iteration"] == 1 and (tmp_path / "000000002.damaged").exists()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("payload", [b"", b"PK\x03\x04", pickle.dumps([1]), b"<html>"])
def test_what_is_no_state_is_set_aside_whatever_its_checksum(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "000000002.checkpoint"
    path.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    assert checkpoints.load_newest(tmp_path) is None and not path.exists()


def test_a_checkpoint_that_claims_more_than_it_has_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its entries are compressed, as `torch.save` never writes them: kilobytes that become gigabytes of zeros."""
    path = checkpoints.save(tmp_path, 1, {"net": torch.zeros(2**20)})
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(path.read_bytes().partition(b"\n")[2])) as archive,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in archive.namelist():
            small.writestr(name, archive.read(name))
    content = packed.getvalue()
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert len(content) < 2**14 and checkpoints.load_newest(tmp_path) is None
    assert "is damaged" in caplog.text
