"""Claims about VOC and COCO: where their files are found, how they are read, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_files import edit_coco, jpeg, refused, small_coco, small_voc, voc_file, voc_object, write

from study.data import annotations, detection_sets
from study.spec import VOC_CLASSES, InputError

NOWHERE = Path("/nonexistent")


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_voc(tmp_path, monkeypatch)


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_coco(tmp_path, monkeypatch)


# ---------------------------------------------------------------- what is read


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="data set 'voc' is unknown; choose one of voc07"):
        annotations.load("voc", NOWHERE)


def test_counts_are_those_of_the_official_lists() -> None:
    counts = annotations.COUNTS
    assert [counts["VOCdevkit/VOC2007", split] for split in ("trainval", "test")] == [5011, 4952]
    assert [counts["VOCdevkit/VOC2012", split] for split in ("trainval", "test")] == [11540, 10991]
    assert [counts["coco", split] for split in ("train2014", "val2014")] == [82783, 40504]


def test_the_two_vocs_are_of_the_papers_parts(official: Path) -> None:
    found = annotations.load("voc07+12", official)
    assert [e.image_id for e in found.train] == ["000005", "000007", "2007_000027", "2007_000032"]
    assert [e.image_id for e in found.test] == ["000001", "000002"]
    assert (found.test_split, found.labelled, found.classes) == ("VOC 07 test", True, VOC_CLASSES)
    found = annotations.load("voc07++12", official)
    assert [e.image_id for e in found.train] == ["000005", "000007", "000001", "000002", "2007_000027", "2007_000032"]
    assert [e.image_id for e in found.test] == ["2008_000001", "2008_000004"]
    assert found.test_split == "VOC 12 test"


def test_the_secret_annotations_of_voc_2012_are_not_missed(official: Path) -> None:
    found = annotations.load("voc07++12", official)
    assert not found.labelled
    assert [(e.width, e.height, len(e.boxes)) for e in found.test] == [(60, 40, 0)] * 2
    one = voc_file(voc_object())
    write(official / "VOCdevkit/VOC2012/Annotations/2008_000001.xml", one)  # of another task, as some in the archive
    assert not annotations.load("voc07++12", official).labelled
    write(official / "VOCdevkit/VOC2012/Annotations/2008_000004.xml", one)
    assert annotations.load("voc07++12", official).labelled


def test_a_voc_box_includes_its_last_pixel_and_counts_from_one(official: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    write(
        official / "VOCdevkit/VOC2007/Annotations/000005.xml",
        voc_file(
            voc_object((1, 1, 60, 40), "person", part),
            voc_object((10.5, 7, 10.5, 9), "tvmonitor", "<difficult>1</difficult>"),
            voc_object((5, 6, 7, 8), "aeroplane", "<difficult>0</difficult>"),
        ),
    )
    example = annotations.load("voc07+12", official).train[0]
    assert example.boxes.tolist() == [[0, 0, 60, 40], [9.5, 6, 10.5, 9], [4, 5, 7, 8]]
    assert example.labels.tolist() == [15, 20, 1]
    assert example.difficult.tolist() == [False, True, False] and not example.crowd.any()
    assert example.areas.tolist() == [2400, 3, 9]
    dtypes = [getattr(example, what).dtype for what in ("boxes", "labels", "difficult", "crowd", "areas")]
    assert dtypes == [np.float32, np.int64, np.bool_, np.bool_, np.float32]


def test_coco_is_read_by_id_whatever_the_order_of_its_file(coco: Path) -> None:
    found = annotations.load("coco14", coco)
    assert (found.test_split, found.labelled, found.classes) == ("COCO val", True, detection_sets.COCO_CLASSES)
    assert [e.image_id for e in found.train + found.test] == ["9", "2500000000", "42", "73"]
    crowd, example = found.train
    assert example.boxes.tolist() == [[3, 2, 13.5, 22], [30, 30, 35, 38]]
    assert [found.classes[label - 1] for label in example.labels] == ["toothbrush", "stop sign"]
    assert example.labels.tolist() == [80, 12]  # category ids 90 and 13
    assert crowd.crowd.tolist() == [True] and not example.crowd.any() and example.areas.tolist() == [7, 7]


def test_the_class_lists_are_the_official_ones() -> None:
    assert (len(VOC_CLASSES), len(detection_sets.COCO_CLASSES)) == (20, 80)
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    torchvision_ = pytest.importorskip("torchvision.models.detection").FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    names = [name for name in torchvision_.meta["categories"] if name not in ("__background__", "N/A")]
    assert list(detection_sets.COCO_CLASSES) == names


def test_a_coco_file_is_parsed_once_and_anew_when_it_changes(coco: Path) -> None:
    before = annotations.load("coco14", coco)
    kept = sorted((coco / ".cache").glob("*.npz"))
    assert len(kept) == 2
    assert annotations.load("coco14", coco).digest == before.digest
    assert sorted((coco / ".cache").glob("*.npz")) == kept
    edit_coco(coco, lambda whole: whole["annotations"][0].update(bbox=[1, 1, 10, 10]))
    after = annotations.load("coco14", coco)
    assert after.digest != before.digest and after.train[1].boxes[0].tolist() == [1, 1, 11, 11]


def test_a_digest_tells_sizes_of_files_boxes_and_flags(official: Path) -> None:
    digests = {annotations.load("voc07+12", official).digest}
    for file, content in (
        ("JPEGImages/000001.jpg", jpeg() + b"\0"),
        ("Annotations/000001.xml", voc_file(voc_object((2, 1, 20, 20)))),
        ("Annotations/000001.xml", voc_file(voc_object((2, 1, 20, 20), more="<difficult>1</difficult>"))),
        ("Annotations/000001.xml", voc_file(voc_object((2, 1, 20, 20), "cat"))),
        ("Annotations/000001.xml", voc_file(voc_object((2, 1, 20, 20), "cat"), size=(61, 40))),
    ):
        write(official / "VOCdevkit/VOC2007" / file, content)
        digests.add(annotations.load("voc07+12", official).digest)
    assert len(digests) == 6


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "place", "archive"),
    [
        ("voc07+12", "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt", "VOCtrainval_06-Nov-2007.tar"),
        ("voc07++12", "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt", "VOCtest_06-Nov-2007.tar"),
        ("coco14", "coco/annotations/instances_train2014.json", "annotations_trainval2014.zip"),
    ],
)
def test_a_missing_data_set_says_what_to_get_and_what_runs_without(
    name: str, place: str, archive: str, tmp_path: Path
) -> None:
    refused(name, tmp_path, f"data set {name} is missing: {tmp_path / place}", archive, "PROFILE=smoke")


def test_what_lacks_of_voc_2012_is_named(official: Path) -> None:
    (official / "VOCdevkit/VOC2012/ImageSets/Main/test.txt").unlink()
    refused("voc07++12", official, "VOC2012/ImageSets/Main/test.txt", "VOC2012test.tar")
    annotations.load("voc07+12", official)
    shutil.rmtree(official / "VOCdevkit/VOC2012/JPEGImages")
    refused(
        "voc07+12", official, f"{official / 'VOCdevkit/VOC2012/JPEGImages'} was looked for", "VOCtrainval_11-May-2012"
    )


def test_other_counts_than_the_official_are_refused(
    official: Path, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(annotations.COUNTS, ("VOCdevkit/VOC2012", "trainval"), 11540)
    refused("voc07+12", official, "has 2 images in", "VOC2012/ImageSets/Main/trainval.txt", "must have 11540")
    monkeypatch.setitem(annotations.COUNTS, ("coco", "val2014"), 40504)
    refused("coco14", coco, "has 2 images in", "instances_val2014.json", "must have 40504")


@pytest.mark.parametrize("file", ["JPEGImages/000007.jpg", "Annotations/000007.xml"])
def test_a_missing_file_of_a_listed_image_is_named(official: Path, file: str) -> None:
    path = official / "VOCdevkit/VOC2007" / file
    path.unlink()
    refused("voc07+12", official, "lists '000007' in", "trainval.txt", f"{path} is missing")


def test_a_missing_image_of_coco_is_named(coco: Path) -> None:
    path = coco / "coco/val2014/COCO_val2014_000000000073.jpg"
    path.unlink()
    refused("coco14", coco, "lists image 73 in", "instances_val2014.json", f"{path} is missing")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no element found"),
        ("<annotation><size>", "no element found"),
        ('{"images": []}', "not well-formed"),
        ("<annotation></annotation>", "lacks 'annotation/size/width'"),
        (voc_file(size=(0, 40)), "a size of 0x40"),
        (voc_file(voc_object(name="unicorn")), "'unicorn' is no class; those are aeroplane, bicycle"),
        (voc_file(voc_object((20, 1, 10, 20))), "dog has corners (20.0, 1.0, 10.0, 20.0)"),
        (voc_file(voc_object((1, 20, 10, 19))), "dog has corners"),
        (voc_file(voc_object((1, 1, float("nan"), 20))), "dog has corners"),
        (voc_file(voc_object((1, 1, float("inf"), 20))), "dog has corners"),
        (voc_file(voc_object((1, 1, 1e39, 20))), "dog has corners (1.0, 1.0, 1e+39, 20.0)"),
        (voc_file("<object><name>dog</name></object>"), "lacks 'object/bndbox/xmin'"),
        (voc_file("<object><bndbox/></object>"), "lacks 'object/name'"),
        (voc_file(voc_object(more="<difficult>no</difficult>")), "'no'"),
    ],
)
def test_a_malformed_voc_annotation_is_refused_by_name(official: Path, content: str, problem: str) -> None:
    path = official / "VOCdevkit/VOC2007/Annotations/000002.xml"
    write(path, content)
    refused("voc07+12", official, f"cannot be read: {path} ", problem)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda whole: whole.pop("annotations"), "lacks 'annotations'"),
        (lambda whole: whole["annotations"][1].update(iscrowd="0"), "annotation 2 has iscrowd '0', which must be 0 or"),
        (lambda whole: whole["annotations"][1].update(area=-1), "annotation 2 has an area of -1"),
        (lambda whole: whole["annotations"][1].update(area=float("nan")), "annotation 2 has an area of nan"),
        (lambda whole: whole["annotations"][1].update(area="7"), "malformed"),
        (lambda whole: whole["annotations"][1].update(bbox=[1e39, 5, 5, 5]), "annotation 2 has corners (1e+39"),
        (lambda whole: whole["annotations"][1].pop("id") and whole["annotations"][1].pop("bbox"), "lacks 'bbox'"),
        (lambda whole: whole["annotations"].append([]), "malformed"),
        (lambda whole: whole["annotations"][1].update(image_id=8), "annotation 2 has image_id 8, which does not exist"),
        (lambda whole: whole["annotations"][1].update(category_id=12), "annotation 2 has category_id 12, which does"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, -1, 5]), "annotation 2 has corners (5, 5, 4, 10)"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, float("nan"), 5]), "annotation 2 has corners"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, 5]), "malformed"),
        (lambda whole: whole["annotations"][1].update(bbox=None), "malformed"),
        (lambda whole: whole["images"][0].update(width=0), "image 2500000000 has a size of 0x40"),
        (lambda whole: whole["images"][0].update(id=9), "two images have one id"),
        (lambda whole: whole["categories"][0].update(name="unicorn"), "'toothbrush' differs"),
        (lambda whole: whole["categories"].pop(9), "its 79 categories are not the 80 classes: 'toaster' differs"),
    ],
)
def test_a_malformed_coco_file_is_refused_by_name(
    coco: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    path = edit_coco(coco, edit)
    refused("coco14", coco, f"cannot be read: {path} ", problem)


def test_optional_fields_of_coco_are_read_as_its_users_read_them(coco: Path) -> None:
    before = annotations.load("coco14", coco).train[1]

    def without(whole: dict[str, Any]) -> None:
        for thing in whole["annotations"]:
            del thing["id"], thing["area"], thing["iscrowd"]
        whole["annotations"][0] |= {"area": None, "iscrowd": None}

    edit_coco(coco, without)
    crowd, example = annotations.load("coco14", coco).train
    assert not crowd.crowd.any() and not example.crowd.any()
    assert np.array_equal(example.boxes, before.boxes) and example.areas.tolist() == [10.5 * 20, 5 * 8]


def test_an_empty_flag_of_voc_is_no_flag(official: Path) -> None:
    content = voc_file(voc_object(more="<difficult/><truncated/>"))
    write(official / "VOCdevkit/VOC2007/Annotations/000005.xml", content)
    assert annotations.load("voc07+12", official).train[0].difficult.tolist() == [False]


def test_what_is_no_json_is_refused(coco: Path) -> None:
    path = coco / "coco/annotations/instances_val2014.json"
    deep = b"[" * 100_000
    for content in (b"", b"[]", b"<annotation/>", b"\xff\xfe", deep, path.read_bytes()[:-50]):
        path.write_bytes(content)
        refused("coco14", coco, f"cannot be read: {path} is malformed")


def test_a_damaged_image_without_annotation_is_refused_by_name(official: Path) -> None:
    path = official / "VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg"
    path.write_bytes(b"<html>")
    refused("voc07++12", official, f"has a damaged image: {path} ")
