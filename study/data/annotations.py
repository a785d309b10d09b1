"""Images with boxes around their objects: finding, checking and reading VOC and COCO as their archives lay them out.

Owns layouts, classes, counts and flags, and how the generated scenes are made. Decodes no image of the official sets,
and knows neither batches nor metrics. What is missing, malformed or other than expected is an `InputError`.

Looked for under the data root:
voc07+12      VOCdevkit/VOC2007 and VOCdevkit/VOC2012, with JPEGImages/, Annotations/ and ImageSets/Main/
voc07++12     the same; VOC 2012's test images need no annotations, which are a secret of its server
coco14        coco/annotations/instances_{train,val}2014.json, coco/train2014/ and coco/val2014/
pasted-voc    pasted/VOCdevkit/VOC2007, made once: handwritten digits pasted on photographs
pasted-coco   pasted/coco, the same scenes
"""

import colorsys
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from study.data import arrays
from study.data.indexes import cached, made, picture
from study.data.sources import decode, refusal
from study.seeds import generator
from study.spec import VOC_CLASSES, InputError, check_choice

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

_Part = tuple[str, str]  # folder below the data root, and a split as the files there call it
_VOC07, _VOC12, _COCO = "VOCdevkit/VOC2007", "VOCdevkit/VOC2012", "coco"
_SECRET = (_VOC12, "test")
_Set = tuple[tuple[str, ...], tuple[_Part, ...], _Part, str]
_SETS: dict[str, _Set] = {  # name: classes, parts of the training set, the test set, and what tables call that
    "voc07+12": (VOC_CLASSES, ((_VOC07, "trainval"), (_VOC12, "trainval")), (_VOC07, "test"), "VOC 07 test"),
    "voc07++12": (
        VOC_CLASSES,
        ((_VOC07, "trainval"), (_VOC07, "test"), (_VOC12, "trainval")),
        _SECRET,
        "VOC 12 test",
    ),
    "coco14": (COCO_CLASSES, ((_COCO, "train2014"),), (_COCO, "val2014"), "COCO val"),
    "pasted-voc": (
        tuple(DIGITS.values()),
        ((f"pasted/{_VOC07}", "trainval"),),
        (f"pasted/{_VOC07}", "test"),
        "pasted-voc test",
    ),
    "pasted-coco": (
        tuple(DIGITS.values()),
        ((f"pasted/{_COCO}", "train2014"),),
        (f"pasted/{_COCO}", "val2014"),
        "pasted-coco val",
    ),
}
NAMES = tuple(_SETS)
COUNTS = {  # images; VOC's are those of its Main lists (the paper's 16k of VOC 2012 are not), COCO's "80k" and "40k"
    (_VOC07, "trainval"): 5_011,
    (_VOC07, "test"): 4_952,
    (_VOC12, "trainval"): 11_540,
    (_VOC12, "test"): 10_991,
    (_COCO, "train2014"): 82_783,
    (_COCO, "val2014"): 40_504,
    (f"pasted/{_VOC07}", "trainval"): MADE["train"],
    (f"pasted/{_VOC07}", "test"): MADE["test"],
    (f"pasted/{_COCO}", "train2014"): MADE["train"],
    (f"pasted/{_COCO}", "val2014"): MADE["test"],
}
_ADVICE = {  # where a folder comes from; the MD5s are torchvision's
    _VOC07: "unpack VOCtrainval_06-Nov-2007.tar (MD5 c52e279531787c972589f7e41ab4ae64) and VOCtest_06-Nov-2007.tar"
    " (MD5 b6e924de25625d8de591ea690078ad9f) of host.robots.ox.ac.uk/pascal/VOC/voc2007 in the data root",
    _VOC12: "unpack VOCtrainval_11-May-2012.tar (MD5 6cd6e144f989b92b3379bac3b3de84fd) of"
    " host.robots.ox.ac.uk/pascal/VOC/voc2012 in the data root, and for its test split VOC2012test.tar of its server",
    _COCO: "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip of cocodataset.org in the folder coco of"
    " the data root",
    f"pasted/{_VOC07}": "delete the folder pasted, which is then made anew",
    f"pasted/{_COCO}": "delete the folder pasted, which is then made anew",
}


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
    """A data set of scenes."""

    classes: tuple[str, ...]  # the first has label 1
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    test_split: str  # 'VOC 07 test', 'VOC 12 test', 'COCO val', 'pasted-voc test' or 'pasted-coco val'
    labelled: bool  # whether the test examples have any boxes; VOC 2012's have none
    digest: str  # SHA-256 of names, bytes and sizes of images, and of all that is annotated; not of pixels


_Found = Iterator[tuple[Example, int]]  # with the bytes of the image's file


def test_split(name: str) -> str:
    """What tables call the test set of the data set of that name."""
    return _SETS[name][3]


def load(name: str, root: Path) -> Annotated:
    """Both splits of a data set, in the order of VOC's lists or of COCO's ids; a generated one is made if need be.

    A box may reach out of its image or be empty: some official ones do or are, and evaluators take boxes as they are.
    Refused are corners that are reversed or no numbers. VOC's corners, inclusive and counted from 1, become xmin - 1,
    ymin - 1, xmax, ymax; COCO's x, y, width, height become x, y, x + width, y + height. VOC 2012's test images
    have no boxes unless all of them have annotations: its archive has some, of other tasks than detection.

    Raises `InputError` if files are missing, malformed or of another count than the official one.
    """
    check_choice("data set", name, NAMES)
    classes, parts, last, test_split = _SETS[name]
    if name.startswith("pasted-"):
        made(name, root, "pasted", lambda folder: _write_scenes(name, folder))
    read = _coco if "coco" in name else _voc
    sha = hashlib.sha256(json.dumps(classes).encode())

    def split(which: tuple[_Part, ...]) -> tuple[Example, ...]:
        examples = []
        for part in which:
            for example, length in read(name, root, part, classes):
                facts = (example.path.name, length, example.width, example.height, len(example.labels))
                sha.update(json.dumps(facts).encode())
                for column in (example.boxes, example.labels, example.difficult, example.crowd, example.areas):
                    sha.update(column.tobytes())
                examples.append(example)
        sha.update(b"\0")
        return tuple(examples)

    train, test = split(parts), split((last,))
    labelled = any(len(example.labels) for example in test)
    return Annotated(classes, train, test, test_split, labelled, sha.hexdigest())


# ---------------------------------------------------------------- what both formats need


def _missing(name: str, place: Path, folder: str) -> InputError:
    line = f"is missing: {place} was looked for; {_ADVICE[folder]}"
    return refusal(name, f"{line}; PROFILE=smoke trains detectors on generated scenes without it")


def _check_count(name: str, place: Path, found: int, part: _Part) -> None:
    if found != COUNTS[part]:
        raise refusal(name, f"has {found} images in {place}, and must have {COUNTS[part]}; {_ADVICE[part[0]]}")


def _files(name: str, place: Path, folder: str) -> dict[str, int]:
    """Bytes of each file, from one pass over the folder."""
    if not place.is_dir():
        raise _missing(name, place, folder)
    with os.scandir(place) as listing:
        return {entry.name: entry.stat().st_size for entry in listing}


@contextmanager
def _reading(name: str, path: Path) -> Iterator[None]:
    """Errors of what a file holds, with its name."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError, ElementTree.ParseError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise refusal(name, f"cannot be read: {path} {problem}; get it again") from error


def _check_corners(what: str, *corners: float) -> None:
    x1, y1, x2, y2 = corners
    if not all(map(math.isfinite, corners)) or x2 < x1 or y2 < y1:
        raise ValueError(f"{what} has corners {corners}, which must be numbers x1 <= x2, y1 <= y2")


def _check_size(what: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"{what} has a size of {width}x{height} pixels")


# ---------------------------------------------------------------- VOC


def _voc(name: str, root: Path, part: _Part, classes: tuple[str, ...]) -> _Found:
    folder, split = part
    listing = root / folder / "ImageSets/Main" / f"{split}.txt"
    images, annotations = root / folder / "JPEGImages", root / folder / "Annotations"
    if not listing.is_file():
        raise _missing(name, listing, folder)
    ids = list(dict.fromkeys(listing.read_text(errors="replace").split()))
    _check_count(name, listing, len(ids), part)
    lengths, there = _files(name, images, folder), _files(name, annotations, folder)
    annotated = part != _SECRET or all(f"{i}.xml" in there for i in ids)
    for i in ids:
        path, xml = images / f"{i}.jpg", annotations / f"{i}.xml"
        lacking = path if path.name not in lengths else xml if annotated and xml.name not in there else None
        if lacking:
            raise refusal(name, f"lists {i!r} in {listing}, but {lacking} is missing; {_ADVICE[folder]}")
        if annotated:
            with _reading(name, xml):
                example = _voc_example(path, xml, classes)
        else:
            example = _voc_objects(path, *_size(name, path), [], [], [])
        yield example, lengths[path.name]


def _voc_example(path: Path, xml: Path, classes: tuple[str, ...]) -> Example:
    tree = ElementTree.parse(xml).getroot()
    width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
    _check_size("the image", width, height)
    boxes, labels, difficult = [], [], []
    for thing in tree.findall("object"):  # its children only: an object's parts have names and boxes, too
        label = _text(thing, "name")
        if label not in classes:
            raise ValueError(f"{label!r} is no class; those are {', '.join(classes)}")
        x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax"))
        _check_corners(label, x1, y1, x2, y2)
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        labels.append(classes.index(label) + 1)
        difficult.append(bool(int(thing.findtext("difficult", "0"))))  # some files lack it
    return _voc_objects(path, width, height, boxes, labels, difficult)


def _text(element: ElementTree.Element, place: str) -> str:
    found = element.findtext(place)
    if found is None:
        raise KeyError(f"{element.tag}/{place}")
    return found.strip()


def _voc_objects(
    path: Path, width: int, height: int, boxes: list[Any], labels: list[int], difficult: list[bool]
) -> Example:
    corners, flags = np.array(boxes, np.float32).reshape(-1, 4), np.array(difficult, np.bool_)
    areas, crowd = (corners[:, 2:] - corners[:, :2]).prod(1), np.zeros(len(flags), np.bool_)
    return Example(path, path.stem, width, height, corners, np.array(labels, np.int64), flags, crowd, areas)


def _size(name: str, path: Path) -> tuple[int, int]:
    """Of an image without annotations, from its first bytes."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {path} ({error}); get it again") from error


# ---------------------------------------------------------------- COCO


def _coco(name: str, root: Path, part: _Part, classes: tuple[str, ...]) -> _Found:
    folder, split = part
    path, images = root / folder / "annotations" / f"instances_{split}.json", root / folder / split
    if not path.is_file():
        raise _missing(name, path, folder)
    lengths, facts = _files(name, images, folder), path.stat()
    key = hashlib.sha256(f"{path}\0{facts.st_mtime_ns}\0{facts.st_size}".encode()).hexdigest()[:16]

    def parse() -> dict[str, np.ndarray]:
        with _reading(name, path):
            return _coco_columns(path, classes)

    # The official training file takes seconds and gigabytes to parse; what is needed of it, neither.
    columns = cached(name, root, f"{split}-{key}", parse)
    _check_count(name, path, len(columns["ids"]), part)
    ends = np.cumsum(columns["counts"])[:-1]
    of_images = (columns[what].tolist() for what in ("ids", "files", "sizes"))
    of_objects = (np.split(columns[what], ends) for what in ("boxes", "labels", "crowd", "areas"))
    for i, stored, (width, height), boxes, labels, crowd, areas in zip(*of_images, *of_objects, strict=True):
        file = os.fsdecode(stored)
        if file not in lengths:
            raise refusal(name, f"lists image {i} in {path}, but {images / file} is missing; {_ADVICE[folder]}")
        difficult = np.zeros(len(labels), np.bool_)
        yield Example(images / file, str(i), width, height, boxes, labels, difficult, crowd, areas), lengths[file]


def _coco_columns(path: Path, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Images by id: ids, files, sizes, counts of objects, all [N]; then the objects of the first, of the second, ..."""
    with path.open("rb") as file:
        whole = json.load(file)
    names = {category["id"]: category["name"] for category in whole["categories"]}
    numbers = sorted(names)
    if tuple(names[number] for number in numbers) != classes:
        odd = sorted({*names.values()} ^ {*classes}) or ["their order"]
        raise ValueError(f"its {len(names)} categories are not the {len(classes)} classes: {odd[0]!r} differs")
    label = {number: at for at, number in enumerate(numbers, 1)}
    images = sorted(whole["images"], key=lambda image: image["id"])
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    if len(objects) != len(images):
        raise ValueError("two images have one id")
    for image in images:
        _check_size(f"image {image['id']}", image["width"], image["height"])
    for thing in whole["annotations"]:
        for what, known in (("image_id", objects), ("category_id", label)):
            if thing[what] not in known:
                raise ValueError(f"annotation {thing['id']} has {what} {thing[what]!r}, which does not exist")
        x, y, width, height = thing["bbox"]
        _check_corners(f"annotation {thing['id']}", x, y, x + width, y + height)
        objects[thing["image_id"]].append(thing)
    ordered = [thing for of_image in objects.values() for thing in of_image]
    boxes = np.array([thing["bbox"] for thing in ordered], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "ids": np.array([image["id"] for image in images], np.int64),
        "files": np.array([os.fsencode(image["file_name"]) for image in images], np.bytes_),
        "sizes": np.array([(image["width"], image["height"]) for image in images], np.int64).reshape(-1, 2),
        "counts": np.array([len(of_image) for of_image in objects.values()], np.int64),
        "boxes": boxes.astype(np.float32),
        "labels": np.array([label[thing["category_id"]] for thing in ordered], np.int64),
        "crowd": np.array([bool(thing["iscrowd"]) for thing in ordered], np.bool_),
        "areas": np.array([thing["area"] for thing in ordered], np.float32),
    }


# ---------------------------------------------------------------- a small set of real digits on real photographs


@dataclass(frozen=True)
class _Thing:
    """An object of a generated scene. A group is a crowd of COCO, which VOC can only call difficult."""

    digit: int
    box: tuple[int, int, int, int]  # tight around the ink; x2, y2 exclusive
    area: int  # pixels of ink
    kind: str  # '', 'truncated' by the edge of the image, 'faint' and so difficult in VOC, or a 'group' of one digit


def _write_scenes(name: str, folder: Path) -> None:
    """The same scenes as VOC and as COCO."""
    voc, coco = folder / _VOC07, folder / _COCO
    for place in (voc / "JPEGImages", voc / "Annotations", voc / "ImageSets/Main", coco / "annotations"):
        place.mkdir(parents=True)
    first = 1
    for split, of_voc, of_coco in (("train", "trainval", "train2014"), ("test", "test", "val2014")):
        (coco / of_coco).mkdir()
        images, annotations = [], []
        for i, (image, things) in enumerate(_scenes(name, split), first):
            path, file = voc / f"JPEGImages/{i:06d}.jpg", f"COCO_{of_coco}_{i:012d}.jpg"
            image.save(path, "JPEG", quality=90)
            shutil.copyfile(path, coco / of_coco / file)
            (voc / f"Annotations/{i:06d}.xml").write_text(_as_voc(path.name, image, things))
            images.append({"id": i, "file_name": file, "width": image.width, "height": image.height})
            annotations += [_as_coco(i, 100 * i + at, thing) for at, thing in enumerate(things)]
        (voc / f"ImageSets/Main/{of_voc}.txt").write_text("".join(f"{image['id']:06d}\n" for image in images))
        categories = [{"id": _category(digit), "name": label} for digit, label in DIGITS.items()]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (coco / f"annotations/instances_{of_coco}.json").write_text(json.dumps(whole))
        first += len(images)


def _as_voc(file: str, image: Image.Image, things: list[_Thing]) -> str:
    lines = [f"<annotation>\n<folder>VOC2007</folder>\n<filename>{file}</filename>"]
    lines += [f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>"]
    for thing in things:
        x1, y1, x2, y2 = thing.box
        truncated, difficult = int(thing.kind == "truncated"), int(thing.kind in ("faint", "group"))
        lines += [
            f"<object><name>{DIGITS[thing.digit]}</name><pose>Unspecified</pose>",
            f"<truncated>{truncated}</truncated><difficult>{difficult}</difficult>",
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])


def _as_coco(image_id: int, i: int, thing: _Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    facts = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": thing.area, "iscrowd": int(thing.kind == "group")}
    return {"id": i, "image_id": image_id, "category_id": _category(thing.digit), **facts}


def _category(digit: int) -> int:
    """Not contiguous, as COCO's."""
    return 3 * digit + 1


def _scenes(name: str, split: str) -> Iterator[tuple[Image.Image, list[_Thing]]]:
    """Crops of about 160x128 pixels, one in four upright, with one to three digits; no sample of a digit that tests
    trains. The tenth scene has none; of every 20 one has a digit cut by the edge, one a faint digit and one a group.
    """
    draw = generator("pasted", split)
    samples = decode(arrays.describe("digits", Path()), Path())
    digits, labels = samples[:2] if split == "train" else samples[2:]
    pictures = [picture(name, label) for label in ("china", "flower")]

    def below(count: int) -> int:
        return int(torch.randint(count, (1,), generator=draw))

    def ink(digit: int, side: int) -> np.ndarray:
        written = digits[labels == digit]
        return _enlarged(written[below(len(written)), 0], side)

    for number in range(MADE[split]):
        width, height = 144 + below(33), 112 + below(33)
        if number % 4 == 3:
            width, height = height, width
        photograph = pictures[below(2)]
        x, y = below(photograph.width - width + 1), below(photograph.height - height + 1)
        image = photograph.crop((x, y, x + width, y + height))
        kinds = [""] * (1 + below(3)) if number != 9 else []
        if special := {3: "truncated", 8: "faint", 13: "group"}.get(number % 20):
            kinds = [*kinds[:2], special]
        things: list[_Thing] = []
        for kind in kinds:
            digit = list(DIGITS)[below(len(DIGITS))]
            if kind == "group":
                side = 24 + below(5)
                mask = _tight(np.hstack([ink(digit, side) for _ in range(3)]))
            else:
                mask = _tight(ink(digit, 24 + below(41)))
            if kind == "truncated":
                mask = _tight(mask[:, : 2 * mask.shape[1] // 3])
            rows, columns = mask.shape
            for _ in range(50):  # places, until one is nearly free
                x, y = below(width - columns + 1), below(height - rows + 1)
                x = width - columns if kind == "truncated" else x
                box = (x, y, x + columns, y + rows)
                if all(_overlap(box, thing.box) <= 0.1 for thing in things):
                    red, green, blue = colorsys.hsv_to_rgb(below(360) / 360, 1, 1)
                    colour = round(255 * red), round(255 * green), round(255 * blue)
                    alpha = mask * (0.4 if kind == "faint" else 1)
                    image.paste(colour, box, Image.fromarray(alpha.astype(np.uint8)))
                    things.append(_Thing(digit, box, int((mask > 0).sum()), kind))
                    break
        yield image, things


def _enlarged(written: np.ndarray, side: int) -> np.ndarray:
    """How much each pixel is covered by ink, 0..255: of an 8x8 image enlarged to `side`, its edges sharpened."""
    large = np.asarray(Image.fromarray(written).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int64)
    return (2 * large - 120).clip(0, 255)


def _tight(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Share of the smaller box that is in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / area
