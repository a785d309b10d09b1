"""Claims about where photographs are found: ImageNet, folders, shards and shipped pictures; and what is refused."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import webdataset
from click.testing import CliRunner
from pictures import jpeg, load, refused, same, shards, tar, write, zoo
from PIL import Image
from torchvision.datasets import imagenet as torchvisions

from commands.app import experiments as cli
from study.data import arrays, indexes
from study.data.photographs import Photographs
from study.spec import Data, InputError

WNIDS = ("n01440764", "n01443537", "n02119789")  # ascending, as their class numbers


# ---------------------------------------------------------------- ImageNet


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
    refused("images:zoo", tmp_path, "is missing", str(tmp_path / "zoo"), "train/CLASS/*.jpg")
    refused("images:../zoo", tmp_path, "must be images:NAME")
    zoo(tmp_path)
    loose = tmp_path / "zoo" / "train" / "loose.jpg"
    write(loose, jpeg(0))
    refused("images:zoo", tmp_path, "an image out of place", str(loose), "is not in {train,val}/CLASS/")
    loose.unlink()
    write(tmp_path / "zoo" / "val" / "eel" / "0.jpg", jpeg(0))
    refused("images:zoo", tmp_path, "has test images of class 'eel', and none to train it")
    (tmp_path / "zoo" / "train" / "eel").mkdir()
    refused("images:zoo", tmp_path, "has no training image of class 'eel'")


def test_a_damaged_cache_is_refused_by_name(tmp_path: Path) -> None:
    load(zoo(tmp_path), tmp_path)
    for cache in (tmp_path / ".cache").glob("*.npz"):
        content = cache.read_bytes()
        cache.write_bytes(content[:100])
        with pytest.raises(InputError, match=f"cannot be kept in .*{cache.name} .*delete what is there"):
            load(arrays.describe("images:zoo", tmp_path, size=16), tmp_path)
        cache.write_bytes(content)


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
        ({"1.jpg": jpeg(0), "1.cls": b"9" * 30}, "has a label '99999999999999999999' in 1.cls"),
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
