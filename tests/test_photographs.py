"""Claims about photographs: where they are found, how they are decoded and augmented, and that trials train on them."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import webdataset
from click.testing import CliRunner
from PIL import Image
from torch import Tensor
from torchvision.datasets import imagenet as torchvisions
from torchvision.transforms import functional as reference

from commands.study import cli
from study.data import arrays, decoding, indexes, photographs
from study.data.photographs import Photographs
from study.execution import Execution
from study.run import worker
from study.seeds import generator
from study.spec import Data, InputError, Model, Trial
from study.store.account import read_account
from study.store.records import RECALIBRATED, read_records
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")
WNIDS = ("n01440764", "n01443537", "n02119789")  # ascending, as their class numbers


def jpeg(seed: int, size: tuple[int, int] = (60, 45), mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """A smooth picture of its own."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stored, kind, quality=90)
    return stored.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def zoo(root: Path, train: int = 8, test: int = 3) -> Data:
    """images:zoo, of two classes and images of several shapes."""
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            for at, label in enumerate(("cat", "dog")):
                size = (40 + 5 * number, 60 - 3 * number)
                write(root / "zoo" / split / label / f"{number}.jpg", jpeg(1000 * at + 100 * len(split) + number, size))
    return arrays.describe("images:zoo", root, size=16)


def load(spec: Data, root: Path, **more: int) -> Photographs:
    found = arrays.load(spec, root, **more)  # type: ignore[arg-type]
    assert isinstance(found, Photographs)
    return found


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def refused(spec: Data | str, root: Path, *parts: str) -> None:
    """Refused in one line that has all of `parts`."""
    with pytest.raises(InputError) as error:
        arrays.describe(spec, root) if isinstance(spec, str) else arrays.load(spec, root)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


# ---------------------------------------------------------------- ImageNet


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def ilsvrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """ImageNet with 3 classes, 12 training and 6 validation images: a root with its tars, and one with its folders."""
    tars, folders = tmp_path / "tars", tmp_path / "folders"
    inner: dict[str, bytes] = {}
    for at, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{number}.JPEG": jpeg(10 * at + number, (50 + number, 40)) for number in (3, 1, 20, 7)}
        inner[f"{wnid}.tar"] = tar(images)
        for name, image in images.items():
            write(folders / "imagenet" / "train" / wnid / name, image)
    order = dict(reversed(inner.items()))  # the official tar is in no order that a reader may rely on
    write(tars / "ILSVRC2012_img_train.tar", tar(order))

    truth = [2, 1, 3, 3, 2, 1]  # numbers of the development kit, which are not in the order of WNIDs
    of_number = {1: WNIDS[2], 2: WNIDS[0], 3: WNIDS[1]}
    images = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": jpeg(100 + i) for i in range(len(truth))}
    write(tars / "ILSVRC2012_img_val.tar", tar(images))
    for number, (name, image) in zip(truth, images.items(), strict=True):
        write(folders / "imagenet" / "val" / of_number[number] / name, image)

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    rows = [(number, wnid, "words", "gloss", 0) for number, wnid in of_number.items()]
    rows.append((4, "n00000001", "entity", "an inner node", 3))
    synsets = np.array(rows, dtype=[(field, object) for field in fields])
    mat = io.BytesIO()
    scipy.io.savemat(mat, {"synsets": synsets})
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": mat.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in kit.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    write(tars / indexes.DEVKIT, packed.getvalue())
    md5 = hashlib.md5(packed.getvalue(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(torchvisions.ARCHIVE_META, "devkit", (indexes.DEVKIT, md5))
    monkeypatch.setattr(indexes, "COUNTS", {"train": 12, "val": 6})
    monkeypatch.setattr(indexes, "CLASSES", 3)
    return tars, folders


def imagenet() -> Data:
    return arrays.describe("imagenet", Path("/nonexistent"), size=16)


def test_imagenet_is_the_papers_by_its_name_alone() -> None:
    spec = arrays.describe("imagenet", Path("/nonexistent"))
    assert (spec.channels, spec.size, spec.classes, spec.scales, spec.digest) == (3, 224, 1000, (256, 480), "")
    assert indexes.COUNTS == {"train": 1_281_167, "val": 50_000}


def test_imagenet_is_the_same_from_its_tars_and_from_folders(ilsvrc: tuple[Path, Path]) -> None:
    tars, folders = (load(imagenet(), root) for root in ilsvrc)
    assert tars.digest == folders.digest
    assert (tars.count("train"), tars.count("test")) == (12, 6)
    for i in range(4):
        assert same(tars.batch(0, i, 5), folders.batch(0, i, 5))
    for split in ("train", "test"):
        ours, theirs = next(tars.clean(split, 12)), next(folders.clean(split, 12))
        assert same(ours, theirs)
    assert next(tars.clean("test", 12))[1].tolist() == [0, 0, 1, 1, 2, 2]
    first = next(tars.resized("test", 45))[0]  # the first of class 0 is image 1, of number 2
    assert np.array_equal(first.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(jpeg(100)))))


def test_an_index_is_read_once_and_anew_when_a_tar_changes(ilsvrc: tuple[Path, Path]) -> None:
    tars, _ = ilsvrc
    load(imagenet(), tars)
    (index,) = (tars / ".cache").glob("imagenet-index-*.npz")
    before = index.stat().st_mtime_ns
    load(imagenet(), tars)
    assert index.stat().st_mtime_ns == before
    (tars / "ILSVRC2012_img_val.tar").write_bytes(b"")
    refused(imagenet(), tars, "ILSVRC2012_img_val.tar is truncated or damaged", "get it again")


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.7, "without its end"])
def test_a_truncated_training_tar_is_refused(ilsvrc: tuple[Path, Path], kept: float | str) -> None:
    path = ilsvrc[0] / "ILSVRC2012_img_train.tar"
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\0") if isinstance(kept, str) else whole[: int(kept * len(whole))])
    refused(imagenet(), ilsvrc[0], str(path), "truncated or damaged", "delete it and get it again")


def test_imagenets_counts_classes_and_labels_are_checked(
    ilsvrc: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tars, folders = ilsvrc
    refused(imagenet(), tmp_path / "empty", "is missing", "ILSVRC2012_img_train.tar", "image-net.org")
    monkeypatch.setattr(indexes, "COUNTS", {"train": 13, "val": 6})
    for root in ilsvrc:
        refused(imagenet(), root, "has 12 images in", "must have 13")
    monkeypatch.setattr(indexes, "COUNTS", {"train": 12, "val": 7})
    for root in ilsvrc:
        refused(imagenet(), root, "has 6 images in", "must have 7")
    monkeypatch.setattr(indexes, "COUNTS", {"train": 12, "val": 6})
    (folders / "imagenet/val" / WNIDS[0]).rename(folders / "imagenet/val/n00000000")
    refused(imagenet(), folders, "'n00000000'", "only")
    (folders / "imagenet/train" / WNIDS[0]).rename(folders / "imagenet/train/fish")
    refused(imagenet(), folders, "'fish'", "no WNID")
    monkeypatch.setattr(indexes, "CLASSES", 4)
    for root in ilsvrc:
        refused(imagenet(), root, "has 3 classes in", "must have 4")
    monkeypatch.setattr(indexes, "CLASSES", 3)
    kit = (tars / indexes.DEVKIT).read_bytes()
    (tars / indexes.DEVKIT).write_bytes(kit[:-30])
    refused(imagenet(), tars, indexes.DEVKIT, "is damaged")
    (tars / indexes.DEVKIT).unlink()
    refused(imagenet(), tars, "has no labels", indexes.DEVKIT)


# ---------------------------------------------------------------- folders, shards, shipped pictures


def test_a_folders_classes_are_its_sub_folders_in_order(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    assert (spec.channels, spec.size, spec.classes, spec.scales, len(spec.digest)) == (3, 16, 2, (18, 34), 64)
    found = load(spec, tmp_path)
    assert next(found.clean("train", 16))[1].tolist() == [0] * 8 + [1] * 8
    tests = next(found.clean("test", 16))
    assert tests[1].tolist() == [0] * 3 + [1] * 3
    (tmp_path / "zoo" / "val").rename(tmp_path / "zoo" / "test")
    assert same(next(load(spec, tmp_path).clean("test", 6)), tests)
    write(tmp_path / "zoo/train/dog/more.jpg", jpeg(7))
    refused(spec, tmp_path, "has digest", "describe it anew")


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    refused("images:zoo", tmp_path, "is missing", str(tmp_path / "zoo" / "train"), "train/CLASS/*.jpg")
    refused("images:../zoo", tmp_path, "must be images:NAME")
    zoo(tmp_path)
    loose = tmp_path / "zoo" / "train" / "loose.jpg"
    write(loose, jpeg(0))
    refused("images:zoo", tmp_path, "an image without a label", str(loose))
    loose.unlink()
    write(tmp_path / "zoo" / "train" / "cat" / "deep" / "deep.jpg", jpeg(0))
    refused("images:zoo", tmp_path, "deep/deep.jpg lies deeper than CLASS/")
    (tmp_path / "zoo" / "train" / "cat" / "deep" / "deep.jpg").unlink()
    write(tmp_path / "zoo" / "val" / "eel" / "0.jpg", jpeg(0))
    refused("images:zoo", tmp_path, "has a class 'eel'")
    (tmp_path / "zoo" / "train" / "eel").mkdir()
    refused("images:zoo", tmp_path, "has no image of class 'eel'")


def test_a_damaged_cache_is_refused_by_name(tmp_path: Path) -> None:
    load(zoo(tmp_path), tmp_path)
    for cache in (tmp_path / ".cache").glob("*.npz"):
        content = cache.read_bytes()
        cache.write_bytes(content[:100])
        with pytest.raises(InputError, match=f"cannot be kept in .*{cache.name} .*delete what is there"):
            load(arrays.describe("images:zoo", tmp_path, size=16), tmp_path)
        cache.write_bytes(content)


def test_what_does_not_go_with_photographs_is_refused(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    refused(replace(spec, padding=4), tmp_path, "padding 4")
    refused(replace(spec, held_out=16), tmp_path, "held_out 16 leaves no training image")
    refused(replace(spec, classes=3), tmp_path, "has classes 2, not 3")
    with pytest.raises(InputError, match="size 16 is for photographs"):
        arrays.describe("digits", tmp_path, size=16)
    with pytest.raises(InputError, match="batch 17 is larger than the 16 training images"):
        load(spec, tmp_path).batch(0, 0, 17)


def test_shards_hold_the_images_of_their_source(tmp_path: Path) -> None:
    spec = zoo(tmp_path, train=12)
    command = ["shard", "images:zoo", "packed", "--data-root", str(tmp_path)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0 and "24 training and 6 validation images" in result.output
    packed, loose = load(arrays.describe("shards:packed", tmp_path, size=16), tmp_path), load(spec, tmp_path)
    assert [packed.count(split) for split in ("train", "test")] == [24, 6]
    mean, scale = loose.mean, loose.scale
    assert torch.equal(packed.mean, mean)

    def pairs(found: Photographs, split: str) -> set[tuple[bytes, int]]:
        batches = [batch for batch in found.clean(split, 5)]
        return {
            ((images / scale[0] + mean).round()[i].to(torch.uint8).numpy().tobytes(), int(labels[i]))
            for images, labels in batches
            for i in range(len(labels))
        }

    for split in ("train", "test"):
        assert pairs(packed, split) == pairs(loose, split)
    theirs = webdataset.WebDataset(str(tmp_path / "packed" / "val-000000.tar"), shardshuffle=False)
    assert sorted(int(sample["cls"]) for sample in theirs) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="packed: choose a new NAME"):
        indexes.write_shards("images:zoo", "packed", tmp_path, 1)
    with pytest.raises(InputError, match="'digits' is no data set of photographs"):
        indexes.write_shards("digits", "other", tmp_path, 1)


def shards(root: Path, count: int, images: int) -> Data:
    """shards:many: `count` training shards of `images` each, and one for validation."""
    for split, number in [("train", n) for n in range(count)] + [("val", 0)]:
        members = {}
        for i in range(images):
            key = f"{number * images + i:05d}"
            members |= {f"{key}.cls": str(i % 2).encode(), f"{key}.jpg": jpeg(number * images + i, (20, 20))}
        write(root / "many" / f"{split}-{number:06d}.tar", tar(members))
    return arrays.describe("shards:many", root, size=16)


def test_an_epoch_of_shards_shows_every_image_once_and_reads_few_shards_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "SHARD_GROUP", 2)
    found = load(replace(shards(tmp_path, 6, 4), held_out=3), tmp_path)
    split = found._split("train")
    orders = [split.shuffled(generator(0, "order", epoch)) for epoch in range(2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(21))
        archives = split.index.archive[split.chosen[order]]
        seen = [set(archives[at:].tolist()) for at in range(21)]
        assert len(seen[0] - seen[8]) <= 2  # two shards of at most four images each are over after eight
    assert orders[0].tolist() != orders[1].tolist()


def test_shards_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    refused("shards:many", tmp_path, "is missing", "python -m experiments shard")
    shards(tmp_path, 2, 2)
    path = tmp_path / "many" / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("shards:many", tmp_path, str(path), "truncated or damaged")
    for members, why in (
        ({"1.jpg": jpeg(0)}, "1 lacks its image or its label"),
        ({"1.jpg": jpeg(0), "1.cls": b"cat"}, "has a label 'cat' in 1.cls"),
        ({"1.jpg": jpeg(0), "1.cls": b"3"}, "no training image of class number 2"),
    ):
        path.write_bytes(tar(members))
        refused("shards:many", tmp_path, why)


def test_the_shipped_pictures_make_a_small_set_once(tmp_path: Path) -> None:
    spec = arrays.describe("photographs", tmp_path, size=32, held_out=10)
    assert (spec.classes, spec.size, spec.scales) == (4, 32, (37, 69))
    files = sorted((tmp_path / "photographs").rglob("*.jpg"))
    assert len(files) == 200 and len({Image.open(file).size for file in files}) > 150
    again = arrays.describe("photographs", tmp_path / "again", size=32, held_out=10)
    assert spec == again
    found = load(spec, tmp_path)
    assert [found.count(split) for split in ("train", "validation", "test")] == [150, 10, 40]
    assert not list(tmp_path.glob(".part*"))


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_however_calls_are_ordered_and_threads_are_many(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), flip=True, colour="pca")
    one, many, other = load(spec, tmp_path, threads=1), load(spec, tmp_path, threads=4), load(spec, tmp_path)
    torch.manual_seed(1)
    forwards = [one.batch(3, i, 5) for i in range(7)]
    state = torch.get_rng_state()
    backwards = [many.batch(3, i, 5) for i in reversed(range(7))][::-1]
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(same, forwards, backwards))
    list(other.clean("test", 2))
    assert same(other.batch(3, 4, 5), forwards[4]) and same(other.batch(3, 4, 5), forwards[4])
    assert not torch.equal(other.batch(4, 4, 5)[0], forwards[4][0])
    images, labels = forwards[0]
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32 and labels.dtype == torch.int64
    epoch = torch.cat([one.batch(3, i, 8)[1] for i in range(2)])
    assert epoch.bincount().tolist() == [8, 8]


def test_a_part_of_a_batch_is_what_the_whole_has_there(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), flip=True, colour="pca")
    synthetic = replace(arrays.describe("synthetic", tmp_path), padding=1, flip=True)
    for found in (load(spec, tmp_path), arrays.load(synthetic, tmp_path)):
        for i in range(3):
            images, labels = found.batch(0, i, 8)
            for part in (slice(0, 4), slice(4, 8), slice(6, None)):
                assert same(found.batch(0, i, 8, part), (images[part], labels[part]))


@pytest.mark.parametrize("normalise", ["pixel-mean", "channel"])
def test_a_batch_is_what_sections_3_4_says_image_by_image(tmp_path: Path, normalise: str) -> None:
    """Against whole images resized by torchvision, and moments and eigenvectors by numpy."""
    spec = replace(zoo(tmp_path), flip=True, colour="pca", normalise=normalise)
    found, folder = load(spec, tmp_path), tmp_path / "zoo" / "train"
    files = [folder / label / f"{number}.jpg" for label in ("cat", "dog") for number in range(8)]
    centres = []
    for file in files:
        resized = reference.resize(Image.open(file), 18)
        centres.append(np.asarray(reference.center_crop(resized, [16, 16]), np.float64) / 255)
    pixels = np.stack(centres)  # [N, S, S, 3]
    mean = pixels.mean(0) if normalise == "pixel-mean" else pixels.mean((0, 1, 2))
    deviation = 1 if normalise == "pixel-mean" else pixels.std((0, 1, 2))
    values, vectors = np.linalg.eigh(np.cov(pixels.reshape(-1, 3).T, bias=True))
    vectors = vectors * np.sign(vectors.sum(0))
    clean = torch.cat([images for images, _ in found.clean("train", 5)]).permute(0, 2, 3, 1).numpy()
    level = 0.005 / np.min(deviation)  # of 255: see `test_a_crop_is_what_resizing_the_whole_image_and_cropping_gives`
    off = np.abs(clean - (pixels - mean) / deviation)
    assert off.max() < level and np.median(off) < 1e-3

    for i in range(4):
        draw = generator(7, "augment", i)
        sides = torch.randint(18, 35, (4,), generator=draw).tolist()
        corners = torch.rand((4, 2), generator=draw, dtype=torch.float64)
        flips = torch.randint(2, (4,), generator=draw).tolist()
        shifts = torch.randn((4, 3), generator=draw, dtype=torch.float64).numpy() * 0.1
        order = torch.randperm(16, generator=generator(7, "order", 0))[4 * i :][:4].tolist()
        images = found.batch(7, i, 4)[0].permute(0, 2, 3, 1).numpy()
        for row, at in enumerate(order):
            resized = np.asarray(reference.resize(Image.open(files[at]), sides[row]), np.float64) / 255
            y, x = ((corners[row] * (torch.tensor(resized.shape[:2]) - 15)).int()).tolist()
            crop = resized[y : y + 16, x : x + 16]
            crop = crop[:, ::-1] if flips[row] else crop
            expected = (crop - mean + vectors @ (shifts[row] * values)) / deviation
            off = np.abs(images[row] - expected)
            assert off.max() < level and np.median(off) < 1e-3


def test_shorter_sides_are_drawn_from_all_scales_alike(tmp_path: Path) -> None:
    found = load(replace(zoo(tmp_path), scales=(20, 23)), tmp_path)
    sides = torch.cat([found.draws(0, i, 16).sides for i in range(100)])
    counts = sides.bincount(minlength=24)
    assert counts[:20].sum() == 0 and counts[20:].min() > 340 and len(counts) == 24


def test_every_condition_sees_the_same_crops(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    plain, coloured, flipped = (load(replace(spec, **c), tmp_path) for c in ({}, {"colour": "pca"}, {"flip": True}))
    images, labels = plain.batch(0, 0, 8)
    shifted, same_labels = coloured.batch(0, 0, 8)
    difference = (shifted - images).flatten(2)
    assert torch.equal(labels, same_labels) and difference.std(2).max() < 1e-6 and difference[:, :, 0].std() > 1e-3
    pixels = [found.batch(0, 0, 8)[0] * 255 + found.mean for found in (plain, flipped)]
    kept = [torch.allclose(a, b, atol=1e-3) for a, b in zip(*pixels, strict=True)]
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-3) for a, b in zip(*pixels, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True)) and any(kept) and any(mirrored)


def test_shuffled_labels_are_the_seeds_and_true_in_tests(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), labels="shuffled")
    labels = [next(load(spec, tmp_path, seed=seed).clean("train", 16))[1] for seed in (1, 1, 2)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    assert labels[0].bincount().tolist() == [8, 8]
    assert next(load(spec, tmp_path, seed=1).clean("test", 6))[1].tolist() == [0, 0, 0, 1, 1, 1]


def test_held_out_images_leave_training_and_its_mean(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    every, some = load(spec, tmp_path), load(replace(spec, held_out=5), tmp_path)
    assert [some.count(split) for split in ("train", "validation", "test")] == [11, 5, 6]
    assert every.digest == some.digest
    assert not torch.equal(every.mean, some.mean)


def test_clean_and_mixed_batches_are_as_those_of_other_data_sets(tmp_path: Path) -> None:
    found = load(zoo(tmp_path), tmp_path)
    assert [len(labels) for _, labels in found.clean("train", 6)] == [6, 6, 4]
    assert [len(labels) for _, labels in found.clean("train", 6, limit=8)] == [6, 2]
    assert list(found.clean("validation", 6)) == [] and list(found.mixed(4, 0)) == []
    batches = list(found.mixed(4, 11))
    assert [len(labels) for _, labels in batches] == [4, 4]
    assert all(map(same, batches, found.mixed(4, 11)))
    with pytest.raises(InputError, match="draws from 16 is too small"):
        found.mixed(4, 17)
    with pytest.raises(InputError, match="split 'tset' is unknown"):
        found.count("tset")


def test_whole_images_are_resized_by_their_shorter_side_and_normalised_by_the_mean_image_resized(
    tmp_path: Path,
) -> None:
    found = load(zoo(tmp_path), tmp_path)
    images = list(found.resized("test", 24))
    assert [label for _, label in images] == [0, 0, 0, 1, 1, 1] and len(list(found.resized("test", 24, limit=2))) == 2
    for (image, _), number in zip(images, (0, 1, 2, 0, 1, 2), strict=True):
        with Image.open(tmp_path / "zoo/val/cat" / f"{number}.jpg") as original:
            assert image.shape[:0:-1] == reference.resize(original, 24).size and min(image.shape[1:]) == 24
    expected = np.asarray(reference.resize(Image.open(tmp_path / "zoo/val/cat/0.jpg"), 24))
    assert np.array_equal(images[0][0].permute(1, 2, 0).numpy(), expected)
    grey = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.allclose(found.normalised(grey)[0], 1 - found.mean[0] / 255, atol=1e-6)
    wide = found.normalised(torch.zeros((1, 3, 20, 40), dtype=torch.uint8))
    mean = torch.nn.functional.interpolate(found.mean, (20, 40), mode="bilinear")
    assert wide.shape == (1, 3, 20, 40) and torch.allclose(wide, -mean / 255, atol=1e-6)


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (33, 33), (16, 90)])
def test_a_crop_is_what_resizing_the_whole_image_and_cropping_gives(size: tuple[int, int]) -> None:
    """But for a level of 255 where a value lies between two: Pillow takes the box in single precision."""
    contents = jpeg(3, size)
    for side in (16, 20, 31, 60):
        resized = reference.resize(Image.open(io.BytesIO(contents)), side)
        centre = np.asarray(reference.center_crop(resized, [16, 16]))
        crops = [(decoding.cropped(contents, side, 16), centre)]
        for corner in ((0.0, 0.0), (0.3, 0.99), (0.999, 0.5)):
            y, x = int(corner[0] * (resized.height - 15)), int(corner[1] * (resized.width - 15))
            expected = np.asarray(resized)[y : y + 16, x : x + 16]
            crops.append((decoding.cropped(contents, side, 16, corner), expected))
        for ours, theirs in crops:
            assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours == theirs).mean() > 0.8


def test_a_large_jpeg_is_decoded_smaller_and_hardly_differs() -> None:
    contents = jpeg(3, (640, 480))
    expected = np.asarray(reference.resize(Image.open(io.BytesIO(contents)), 60), int)
    assert np.abs(decoding.whole(contents, 60) - expected).max() <= 3


def test_every_mode_and_size_of_image_becomes_rgb() -> None:
    grey = decoding.whole(jpeg(1, mode="L"), 20)
    assert grey.shape == (20, 26, 3) and np.array_equal(grey[..., 0], grey[..., 2])
    colour = decoding.whole(jpeg(1), 20).astype(int)
    for other in (jpeg(1, mode="CMYK"), jpeg(1, mode="P", kind="PNG"), jpeg(1, mode="RGBA", kind="PNG")):
        assert np.abs(decoding.whole(other, 20) - colour).mean() < 20
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200 * 256 + 99, np.uint16)).save(deep, "PNG")
    assert (decoding.whole(deep.getvalue(), 20) == 200).all()
    dot = jpeg(1, (1, 1))
    assert decoding.cropped(dot, 18, 16, (0.5, 0.5)).shape == (16, 16, 3)
    assert decoding.cropped(jpeg(1, (300, 1)), 18, 16).shape == (16, 16, 3)


def test_a_damaged_image_gives_its_place_to_the_next_and_is_named(tmp_path: Path) -> None:
    zoo(tmp_path)
    bad = tmp_path / "zoo" / "train" / "cat" / "7.jpg"  # the next image is of the other class
    content = bad.read_bytes()
    bad.unlink()
    write(bad, content[: len(content) // 2])
    for name in ("0.jpg", "1.jpg"):
        write(tmp_path / "zoo" / "val" / "dog" / name, b"no image")
    spec = arrays.describe("images:zoo", tmp_path, size=16)
    found = load(spec, tmp_path)
    labels = next(found.clean("train", 16))[1]
    assert labels.tolist() == [0] * 7 + [1] * 9
    images, labels = next(found.clean("test", 6))
    assert torch.equal(images[3], images[5]) and torch.equal(images[4], images[5]) and len(labels) == 6
    assert sorted(found.damaged) == ["train/cat/7.jpg", "val/dog/0.jpg", "val/dog/1.jpg"]
    assert "truncated" in found.damaged["train/cat/7.jpg"]
    again = load(spec, tmp_path, threads=3)
    assert all(same(found.batch(0, i, 8), again.batch(0, i, 8)) for i in (0, 3, 1))
    bad.write_bytes(content)  # in place, after it was indexed
    changed = load(spec, tmp_path)
    assert next(changed.clean("train", 16))[1].tolist() == [0] * 7 + [1] * 9
    assert f"has {len(content)} bytes, not the {len(content) // 2} of its index" in changed.damaged["train/cat/7.jpg"]
    bad.unlink()
    with pytest.raises(FileNotFoundError):  # a file or disk that is gone is no damaged image: the attempt fails
        list(changed.clean("train", 16))


def test_a_set_without_one_image_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "zoo" / split / "cat" / "0.jpg", b"no image")
    refused(arrays.describe("images:zoo", tmp_path, size=16), tmp_path, "can be decoded", "train/cat/0.jpg")


def test_no_thread_outlives_its_data_set_or_keeps_a_process_alive(tmp_path: Path) -> None:
    spec = zoo(tmp_path)

    before = set(threading.enumerate())
    found = load(spec, tmp_path, threads=3)
    found.batch(0, 0, 8)
    started = set(threading.enumerate()) - before
    assert started
    del found
    for thread in started:
        thread.join(timeout=20)
    assert not started & set(threading.enumerate())
    script = (
        "from pathlib import Path; from study.data import arrays\n"
        f"root = Path({str(tmp_path)!r}); spec = arrays.describe('images:zoo', root, size=16)\n"
        "found = arrays.load(spec, root, threads=2); found.batch(0, 0, 8); print('done'); raise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


# ---------------------------------------------------------------- trials


@pytest.fixture
def trial(small: Callable[..., Trial], execution: Execution) -> Callable[..., Trial]:
    """ResNet-18 of width 8 on the shipped pictures for some iterations."""

    def make(**changes: object) -> Trial:
        spec = arrays.describe("photographs", execution.data_root, size=32, flip=True, colour="pca")
        short = {"iterations": 8, "drops": (6,), "batch": 16, "bn_batch": 8, "record_every": 2, "evaluate_every": 4}
        model = Model.imagenet(family="residual", depth=18, shortcut="B", width=8)
        return replace(small(**short), model=model, data=replace(spec, **changes))  # type: ignore[arg-type]

    return make


def test_a_trial_trains_on_photographs_and_survives_a_kill_bit_for_bit(
    trial: Callable[..., Trial], execution: Execution
) -> None:
    its, killed = trial(), replace(execution, storage=execution.storage.with_name("killed"))
    state = TrainState(its, CPU)
    for _ in islice(train(its, state, arrays.load(its.data, execution.data_root)), 5):
        pass
    state.save(killed.trial_folder(its.id) / "checkpoints")
    tags = []
    for one in (execution, killed):
        assert worker.run_trial(its, one, {"profile": "test"}) == "finished"
        tags.append(read_account(one.trial_folder(its.id)).tags)
    for name in ("records_sha256", "layers_sha256", "data_digest", *RECALIBRATED):
        assert tags[0][name] == tags[1][name]
    assert tags[0]["data_digest"] == its.data.digest and "damaged_images" not in tags[0]
    weights = [
        TrainState.restore_or_create(its, one.trial_folder(its.id) / "checkpoints", CPU).net.state_dict()
        for one in (execution, killed)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    records = read_records(execution.trial_folder(its.id)).to_pylist()
    assert [record["iteration"] for record in records] == [2, 4, 6, 8] and records[-1]["test_error_pct"] is not None


def test_a_run_names_the_images_that_were_damaged(trial: Callable[..., Trial], execution: Execution) -> None:
    trial()
    for number in range(12):
        write(execution.data_root / "photographs" / "train" / "china" / f"{number:03d}.jpg", b"no image")
    its = trial(held_out=0)
    assert worker.run_trial(its, execution, {"profile": "test"}) == "finished"
    said = read_account(execution.trial_folder(its.id)).tags["damaged_images"]
    assert said.startswith("12: train/china/000.jpg, train/china/001.jpg, ") and said.endswith("009.jpg, ...")
