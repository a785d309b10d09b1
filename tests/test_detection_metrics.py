"""VOC's and COCO's mAP are what their definitions say, computed another way: in pixels and fractions, by search."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from study.spec import InputError
from study.tasks.detection_metrics import Detected, coco_map, voc_ap

CLASSES = ("cat", "dog", "cow")
SETS = range(20)  # random ones, by seed


@dataclass(frozen=True, eq=False)
class Example:
    """Of `study.data.annotation_files.Example` what metrics read."""

    image_id: str
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


def example(
    boxes: Any,
    labels: Any = None,
    difficult: Sequence[int] = (),
    crowd: Sequence[int] = (),
    image_id: str = "one",
) -> Example:
    """`difficult` and `crowd`: numbers of the boxes that are."""
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    numbers = np.arange(len(corners))
    return Example(
        image_id=image_id,
        boxes=corners,
        labels=np.array([1] * len(corners) if labels is None else labels, dtype=np.int64),
        difficult=np.isin(numbers, difficult),
        crowd=np.isin(numbers, crowd),
        areas=(corners[:, 2:] - corners[:, :2]).prod(1),
    )


def found(boxes: Any, scores: Sequence[float] | None = None, labels: Any = None) -> Detected:
    """Without scores: the best first."""
    falling = np.linspace(1, 0, len(boxes), endpoint=False)
    return Detected(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(falling if scores is None else scores, dtype=np.float32),
        np.array([1] * len(boxes) if labels is None else labels, dtype=np.int64),
    )


def random_set(
    seed: int, whole: bool, images: int = 12, side: int = 14
) -> tuple[list[Example], list[Detected], tuple[str, ...]]:
    """Images with 0-5 objects, detections on, near and far from them, out of the image too; no two scores are equal.

    In `whole` pixels many boxes are equal, others empty, and many overlaps equal; else no two are.
    """
    draw = np.random.default_rng(seed)

    def around(boxes: np.ndarray, spread: float) -> np.ndarray:
        moved = boxes + draw.normal(0, spread, boxes.shape)
        moved = np.round(moved) if whole else moved
        return np.hstack([moved[:, :2], np.maximum(moved[:, :2], moved[:, 2:])])

    def anywhere(count: int) -> np.ndarray:
        corners = np.sort(draw.uniform(0, side, (count, 2, 2)), axis=1).reshape(count, 4)
        return around(corners, 0) + np.array([0, 0, 1, 1])

    examples, boxes, labels = [], [], []
    for number in range(images):
        objects = anywhere(int(draw.integers(6)))
        classes = draw.integers(1, len(CLASSES) + 1, len(objects))
        difficult = np.flatnonzero(draw.random(len(objects)) < 0.25).tolist()
        examples.append(example(objects, classes, difficult, image_id=f"image {number}"))
        times = draw.integers(4)
        boxes.append(np.vstack([around(objects, 0.6) for _ in range(times)] + [anywhere(3) - 4]))
        labels.append(np.concatenate([*[classes] * times, draw.integers(1, len(CLASSES) + 1, 3)]))
    scores = iter(draw.permutation(sum(map(len, labels))) / 1000)
    finds = [found(each, [next(scores) for _ in each], of) for each, of in zip(boxes, labels, strict=True)]
    return examples, finds, CLASSES


# VOC


def pixels(box: np.ndarray) -> set[tuple[int, int]]:
    """From the first to the last, as VOC's annotations and its development kit count them."""
    first_x, first_y, last_x, last_y = (int(box[0]), int(box[1]), int(box[2]) - 1, int(box[3]) - 1)
    return set(product(range(first_x, last_x + 1), range(first_y, last_y + 1)))


def by_definition(
    examples: list[Example], finds: list[Detected], label: int, points: str, iou: float
) -> Fraction | None:
    """AP of a class, detection by detection; precision at a recall is the best at that recall or a higher one."""
    objects = {
        (number, index): pixels(example.boxes[index])
        for number, example in enumerate(examples)
        for index in np.flatnonzero(example.labels == label)
    }
    count = sum(not examples[number].difficult[index] for number, index in objects)
    if not count:
        return None
    detections = sorted(
        (
            (each.scores[index], number, pixels(each.boxes[index]))
            for number, each in enumerate(finds)
            for index in np.flatnonzero(each.labels == label)
        ),
        key=lambda detection: -detection[0],
    )
    taken, right, wrong, curve = set(), 0, 0, []
    for _, number, box in detections:
        best, which = Fraction(0), None
        for key, there in objects.items():
            overlap = Fraction(len(box & there), len(box | there) or 1)
            if key[0] == number and overlap > best:
                best, which = overlap, key
        if which is None or best < Fraction(iou) or which in taken:
            wrong += 1
        elif not examples[number].difficult[which[1]]:
            taken.add(which)
            right += 1
        if right + wrong:
            curve.append((Fraction(right, count), Fraction(right, right + wrong)))

    def precision(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    recalls = [Fraction(k, 10) for k in range(11)] if points == "11" else [Fraction(k + 1, count) for k in range(count)]
    return sum(map(precision, recalls), Fraction(0)) / len(recalls)


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("points", ["11", "all"])
def test_voc_ap_is_its_definition_in_pixels_and_fractions(points, iou):
    most = 0.0
    for seed in SETS:
        examples, finds, classes = random_set(seed, whole=True)
        got = voc_ap(examples, finds, classes, points=points, iou=iou)
        aps = {name: by_definition(examples, finds, label, points, iou) for label, name in enumerate(classes, 1)}
        wanted = {f"ap_{name}": 100 * float(ap) for name, ap in aps.items() if ap is not None}
        assert got == pytest.approx({"map": sum(wanted.values()) / len(wanted)} | wanted, abs=1e-9)
        most = max(most, got["map"])
    assert most > 10  # there was something to find


TWO = example([[0, 0, 10, 10], [20, 20, 30, 30]])
FIRST, SECOND, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def ap(examples: Any, finds: Any, points: Literal["11", "all"] = "all", iou: float = 0.5) -> float:
    """Of cats, in one image or a list of them."""
    if isinstance(finds, Detected):
        examples, finds = [examples], [finds]
    return voc_ap(examples, finds, ["cat"], points=points, iou=iou)["ap_cat"]


def test_voc_ap_of_a_curve_computed_by_hand():
    finds = found([FIRST, FAR, SECOND])  # precision 1 up to recall 1/2, then 2/3
    assert ap(TWO, finds) == pytest.approx(100 * (1 / 2 * 1 + 1 / 2 * 2 / 3))
    assert ap(TWO, finds, "11") == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)


def test_every_tenth_of_recall_is_reached_by_as_many_tenths_of_the_objects():
    """0.3 as 3 * 0.1 in floating point is more than 3 / 10."""
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(10)]
    for right in range(11):
        assert ap(example(boxes), found(boxes[:right]), "11") == pytest.approx(100 * (right + (right > 0)) / 11)


def test_an_object_found_twice_is_once_a_false_positive():
    assert ap(TWO, found([FIRST, FIRST, SECOND])) == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert ap(TWO, found([FIRST, SECOND, FIRST])) == 100


def test_a_second_detection_does_not_look_for_another_object():
    near = [0, 0, 10, 11]  # overlaps FIRST most, and enough of an object that nobody else finds
    both = example([FIRST, [0, 0, 10, 14]])
    assert ap(both, found([FIRST, near])) == 50


def test_a_difficult_object_or_a_crowd_is_neither_found_nor_missed():
    for image in (example([FIRST, SECOND], difficult=[1]), example([FIRST, SECOND], crowd=[1])):
        assert ap(image, found([SECOND, SECOND, FIRST])) == 100
        assert ap(image, found([FIRST])) == 100
        assert ap(image, found([SECOND])) == 0


def test_half_an_overlap_is_enough_and_less_is_not():
    assert ap(example([[0, 0, 10, 10]]), found([[0, 0, 10, 5]])) == 100
    assert ap(example([[0, 0, 10, 10]]), found([[0, 0, 10, 4.999]])) == 0
    assert ap(example([[0, 0, 10, 10]]), found([[0, 0, 10, 5]]), iou=0.51) == 0


def test_scores_rank_detections_over_all_images_and_equal_ones_keep_their_order():
    images = [example([FIRST]), example([SECOND])]
    assert ap(images, [found([FIRST, FAR], [0.9, 0.2]), found([SECOND, FAR], [0.5, 0.1])]) == 100
    assert ap(images, [found([FIRST, FAR], [0.9, 0.7]), found([SECOND], [0.5])]) == pytest.approx(100 * (1 + 2 / 3) / 2)
    many, scores = [FAR] * 200, [0.5, 0.1] * 100
    assert ap(images, [found([FIRST], [0.5]), found([SECOND, *many], [0.5, *scores])]) == 100
    late = ap(images, [found([FIRST], [0.5]), found([*many, SECOND], [*scores, 0.5])])
    assert late == pytest.approx(100 * (1 + 2 / 102) / 2)


def test_an_object_of_another_class_or_image_is_not_found():
    assert ap([example([FIRST]), example([])], [found([]), found([FIRST])]) == 0
    images = [example([FIRST, FIRST], [1, 2])]
    both = voc_ap(images, [found([FIRST], labels=[2])], CLASSES, points="all")
    assert both == {"map": 50, "ap_cat": 0, "ap_dog": 100}


@pytest.mark.parametrize("points", ["11", "all"])
def test_a_class_without_objects_that_count_has_no_value(points):
    images = [example([FIRST, SECOND], [1, 2], difficult=[1])]
    finds = [found([FIRST, SECOND, FAR], labels=[1, 2, 3])]
    assert voc_ap(images, finds, CLASSES, points=points) == pytest.approx({"map": 100, "ap_cat": 100})


# COCO


def coco_by_definition(examples: list[Example], finds: list[Detected], label: int, iou: float) -> float | None:
    """AP of a class: in each image the best detections first, each takes the best object that is left."""
    count, ranked = 0, []
    for example, each in zip(examples, finds, strict=True):
        objects = [
            (box.astype(float), bool(difficult), bool(crowd))
            for box, difficult, crowd, of in zip(
                example.boxes, example.difficult, example.crowd, example.labels, strict=True
            )
            if of == label
        ]
        count += sum(not difficult and not crowd for _, difficult, crowd in objects)
        mine = sorted(np.flatnonzero(each.labels == label), key=lambda index: -each.scores[index])[:100]
        taken: set[int] = set()
        for index in mine:
            free = []
            for number, (box, difficult, crowd) in enumerate(objects):
                shared, own, its = intersection(each.boxes[index].astype(float), box)
                overlap = shared and shared / (own if crowd else own + its - shared)
                if overlap >= iou and (crowd or number not in taken):
                    free.append((not difficult and not crowd, overlap, number))
            counts, _, number = max(free, default=(True, 0, -1))
            taken.add(number)
            if counts:
                ranked.append((-each.scores[index], number >= 0))
    if not count:
        return None
    right, curve = 0, []
    for rank, (_, is_right) in enumerate(sorted(ranked), 1):
        right += is_right
        curve.append((right / count, right / rank))
    # COCO's recalls are these floats: 100 * k * 0.01 is not k for every k, and right / count is compared with them.
    return sum(max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)) / 101


def intersection(box: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    sides = [max(0.0, min(box[k + 2], other[k + 2]) - max(box[k], other[k])) for k in (0, 1)]
    own, its = ((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other))
    return sides[0] * sides[1], own, its


def with_crowds(examples: list[Example]) -> list[Example]:
    """Some of those that are not difficult."""
    draw = np.random.default_rng(1)
    return [replace(each, crowd=(draw.random(len(each.boxes)) < 0.2) & ~each.difficult) for each in examples]


def test_coco_map_is_its_definition():
    for seed in SETS:
        examples, finds, classes = random_set(seed, whole=False)
        examples = with_crowds(examples)
        ious = np.linspace(0.5, 0.95, 10)
        aps = {
            iou: [coco_by_definition(examples, finds, label, iou) for label in range(1, len(classes) + 1)]
            for iou in ious
        }
        means = [np.mean([ap for ap in aps[iou] if ap is not None]) for iou in ious]
        wanted = {"map_50_95": 100 * np.mean(means), "map_50": 100 * means[0]}
        assert coco_map(examples, finds, classes) == pytest.approx(wanted, abs=1e-9)
        assert wanted["map_50_95"] > 1  # there was something to find


def test_coco_map_is_what_pycocotools_makes_of_files(tmp_path):
    for seed in SETS:
        examples, finds, classes = random_set(seed, whole=bool(seed % 2))
        examples = [replace(each, difficult=each.difficult & False) for each in with_crowds(examples)]
        got = coco_map(examples, finds, classes)
        (tmp_path / "objects.json").write_text(json.dumps(annotations(examples)))
        (tmp_path / "found.json").write_text(json.dumps(list(results(finds))))
        truth = COCO(tmp_path / "objects.json")
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        wanted = {"map_50_95": 100 * evaluation.stats[0], "map_50": 100 * evaluation.stats[1]}
        assert got == pytest.approx(wanted, abs=1e-9)


def annotations(examples: list[Example]) -> dict[str, list]:
    """A file of COCO's."""
    objects = [
        (number, *(column.tolist() for column in each))
        for number, e in enumerate(examples)
        for each in zip(e.boxes, e.labels, e.areas, e.crowd, strict=True)
    ]
    return {
        "images": [{"id": number} for number in range(len(examples))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "area": area, "iscrowd": int(crowd), "bbox": sides(box)}
            for n, (image, box, label, area, crowd) in enumerate(objects, 1)
        ],
    }


def results(finds: list[Detected]) -> Iterator[dict[str, object]]:
    """A file of detections, as COCO's server takes them."""
    for number, each in enumerate(finds):
        for box, score, label in zip(each.boxes.tolist(), each.scores.tolist(), each.labels.tolist(), strict=True):
            yield {"image_id": number, "category_id": label, "score": score, "bbox": sides(box)}


def sides(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def test_coco_leaves_difficult_objects_and_crowds_out():
    for image in (example([FIRST, SECOND], difficult=[1]), example([FIRST, SECOND], crowd=[1])):
        assert coco_map([image], [found([SECOND, FIRST])], ["cat"]) == pytest.approx({"map_50_95": 100, "map_50": 100})
        assert coco_map([image], [found([SECOND])], ["cat"])["map_50"] == 0


def test_coco_counts_the_hundred_best_detections_of_an_image_and_class():
    for before, value in ((99, 1), (100, 0)):
        finds = [found([FAR] * before + [FIRST])]
        assert coco_map([example([FIRST])], finds, ["cat"])["map_50"] == pytest.approx(value)


def test_coco_map_prints_nothing(capsys):
    coco_map(*random_set(0, whole=False))
    assert capsys.readouterr() == ("", "")


# Both

METRICS: list[Callable[..., dict[str, float]]] = [
    lambda *given: voc_ap(*given, points="11"),
    lambda *given: voc_ap(*given, points="all"),
    coco_map,
]


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_found_is_zero_and_everything_found_a_hundred(metric):
    examples, _, classes = random_set(3, whole=False)
    assert set(metric(examples, [found([])] * len(examples), classes).values()) == {0}
    everything = [found(each.boxes, labels=each.labels) for each in examples]
    assert set(metric(examples, everything, classes).values()) == {100}


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_box_finds_nothing_and_one_out_of_the_image_does(metric):
    assert set(metric([TWO], [found([[3, 3, 3, 8], [-20, -20, -10, -10]])], ["cat"]).values()) == {0}
    assert set(metric([example([FIRST])], [found([[-1, -1, 10, 10]])], ["cat"]).values()) - {0}


@pytest.mark.parametrize("metric", METRICS)
def test_a_detection_that_is_not_finite_is_refused(metric):
    for bad in (found([FIRST], [np.nan]), found([FIRST], [np.inf]), found([[0, 0, np.nan, 10]])):
        with pytest.raises(ValueError, match="image one is not finite"):
            metric([TWO], [bad], ["cat"])


@pytest.mark.parametrize("metric", METRICS)
def test_without_an_object_there_is_no_map(metric):
    images = [example([]), example([FIRST], difficult=[0])]
    with pytest.raises(InputError, match="the 2 images have no object"):
        metric(images, [found([FIRST])] * 2, ["cat"])
