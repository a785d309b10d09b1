"""The data sets of scenes as facts: classes, places of files, numbers of images, where to get them, and the metric.

Standard library only, so that plans and recipes can use it. Reading the files is `study.data.annotations`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from study.spec import VOC_CLASSES

COCO_CLASSES = (  # in the order of their category ids, which are not contiguous
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
DIGITS = {0: "zero", 2: "two", 4: "four", 6: "six"}  # the four that are least alike, mirrored or not
MADE = {"train": 160, "test": 60}  # generated scenes
VOC07, VOC12, COCO = "VOCdevkit/VOC2007", "VOCdevkit/VOC2012", "coco"  # folders below the data root
PASTED = "pasted"  # folder of the generated scenes, which are laid out as VOC 2007 and as COCO


class Format(StrEnum):
    """How annotations are written."""

    VOC = "voc"
    COCO = "coco"


class Metric(StrEnum):
    """What a data set's detections are scored with (see `study.tasks.detection_metrics`)."""

    VOC_11_POINTS = "voc-11-points"  # VOC 2007: precision at 11 recalls, at an overlap of .5
    VOC_AREA = "voc-area"  # VOC 2010 and later: the area under the curve, at an overlap of .5
    COCO = "coco"  # the mean over ten overlaps


class Part(NamedTuple):
    """A split of one archive."""

    folder: str  # below the data root
    split: str  # as the files there call it


@dataclass(frozen=True)
class DetectionSet:
    """A data set of scenes."""

    classes: tuple[str, ...]  # the first has label 1
    train: tuple[Part, ...]
    test: Part
    test_split: str  # what tables call the test set
    format: Format
    metric: Metric


SECRET = Part(VOC12, "test")  # its annotations are known to the evaluation server only
_PASTED_VOC, _PASTED_COCO = f"{PASTED}/{VOC07}", f"{PASTED}/{COCO}"
SETS = {
    "voc07+12": DetectionSet(
        classes=VOC_CLASSES,
        train=(Part(VOC07, "trainval"), Part(VOC12, "trainval")),
        test=Part(VOC07, "test"),
        test_split="VOC 07 test",
        format=Format.VOC,
        metric=Metric.VOC_11_POINTS,
    ),
    "voc07++12": DetectionSet(
        classes=VOC_CLASSES,
        train=(Part(VOC07, "trainval"), Part(VOC07, "test"), Part(VOC12, "trainval")),
        test=SECRET,
        test_split="VOC 12 test",
        format=Format.VOC,
        metric=Metric.VOC_AREA,
    ),
    "coco14": DetectionSet(
        classes=COCO_CLASSES,
        train=(Part(COCO, "train2014"),),
        test=Part(COCO, "val2014"),
        test_split="COCO val",
        format=Format.COCO,
        metric=Metric.COCO,
    ),
    "pasted-voc": DetectionSet(
        classes=tuple(DIGITS.values()),
        train=(Part(_PASTED_VOC, "trainval"),),
        test=Part(_PASTED_VOC, "test"),
        test_split="pasted-voc test",
        format=Format.VOC,
        metric=Metric.VOC_11_POINTS,
    ),
    "pasted-coco": DetectionSet(
        classes=tuple(DIGITS.values()),
        train=(Part(_PASTED_COCO, "train2014"),),
        test=Part(_PASTED_COCO, "val2014"),
        test_split="pasted-coco val",
        format=Format.COCO,
        metric=Metric.COCO,
    ),
}
OWN = ("voc:NAME", "coco:NAME")  # somebody's own, read by `study/data/own_scenes.py`


def is_own(name: str) -> bool:
    """Whether the name is of somebody's own data set of scenes."""
    return name.startswith(tuple(known.removesuffix("NAME") for known in OWN))


def is_scenes(name: str) -> bool:
    """Whether the name is of a data set of scenes."""
    return is_own(name) or name in SETS


def own_set(name: str, classes: tuple[str, ...] = ()) -> DetectionSet:
    """The facts of somebody's own data set: scored as VOC since 2010, or as COCO."""
    voc, label = name.startswith("voc:"), name.partition(":")[2]
    return DetectionSet(
        classes=classes,
        train=(Part(label, "train"),),
        test=Part(label, "test"),
        test_split=f"{name} test",
        format=Format.VOC if voc else Format.COCO,
        metric=Metric.VOC_AREA if voc else Metric.COCO,
    )


def set_of(name: str) -> DetectionSet:
    """The facts of the data set of that name; those of an own one without classes, which its files tell."""
    return own_set(name) if is_own(name) else SETS[name]


COUNTS = {  # images; VOC's are those of its Main lists (the paper's 16k of VOC 2012 are not), COCO's "80k" and "40k"
    Part(VOC07, "trainval"): 5_011,
    Part(VOC07, "test"): 4_952,
    Part(VOC12, "trainval"): 11_540,
    Part(VOC12, "test"): 10_991,
    Part(COCO, "train2014"): 82_783,
    Part(COCO, "val2014"): 40_504,
    Part(_PASTED_VOC, "trainval"): MADE["train"],
    Part(_PASTED_VOC, "test"): MADE["test"],
    Part(_PASTED_COCO, "train2014"): MADE["train"],
    Part(_PASTED_COCO, "val2014"): MADE["test"],
}
ADVICE = {  # where a folder comes from; the MD5s are torchvision's
    VOC07: "unpack VOCtrainval_06-Nov-2007.tar (MD5 c52e279531787c972589f7e41ab4ae64) and VOCtest_06-Nov-2007.tar"
    " (MD5 b6e924de25625d8de591ea690078ad9f) of host.robots.ox.ac.uk/pascal/VOC/voc2007 in the data root",
    VOC12: "unpack VOCtrainval_11-May-2012.tar (MD5 6cd6e144f989b92b3379bac3b3de84fd) of"
    " host.robots.ox.ac.uk/pascal/VOC/voc2012 in the data root, and for its test split VOC2012test.tar of its server",
    COCO: "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip of cocodataset.org in the folder coco of"
    " the data root",
    _PASTED_VOC: "delete the folder pasted, which is then made anew",
    _PASTED_COCO: "delete the folder pasted, which is then made anew",
}
