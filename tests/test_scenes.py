"""Claims about scenes: which objects are trained on, and batches."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_files import coco_object, edit_coco, jpeg, small_coco, small_voc, voc_file, voc_object, write
from PIL import Image
from torch import Tensor

from experiments.profiles import SCENES_IN_COCO, SCENES_IN_VOC
from experiments.recipes import COCO_DATA, VOC12_DATA, VOC_DATA
from study.data import annotations, detection_sets
from study.data.detection_sets import Metric
from study.data.scenes import Scenes, Target, flipped, load
from study.spec import Data, InputError

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


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_voc(tmp_path, monkeypatch)


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_coco(tmp_path, monkeypatch)


def voc(name: str = "voc07+12") -> Data:
    return SPECS[name]


def same(a: list[tuple[Tensor, Target]], b: list[tuple[Tensor, Target]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and s.keys() == t.keys() and all(torch.equal(s[key], t[key]) for key in s)
        for (x, s), (y, t) in zip(a, b, strict=True)
    )


def test_the_tables_name_the_test_sets_and_each_has_its_metric(made: Path) -> None:
    for name, split, metric in (("pasted-voc", "test", Metric.VOC_11_POINTS), ("pasted-coco", "val", Metric.COCO)):
        scenes = load(SPECS[name], made)
        assert scenes.test_split == detection_sets.set_of(name).test_split == f"{name} {split}"
        assert scenes.metric is metric
    metrics = [detection_sets.SETS[name].metric for name in ("voc07+12", "voc07++12", "coco14")]
    assert metrics == [Metric.VOC_11_POINTS, Metric.VOC_AREA, Metric.COCO]


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
