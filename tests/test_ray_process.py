"""The launcher's side of Ray: its temporary folder, and what is said when it cannot run."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.run import ray_process
from study.run.ray_process import last_words, make_scratch
from study.spec import InputError


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path as short as those of batch systems."""
    folder = Path(f"/tmp/s{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def places(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(short))
    return short


def test_the_scratch_folder_is_in_tmpdir_empty_and_its_owners_alone(places: Path, tmp_path: Path) -> None:
    scratch = make_scratch(tmp_path)
    assert scratch.parent == places and scratch.stat().st_mode & 0o777 == 0o700
    (scratch / "left").write_text("by a killed launch")
    assert make_scratch(tmp_path) == scratch and not list(scratch.iterdir())
    assert make_scratch(tmp_path / "other") != scratch


def test_rays_longest_socket_fits_into_a_scratch_folder(places: Path, tmp_path: Path) -> None:
    address = str(make_scratch(tmp_path)) + ray_process.SOCKET
    Path(address).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(address)


def test_a_name_that_something_else_has_taken_is_passed_over(places: Path, tmp_path: Path) -> None:
    scratch = make_scratch(tmp_path)
    scratch.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("data")
    scratch.symlink_to(elsewhere)
    second = make_scratch(tmp_path)
    assert second != scratch and second.parent == places and (elsewhere / "precious").exists()
    second.rmdir()
    second.write_text("a file")
    third = make_scratch(tmp_path)
    assert third not in (scratch, second) and second.read_text() == "a file" and scratch.is_symlink()


def test_another_users_folder_is_passed_over(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = make_scratch(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as in a folder with the sticky bit
    assert make_scratch(tmp_path).name == f"{others.name}-1"


def test_a_tmpdir_that_will_not_do_gives_way_and_is_named(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = short / ("long" * 20)
    long.mkdir()
    for own, reason in ((long, "its path is longer than the"), (short / "none", "No such file or directory")):
        caplog.clear()
        monkeypatch.setenv("TMPDIR", str(own))
        scratch = make_scratch(tmp_path)
        assert scratch.parent == Path("/tmp")
        assert f"TMPDIR {own} cannot hold Ray's files ({reason}" in caplog.text
        scratch.rmdir()


def test_where_no_place_has_room_each_is_named_with_the_way_out(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**16, 0, 2**16))  # type: ignore[attr-defined]
    with pytest.raises(InputError) as refused:
        make_scratch(tmp_path)
    for part in (f"{places}: 0.1 MiB are free", "/tmp: ", "/var/tmp: ", "TMPDIR", "--local"):
        assert part in str(refused.value)
    assert not list(places.iterdir())


def test_the_last_error_and_the_ends_of_rays_logs_are_kept(tmp_path: Path) -> None:
    logs = tmp_path / "ray/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(
        "".join(f"[2026-11-28 14:00:00,{n:03} I 12 12] (gcs_server) a.cc:{n}: line {n}\n" for n in range(100))
        + "[2026-11-28 14:00:01,123 C 12 12] (gcs_server) thread.cc:7: Resource temporarily unavailable\n"
        + "[2026-11-28 14:00:02,000 I 12 12] (gcs_server) a.cc:9: the end\n"
    )
    (logs / "raylet.err").write_text("")
    error, tails = last_words(tmp_path)
    assert error == "Resource temporarily unavailable"
    assert "==> gcs_server.out" in tails and "the end" in tails and "line 10\n" not in tails
    assert last_words(tmp_path / "none") == ("", "")
