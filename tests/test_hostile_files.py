"""Files of others execute nothing, leave their folder for nowhere, and do not grow beyond reason."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import use_tiny_cifar
from detection_files import small_voc, voc_file, voc_object, write
from PIL import Image
from test_share import resealed, study

from study.data import annotations, arrays, decoding, sources
from study.execution import Execution
from study.spec import InputError
from study.store import account, bundle, records
from study.store.account import Outcome, read_account
from study.store.layout import TrialFolder

ROOT = Path(__file__).parents[1]


def parquet(table: pa.Table, **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **how)
    return buffer.getvalue()


# Images


def claiming(width: int, height: int) -> bytes:
    """A PNG of a kilobyte that says it is as large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return whole + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8200, 8200), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_too_many_pixels_is_refused_before_any_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    for kind in ("cat", "dog"):
        for number in range(8):
            write(tmp_path / f"zoo/{kind}/{number}.png", claiming(*size))
    with pytest.raises(InputError, match=r"damaged image: .*cat/0.png \(.*pixels") as refused:
        arrays.describe("folder:zoo", tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(Exception, match="pixels"):
        decoding.whole(claiming(*size), 32)


def test_a_file_that_would_start_another_program_is_no_image(tmp_path: Path) -> None:
    """EPS, which Pillow hands to Ghostscript, whatever the file is called."""
    Image.new("RGB", (6, 6)).save(tmp_path / "it.eps")
    for number in range(8):
        for one in ("cat", "dog"):
            write(tmp_path / f"zoo/{one}/{number}.png", (tmp_path / "it.eps").read_bytes())
    with Image.open(tmp_path / "zoo/cat/0.png") as image:
        assert image.format == "EPS"
    with pytest.raises(InputError, match=r"damaged image: .*png \(cannot identify image file"):
        arrays.describe("folder:zoo", tmp_path)


# Annotations

LAUGHS = (
    "<!DOCTYPE a [<!ENTITY a '"
    + "ha" * 50
    + "'>"
    + "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(8))
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LAUGHS + "]><annotation><object>&i;</object></annotation>", "DTDForbidden"),
        ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>", "DTDForbidden"),
        ("<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'><annotation/>", "DTDForbidden"),
        (f"<annotation>{'<a/>' * 2**20}</annotation>", "bytes, more than"),
        ("<a>" * 20_000, "no element found"),
    ],
    ids=["expanding", "of-a-file", "of-a-server", "large", "deep"],
)
def test_an_annotation_with_entities_or_of_megabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    root = small_voc(tmp_path, monkeypatch)
    write(root / "VOCdevkit/VOC2007/Annotations/000005.xml", content)
    with pytest.raises(InputError, match=f"000005.xml is malformed: .*{says}") as refused:
        annotations.load("voc07+12", root)
    assert "\n" not in str(refused.value) and "root:" not in str(refused.value)
    write(root / "VOCdevkit/VOC2007/Annotations/000005.xml", voc_file(voc_object()))
    assert annotations.load("voc07+12", root).train


# Pickles


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_of_cifar_makes_arrays_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one with the right checksum: MD5 can be forged."""
    _, files = use_tiny_cifar(monkeypatch)
    for file, content in files.items():
        evil = pickle.dumps({"data": Evil(tmp_path / "evil"), "labels": []})
        write(tmp_path / file, evil if file.endswith("test_batch") else content)
    monkeypatch.setattr(sources, "_verified", lambda path, md5: path.read_bytes())
    with pytest.raises((InputError, pickle.UnpicklingError), match="mkdir is no part of an array"):
        sources.decode(arrays.describe("cifar10", tmp_path), tmp_path)
    assert not (tmp_path / "evil").exists()


# Tables


def expanding(kind: str) -> bytes:
    many = 2**24 + 1
    zeros = pa.array(np.zeros(many))
    if kind == "rows":  # of one value, which a dictionary and runs store in a few bytes
        return parquet(pa.table({"iteration": zeros, "train_loss": zeros}))
    if kind == "text":  # one long text, many times
        long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 2**20]))
        return parquet(pa.table({"split": long}), store_schema=False)
    if kind == "nested":
        return parquet(pa.table({"split": pa.array([[1.0] * 10])}))
    return parquet(pa.table({"iteration": pa.array(np.zeros(1000))}), compression=kind)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("rows", "bytes of memory, more than"),
        ("text", "bytes of memory, more than"),
        ("nested", "has neither numbers nor texts"),
        ("gzip", "is compressed by GZIP"),
        ("zstd", "is compressed by ZSTD"),
    ],
)
def test_a_table_that_expands_is_refused(kind: str, says: str) -> None:
    content = expanding(kind)
    assert len(content) < 2**22
    with pytest.raises(pa.ArrowInvalid, match=says):
        records.read_table(content)


def test_tables_are_read_as_they_were_written() -> None:
    for run in study():
        for table in (run.records, run.layers):
            if table is not None:
                assert records.read_table(records.parquet(table)).equals(table)
    rows = [{"split": "test", "protocol": "10-crop", "measure": "m", "nets": "", "value": 1.5, "images": 3}] * 3
    table = pa.Table.from_pylist(rows, schema=records.EVALUATIONS)
    assert records.read_table(records.parquet(table)).equals(table)


# Bundles


@pytest.fixture
def there(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "there.zip", study(), "smoke")
    return tmp_path / "there.zip"


def deep(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("spec.json"))
    members[name] = b"[" * 200_000


def twice(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["trials"].append(manifest["trials"][0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest, members: manifest.update(profile="evil.py:MINE"), "cannot be the name of a profile"),
        (lambda manifest, members: manifest.update(profile="../smoke"), "cannot be the name of a profile"),
        (
            lambda manifest, members: manifest["trials"][0].update(id="../" * 9 + "etc"),
            "cannot be the name of a folder",
        ),
        (lambda manifest, members: manifest["trials"][0].update(id=".\x1b[2J"), "cannot be the name of a folder"),
        (lambda manifest, members: manifest["trials"][0].update(id="a:b"), "cannot be the name of a folder"),
        (twice, "has a trial twice"),
        (deep, "the specification of .* is wrong"),
    ],
)
def test_a_bundle_names_nothing_outside_itself(there: Path, change: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        bundle.read(resealed(there, change))


def test_rendering_a_bundle_executes_no_file_that_it_names(
    there: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("import os; os.mkdir('evil')")
    resealed(there, lambda manifest, members: manifest.update(profile="evil.py:MINE"))
    for entry, words in (("analysis", ["figures", "--bundle"]), ("experiments", ["import"])):
        done = command(*words, there, entry=entry)
        assert done.code == 2 and "cannot be the name of a profile" in done.err
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["manifest.json", "trials/x/spec.json", "more"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(there: Path, name: str) -> None:
    with zipfile.ZipFile(there, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as out:
        for _ in range(100):
            out.write(bytes(2**20))
    with pytest.raises(InputError, match="more than results have|would grow to"):
        bundle.read(there)


def test_many_small_bombs_are_refused_together(there: Path) -> None:
    with zipfile.ZipFile(there, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"trials/{number}", bytes(2**20))
    with pytest.raises(InputError, match="would grow to .*: that is no bundle"):
        bundle.read(there)


def test_a_member_is_never_read_beyond_the_size_that_it_claims(there: Path) -> None:
    """The size of the bomb is set to 10 bytes in both headers."""
    bomb = bytes(2**24 + 54_321)
    with zipfile.ZipFile(there, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bomb)
    content = there.read_bytes()
    size = struct.pack("<I", len(bomb))
    assert content.count(size) == 2
    there.write_bytes(content.replace(size, struct.pack("<I", 10)))
    with zipfile.ZipFile(there) as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("bomb")
    resealing = {"bomb": "0" * 64}
    with zipfile.ZipFile(there) as archive, pytest.raises(InputError, match="bomb is damaged"):
        bundle._check(archive, *next(iter(resealing.items())), there)


def test_tags_of_a_bundle_neither_steer_a_terminal_nor_take_mlflows_names(
    tmp_path: Path, store: Execution, command: Callable[..., Any]
) -> None:
    there = tmp_path / "two.zip"
    bundle.write(there, [run for run in study() if run.outcome.is_result][:2], "smoke")

    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        for name in [name for name in members if name.endswith("run.json")]:
            run = json.loads(members[name])
            run["reason"] = "\x1b]0;x\x07"
            run["tags"] |= {"machine": "\x1b[2J", "mlflow.note.content": "![x](http://e/x.png)", "storage": "/etc"}
            members[name] = json.dumps(run).encode()

    done = command("import", resealed(there, change), "--storage", store.storage)
    assert done.code == 0 and "\x1b" not in done.out + done.err
    kept = [read_account(path.parent) for path in (store.storage / "trials").glob("*/run.json")]
    assert kept and all(one.tags["machine"] == r"\x1b[2J" for one in kept)
    assert not any("mlflow.note.content" in one.tags or one.tags["storage"] == "/etc" for one in kept)


# A store that is somebody else's


@pytest.mark.parametrize("content", ["[" * 200_000, '{"outcome": "finished", "tags": [1]}', '{"outcome": "x"}', "7"])
def test_an_account_that_cannot_be_one_is_none(tmp_path: Path, content: str) -> None:
    TrialFolder(tmp_path).account.write_text(content)
    assert read_account(tmp_path).outcome is Outcome.MISSING


def test_a_reason_is_kept_without_passwords(tmp_path: Path) -> None:
    said = account.Account(outcome=Outcome.FAILED, reason="http://me:secret@host is away\x1b[31m")
    account.write_account(tmp_path, said)
    assert read_account(tmp_path).reason == r"http://host is away\x1b[31m"
    assert b"secret" not in TrialFolder(tmp_path).account.read_bytes()


def test_nothing_that_a_command_writes_can_be_written_by_everybody(
    tmp_path: Path, store: Execution, command: Callable[..., Any]
) -> None:
    bundle.write(tmp_path / "one.zip", [run for run in study() if run.outcome.is_result][:1], "smoke")
    usual = os.umask(0)
    try:
        assert command("import", tmp_path / "one.zip", "--storage", store.storage).code == 0
    finally:
        os.umask(usual)
    written = [path for name in ("trials", "artifacts") for path in (store.storage / name).rglob("*")]
    assert len(written) > 5 and not [path for path in written if path.stat().st_mode & 0o002]
