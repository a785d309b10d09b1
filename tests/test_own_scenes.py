"""Claims about somebody's own images with boxes: the layouts of tools, optional fields, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_files import refused, voc_file, voc_object, write
from PIL import Image

from study.data import annotations, decoding, scenes
from study.data.detection_sets import Metric
from study.spec import Data, InputError

SIZE = (60, 40)
CLASSES = ("cat", "dog")


def picture(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    gradient = np.arange(size[0] * size[1] * 3, dtype=np.uint32) % 251
    Image.fromarray(gradient.astype(np.uint8).reshape(size[1], size[0], 3)).save(path, exif=exif)


def annotation(number: int, *more: str, size: bool = True) -> str:
    whole = voc_file(voc_object(name=CLASSES[number % 2]), *more)
    return whole if size else whole.replace("<size>", "<!--").replace("</size>", "-->")


def voc(folder: Path, images: str, files: str, numbers: range, ending: str = "jpg", size: bool = True) -> None:
    for number in numbers:
        picture(folder / images / f"{number:03d}.{ending}")
        write(folder / files / f"{number:03d}.xml", annotation(number, size=size))


def lists(folder: Path, **names: range) -> None:
    for name, numbers in names.items():
        write(folder / f"ImageSets/Main/{name}.txt", "".join(f"{number:03d}\n" for number in numbers))


def coco(path: Path, images: dict[int, str], **more: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "images": [{"id": number, "file_name": file} for number, file in images.items()],
        "annotations": [
            {"image_id": number, "category_id": 3 + number % 2, "bbox": [1, 2, 10, 20]} for number in images
        ],
        "categories": [{"id": 0, "name": "things"}, {"id": 4, "name": "dog"}, {"id": 3, "name": "cat"}],
        **more,
    }
    write(path, json.dumps(whole))
    return whole


def counts(name: str, root: Path) -> tuple[int, int, tuple[str, ...]]:
    found = annotations.load(name, root)
    return len(found.train), len(found.test), found.classes


# ---------------------------------------------------------------- layouts


def test_voc_is_read_from_its_own_layout_wherever_that_lies(tmp_path: Path) -> None:
    for place in ("zoo", "nested/VOCdevkit/VOC2007"):
        voc(tmp_path / place, "JPEGImages", "Annotations", range(8), "JPG")
        lists(
            tmp_path / place, trainval=range(5), train=range(3), val=range(3, 5), test=range(5, 8), cat_train=range(8)
        )
        picture(tmp_path / place / "SegmentationClass/000.png")
    for name in ("voc:zoo", "voc:nested"):
        assert counts(name, tmp_path) == (5, 3, CLASSES)
    (tmp_path / "nested/VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink()
    assert counts("voc:nested", tmp_path) == (3, 2, CLASSES)
    found = annotations.load("voc:zoo", tmp_path)
    assert (found.metric, found.test_split, found.labelled) == (Metric.VOC_AREA, "voc:zoo test", True)
    assert found.test[0].image_id == "005" and found.test[0].boxes.tolist() == [[0, 0, 20, 20]]
    assert found.test[0].labels.tolist() == [2]


def test_lists_of_tools_are_read(tmp_path: Path) -> None:
    voc(tmp_path / "zoo", "JPEGImages/a", "Annotations/a", range(8), "png", size=False)
    write(tmp_path / "zoo/ImageSets/Main/train.txt", "\ufeffa/000\r\n001.jpg\r\n002  1\r\nC:\\data\\003.png\r\n\r\n")
    write(tmp_path / "zoo/ImageSets/Main/val.txt", "004\n005\n006\n")
    assert counts("voc:zoo", tmp_path) == (4, 3, CLASSES)
    assert annotations.load("voc:zoo", tmp_path).notes == ("1 annotated images are in no list",)
    write(tmp_path / "zoo/ImageSets/Main/val.txt", "004\n009\n")
    refused("voc:zoo", tmp_path, "lists '009' in", "val.txt", "009.xml; add it")
    write(tmp_path / "zoo/ImageSets/Main/val.txt", "004\n003\n")
    refused("voc:zoo", tmp_path, "has JPEGImages/a/003.png in train and in val")


def test_splits_by_folders_and_none_at_all_are_read(tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("valid", range(6, 9)), ("test", range(9, 11))):
        voc(tmp_path / "robo" / split, "", "", numbers)
        voc(tmp_path / "cvat", f"images/{split}", f"labels/{split}", range(5))  # the same names in each
    voc(tmp_path / "flat", "", "", range(40))
    picture(tmp_path / "flat/more.jpg")
    assert counts("voc:robo", tmp_path) == (6, 2, CLASSES) and counts("voc:cvat", tmp_path) == (5, 5, CLASSES)
    assert annotations.load("voc:robo", tmp_path).notes == ("3 images of val are not used",)
    train, test, _ = counts("voc:flat", tmp_path)
    assert train + test == 40 and 2 <= test <= 16
    assert annotations.load("voc:flat", tmp_path).notes == ("1 images have no annotation and are not used",)


@pytest.mark.parametrize(
    ("files", "places"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
        (("annotations/train.json", "annotations/test.json"), ("images", "images")),
        (("annotations/instances_Train.json", "annotations/instances_Validation.json"), ("images/Train", "images/Val")),
    ],
)
def test_coco_is_read_from_the_layouts_of_tools(
    files: tuple[str, str], places: tuple[str, str], tmp_path: Path
) -> None:
    for file, place, numbers in zip(files, places, (range(6), range(6, 9)), strict=True):
        for number in numbers:
            picture(tmp_path / "zoo" / place / f"{number}.jpg")
        coco(tmp_path / "zoo" / file, {number: f"{number}.jpg" for number in numbers})
    write(tmp_path / "zoo/annotations/captions_train2017.json", "{}")
    assert counts("coco:zoo", tmp_path) == (6, 3, CLASSES)
    found = annotations.load("coco:zoo", tmp_path)
    assert found.metric is Metric.COCO and "1 classes without objects: things" in found.notes
    example = found.train[1]
    assert (example.width, example.height, example.labels.tolist()) == (*SIZE, [2])
    assert example.boxes.tolist() == [[1, 2, 11, 22]] and example.areas.tolist() == [200]
    assert not example.crowd.any()


def test_images_of_one_name_are_those_of_their_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            picture(tmp_path / f"zoo/{split}/{number}.jpg", SIZE if split == "train" else (30, 20))
        coco(tmp_path / f"zoo/annotations/{split}.json", {number: f"{number}.jpg" for number in range(4)})
    found = annotations.load("coco:zoo", tmp_path)
    assert {(e.width, e.height) for e in found.test} == {(30, 20)} and {e.width for e in found.train} == {60}
    whole = coco(tmp_path / "one/result.json", {n: f"../upload/images\\{n}.jpg" for n in range(20)})
    for number in range(20):
        picture(tmp_path / f"one/images/{number}.jpg")
    train, test, _ = counts("coco:one", tmp_path)
    assert train + test == 20
    whole["images"][0]["file_name"] = "/etc/passwd"
    write(tmp_path / "one/result.json", json.dumps(whole))
    refused("coco:one", tmp_path, "names the image '/etc/passwd'", "no such image is there")


# ---------------------------------------------------------------- pixels


def test_a_box_is_of_the_image_as_its_annotation_sees_it(tmp_path: Path) -> None:
    voc(tmp_path / "zoo", "JPEGImages", "Annotations", range(4))
    lists(tmp_path / "zoo", train=range(2), test=range(2, 4))
    stored = tmp_path / "zoo/JPEGImages/002.jpg"
    picture(stored, SIZE, orientation=6)  # annotated as it is stored
    picture(tmp_path / "zoo/JPEGImages/003.jpg", SIZE[::-1], orientation=6)  # annotated as it is shown
    spec = scenes.describe("voc:zoo", tmp_path, Data.scenes(name="pasted-voc", size=32, classes=4))
    assert (spec.name, spec.size, spec.classes, len(spec.digest)) == ("voc:zoo", 32, 2, 64)
    (one, _), (other, _) = scenes.load(spec, tmp_path).test()
    assert one.shape == other.shape == (3, SIZE[1], SIZE[0])
    assert np.array_equal((one.numpy() * 255).round(), np.asarray(Image.open(stored)).transpose(2, 0, 1))
    shown = np.rot90(np.asarray(Image.open(tmp_path / "zoo/JPEGImages/003.jpg")), -1)
    assert np.array_equal((other.numpy() * 255).round(), shown.transpose(2, 0, 1))
    picture(stored, (120, 80))
    refused("voc:zoo", tmp_path, "an image of 120x80 pixels, and 60x40 in its annotation", "002.jpg")
    with pytest.raises(InputError, match="voc:zoo"):
        scenes.load(spec, tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_detectors_see_every_kind_of_pixel_in_rgb(mode: str, tmp_path: Path) -> None:
    voc(tmp_path / "zoo", "", "", range(2), "png")
    lists(tmp_path / "zoo", train=range(1), test=range(1, 2))
    grey = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    write(tmp_path / "zoo/001.xml", annotation(0))
    image.save(tmp_path / "zoo/001.png")
    spec = scenes.describe("voc:zoo", tmp_path, Data.scenes(name="pasted-voc", size=32, classes=4))
    ((pixels, _),) = scenes.load(spec, tmp_path).test()
    assert pixels.shape == (3, SIZE[1], SIZE[0]) and (pixels == 1).all()


# ---------------------------------------------------------------- refused


def test_what_is_broken_is_refused_in_one_line(tmp_path: Path) -> None:
    refused("voc:../zoo", tmp_path, "must be voc:NAME")
    refused("voc:zoo", tmp_path, "is missing", str(tmp_path / "zoo"), "JPEGImages/*.jpg")
    (tmp_path / "zoo").mkdir()
    refused("voc:zoo", tmp_path, "has no annotated image")
    refused("coco:zoo", tmp_path, "has no annotated image")
    voc(tmp_path / "zoo", "JPEGImages", "Annotations", range(6))
    lists(tmp_path / "zoo", train=range(3), test=range(3, 6))
    assert counts("voc:zoo", tmp_path) == (3, 3, CLASSES)
    path = tmp_path / "zoo/Annotations/004.xml"
    whole = path.read_text()
    for content, why in (
        ("", "no element found"),
        ("<annotations/>", "of another format: its root is <annotations>"),
        (whole.replace("cat", "eel"), "has test objects of class 'eel' and none to train it"),
        (whole.replace("<xmin>1<", "<xmin>1e39<"), "has corners"),
    ):
        write(path, content)
        refused("voc:zoo", tmp_path, why)
    write(path, whole)
    (tmp_path / "zoo/JPEGImages/004.jpg").write_bytes(b"<html>")
    refused("voc:zoo", tmp_path, "has a damaged image", "004.jpg")
    (tmp_path / "zoo/JPEGImages/004.jpg").unlink()
    refused("voc:zoo", tmp_path, "has an annotation whose image is none", "004.xml")
    for number in (3, 5):
        write(tmp_path / f"zoo/Annotations/00{number}.xml", voc_file())
    lists(tmp_path / "zoo", test=range(3, 4))
    refused("voc:zoo", tmp_path, "has no test image with an object")


def test_coco_files_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "zoo/0.jpg")
    coco(tmp_path / "zoo/a.json", {0: "0.jpg"})
    refused("coco:zoo", tmp_path, "has 1 images and no split")
    coco(tmp_path / "zoo/b.json", {0: "0.jpg"})
    refused("coco:zoo", tmp_path, "has two files of no split, a.json and b.json")
    (tmp_path / "zoo/b.json").unlink()
    coco(tmp_path / "zoo/a.json", {0: "0.jpg"}, categories=[{"id": 3, "name": "x"}, {"id": 4, "name": "x"}])
    refused("coco:zoo", tmp_path, "a.json is malformed: two categories have one name")
    coco(tmp_path / "zoo/a.json", {0: "0.jpg"}, categories=[{"id": 3, "name": 7}])
    refused("coco:zoo", tmp_path, "category 3 has the name 7, which is no text")
