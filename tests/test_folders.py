"""Claims about folders of small images of one size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from study.data import arrays
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
    Image.new("RGBA", (6, 6)).save(bad)
    refused("mode RGBA: .*dog/bad.png")
    bad.rename(tmp_path / "zoo" / "bad.png")
    refused("out of place: .*zoo/bad.png")


def test_a_folder_without_training_or_test_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    with pytest.raises(InputError, match="has 0 training and 0 test images"):
        arrays.describe("folder:zoo", tmp_path)
    paint(tmp_path / "zoo/train/cat/1.png")
    paint(tmp_path / "zoo/test/dog/1.png")
    with pytest.raises(InputError, match="none to train dog"):
        arrays.describe("folder:zoo", tmp_path)
