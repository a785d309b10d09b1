"""What one file of annotations says: VOC's XML of an image, COCO's JSON of a split. Errors name what is wrong in it.

Owns both formats, and what a file may lack. Knows neither data sets nor where files lie.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree

from study.data.listing import shown
from study.data.sources import refusal

MOST_XML_BYTES = 2**22  # of an image's annotation
FARTHEST = 2**24  # pixels that a corner may be from the image's: beyond it float32 skips whole numbers
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels from the corner of the image, the last two exclusive


class VocContents(NamedTuple):
    """An image's file."""

    file: str  # the image's name, '' if it has none
    size: tuple[int, int] | None  # width and height, if it has them
    names: tuple[str, ...]  # classes of the objects
    boxes: list[Box]
    difficult: list[bool]


class CocoObject(NamedTuple):
    """An annotation of COCO."""

    name: str  # of its category
    box: Box
    crowd: bool
    area: float


class CocoImage(NamedTuple):
    """An image of COCO, with its objects in the file's order."""

    id: Any  # a number; elsewhere than in COCO perhaps text
    file: str
    size: tuple[int, int] | None  # width and height, if it has them
    objects: list[CocoObject]

    @property
    def names(self) -> tuple[str, ...]:
        """Classes of the objects."""
        return tuple(thing.name for thing in self.objects)


class CocoContents(NamedTuple):
    """A split's file."""

    classes: tuple[str, ...]  # in the order of their ids
    images: list[CocoImage]  # in the order of their ids


@dataclass(frozen=True, eq=False)
class Example:
    """An image and its objects: all that are annotated, in the file's order, as the official evaluators read them."""

    path: Path
    image_id: str  # '000005' of VOC; of COCO the number's digits
    width: int
    height: int
    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels from the corner of the image, x2 and y2 exclusive
    labels: np.ndarray  # int64 [n], 1..classes; 0 is background
    difficult: np.ndarray  # bool [n]: VOC's flag
    crowd: np.ndarray  # bool [n]: COCO's flag
    areas: np.ndarray  # float32 [n]: the segment's, which COCO annotates; VOC's are the boxes'

    @classmethod
    def of_voc(
        cls, path: Path, width: int, height: int, boxes: Sequence[Box], difficult: Sequence[bool], labels: Sequence[int]
    ) -> "Example":
        """Of an image with these objects of VOC."""
        corners, flags = np.array(boxes, np.float32).reshape(-1, 4), np.array(difficult, np.bool_)
        areas, crowd = (corners[:, 2:] - corners[:, :2]).prod(1), np.zeros(len(flags), np.bool_)
        return cls(path, path.stem, width, height, corners, np.array(labels, np.int64), flags, crowd, areas)


@contextmanager
def reading(name: str, path: Path, mend: str = "get it again") -> Iterator[None]:
    """Errors in the contents of a file become an `InputError` that names it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:  # a value that the format gives another type, or none
        problem = f"lacks {error}" if isinstance(error, KeyError) else "is malformed: a value is of another type"
        raise refusal(name, f"cannot be read: {shown(path)} {problem}; {mend}") from error
    except (ValueError, OverflowError, RecursionError, ParseError, OSError) as error:
        raise refusal(name, f"cannot be read: {shown(path)} is malformed: {error}; {mend}") from error


def check_size(what: str, width: int, height: int) -> None:
    """Raise `ValueError` for no pixel."""
    if width < 1 or height < 1:
        raise ValueError(f"{what} has a size of {width}x{height} pixels")


def _check_corners(what: str, *corners: float) -> None:
    x1, y1, x2, y2 = corners
    if not all(abs(corner) <= FARTHEST for corner in corners) or x2 < x1 or y2 < y1:
        raise ValueError(
            f"{what} has corners {corners}, which must be numbers x1 <= x2, y1 <= y2, of at most {FARTHEST:,} pixels"
        )


# ---------------------------------------------------------------- VOC


def voc_contents(path: Path) -> VocContents:
    """An object may lack `difficult`, which is 0 then, and all else but its name and box. Raises what `reading` takes.

    Corners, inclusive and counted from 1, become xmin - 1, ymin - 1, xmax, ymax.
    """
    # Not by torchvision's VOCDetection: it makes dictionaries of the file, checks nothing, and all below would remain.
    if (size_in_bytes := path.stat().st_size) > MOST_XML_BYTES:
        raise ValueError(f"it has {size_in_bytes} bytes, more than the {MOST_XML_BYTES} of any image's annotation")
    tree = ElementTree.parse(path, forbid_dtd=True).getroot()  # nor entities, which may expand to gigabytes
    if tree.tag != "annotation":
        raise ValueError(f"it is of another format: its root is <{tree.tag}>, and VOC's is <annotation>")
    size = None
    if tree.find("size") is not None:
        width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
        size = (width, height)
    boxes: list[Box] = []
    names, difficult = [], []
    for thing in tree.findall("object"):  # its children only: the parts of an object have names and boxes, too
        name = _text(thing, "name")
        x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax"))
        _check_corners(name, x1, y1, x2, y2)
        names.append(name)
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        difficult.append(bool(int((thing.findtext("difficult") or "").strip() or "0")))
    return VocContents((tree.findtext("filename") or "").strip(), size, tuple(names), boxes, difficult)


def _text(element: Element, place: str) -> str:
    text = element.findtext(place)
    if text is None:
        raise KeyError(f"{element.tag}/{place}")
    return text.strip()


# ---------------------------------------------------------------- COCO


def coco_contents(path: Path) -> CocoContents | None:
    """Images and classes by id; None of JSON that is of something else. Raises what `reading` takes.

    An image may lack its size. What an annotation may lack, or have as null, is read as pycocotools' users read it:
    `iscrowd` as 0, `area` as the box's; `id` and `segmentation` are not needed. Corners become x, y, x + width,
    y + height.
    """
    # Not by pycocotools.COCO: it prints to standard output, and accepts annotations of images or categories that do not
    # exist and two images of one id. All of these checks, and the sorting, would remain.
    with path.open("rb") as file:
        whole = json.load(file)
    if not isinstance(whole, dict) or not {"images", "annotations", "categories"} & whole.keys():
        return None
    names = {category["id"]: category["name"] for category in whole["categories"]}
    if len(names) != len(whole["categories"]):
        raise ValueError("two categories have one id")
    for number, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"category {number} has the name {name!r}, which is no text")
    images = sorted(whole["images"], key=lambda image: image["id"])
    objects: dict[Any, list[CocoObject]] = {image["id"]: [] for image in images}
    if len(objects) != len(images):
        raise ValueError("two images have one id")
    for at, annotation in enumerate(whole["annotations"], 1):
        what = (
            f"annotation {annotation['id']}" if "id" in annotation else f"annotation {at} of its list, without an id,"
        )
        for field, known in (("image_id", objects), ("category_id", names)):
            if annotation[field] not in known:
                raise ValueError(f"{what} has {field} {annotation[field]!r}, which does not exist")
        thing = _coco_object(what, names[annotation["category_id"]], annotation)
        objects[annotation["image_id"]].append(thing)
    classes = tuple(names[number] for number in sorted(names))
    return CocoContents(
        classes, [CocoImage(image["id"], image["file_name"], _size(image), objects[image["id"]]) for image in images]
    )


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return None if width is None or height is None else (width, height)


def _coco_object(what: str, name: str, annotation: dict[str, Any]) -> CocoObject:
    x, y, width, height = annotation["bbox"]
    box = (x, y, x + width, y + height)
    _check_corners(what, *box)
    crowd, area = annotation.get("iscrowd"), annotation.get("area")
    if crowd not in (None, 0, 1):
        raise ValueError(f"{what} has iscrowd {crowd!r}, which must be 0 or 1")
    area = width * height if area is None else area
    if not 0 <= area <= FARTHEST**2:
        raise ValueError(f"{what} has an area of {area!r}, which must be a number of pixels, 0 or more")
    return CocoObject(name, box, bool(crowd), area)
