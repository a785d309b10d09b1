"""Images with boxes around their objects: finding, checking and reading VOC and COCO as their archives lay them out.

Decodes no image of the official sets, and knows neither batches nor metrics. Which sets there are is
`study/data/detection_sets.py`; what a file says `study/data/annotation_files.py`; somebody's own sets, voc:NAME and
coco:NAME, `study/data/own_scenes.py`. What is missing, malformed or other than expected is an `InputError`.

Looked for under the data root:
voc07+12      VOCdevkit/VOC2007 and VOCdevkit/VOC2012, with JPEGImages/, Annotations/ and ImageSets/Main/
voc07++12     the same; the annotations of VOC 2012's test images, which only its server has, are not needed
coco14        coco/annotations/instances_{train,val}2014.json, coco/train2014/ and coco/val2014/
pasted-voc    pasted/VOCdevkit/VOC2007, made once: handwritten digits pasted on photographs
pasted-coco   pasted/coco, the same scenes
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data import pasted
from study.data.annotation_files import Example, check_size, coco_contents, reading, voc_contents
from study.data.cache import cached, made
from study.data.decoding import opened
from study.data.detection_sets import (
    ADVICE,
    COUNTS,
    OWN,
    PASTED,
    SECRET,
    SETS,
    DetectionSet,
    Format,
    Metric,
    Part,
    is_own,
    own_set,
)
from study.data.listing import shown
from study.data.own_scenes import own_scenes
from study.data.sources import refusal
from study.spec import InputError, check_choice


@dataclass(frozen=True, eq=False)
class Annotated:
    """A data set of scenes, read."""

    facts: DetectionSet
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labelled: bool  # whether the test examples have any boxes; VOC 2012's have none
    digest: str  # SHA-256 of names, bytes and sizes of images, and of all that is annotated; not of pixels
    notes: tuple[str, ...] = ()  # what was not used of an own set, in words

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


_Read = Iterator[tuple[Example, int]]  # with the bytes of the image's file


def load(name: str, root: Path) -> Annotated:
    """Both splits of a data set, in the order of VOC's lists or of COCO's ids; a generated one is made if need be.

    Boxes outside the image and empty boxes occur in the official files and are kept, as the official evaluators keep
    them. Reversed corners, and corners that are not finite, are refused. VOC's corners, inclusive and counted from 1,
    become xmin - 1, ymin - 1, xmax, ymax; COCO's x, y, width, height become x, y, x + width, y + height. VOC 2012's
    test images have no boxes unless all of them have annotations: its archive has some, for other tasks.

    Raises `InputError` if files are missing, malformed or of another count than the official one.
    """
    if is_own(name):
        return _own(name, root)
    check_choice("data set", name, [*SETS, *OWN])
    facts = SETS[name]
    if name.startswith(f"{PASTED}-"):
        made(name, root, PASTED, lambda folder: pasted.write(name, folder))
    sha = hashlib.sha256(json.dumps(facts.classes).encode())

    def read(parts: tuple[Part, ...]) -> tuple[Example, ...]:
        examples = []
        for part in parts:
            for example, length in _READERS[facts.format](name, root, part, facts.classes):
                sha.update(_as_bytes(example, length))
                examples.append(example)
        sha.update(b"\0")
        return tuple(examples)

    train, test = read(facts.train), read((facts.test,))
    labelled = any(len(example.labels) for example in test)
    return Annotated(facts, train, test, labelled, sha.hexdigest())


def _own(name: str, root: Path) -> Annotated:
    """Somebody's own set."""
    own = own_scenes(name, root)
    sha = hashlib.sha256(json.dumps(own.classes).encode())
    for examples in (own.train, own.test):
        for example in examples:
            sha.update(_as_bytes(example, example.path.stat().st_size))
        sha.update(b"\0")
    facts = own_set(name, own.classes)
    return Annotated(facts, tuple(own.train), tuple(own.test), True, sha.hexdigest(), tuple(own.notes))


def _as_bytes(example: Example, length: int) -> bytes:
    """What the digest has of an image; `length`: bytes of its file."""
    of_image = (shown(Path(example.path.name)), length, example.width, example.height, len(example.labels))
    columns = (example.boxes, example.labels, example.difficult, example.crowd, example.areas)
    return b"".join((json.dumps(of_image).encode(), *(column.tobytes() for column in columns)))


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
            example = Example.of_voc(path, *_size(name, path), [], [], [])
        elif xml.name not in xml_files:
            raise _lacking(name, image_id, listing, xml, folder)
        else:
            with reading(name, xml):
                example = _voc_example(path, xml, classes)
        yield example, lengths[path.name]


def _lacking(name: str, image_id: str, listing: Path, path: Path, folder: str) -> InputError:
    return refusal(name, f"lists {image_id!r} in {listing}, but {path} is missing; {ADVICE[folder]}")


def _voc_example(path: Path, xml: Path, classes: tuple[str, ...]) -> Example:
    contents = voc_contents(xml)
    if contents.size is None:
        raise KeyError("annotation/size/width")
    check_size("the image", *contents.size)
    for label in contents.names:
        if label not in classes:
            raise ValueError(f"{label!r} is no class; those are {', '.join(classes)}")
    labels = [classes.index(label) + 1 for label in contents.names]
    return Example.of_voc(path, *contents.size, contents.boxes, contents.difficult, labels)


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
        with reading(name, path):
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
    whole = coco_contents(path)
    if whole is None:
        raise ValueError("it has neither images nor annotations")
    if whole.classes != classes:
        odd = sorted({*whole.classes} ^ {*classes}) or ["their order"]
        raise ValueError(f"its {len(whole.classes)} categories are not the {len(classes)} classes: {odd[0]!r} differs")
    for image in whole.images:
        if image.size is None:
            raise KeyError("width or height")
        check_size(f"image {image.id}", *image.size)
    label_of = {one: label for label, one in enumerate(classes, 1)}
    ordered = [thing for image in whole.images for thing in image.objects]
    return {
        "ids": np.array([image.id for image in whole.images], np.int64),
        "files": np.array([os.fsencode(image.file) for image in whole.images], np.bytes_),
        "sizes": np.array([image.size for image in whole.images], np.int64).reshape(-1, 2),
        "counts": np.array([len(image.objects) for image in whole.images], np.int64),
        "boxes": np.array([thing.box for thing in ordered], np.float64).reshape(-1, 4).astype(np.float32),
        "labels": np.array([label_of[thing.name] for thing in ordered], np.int64),
        "crowd": np.array([thing.crowd for thing in ordered], np.bool_),
        "areas": np.array([thing.area for thing in ordered], np.float32),
    }


_READERS = {Format.VOC: _voc, Format.COCO: _coco}
