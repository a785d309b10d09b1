"""Claims about downloads. Servers listen on 127.0.0.1 only."""

import functools
import gzip
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import CIFAR10, use_tiny_cifar, use_tiny_fashion_mnist, write

from study.data import arrays, sources
from study.spec import InputError

NOWHERE = Path("/nonexistent")


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, bytes]]:
    return use_tiny_cifar(monkeypatch)


@pytest.fixture
def idx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    return use_tiny_fashion_mnist(monkeypatch, tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, list[str]]]:
    """A slow HTTP server: its URL, the folder it serves, and the paths it was asked for."""
    served, asked = tmp_path / "served", []
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.2)
            super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served)))
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("STUDY_DATA_MIRRORS", url)
    monkeypatch.delenv("STUDY_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "MIRRORS", dict.fromkeys(sources.MIRRORS, (f"{url}/official/",)))
    yield url, served, asked
    running.shutdown()
    thread.join()
    running.server_close()


def test_missing_archive_is_downloaded_once_and_checked(
    tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]], server: tuple[str, Path, list[str]]
) -> None:
    _, served, asked = server
    write(served / "official/cifar-10-python.tar.gz", cifar[0])  # the user's mirror lacks it: the next one is tried
    root = tmp_path / "new" / "root"
    write(root / ".part-cifar-10-python.tar.gz", b"rest of a download that was killed")
    assert arrays.load(CIFAR10, root).count("train") == 50
    assert arrays.load(CIFAR10, root).count("test") == 10
    assert asked == ["/cifar-10-python.tar.gz", "/official/cifar-10-python.tar.gz"]
    assert (root / "cifar-10-python.tar.gz").read_bytes() == cifar[0]
    assert not (root / ".part-cifar-10-python.tar.gz").exists()


def test_fashion_mnist_is_downloaded_where_torchvision_keeps_it(
    tmp_path: Path, idx: dict[str, bytes], server: tuple[str, Path, list[str]]
) -> None:
    for file, content in idx.items():
        write(server[1] / f"{file}.gz", gzip.compress(content))
    assert arrays.load(arrays.describe("fashion-mnist", NOWHERE), tmp_path).count("train") == 20
    assert (tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz").exists() and len(server[2]) == 4


def test_errors_of_all_mirrors_are_named_in_one_line(
    tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]], server: tuple[str, Path, list[str]]
) -> None:
    url, served, _ = server
    write(served / "cifar-10-python.tar.gz", cifar[0][:1000])
    root = tmp_path / "root"
    with pytest.raises(InputError) as error:
        arrays.load(CIFAR10, root)
    message = str(error.value)
    assert "\n" not in message
    for part in (f"{url}/cifar-10", "half-downloaded", f"{url}/official/cifar-10", "404", "PROFILE=quick", str(root)):
        assert part in message
    assert not (root / "cifar-10-python.tar.gz").exists()


def test_offline_asks_no_server(
    tmp_path: Path, server: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_OFFLINE", "1")
    with pytest.raises(InputError, match="STUDY_OFFLINE"):
        arrays.load(CIFAR10, tmp_path)
    assert server[2] == []


def test_a_root_that_cannot_be_written_is_an_input_error(tmp_path: Path, server: tuple[str, Path, list[str]]) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="could not be downloaded"):
        arrays.load(CIFAR10, tmp_path / "file")


def test_two_processes_download_once(tmp_path: Path, server: tuple[str, Path, list[str]]) -> None:
    url, served, asked = server
    write(served / "file", b"content")
    target = tmp_path / "root" / "file"
    script = (
        "import sys; from pathlib import Path; from study.data.downloads import download\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(download(Path({str(target)!r}), [{url + '/file'!r}], Path.read_bytes, ValueError).read_text())\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:  # both look for the file before the slow server has answered either
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["content\n"] * 2
    assert [worker.returncode for worker in workers] == [0, 0] and asked == ["/file"]
