"""Small files survive kills and full disks, and an object store is a storage like a folder."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.spec import InputError
from study.store import atomic


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match="disk full") as raised:
        atomic.write(path, b"new")
    assert atomic.read(path) == b"old" and atomic.is_full(raised.value)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]  # what was half written takes no room


def test_writers_of_one_number_on_two_hosts_do_not_write_into_each_others_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 17)  # in containers numbers begin at 1
    path = tmp_path / "file"
    with atomic.replacing(path) as here, atomic.replacing(path) as there:
        here.write_bytes(b"from here")
        there.write_bytes(b"from there")
        assert here != there
    assert path.read_bytes() == b"from here"  # who ends last
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_what_is_not_there_reads_as_none(tmp_path: Path) -> None:
    assert atomic.read(tmp_path / "nothing") is None
    (tmp_path / "file").write_bytes(b"")
    assert atomic.read(tmp_path / "file" / "below") is None


def test_a_url_nobody_can_open_is_refused() -> None:
    with pytest.raises(InputError, match="storage nowhere://bucket/study cannot be opened"):
        atomic.place("nowhere://bucket/study")
    assert atomic.place("store") == Path("store")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "study")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "study")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = atomic.place("s3://studies/quick")
    folder.fs.mkdir("studies")  # type: ignore[attr-defined]
    yield folder
    server.stop()


def test_an_object_store_reads_what_was_written_and_lists_it(bucket: Path) -> None:
    path = bucket / "trials" / "one" / "run.json"
    assert atomic.read(path) is None and not atomic.is_local(path)
    for content in (b"old", b"new"):
        atomic.write(path, content)
        assert atomic.read(path) == content
    assert [found.parent.name for found in (bucket / "trials").glob("*/run.json")] == ["one"]
    path.unlink()
    assert atomic.read(path) is None
