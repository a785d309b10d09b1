"""How good detections are: mean average precision as PASCAL VOC and as COCO define it (Tables 7-12).

Owns what a detector's answer for an image is, and the arithmetic from answers to numbers, in percent. COCO's is done by
its authors' own code, pycocotools. Must not know nets, torch or files.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from study.spec import InputError

if TYPE_CHECKING:
    from study.data.annotation_files import Example

DETECTIONS = 100  # of highest score, an image and class, that COCO's mAP is of


@dataclass(frozen=True, eq=False)
class Detected:
    """What a detector found in one image, in any order: boxes as those of `Example`, in the image's own pixels.

    Boxes may reach out of the image and may be empty: an empty one overlaps nothing, so it is a false positive.
    """

    boxes: np.ndarray  # float32 [m, 4]: x1, y1, x2 >= x1, y2 >= y1; the last two exclusive
    scores: np.ndarray  # float32 [m]
    labels: np.ndarray  # int64 [m], of 1..classes


def voc_ap(
    examples: Sequence["Example"],
    detections: Sequence[Detected],
    classes: Sequence[str],
    *,
    points: Literal["11", "all"],
    iou: float = 0.5,
) -> dict[str, float]:
    """Average precision in percent, as VOC's development kit: {'map': mean over classes, 'ap_NAME': of each class}.

    `points`: 'all' is the area under the curve of precision, made to fall with recall, VOC's rule since 2010; '11' the
    mean of that curve at the recalls 0, 0.1, ..., 1, its rule until 2009. Detected of equal score keep the order of
    `examples`, and within an image their own. A class of which every object is difficult, or that has none, has no
    value and is no part of the mean: its recall is 0/0. Crowds, which VOC has not, are as difficult objects.

    Raises `ValueError` for a detection that is not finite, naming the image, and `InputError` where no class has a
    value.
    """
    assert 0 < iou <= 1 and points in ("11", "all")
    _check(examples, detections, classes)
    objects = np.concatenate([example.labels for example in examples])
    left_out = np.concatenate([example.difficult | example.crowd for example in examples])
    scores = np.concatenate([one.scores for one in detections])
    labels = np.concatenate([one.labels for one in detections])
    first = np.cumsum([0] + [len(example.labels) for example in examples])[:-1]  # of all objects, each image's first
    pairs = zip(examples, detections, first, strict=True)
    nearest = np.concatenate([_nearest(example, one, iou, start) for example, one, start in pairs])
    order = np.argsort(-scores, kind="stable")
    aps = {}
    for label, name in enumerate(classes, 1):
        if count := int(((objects == label) & ~left_out).sum()):
            answers = nearest[order[labels[order] == label]]
            answers = answers[(answers < 0) | ~left_out[answers]]  # those are neither right nor wrong
            aps[f"ap_{name}"] = 100 * float(_average_precision(_right(answers), count, points))
    return {"map": float(np.mean(list(aps.values())))} | aps


def _nearest(example: "Example", detections: Detected, iou: float, first: int) -> np.ndarray:
    """Of each detection the object of its class that it overlaps most, counted from `first`; -1 if less than `iou`.

    That may be a difficult one, or one that is detected already: VOC then does not try the next.
    """
    if not len(example.labels):
        return np.full(len(detections.labels), -1)
    overlaps = np.where(detections.labels[:, None] == example.labels, _overlaps(detections.boxes, example.boxes), 0.0)
    nearest = overlaps.argmax(1)  # of equal ones the first, as the development kit
    # The development kit's rule is >=; py-faster-rcnn's copy of it in Python has >.
    return np.where(overlaps.max(1) >= iou, first + nearest, -1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, [m, 4] and [n, 4] -> float64 [m, n].

    The development kit's corners are the first and the last pixel of a box, and its sides x2 - x1 + 1. Ours are one
    beyond the last, so that x2 - x1 is the same number.
    """
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    shared = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared
    overlaps: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return overlaps


def _area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    sides = np.maximum(high - low, 0)
    area: np.ndarray = sides[..., 0] * sides[..., 1]
    return area


def _right(answers: np.ndarray) -> np.ndarray:
    """Which answers, by falling score, are the first of an object; every further one is a false positive."""
    right = np.zeros(len(answers), dtype=bool)
    right[np.unique(answers, return_index=True)[1]] = True
    return right & (answers >= 0)


def _average_precision(right: np.ndarray, objects: int, points: str) -> float:
    """`right`: which answers are, by falling score. Each right one raises recall by 1 / `objects`."""
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1][right]  # the best at the recall of so many, or at a higher
    if points == "all":
        return float(precision.sum() / objects)
    # In whole numbers of objects: in floating point 3 of 10 may be less than a recall of 0.3. Recall 0 is every answer,
    # of which none before the first right one has a higher precision.
    needed = [max(1, math.ceil(tenth * objects / 10)) for tenth in range(11)]
    return float(sum(precision[number - 1] for number in needed if number <= len(precision)) / 11)


def coco_map(examples: Sequence["Example"], detections: Sequence[Detected], classes: Sequence[str]) -> dict[str, float]:
    """COCO's mAP in percent, by pycocotools: {'map_50_95': mean over overlaps 0.5, 0.55, ..., 0.95, 'map_50'}.

    Over the classes that have an object. COCO has no difficult objects; here they do not count, as crowds do not.
    Raises as `voc_ap`.
    """
    _check(examples, detections, classes)
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(len(examples), len(classes), _objects(examples)),
            _coco(len(examples), len(classes), _detections(detections)),
            "bbox",
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = [DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # [overlaps, recalls, classes, 1, 1]; -1 of a class without objects
    precision = precision[:, :, precision[0, 0, :, 0, 0] > -1]
    return {"map_50_95": 100 * float(precision.mean()), "map_50": 100 * float(precision[0].mean())}


def _coco(images: int, classes: int, boxes: Iterator[dict[str, Any]]) -> COCO:
    """Images and classes counted from 1, and so are boxes: for COCOeval a match with box 0 is none."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": label} for label in range(1, classes + 1)],
        "annotations": [{"id": number} | box for number, box in enumerate(boxes, 1)],
    }
    coco.createIndex()
    return coco


def _objects(examples: Sequence["Example"]) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(examples, 1):
        areas = np.where(example.difficult, np.inf, example.areas)  # by area COCOeval leaves out what does not count
        for box, crowd, area in zip(_boxes(number, example.boxes, example.labels), example.crowd, areas, strict=True):
            yield box | {"iscrowd": int(crowd), "area": float(area)}


def _detections(detections: Sequence[Detected]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(detections, 1):
        for box, score in zip(_boxes(number, one.boxes, one.labels), one.scores.tolist(), strict=True):
            yield box | {"score": score, "area": box["bbox"][2] * box["bbox"][3]}


def _boxes(image: int, boxes: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """Boxes as COCO's: x, y, width, height."""
    corners = boxes.astype(np.float64)
    sides = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    for box, label in zip(sides.tolist(), labels.tolist(), strict=True):
        yield {"image_id": image, "category_id": label, "bbox": box}


def _check(examples: Sequence["Example"], detections: Sequence[Detected], classes: Sequence[str]) -> None:
    for example, one in zip(examples, detections, strict=True):
        if not (np.isfinite(one.scores).all() and np.isfinite(one.boxes).all()):
            raise ValueError(f"a score or box found in image {example.image_id} is not finite: the net has diverged")
        assert one.boxes.shape == (len(one.scores), 4) and len(one.labels) == len(one.scores)
        assert ((one.labels >= 1) & (one.labels <= len(classes))).all()
        assert (one.boxes[:, :2] <= one.boxes[:, 2:]).all()
    if not any((~example.difficult & ~example.crowd).any() for example in examples):
        raise InputError(
            f"the {len(examples)} images have no object that counts, so there is no mAP; choose images with objects"
        )
