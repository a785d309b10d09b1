"""Claims about folders of small images of one size."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from study.data import arrays, cache, folders
from study.spec import Data, InputError


def paint(path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def zoo(root: Path, mode: str = "RGB") -> Data:
    for i in range(30):
        paint(root / "zoo" / ("cat", "dog", "eel")[i % 3] / f"{i}.png", mode=mode, seed=i)
    return arrays.describe("folder:zoo", root)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_is_split_by_file_names_alone(tmp_path: Path, mode: str, channels: int) -> None:
    spec = zoo(tmp_path, mode)
    assert (spec.channels, spec.size, spec.classes, len(spec.digest)) == (channels, 6, 3, 64)
    dataset = arrays.load(spec, tmp_path)
    assert dataset.count("train") + dataset.count("test") == 30 and 1 <= dataset.count("test") <= 12
    tests = {image.numpy().tobytes() for image in dataset.test_images}
    paint(tmp_path / "zoo" / "cat" / "more.png", mode=mode, seed=99)
    more = arrays.load(arrays.describe("folder:zoo", tmp_path), tmp_path)
    assert tests <= {image.numpy().tobytes() for image in more.test_images}
    with pytest.raises(InputError, match="folder:zoo in .* has digest"):  # the trial was of other images
        arrays.load(spec, tmp_path)


def test_a_folder_with_train_and_test_keeps_them(tmp_path: Path) -> None:
    for i, place in enumerate(["train/b", "train/a", "train/a", "test/b", "test/a"]):
        paint(tmp_path / "pets" / place / f"{i}.png", seed=i)
    (tmp_path / "pets" / "train" / "a" / "notes.txt").write_text("not an image")
    dataset = arrays.load(arrays.describe("folder:pets", tmp_path), tmp_path)
    assert dataset.train_labels.tolist() == [0, 0, 1] and dataset.test_labels.tolist() == [0, 1]
    expected = np.asarray(Image.open(tmp_path / "pets/train/a/1.png")).transpose(2, 0, 1)
    assert np.array_equal(dataset.train_images[0].numpy(), expected)


def test_grey_images_among_coloured_ones_become_coloured(tmp_path: Path) -> None:
    spec = zoo(tmp_path, "L")
    paint(tmp_path / "zoo" / "eel" / "colour.jpg", seed=1)
    mixed = arrays.describe("folder:zoo", tmp_path)
    assert (spec.channels, mixed.channels) == (1, 3)
    images = arrays.load(mixed, tmp_path).test_images
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_folder_is_decoded_once(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    (cache,) = (tmp_path / ".cache").glob("*.npz")
    before = cache.stat().st_mtime_ns
    arrays.load(spec, tmp_path)
    assert cache.stat().st_mtime_ns == before and not list((tmp_path / ".cache").glob("*.part"))
    cache.write_bytes(cache.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be kept in .*delete what is there"):
        arrays.load(spec, tmp_path)


def test_the_digest_of_decoded_images_is_kept_with_them(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    dataset = arrays.load(spec, tmp_path)
    assert isinstance(dataset, arrays.Dataset)
    parts = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    assert dataset.digest == digest
    (kept,) = (tmp_path / ".cache").glob("*.npz")
    with np.load(kept) as stored:
        assert stored["digest"] == digest
        older = {key: stored[key] for key in stored.files if key != "digest"}
    np.savez(kept, **older)  # as they were kept before
    assert arrays.load(spec, tmp_path).digest == digest


# ---------------------------------------------------------------- hashed once


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that were taken of bytes, while the clock of files is trusted to its last tick."""
    digests: list[str] = []
    take = folders._digest

    def taken(*of: object) -> str:
        digests.append(take(*of))  # type: ignore[arg-type]
        return digests[-1]

    monkeypatch.setattr(folders, "_digest", taken)
    monkeypatch.setattr(cache, "COARSEST_CLOCK", 0)
    return digests


def settled_zoo(root: Path) -> Data:
    """Its digest is kept: the clock has ticked since its files changed."""
    zoo(root)
    time.sleep(0.05)
    return arrays.describe("folder:zoo", root)


def test_a_folder_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    spec = settled_zoo(tmp_path)
    count = len(hashed)
    assert [arrays.describe("folder:zoo", tmp_path) for _ in range(3)] == [spec] * 3
    assert len(hashed) == count and spec.digest == hashed[-1]


def rewrite(zoo: Path) -> None:
    """Other bytes, as many, and of the same time."""
    path = zoo / "cat" / "0.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": rewrite,
    "time": lambda zoo: (zoo / "cat" / "0.png").touch(),
    "name": lambda zoo: (zoo / "cat" / "0.png").rename(zoo / "dog" / "0.png"),
    "one more": lambda zoo: paint(zoo / "cat" / "more.png", seed=99),
    "one less": lambda zoo: (zoo / "cat" / "0.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_folder_is_hashed_anew(change: str, tmp_path: Path, hashed: list[str]) -> None:
    spec = settled_zoo(tmp_path)
    count = len(hashed)
    CHANGES[change](tmp_path / "zoo")
    after = arrays.describe("folder:zoo", tmp_path)
    assert len(hashed) == count + 1 and (after.digest == spec.digest) == (change == "time")


def test_a_folder_that_has_just_changed_is_not_trusted(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "COARSEST_CLOCK", 60 * 10**9)
    spec = zoo(tmp_path)
    assert not list((tmp_path / ".cache").glob("*.json"))
    assert arrays.describe("folder:zoo", tmp_path) == spec and len(hashed) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0, "status": "", "digest": ""}'])
def test_a_kept_digest_that_cannot_be_used_is_made_anew(content: str, tmp_path: Path, hashed: list[str]) -> None:
    spec = settled_zoo(tmp_path)
    kept = tmp_path / ".cache" / "zoo-files.json"
    whole = kept.read_text()
    kept.write_text(content)
    assert arrays.describe("folder:zoo", tmp_path) == spec and kept.read_text() == whole


@pytest.mark.parametrize("stage", ["_digest", "_decode_folder"])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = zoo(tmp_path)
    (cached,) = (tmp_path / ".cache").glob("*.npz")
    cached.unlink()
    read = getattr(folders, stage)

    def read_slowly(*of: object) -> object:
        result = read(*of)
        paint(tmp_path / "zoo" / "cat" / "0.png", seed=50)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(folders, stage, read_slowly)
        with pytest.raises(InputError, match="folder:zoo was changed while it was read; run again"):
            arrays.describe("folder:zoo", tmp_path)
    assert not list((tmp_path / ".cache").glob("*.npz"))
    assert arrays.describe("folder:zoo", tmp_path).digest != spec.digest


def test_a_data_root_that_cannot_be_written_is_read_with_what_is_kept_there_or_anew(
    tmp_path: Path, hashed: list[str]
) -> None:
    spec = settled_zoo(tmp_path)
    kept = tmp_path / ".cache"
    for lock in kept.glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # no one can take it, not even root
    assert arrays.load(spec, tmp_path).count("train") == 24
    kept.rename(tmp_path / "cache")
    kept.write_text("not a folder")
    assert arrays.describe("folder:zoo", tmp_path) == spec
    assert arrays.load(spec, tmp_path).count("train") == 24


# ---------------------------------------------------------------- mapped


SECOND = """
import sys
from pathlib import Path
import psutil
from study.data import arrays

root, process = Path(sys.argv[1]), psutil.Process()
arrays.load(arrays.describe("synthetic", root), root)  # what a process loads once is loaded
spec = arrays.describe("folder:zoo", root)
start = process.memory_full_info().uss
data = arrays.load(spec, root)
loaded = process.memory_full_info().uss
copies = data.train_images.clone(), data.test_images.clone()
print(loaded - start, process.memory_full_info().uss - loaded)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what processes share is counted in pages of Linux")
def test_workers_share_the_memory_of_decoded_images(tmp_path: Path) -> None:
    for i in range(300):
        paint(tmp_path / "zoo" / "ab"[i % 2] / f"{i}.png", size=(192, 192), seed=i)
    spec = arrays.describe("folder:zoo", tmp_path)
    first = arrays.load(spec, tmp_path)
    assert isinstance(first, arrays.Dataset)
    size = first.train_images.nbytes + first.test_images.nbytes
    second = subprocess.run([sys.executable, "-c", SECOND, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert second.returncode == 0 and not second.stderr, second.stderr
    grown, copied = map(int, second.stdout.split())
    assert grown < size / 4 and copied > 0.9 * size, (grown, copied, size)
    before = first.train_images[0].clone()
    first.train_images[0] = 255 - before  # stays this process's own
    assert torch.equal(arrays.load(spec, tmp_path).train_images[0], before)  # type: ignore[union-attr]


# ---------------------------------------------------------------- refused


def test_bad_images_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder:zoo is missing: .*zoo was looked for"):
        arrays.describe("folder:zoo", tmp_path)
    zoo(tmp_path)
    bad = tmp_path / "zoo" / "dog" / "bad.png"
    whole = (tmp_path / "zoo" / "cat" / "0.png").read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as error:
            arrays.describe("folder:zoo", tmp_path)
        assert "\n" not in str(error.value)

    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        bad.write_bytes(damaged)
        refused("damaged image: .*dog/bad.png")
    paint(bad, size=(6, 7))
    refused("square images of one size: .*dog/bad.png is 6x7, .*/zoo/.*png is 6x6")
    paint(bad, size=(7, 7))
    refused("dog/bad.png is 7x7")
    Image.new("F", (6, 6)).save(bad, "TIFF")
    refused("damaged image: .*dog/bad.png .its pixels are floating-point numbers")
    bad.rename(tmp_path / "zoo" / "bad.png")
    refused("out of place: .*zoo/bad.png")


def test_a_folder_without_training_or_test_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    with pytest.raises(InputError, match="has 0 training and 0 test images"):
        arrays.describe("folder:zoo", tmp_path)
    paint(tmp_path / "zoo/train/cat/1.png")
    paint(tmp_path / "zoo/test/dog/1.png")
    with pytest.raises(InputError, match="test images of class 'dog', and none to train it"):
        arrays.describe("folder:zoo", tmp_path)
