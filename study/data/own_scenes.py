"""Somebody's own images with boxes, `voc:NAME` and `coco:NAME`: which files there are, of which split and class.

Owns the layouts that labelling tools write. A file of annotations is read by the same code as VOC's and COCO's own.

voc:NAME      below NAME/: a file .xml an image, of its name, beside it or in a folder of its own (Annotations/ and
              JPEGImages/, or any other); splits by lists ImageSets/Main/{train,trainval,val,test}.txt, or by folders
coco:NAME     below NAME/: a file .json a split, instances_train2017.json, train/_annotations.coco.json or any other
              that names it, or one file for all; images anywhere, as their file_name ends

Splits have the usual names (`study/data/listing.py`). What is tested is test, or else val. Without splits a hash of an
image's place makes one in five a test image. Classes are those that a training image has an object of: of VOC by name,
of COCO in the order of their category ids.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from study.data.annotation_files import CocoImage, Example, coco_contents, reading, voc_contents
from study.data.decoding import opened, orientation
from study.data.divided import for_testing
from study.data.listing import TEST, TRAIN, VALIDATION, Listing, listing, own_folder, shown, split_of, text
from study.data.sources import refusal

LAYOUT = {
    "voc": "JPEGImages/*.jpg, Annotations/*.xml and ImageSets/Main/{train,test}.txt, or images with .xml beside them,",
    "coco": "train.json and test.json in COCO's format with the images, or train/_annotations.coco.json,",
}
_NO_IMAGES = re.compile(r"segmentation|visuali[sz]ation", re.IGNORECASE)  # folders of masks and drawings
_OTHER_TASKS = re.compile(r"captions|keypoints|image_info|stuff|panoptic", re.IGNORECASE)  # of COCO's files
_LISTED = (*(".jpg", ".jpeg", ".png", ".xml"),)


@dataclass(frozen=True)
class Found:
    """Both splits and the classes of a data set, and what was not used of it, in words."""

    train: list[Example]
    test: list[Example]
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


class _Named(NamedTuple):
    """An example whose objects have classes by name."""

    place: str  # of its image
    example: Example  # whose labels are not known yet
    names: tuple[str, ...]


def own_scenes(name: str, root: Path) -> Found:
    """Raises `InputError` for what is missing or broken, in one line."""
    kind = name.partition(":")[0]
    found = listing(name, own_folder(name, root, LAYOUT[kind]))
    found.images = [file for file in found.images if not _NO_IMAGES.search(file.rpartition("/")[0])]
    read = _voc if kind == "voc" else _coco
    by_split, order, notes, used = read(name, found)
    train, test, unused = _chosen(name, found, by_split)
    notes += [f"{len(examples)} images of {split} are not used" for split, examples in unused.items()]
    trained = {one for named in train for one in named.names}
    classes = tuple(one for one in order if one in trained)
    if untrained := sorted({one for named in test for one in named.names} - trained):
        raise refusal(
            name, f"has test objects of class {untrained[0]!r} and none to train it; add some, or remove them"
        )
    for split, examples in (("training", train), ("test", test)):
        if not any((~named.example.difficult & ~named.example.crowd).any() for named in examples):
            raise refusal(name, f"in {shown(found.folder)} has no {split} image with an object; annotate some")
    if left_out := [one for one in order if one not in trained]:
        notes.append(f"{len(left_out)} classes without objects: {', '.join(left_out[:5])}")
    if count := sum(not named.names for named in train):
        notes.append(f"{count} training images have no object and are not trained on")
    if passed := found.passed_over(used):
        notes.append(f"passed over: {', '.join(passed)}")
    trained_on, tested = ([_labelled(named, classes) for named in part] for part in (train, test))
    return Found(trained_on, tested, classes, notes)


def _labelled(named: _Named, classes: tuple[str, ...]) -> Example:
    labels = [classes.index(one) + 1 for one in named.names]
    return replace(named.example, labels=np.array(labels, np.int64))


_BySplit = dict[str | None, list[_Named]]  # None: of an image of no split
_Read = tuple[_BySplit, list[str], list[str], list[str]]  # with all classes in order, notes, and files that were used


def _chosen(name: str, found: Listing, by_split: _BySplit) -> tuple[list[_Named], list[_Named], _BySplit]:
    """Training and test examples, and those of splits that are not used."""
    splits = {split: examples for split, examples in by_split.items() if examples}
    if not splits:
        raise refusal(
            name, f"in {shown(found.folder)} has no annotated image; put {LAYOUT[name.partition(':')[0]]} there"
        )
    if len(splits) == 1:
        (examples,) = splits.values()
        parts = [[one for one in examples if for_testing(one.place) == testing] for testing in (False, True)]
        if not all(parts):
            raise refusal(
                name, f"in {shown(found.folder)} has {len(examples)} images and no split; name one, as train and test"
            )
        return parts[0], parts[1], {}
    if None in splits or TRAIN not in splits:
        names = ", ".join(str(split or "no split") for split in splits)
        raise refusal(name, f"in {shown(found.folder)} has images of {names}; put them all into train and test or val")
    tested = TEST if TEST in splits else VALIDATION
    twice = {one.place for one in splits[TRAIN]} & {one.place for one in splits[tested]}
    if twice:
        raise refusal(name, f"has {min(twice)} in train and in {tested}; take it out of one of them")
    unused = {split: examples for split, examples in splits.items() if split not in (TRAIN, tested)}
    return splits[TRAIN], splits[tested], unused


# ---------------------------------------------------------------- images


def _by_base(files: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for file in files:
        table.setdefault(key(file), []).append(file)
    return table


def _nearest(files: Sequence[str], place: str, split: str | None) -> list[str]:
    """Of images of one name those that lie nearest to a file: in folders of its split, and of its folders' names."""

    def near(file: str) -> tuple[bool, int, int]:
        folders, others = file.split("/")[:-1], place.split("/")[:-1]
        of_split = split is not None and split in map(split_of, folders)
        return of_split, _shared(folders[::-1], others[::-1]), _shared(folders, others)

    best = max(map(near, files), default=None)
    return [file for file in files if near(file) == best]


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of their first items are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _size(name: str, path: Path, annotated: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an image as its annotation sees it: turned as EXIF says, or as stored if only that fits.

    A size of zero is none. Raises `InputError` if neither fits: boxes would be of another scale.
    """
    try:
        with path.open("rb") as file, opened(file) as image:
            stored, turned = image.size, orientation(image) > 4
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {shown(path)} ({error}); mend it, or take it out") from error
    seen = stored[::-1] if turned else stored
    if not annotated or 0 in annotated or annotated == seen:
        return seen
    if annotated == stored:
        return stored
    raise refusal(
        name,
        f"has an image of {seen[0]}x{seen[1]} pixels, and {annotated[0]}x{annotated[1]} in its annotation:"
        f" {shown(path)}; annotate it as it is",
    )


# ---------------------------------------------------------------- VOC


def _voc(name: str, found: Listing) -> _Read:
    files = [file for file in found.others if file.lower().endswith(".xml")]
    images = _by_base(found.images, lambda file: text(Path(file).stem))
    lists, unlisted = _lists(name, found)
    by_stem = _by_base(files, lambda file: text(Path(file).stem))
    split_of_file: dict[str, list[str | None]] = {}
    for split, lines in lists.items():
        for line, listed in lines.items():
            split_of_file.setdefault(_listed(name, line, listed, by_stem, found), []).append(split)
    by_split: _BySplit = {}
    used = [*files, *unlisted]
    for file in files if not lists else split_of_file:
        path = found.path(file)
        with reading(name, path, "mend it"):
            objects = voc_contents(path)
        splits = split_of_file.get(file) or [next(filter(None, map(split_of, file.split("/")[:-1])), None)]
        candidates = images.get(text(Path(file).stem), []) or images.get(text(Path(objects.file).stem), [])
        near = _nearest(candidates, file, splits[0])
        if len(near) > 1:
            near = [one for one in near if Path(one).name == objects.file] or near
        if len(near) != 1:
            which = f"several ({', '.join(near[:2])})" if near else "none"
            raise refusal(name, f"has an annotation whose image is {which}: {shown(path)}; give it one of its name")
        width, height = _size(name, found.path(near[0]), objects.size)
        boxes, difficult = objects.boxes, objects.difficult
        example = Example.of_voc(found.path(near[0]), width, height, boxes, difficult, [0] * len(boxes))
        for one in splits:
            by_split.setdefault(one, []).append(_Named(near[0], example, objects.names))
    notes = []
    if lists and (count := len(files) - len(split_of_file)):
        notes.append(f"{count} annotated images are in no list")
    annotated = {named.place for part in by_split.values() for named in part}
    if not lists and (count := len(found.images) - len(annotated)):
        notes.append(f"{count} images have no annotation and are not used")
    order = sorted({one for part in by_split.values() for named in part for one in named.names})
    return by_split, order, notes, used


def _lists(name: str, found: Listing) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Of each split the lines of its lists in ImageSets/Main, with the list; and all files of ImageSets.

    With `test`, or alone, `trainval` is train, and `train` and `val`, its halves, are not read. Other lists, such as
    those of one class, are not read, unless there is one list alone: 'default'.
    """
    texts = [file for file in found.others if file.endswith(".txt") and "imagesets" in file.lower().split("/")[:-1]]
    main = [file for file in texts if file.lower().split("/")[-2] == "main"] or [
        file for file in texts if file.lower().split("/")[-2] == "imagesets"
    ]
    named: dict[str, list[str]] = {}
    both = [file for file in main if Path(file).stem.lower() == "trainval"]
    for file in main:
        if split := split_of(Path(file).stem):
            named.setdefault(split, []).append(file)
    if both and (TEST in named or not {TRAIN, VALIDATION} <= named.keys()):
        named = {TRAIN: both} | {split: files for split, files in named.items() if split == TEST}
    elif not named and len(main) == 1:
        named = {TRAIN: main}
    lists = {}
    for split, files in named.items():
        lines: dict[str, str] = {}
        for file in files:
            with reading(name, found.path(file), "mend it"):
                content = found.path(file).read_text(encoding="utf-8-sig", errors="surrogateescape")
            lines |= {line.strip(): file for line in content.splitlines() if line.strip()}
        if lines:
            lists[split] = lines
    return lists, texts


def _listed(name: str, line: str, listing: str, by_stem: dict[str, list[str]], found: Listing) -> str:
    """The annotation of an image that a list names, with or without folders, an ending, and a flag behind it."""
    for entry in (line, re.sub(r"\s+-?[01]$", "", line)):
        base = entry.replace("\\", "/").rpartition("/")[2]
        for stem in (base, Path(base).stem if base.lower().endswith(_LISTED) else base):
            beside = f"{listing.partition('ImageSets')[0]}Annotations/{entry}"
            near = _nearest(by_stem.get(text(stem), []), beside, None)
            if len(near) == 1:
                return near[0]
            if near:
                raise refusal(name, f"lists {line!r} in {shown(found.path(listing))}, which is {near[0]} or {near[1]}")
    raise refusal(name, f"lists {line!r} in {shown(found.path(listing))}, but it has no annotation, {line}.xml; add it")


# ---------------------------------------------------------------- COCO


def _coco(name: str, found: Listing) -> _Read:
    files = [file for file in found.others if file.lower().endswith(".json")]
    files = [file for file in files if not _OTHER_TASKS.search(Path(file).name)]
    instances = [file for file in files if Path(file).name.startswith("instances_")]
    images = _by_base(found.images, lambda file: text(file.rpartition("/")[2]))
    by_split: _BySplit = {}
    order: dict[str, int] = {}
    place_of: dict[str | None, str] = {}
    used: list[str] = []
    for file in instances or files:
        path = found.path(file)
        with reading(name, path, "mend it"):
            content = coco_contents(path)
            if content and len({*content.classes}) < len(content.classes):
                raise ValueError("two categories have one name")
        if content is None:
            continue
        used.append(file)
        split = _split_of_json(file)
        if split in place_of:
            what = f"split {split}" if split else "no split"
            raise refusal(
                name, f"has two files of {what}, {place_of[split]} and {file}; name one train and the other test"
            )
        place_of[split] = file
        order |= {one: len(order) for one in content.classes if one not in order}
        for image in content.images:
            place = _image_of(name, path, file, split, image.file, images)
            width, height = _size(name, found.path(place), image.size)
            example = _example(image, found.path(place), width, height)
            by_split.setdefault(split, []).append(_Named(place, example, image.names))
    return by_split, list(order), [], used


def _example(image: CocoImage, path: Path, width: int, height: int) -> Example:
    """Without labels."""
    things = image.objects
    return Example(
        path=path,
        image_id=str(image.id),
        width=width,
        height=height,
        boxes=np.array([thing.box for thing in things], np.float64).reshape(-1, 4).astype(np.float32),
        labels=np.zeros(len(things), np.int64),
        difficult=np.zeros(len(things), np.bool_),
        crowd=np.array([thing.crowd for thing in things], np.bool_),
        areas=np.array([thing.area for thing in things], np.float32),
    )


def _split_of_json(file: str) -> str | None:
    """The split that the name of a file tells, or else the nearest folder."""
    for part in reversed(Path(file).with_suffix("").parts):
        if split := next(filter(None, map(split_of, re.split(r"[^A-Za-z]+", part))), None):
            return split
    return None


def _image_of(name: str, path: Path, file: str, split: str | None, entry: str, images: dict[str, list[str]]) -> str:
    """The place of an image by its `file_name`: the file that ends alike, and lies nearest to the annotations."""
    wanted = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    candidates = images.get(text(wanted[-1]), []) if wanted else []

    def alike(place: str) -> int:
        parts = zip(reversed(place.split("/")), reversed(wanted), strict=False)
        return next((i for i, (one, other) in enumerate(parts) if text(one) != text(other)), len(wanted))

    best = max(map(alike, candidates), default=0)
    near = _nearest([place for place in candidates if alike(place) == best], file, split)
    if len(near) != 1:
        which = f"it may be {near[0]} or {near[1]}" if near else "no such image is there"
        raise refusal(name, f"names the image {entry!r} in {shown(path)}, but {which}; mend it")
    return near[0]
