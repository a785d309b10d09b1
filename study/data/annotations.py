"""Images with boxes around their objects: finding, checking and reading VOC and COCO as their archives lay them out.

Decodes no image of the official sets, and knows neither batches nor metrics. Which sets there are is
`study.data.detection_sets`. What is missing, malformed or other than expected is an `InputError`.

Looked for under the data root:
voc07+12      VOCdevkit/VOC2007 and VOCdevkit/VOC2012, with JPEGImages/, Annotations/ and ImageSets/Main/
voc07++12     the same; the annotations of VOC 2012's test images, which only its server has, are not needed
coco14        coco/annotations/instances_{train,val}2014.json, coco/train2014/ and coco/val2014/
pasted-voc    pasted/VOCdevkit/VOC2007, made once: handwritten digits pasted on photographs
pasted-coco   pasted/coco, the same scenes
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree

from study.data import pasted
from study.data.cache import cached, made
from study.data.decoding import opened
from study.data.detection_sets import ADVICE, COUNTS, PASTED, SECRET, SETS, DetectionSet, Format, Metric, Part
from study.data.sources import refusal
from study.spec import InputError, check_choice


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


@dataclass(frozen=True, eq=False)
class Annotated:
    """A data set of scenes, read."""

    facts: DetectionSet
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labelled: bool  # whether the test examples have any boxes; VOC 2012's have none
    digest: str  # SHA-256 of names, bytes and sizes of images, and of all that is annotated; not of pixels

    @property
    def classes(self) -> tuple[str, ...]:
        """The first has label 1."""
        return self.facts.classes

    @property
    def test_split(self) -> str:
        """What tables call the test set: 'VOC 07 test', 'COCO val', ..."""
        return self.facts.test_split

    @property
    def metric(self) -> Metric:
        """What detections are scored with."""
        return self.facts.metric


MOST_XML_BYTES = 2**22  # of an image's annotation
_Read = Iterator[tuple[Example, int]]  # with the bytes of the image's file


def test_split(name: str) -> str:
    """What tables call the test set of the data set of that name."""
    return SETS[name].test_split


def load(name: str, root: Path) -> Annotated:
    """Both splits of a data set, in the order of VOC's lists or of COCO's ids; a generated one is made if need be.

    Boxes outside the image and empty boxes occur in the official files and are kept, as the official evaluators keep
    them. Reversed corners, and corners that are not finite, are refused. VOC's corners, inclusive and counted from 1,
    become xmin - 1, ymin - 1, xmax, ymax; COCO's x, y, width, height become x, y, x + width, y + height. VOC 2012's
    test images have no boxes unless all of them have annotations: its archive has some, for other tasks.

    Raises `InputError` if files are missing, malformed or of another count than the official one.
    """
    check_choice("data set", name, SETS)
    facts = SETS[name]
    if name.startswith(f"{PASTED}-"):
        made(name, root, PASTED, lambda folder: pasted.write(name, folder))
    sha = hashlib.sha256(json.dumps(facts.classes).encode())

    def read(parts: tuple[Part, ...]) -> tuple[Example, ...]:
        examples = []
        for part in parts:
            for example, length in _READERS[facts.format](name, root, part, facts.classes):
                of_image = (example.path.name, length, example.width, example.height, len(example.labels))
                sha.update(json.dumps(of_image).encode())
                for column in (example.boxes, example.labels, example.difficult, example.crowd, example.areas):
                    sha.update(column.tobytes())
                examples.append(example)
        sha.update(b"\0")
        return tuple(examples)

    train, test = read(facts.train), read((facts.test,))
    labelled = any(len(example.labels) for example in test)
    return Annotated(facts, train, test, labelled, sha.hexdigest())


# ---------------------------------------------------------------- what both formats need


def _missing(name: str, place: Path, folder: str) -> InputError:
    return refusal(
        name,
        f"is missing: {place} was looked for; {ADVICE[folder]};"
        " PROFILE=smoke trains detectors on generated scenes without it",
    )


def _check_count(name: str, place: Path, count: int, part: Part) -> None:
    if count != COUNTS[part]:
        raise refusal(name, f"has {count} images in {place}, and must have {COUNTS[part]}; {ADVICE[part.folder]}")


def _files(name: str, place: Path, folder: str) -> dict[str, int]:
    """Bytes of each file, from one pass over the folder."""
    if not place.is_dir():
        raise _missing(name, place, folder)
    with os.scandir(place) as listing:
        return {entry.name: entry.stat().st_size for entry in listing}


@contextmanager
def _reading(name: str, path: Path) -> Iterator[None]:
    """Errors in the contents of a file become an `InputError` that names it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:  # a value that the format gives another type, or none
        problem = f"lacks {error}" if isinstance(error, KeyError) else "is malformed: a value is of another type"
        raise refusal(name, f"cannot be read: {path} {problem}; get it again") from error
    except (ValueError, OverflowError, RecursionError, ParseError) as error:
        problem = f"is malformed: {error}"
        raise refusal(name, f"cannot be read: {path} {problem}; get it again") from error


def _check_corners(what: str, *corners: float) -> None:
    x1, y1, x2, y2 = corners
    if not all(map(math.isfinite, corners)) or x2 < x1 or y2 < y1:
        raise ValueError(f"{what} has corners {corners}, which must be numbers x1 <= x2, y1 <= y2")


def _check_size(what: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"{what} has a size of {width}x{height} pixels")


# ---------------------------------------------------------------- VOC


def _voc(name: str, root: Path, part: Part, classes: tuple[str, ...]) -> _Read:
    folder, split = part
    listing = root / folder / "ImageSets/Main" / f"{split}.txt"
    images, annotations = root / folder / "JPEGImages", root / folder / "Annotations"
    if not listing.is_file():
        raise _missing(name, listing, folder)
    ids = list(dict.fromkeys(listing.read_text(errors="replace").split()))
    _check_count(name, listing, len(ids), part)
    lengths, xml_files = _files(name, images, folder), _files(name, annotations, folder)
    annotated = part != SECRET or all(f"{image_id}.xml" in xml_files for image_id in ids)
    for image_id in ids:
        path, xml = images / f"{image_id}.jpg", annotations / f"{image_id}.xml"
        if path.name not in lengths:
            raise _lacking(name, image_id, listing, path, folder)
        if not annotated:
            example = _voc_objects(path, *_size(name, path), [], [], [])
        elif xml.name not in xml_files:
            raise _lacking(name, image_id, listing, xml, folder)
        else:
            with _reading(name, xml):
                example = _voc_example(path, xml, classes)
        yield example, lengths[path.name]


def _lacking(name: str, image_id: str, listing: Path, path: Path, folder: str) -> InputError:
    return refusal(name, f"lists {image_id!r} in {listing}, but {path} is missing; {ADVICE[folder]}")


def _voc_example(path: Path, xml: Path, classes: tuple[str, ...]) -> Example:
    # Not by torchvision's VOCDetection: it makes dictionaries of the file, checks nothing, and all below would remain.
    if (size := xml.stat().st_size) > MOST_XML_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MOST_XML_BYTES} of any image's annotation")
    tree = ElementTree.parse(xml, forbid_dtd=True).getroot()  # nor entities, which may expand to gigabytes
    width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
    _check_size("the image", width, height)
    boxes, labels, difficult = [], [], []
    for thing in tree.findall("object"):  # its children only: the parts of an object have names and boxes, too
        label = _text(thing, "name")
        if label not in classes:
            raise ValueError(f"{label!r} is no class; those are {', '.join(classes)}")
        x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax"))
        _check_corners(label, x1, y1, x2, y2)
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        labels.append(classes.index(label) + 1)
        difficult.append(bool(int(thing.findtext("difficult", "0"))))  # some files lack it
    return _voc_objects(path, width, height, boxes, labels, difficult)


def _text(element: Element, place: str) -> str:
    text = element.findtext(place)
    if text is None:
        raise KeyError(f"{element.tag}/{place}")
    return text.strip()


def _voc_objects(
    path: Path, width: int, height: int, boxes: list[Any], labels: list[int], difficult: list[bool]
) -> Example:
    corners, flags = np.array(boxes, np.float32).reshape(-1, 4), np.array(difficult, np.bool_)
    areas, crowd = (corners[:, 2:] - corners[:, :2]).prod(1), np.zeros(len(flags), np.bool_)
    return Example(path, path.stem, width, height, corners, np.array(labels, np.int64), flags, crowd, areas)


def _size(name: str, path: Path) -> tuple[int, int]:
    """Width and height of an image without annotations, from its first bytes."""
    try:
        with opened(path) as image:
            return image.size
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {path} ({error}); get it again") from error


# ---------------------------------------------------------------- COCO


def _coco(name: str, root: Path, part: Part, classes: tuple[str, ...]) -> _Read:
    folder, split = part
    path, images = root / folder / "annotations" / f"instances_{split}.json", root / folder / split
    if not path.is_file():
        raise _missing(name, path, folder)
    lengths, status = _files(name, images, folder), path.stat()
    key = hashlib.sha256(f"{path}\0{status.st_mtime_ns}\0{status.st_size}".encode()).hexdigest()[:16]

    def parse() -> dict[str, np.ndarray]:
        with _reading(name, path):
            return _coco_columns(path, classes)

    # Parsing the official training file takes seconds and gigabytes; reading the columns takes neither.
    columns = cached(name, root, f"{name}-{split}-{key}", parse)
    _check_count(name, path, len(columns["ids"]), part)
    ends = np.cumsum(columns["counts"])[:-1]
    images_columns = (columns[what].tolist() for what in ("ids", "files", "sizes"))
    objects_columns = (np.split(columns[what], ends) for what in ("boxes", "labels", "crowd", "areas"))
    for image_id, stored, (width, height), boxes, labels, crowd, areas in zip(
        *images_columns, *objects_columns, strict=True
    ):
        file = os.fsdecode(stored)
        if file not in lengths:
            raise refusal(name, f"lists image {image_id} in {path}, but {images / file} is missing; {ADVICE[folder]}")
        example = Example(
            path=images / file,
            image_id=str(image_id),
            width=width,
            height=height,
            boxes=boxes,
            labels=labels,
            difficult=np.zeros(len(labels), np.bool_),
            crowd=crowd,
            areas=areas,
        )
        yield example, lengths[file]


def _coco_columns(path: Path, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Images by id: ids, files, sizes, counts of objects, all [N]; then the objects of the first, of the second, ..."""
    # Not by pycocotools.COCO: it prints to standard output, and accepts annotations of images or categories that do not
    # exist and two images of one id. All of these checks, and the sorting, would remain.
    with path.open("rb") as file:
        whole = json.load(file)
    names = {category["id"]: category["name"] for category in whole["categories"]}
    numbers = sorted(names)
    if tuple(names[number] for number in numbers) != classes:
        odd = sorted({*names.values()} ^ {*classes}) or ["their order"]
        raise ValueError(f"its {len(names)} categories are not the {len(classes)} classes: {odd[0]!r} differs")
    label_of = {number: label for label, number in enumerate(numbers, 1)}
    images = sorted(whole["images"], key=lambda image: image["id"])
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    if len(objects) != len(images):
        raise ValueError("two images have one id")
    for image in images:
        _check_size(f"image {image['id']}", image["width"], image["height"])
    for thing in whole["annotations"]:
        for what, known in (("image_id", objects), ("category_id", label_of)):
            if thing[what] not in known:
                raise ValueError(f"annotation {thing['id']} has {what} {thing[what]!r}, which does not exist")
        x, y, width, height = thing["bbox"]
        _check_corners(f"annotation {thing['id']}", x, y, x + width, y + height)
        objects[thing["image_id"]].append(thing)
    ordered = [thing for things in objects.values() for thing in things]
    boxes = np.array([thing["bbox"] for thing in ordered], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "ids": np.array([image["id"] for image in images], np.int64),
        "files": np.array([os.fsencode(image["file_name"]) for image in images], np.bytes_),
        "sizes": np.array([(image["width"], image["height"]) for image in images], np.int64).reshape(-1, 2),
        "counts": np.array([len(things) for things in objects.values()], np.int64),
        "boxes": boxes.astype(np.float32),
        "labels": np.array([label_of[thing["category_id"]] for thing in ordered], np.int64),
        "crowd": np.array([bool(thing["iscrowd"]) for thing in ordered], np.bool_),
        "areas": np.array([thing["area"] for thing in ordered], np.float32),
    }


_READERS = {Format.VOC: _voc, Format.COCO: _coco}
