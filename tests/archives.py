"""Tiny stand-ins for the archives of CIFAR and Fashion-MNIST."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from study.data import arrays, sources

CIFAR10 = arrays.describe("cifar10", Path("/nonexistent"))


def md5(contents: bytes) -> str:
    return hashlib.md5(contents).hexdigest()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tiny_cifar(name: str) -> tuple[bytes, dict[str, bytes]]:
    """An archive with the structure of CIFAR's, of ten (or a hundred) images a file, and the files in it."""
    cifar = sources.CIFAR[name]
    classes = sources.SHAPES[name][2]
    random = np.random.default_rng(0)
    contents = {}
    for file in (*cifar.train, cifar.test):
        images = random.integers(0, 256, (classes, 3072), dtype=np.uint8)
        contents[file] = pickle.dumps({"data": images, cifar.labels: random.permutation(classes).tolist()}, protocol=2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in contents.items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue(), contents


def use_tiny_cifar(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, bytes]]:
    """Let `tiny_cifar` pass for CIFAR-10."""
    archive, files = tiny_cifar("cifar10")
    for file, content in {"cifar-10-python.tar.gz": archive, **files}.items():
        monkeypatch.setitem(sources.CHECKSUMS, file, md5(content))
    return archive, files


def use_tiny_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Fashion-MNIST with 20 training and 10 test images; Debian's package seems not to be installed."""
    random = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 20), ("t10k", 10)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">i4").tobytes()
        contents[f"{part}-images-idx3-ubyte"] = header + images.tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents[f"{part}-labels-idx1-ubyte"] = (
            bytes([0, 0, 8, 1]) + np.array([count], ">i4").tobytes() + labels.tobytes()
        )
    for file, content in contents.items():
        monkeypatch.setitem(sources.CHECKSUMS, file, md5(content))
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")
    return contents
