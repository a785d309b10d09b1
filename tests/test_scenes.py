"""Claims about scenes: where VOC and COCO are found and what is refused, which objects are trained on, and batches."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.datasets import VOCDetection

from experiments.profiles import SCENES_IN_COCO, SCENES_IN_VOC
from experiments.recipes import COCO_DATA, VOC12_DATA, VOC_DATA
from study.data import annotations, detection_sets, pasted
from study.data.annotations import Example
from study.data.detection_sets import Metric
from study.data.scenes import Scenes, Target, flipped, load
from study.spec import VOC_CLASSES, Data, InputError

NOWHERE = Path("/nonexistent")
SPECS = {spec.name: spec for spec in (VOC_DATA, VOC12_DATA, COCO_DATA, SCENES_IN_VOC, SCENES_IN_COCO)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the generated scenes."""
    root = tmp_path_factory.mktemp("data")
    annotations.load("pasted-voc", root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module", params=["pasted-voc", "pasted-coco"])
def scenes(made: Path, request: pytest.FixtureRequest) -> Scenes:
    return load(SPECS[request.param], made)


def voc(name: str = "voc07+12") -> Data:
    return SPECS[name]


def jpeg(size: tuple[int, int] = (60, 40)) -> bytes:
    stored = io.BytesIO()
    Image.new("RGB", size, "teal").save(stored, "JPEG")
    return stored.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def voc_object(box: tuple[float, float, float, float] = (1, 1, 20, 20), name: str = "dog", more: str = "") -> str:
    corners = "".join(f"<{c}>{at}</{c}>" for c, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_file(*objects: str, size: tuple[int, int] = (60, 40)) -> str:
    width, height = size
    size_ = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size_}{''.join(objects)}</annotation>"


def add_voc(root: Path, monkeypatch: pytest.MonkeyPatch, year: int, split: str, files: dict[str, str | None]) -> None:
    """A split of stand-ins, one image a file; None has no annotation."""
    folder = f"VOCdevkit/VOC{year}"
    for i, content in files.items():
        write(root / folder / f"JPEGImages/{i}.jpg", jpeg())
        if content is not None:
            write(root / folder / f"Annotations/{i}.xml", content)
    write(root / folder / f"ImageSets/Main/{split}.txt", "".join(f"{i}\n" for i in files))
    monkeypatch.setitem(annotations.COUNTS, (folder, split), len(files))


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with all of VOC 2007 and 2012, of two images a split."""
    one = voc_file(voc_object())
    add_voc(tmp_path, monkeypatch, 2007, "trainval", {"000005": one, "000007": one})
    add_voc(tmp_path, monkeypatch, 2007, "test", {"000001": one, "000002": one})
    add_voc(tmp_path, monkeypatch, 2012, "trainval", {"2007_000027": one, "2007_000032": one})
    add_voc(tmp_path, monkeypatch, 2012, "test", {"2008_000001": None, "2008_000004": None})
    return tmp_path


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with COCO, of two images a split."""
    for split, ids in (("train2014", (9, 2500000000)), ("val2014", (42, 73))):
        images = [
            {"id": i, "file_name": f"COCO_{split}_{i:012d}.jpg", "width": 60, "height": 40} for i in reversed(ids)
        ]
        for image in images:
            write(tmp_path / "coco" / split / str(image["file_name"]), jpeg())
        things = [coco_object(1, ids[1], 90, [3, 2, 10.5, 20]), coco_object(2, ids[0], 1, [0, 0, 5, 5], iscrowd=1)]
        things += [coco_object(3, ids[1], 13, [30, 30, 5, 8])]
        # The official ids: 1 to 90 without these ten
        numbers = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
        categories = [{"id": i, "name": c} for i, c in zip(numbers, detection_sets.COCO_CLASSES, strict=True)]
        whole = {"images": images, "annotations": things, "categories": categories[::-1]}
        write(tmp_path / f"coco/annotations/instances_{split}.json", json.dumps(whole))
        monkeypatch.setitem(annotations.COUNTS, ("coco", split), 2)
    return tmp_path


def coco_object(
    i: int, image: int, category: int, box: list[float], area: float = 7, iscrowd: int = 0
) -> dict[str, Any]:
    return {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": iscrowd}


def refused(name: str, root: Path, *parts: str) -> None:
    """Refused in one line that has all of `parts`."""
    with pytest.raises(InputError) as error:
        annotations.load(name, root)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def same(a: list[tuple[Tensor, Target]], b: list[tuple[Tensor, Target]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and s.keys() == t.keys() and all(torch.equal(s[key], t[key]) for key in s)
        for (x, s), (y, t) in zip(a, b, strict=True)
    )


# ---------------------------------------------------------------- what is read


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="data set 'voc' is unknown; choose one of voc07"):
        annotations.load("voc", NOWHERE)


def test_the_tables_name_the_test_sets_and_each_has_its_metric(made: Path) -> None:
    for name, split, metric in (("pasted-voc", "test", Metric.VOC_11_POINTS), ("pasted-coco", "val", Metric.COCO)):
        scenes = load(SPECS[name], made)
        assert scenes.test_split == annotations.test_split(name) == f"{name} {split}"
        assert scenes.metric is metric
    metrics = [detection_sets.SETS[name].metric for name in ("voc07+12", "voc07++12", "coco14")]
    assert metrics == [Metric.VOC_11_POINTS, Metric.VOC_AREA, Metric.COCO]


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
        (voc_file("<object><name>dog</name></object>"), "lacks 'object/bndbox/xmin'"),
        (voc_file("<object><bndbox/></object>"), "lacks 'object/name'"),
        (voc_file(voc_object(more="<difficult>no</difficult>")), "'no'"),
    ],
)
def test_a_malformed_voc_annotation_is_refused_by_name(official: Path, content: str, problem: str) -> None:
    path = official / "VOCdevkit/VOC2007/Annotations/000002.xml"
    write(path, content)
    refused("voc07+12", official, f"cannot be read: {path} ", problem)


def edit_coco(root: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = root / "coco/annotations/instances_train2014.json"
    whole = json.loads(path.read_text())
    edit(whole)
    write(path, json.dumps(whole))
    return path


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda whole: whole.pop("annotations"), "lacks 'annotations'"),
        (lambda whole: whole["annotations"][1].pop("iscrowd"), "lacks 'iscrowd'"),
        (lambda whole: whole["annotations"][1].update(image_id=8), "annotation 2 has image_id 8, which does not exist"),
        (lambda whole: whole["annotations"][1].update(category_id=12), "annotation 2 has category_id 12, which does"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, -1, 5]), "annotation 2 has corners (5, 5, 4, 10)"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, float("nan"), 5]), "annotation 2 has corners"),
        (lambda whole: whole["annotations"][1].update(bbox=[5, 5, 5]), "malformed"),
        (lambda whole: whole["annotations"][1].update(bbox=None), "malformed"),
        (lambda whole: whole["images"][0].update(width=0), "image 2500000000 has a size of 0x40"),
        (lambda whole: whole["images"][0].update(id=9), "two images have one id"),
        (lambda whole: whole["categories"][0].update(name="unicorn"), "'toothbrush' differs"),
        (lambda whole: whole["categories"].pop(), "its 79 categories are not the 80 classes: 'person' differs"),
    ],
)
def test_a_malformed_coco_file_is_refused_by_name(
    coco: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    path = edit_coco(coco, edit)
    refused("coco14", coco, f"cannot be read: {path} ", problem)


def test_what_is_no_json_is_refused(coco: Path) -> None:
    path = coco / "coco/annotations/instances_val2014.json"
    for content in (b"", b"[]", b"<annotation/>", b"\xff\xfe", path.read_bytes()[:-50]):
        path.write_bytes(content)
        refused("coco14", coco, f"cannot be read: {path} is malformed")


def test_a_specification_that_detectors_have_not_is_refused(made: Path) -> None:
    spec = SPECS["pasted-voc"]
    for what, value in (("labels", "shuffled"), ("held_out", 5), ("padding", 4)):
        with pytest.raises(InputError, match=f"{what} {value!r} does not go with scenes of pasted-voc; choose"):
            load(replace(spec, **{what: value}), made)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has classes 4, not 20; describe it anew"):
        load(replace(spec, classes=20), made)
    with pytest.raises(InputError, match="has digest .*, not 0123"):
        load(replace(spec, digest="0123"), made)
    digest = load(spec, made).digest
    assert load(replace(spec, digest=digest), made).digest == digest


# ---------------------------------------------------------------- what is trained on


def trained(scenes: Scenes) -> dict[str, tuple[list[list[float]], list[int]]]:
    """Boxes and labels of each training image, from one epoch without flips."""
    found = {}
    order = scenes.rows(0, 0, scenes.count("train"))
    for i, (_, target) in zip(order, scenes.batch(0, 0, scenes.count("train")), strict=True):
        found[scenes.examples("train")[i].image_id] = target["boxes"].tolist(), target["labels"].tolist()
    return found


def test_difficult_objects_stay_for_the_evaluator_but_are_not_trained_on(official: Path) -> None:
    hard = "<difficult>1</difficult>"
    folder = official / "VOCdevkit/VOC2007/Annotations"
    write(folder / "000005.xml", voc_file(voc_object(more=hard), voc_object((3, 3, 9, 9), "cat")))
    write(folder / "000007.xml", voc_file(voc_object(more=hard)))
    write(folder / "000001.xml", voc_file())
    scenes = load(replace(voc(), flip=False), official)
    found = trained(scenes)
    assert found["000005"] == ([[2, 2, 9, 9]], [8])
    assert "000007" not in found and scenes.count("train") == 3  # nothing is left of it
    assert scenes.examples("train")[0].difficult.tolist() == [True, False]
    assert scenes.count("test") == 2 and len(scenes.examples("test")[0].boxes) == 0  # stays


def test_crowds_stay_for_the_evaluator_but_are_not_trained_on(coco: Path) -> None:
    scenes = load(SPECS["coco14"], coco)
    assert [e.image_id for e in scenes.examples("train")] == ["2500000000"]
    assert [e.crowd.tolist() for e in scenes.examples("test")] == [[True], [False, False]]


def test_boxes_are_trained_on_where_they_are_in_the_image(coco: Path, official: Path) -> None:
    def edit(whole: dict[str, Any]) -> None:
        for thing, box in zip(whole["annotations"], ([-3, 5, 70, 10], [0, 0, 5, 5], [7, 7, 4, 0]), strict=True):
            thing.update(bbox=box)
        whole["annotations"].append(coco_object(4, 2500000000, 1, [60, 0, 4, 4]))  # beside the image

    edit_coco(coco, edit)
    scenes = load(replace(SPECS["coco14"], flip=False), coco)
    assert trained(scenes) == {"2500000000": ([[0, 5, 60, 15]], [80])}
    assert scenes.examples("train")[0].boxes.tolist() == [[-3, 5, 67, 15], [7, 7, 11, 7], [60, 0, 64, 4]]

    write(official / "VOCdevkit/VOC2007/Annotations/000005.xml", voc_file(voc_object((0, 0, 61, 41))))
    scenes = load(replace(voc(), flip=False), official)
    assert trained(scenes)["000005"] == ([[0, 0, 60, 40]], [12])
    assert scenes.examples("train")[0].boxes.tolist() == [[-1, -1, 61, 41]]


def test_a_training_set_of_nothing_to_learn_cannot_be_batched(coco: Path) -> None:
    edit_coco(coco, lambda whole: whole["annotations"].clear())
    scenes = load(SPECS["coco14"], coco)
    with pytest.raises(InputError, match="batch 1 is larger than the 0 training images of coco14"):
        scenes.batch(0, 0, 1)


# ---------------------------------------------------------------- batches


def test_a_batch_is_images_as_they_lie_on_disk_with_their_boxes(scenes: Scenes) -> None:
    batch, rows = scenes.batch(3, 1, 8), scenes.rows(3, 1, 8)
    mirrored = 0
    for (image, target), row in zip(batch, rows, strict=True):
        example = scenes.examples("train")[row]
        stored = torch.tensor(np.asarray(Image.open(example.path))).permute(2, 0, 1).float() / 255
        assert image.dtype == torch.float32 and image.shape == (3, example.height, example.width)
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        kept = torch.tensor(~(example.difficult | example.crowd))
        assert torch.equal(target["labels"], torch.tensor(example.labels)[kept])
        boxes, flips = torch.tensor(example.boxes)[kept], not torch.equal(image, stored)
        mirrored += flips
        for ours, theirs in zip(target["boxes"].int().tolist(), boxes.int().tolist(), strict=True):
            under = image[:, ours[1] : ours[3], ours[0] : ours[2]]
            digit = stored[:, theirs[1] : theirs[3], theirs[0] : theirs[2]]
            assert torch.equal(under, digit.flip(2) if flips else digit)
    assert 0 < mirrored < 8


def test_mirrored_twice_is_as_before() -> None:
    image = torch.rand(3, 5, 9)
    target = {"boxes": torch.tensor([[0.0, 1, 3, 4], [8, 0, 9, 5]]), "labels": torch.tensor([1, 2])}
    once = flipped(image, target)
    assert once[1]["boxes"].tolist() == [[6, 1, 9, 4], [0, 0, 1, 5]]
    assert same([flipped(*once)], [(image, target)]) and not same([once], [(image, target)])
    assert flipped(image, {**target, "boxes": torch.empty(0, 4)})[1]["boxes"].shape == (0, 4)


def test_a_batch_is_a_pure_function_of_seed_and_iteration(scenes: Scenes, made: Path) -> None:
    in_order = [scenes.batch(0, i, 7) for i in range(4)]
    for i in (2, 0, 3, 1):
        assert same(scenes.batch(0, i, 7), in_order[i])
    fresh = load(scenes.spec, made)
    assert fresh.digest == scenes.digest
    for i in (25, 3, 1):
        assert same(fresh.batch(0, i, 7), scenes.batch(0, i, 7))
    assert not same(scenes.batch(0, 0, 7), in_order[1]) and not same(scenes.batch(1, 0, 7), in_order[0])


def test_an_epoch_has_every_image_at_most_once_and_epochs_differ(scenes: Scenes) -> None:
    count = scenes.count("train")
    steps = count // 10
    epochs = [[row for i in range(steps) for row in scenes.rows(0, e * steps + i, 10)] for e in range(2)]
    assert [len({*rows}) for rows in epochs] == [10 * steps] * 2 and epochs[0] != epochs[1]
    with pytest.raises(InputError, match=f"batch {count + 1} is larger than the {count} training images of pasted-"):
        scenes.batch(0, 0, count + 1)


def test_about_half_of_the_images_are_flipped_by_seed_and_iteration_and_none_without_flips(
    scenes: Scenes, made: Path
) -> None:
    still = load(replace(scenes.spec, flip=False), made)

    def flips(seed: int, iteration: int) -> tuple[bool, ...]:
        pairs = zip(still.batch(seed, iteration, 20), scenes.batch(seed, iteration, 20), strict=True)
        found = [(same([one], [other]), same([flipped(*one)], [other])) for one, other in pairs]
        assert all(unchanged != mirrored for unchanged, mirrored in found)
        return tuple(mirrored for _, mirrored in found)

    patterns = [flips(0, 0), flips(1, 0), flips(0, 1)]
    assert len({*patterns}) == 3 and all(4 <= sum(pattern) <= 16 for pattern in patterns)


def test_testing_is_in_order_and_of_all_images(scenes: Scenes) -> None:
    tested = list(scenes.test())
    assert [example for _, example in tested] == list(scenes.examples("test")) and len(tested) == 60
    for image, example in tested:
        stored = torch.tensor(np.asarray(Image.open(example.path))).permute(2, 0, 1).float() / 255
        assert torch.equal(image, stored)
    assert [example for _, example in scenes.test(3)] == list(scenes.examples("test"))[:3]
    assert next(scenes.test())[1] is scenes.examples("test")[0]  # and the rest is not waited for
    assert any(not len(example.boxes) for example in scenes.examples("test"))


def test_a_grey_image_becomes_coloured(root: Path) -> None:
    path = root / "pasted/VOCdevkit/VOC2007/JPEGImages/000161.jpg"
    Image.open(path).convert("L").save(path)
    image, example = next(load(SPECS["pasted-voc"], root).test())
    assert example.path == path and image.shape[0] == 3 and torch.equal(image[0], image[2])


@pytest.mark.parametrize("damage", ["nothing", "half", "another size", "no JPEG"])
def test_a_damaged_image_is_refused_by_name(root: Path, damage: str) -> None:
    path = root / "pasted/VOCdevkit/VOC2007/JPEGImages/000162.jpg"
    whole = path.read_bytes()
    path.write_bytes({"nothing": b"", "half": whole[: len(whole) // 2], "another size": jpeg()}.get(damage, b"<html>"))
    scenes = load(SPECS["pasted-voc"], root)
    tested = scenes.test()
    next(tested)
    with pytest.raises(InputError) as error:
        next(tested)
    assert "\n" not in str(error.value) and f"has a damaged image: {path} " in str(error.value)
    assert damage != "another size" or "60x40 pixels, and " in str(error.value)
    assert scenes.damaged == {}


def test_a_damaged_image_without_annotation_is_refused_by_name(official: Path) -> None:
    path = official / "VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg"
    path.write_bytes(b"<html>")
    refused("voc07++12", official, f"has a damaged image: {path} ")


# ---------------------------------------------------------------- generated scenes


def both(root: Path) -> Iterator[tuple[Example, Example]]:
    ours, theirs = (annotations.load(name, root) for name in ("pasted-voc", "pasted-coco"))
    assert ours.classes == theirs.classes and ours.labelled and theirs.labelled
    yield from zip(ours.train + ours.test, theirs.train + theirs.test, strict=True)


def test_both_formats_have_the_same_scenes(made: Path) -> None:
    flags = {"difficult": 0, "crowd": 0}
    for ours, theirs in both(made):
        assert int(ours.image_id) == int(theirs.image_id) and ours.path.read_bytes() == theirs.path.read_bytes()
        assert (ours.width, ours.height) == (theirs.width, theirs.height) == Image.open(ours.path).size
        assert np.array_equal(ours.boxes, theirs.boxes) and np.array_equal(ours.labels, theirs.labels)
        assert (theirs.areas < ours.areas).all()  # ink of its box
        assert not ours.crowd.any() and not theirs.difficult.any() and (ours.difficult >= theirs.crowd).all()
        flags = {"difficult": flags["difficult"] + ours.difficult.sum(), "crowd": flags["crowd"] + theirs.crowd.sum()}
    assert 0 < flags["crowd"] < flags["difficult"] < 30


def test_scenes_have_what_their_docstring_says(made: Path) -> None:
    found = annotations.load("pasted-coco", made)
    assert (len(found.train), len(found.test)) == (160, 60)
    for split in (found.train, found.test):
        assert {len(e.boxes) for e in split} == {0, 1, 2, 3} and sum(not len(e.boxes) for e in split) == 1
        assert {*np.concatenate([e.labels for e in split]).tolist()} == {1, 2, 3, 4}
        assert 0.1 < np.mean([e.height > e.width for e in split]) < 0.4
        boxes = np.concatenate([e.boxes[~e.crowd] for e in split])
        assert (boxes >= 0).all() and 15 < (boxes[:, 3] - boxes[:, 1]).min() < (boxes[:, 3] - boxes[:, 1]).max() <= 64
        assert any(e.boxes[:, 2].max(initial=0) == e.width for e in split)


def test_a_box_is_tight_around_its_ink() -> None:
    """Pixels that differ from the photograph: what is pasted last is all in its box, and touches its four sides."""
    before: list[Image.Image] = []
    looked_at = 0
    paste = Image.Image.paste

    def kept(image: Image.Image, *arguments: Any) -> None:
        before.append(image.copy())
        paste(image, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "paste", kept)
        for image, things in pasted.scenes("pasted-voc", "test"):
            if things and things[-1].kind is not pasted.Kind.FAINT:
                changed = np.asarray(image).astype(int) - np.asarray(before[-1])
                x1, y1, x2, y2 = things[-1].box
                left, top, right, bottom = Image.fromarray((changed != 0).any(2)).getbbox()  # type: ignore[misc]
                assert x1 <= left < x1 + 3 and y1 <= top < y1 + 3 and x2 - 3 < right <= x2 and y2 - 3 < bottom <= y2
                looked_at += 1
    assert looked_at > 50


def test_other_programs_read_what_is_written(made: Path) -> None:
    """torchvision's VOC and the official COCO reader."""
    found = annotations.load("pasted-voc", made)
    for split, examples in (("trainval", found.train), ("test", found.test)):
        theirs = VOCDetection(made / "pasted", year="2007", image_set=split)
        assert len(theirs) == len(examples)
        for example, (image, tree) in zip(examples, theirs, strict=True):
            assert image.size == (example.width, example.height)
            objects = tree["annotation"].get("object", [])
            assert [thing["name"] for thing in objects] == [found.classes[label - 1] for label in example.labels]
            corners = [[int(thing["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax")] for thing in objects]
            assert np.array_equal(np.array(corners).reshape(-1, 4) - (1, 1, 0, 0), example.boxes)
    api = COCO(made / "pasted/coco/annotations/instances_val2014.json")
    for example in annotations.load("pasted-coco", made).test:
        things = api.loadAnns(api.getAnnIds([int(example.image_id)]))
        assert [thing["area"] for thing in things] == example.areas.tolist()
        assert [api.cats[thing["category_id"]]["name"] for thing in things] == [
            found.classes[label - 1] for label in example.labels
        ]


def test_scenes_are_made_once_whoever_asks_and_always_the_same(made: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(annotations.load, ["pasted-voc", "pasted-coco"] * 2, [tmp_path / "new"] * 4))
    assert found[0].digest == found[2].digest == annotations.load("pasted-voc", made).digest
    assert found[1].digest == found[3].digest == annotations.load("pasted-coco", made).digest
    for place in ("pasted/VOCdevkit", "pasted/coco"):
        for path in sorted((made / place).rglob("*.*")):
            assert path.read_bytes() == (tmp_path / "new" / path.relative_to(made)).read_bytes()
    assert not (tmp_path / "new/.part-pasted").exists()


def test_scenes_that_lost_a_file_say_how_to_have_it_back(root: Path) -> None:
    (root / "pasted/VOCdevkit/VOC2007/JPEGImages/000003.jpg").unlink()
    refused("pasted-voc", root, "000003.jpg is missing; delete the folder pasted, which is then made anew")
    shutil.rmtree(root / "pasted")
    annotations.load("pasted-voc", root)


def test_a_data_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    refused("pasted-voc", tmp_path / "file", f"cannot be made in {tmp_path / 'file/pasted'}", "writable")
