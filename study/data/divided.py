"""Which images of somebody's own folders are of which class, and which are for testing.

    NAME/CLASS/*                    a hash of its place makes one image in five a test image
    NAME/train/CLASS/*              with NAME/test/CLASS/* or NAME/val/CLASS/*, or other usual names of splits

As torchvision's ImageFolder has it: a class is a folder, images may lie in folders below it, and classes are numbered
in the order of their names as text ('10' before '2'). What ImageFolder would take wrongly without a word is refused.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from study.data.listing import SPLITS, TEST, TRAIN, VALIDATION, Listing, check_alike, shown, split_of, text
from study.data.sources import refusal


@dataclass(frozen=True)
class Divided:
    """The images of a data set, by their places in its folder."""

    train: list[str]
    test: list[str]
    classes: list[str]  # names of the training folders, in the order of their labels
    label_of: Mapping[str, int]  # of each image
    unused: Mapping[str, int] = field(default_factory=dict)  # images of splits that are not used, by folder


def divided(name: str, found: Listing, tested: tuple[str, str] = (TEST, VALIDATION)) -> Divided:
    """Training and test images of the folder; of two splits for testing the first of `tested`. Raises `InputError`."""
    splits = _splits(name, found, tested)
    unused: dict[str, int] = {}
    if not splits:
        for file in found.images:
            if "/" not in file:
                raise _out_of_place(name, found, file, "CLASS/")
        train = [file for file in found.images if not for_testing(file)]
        test = [file for file in found.images if for_testing(file)]
        classes = classes_tested = _classes(name, found, "")
    else:
        used = [splits[TRAIN], next(splits[split] for split in tested if split in splits)]
        parts: dict[str, list[str]] = {split: [] for split in splits.values()}
        for file in found.images:
            top, _, rest = file.partition("/")
            if top not in parts or "/" not in rest:
                raise _out_of_place(name, found, file, f"{{{','.join(used)}}}/CLASS/")
            parts[top].append(file)
        train, test = (parts[split] for split in used)
        unused = {split: len(files) for split, files in parts.items() if split not in used}
        classes, classes_tested = (_classes(name, found, split) for split in used)
    number = {text(one): label for label, one in enumerate(classes)}
    depth = 1 if splits else 0
    class_of = {file: text(file.split("/")[depth]) for file in (*train, *test)}
    _check(name, found, [number, *({text(one): 0} for one in classes_tested)], class_of, train, test)
    _check_nested(name, found, depth, [*train, *test])
    return Divided(train, test, classes, {file: number[one] for file, one in class_of.items()}, unused)


def for_testing(file: str) -> bool:
    """Whether the hash of its place makes this a test file, as it does one file in five."""
    return hashlib.sha256(os.fsencode(file)).digest()[0] % 5 == 0


def _splits(name: str, found: Listing, tested: tuple[str, str]) -> dict[str, str]:
    """The folder of each split: one with a usual name that holds images in folders; {} if there are none.

    A class, which holds images, may be called 'train', too.
    """
    direct = {file.partition("/")[0] for file in found.images if file.count("/") == 1}
    holding = {file.partition("/")[0] for file in found.images if file.count("/") > 1}
    tops = {folder for folder in found.folders if "/" not in folder}
    if direct and not holding and all(map(split_of, tops)):
        raise _out_of_place(name, found, next(file for file in found.images if file.count("/") == 1), "SPLIT/CLASS/")
    splits: dict[str, str] = {}
    for folder in sorted(holding):
        if split := split_of(folder):
            if split in splits:
                raise refusal(name, f"has two folders of one split in {found.folder}: {splits[split]} and {folder}")
            splits[split] = folder
    if splits and (TRAIN not in splits or len(splits) == 1):
        kinds = "train" if TRAIN not in splits else " or ".join(tested)
        raise refusal(
            name,
            f"in {found.folder} has images in {', '.join(splits.values())} and none in {kinds}/CLASS/; add them (usual"
            f" names are {', '.join(SPLITS)})",
        )
    return splits


def _classes(name: str, found: Listing, split: str) -> list[str]:
    """Folders of classes, in ImageFolder's order."""
    place = f"{split}/" if split else ""
    classes = [folder.removeprefix(place) for folder in found.folders if folder.startswith(place)]
    classes = sorted(one for one in classes if "/" not in one)
    check_alike(name, found.folder / split, classes)
    return classes


def _check(
    name: str,
    found: Listing,
    numbers: list[dict[str, int]],
    class_of: dict[str, str],
    train: list[str],
    test: list[str],
) -> None:
    number, *others = numbers
    counts = Counter(class_of[file] for file in train)
    place = shown(found.folder)
    if not train or not test:
        kinds = ", ".join(found.passed_over()) or "nothing else"
        raise refusal(
            name, f"in {place} has {len(train)} training and {len(test)} test images, and {kinds}; add images to CLASS/"
        )
    for one in sorted({key for other in others for key in other} - set(number)):
        raise refusal(
            name, f"in {place} has test images of class {one!r}, and none to train it; add some, or remove it"
        )
    for one in number:
        if not counts[one]:
            here = [file for file in found.others if one in map(text, file.split("/")[:-1])]
            kinds = ", ".join(Listing(found.folder, others=here).passed_over()) or "nothing else"
            raise refusal(
                name, f"has no training image of class {one!r} in {place}, but {kinds} there; add some, or remove it"
            )
    if len(number) < 2:
        raise refusal(
            name,
            f"in {place} has one class, {next(iter(number))!r}, and a classifier needs two; if classes lie deeper, move"
            f" them up, or say --data-root {place}",
        )


def _check_nested(name: str, found: Listing, depth: int, files: list[str]) -> None:
    """Refuse classes that hold the same folders: these are classes, or splits, and what holds them is no class."""
    below: dict[str, set[str]] = {}
    for file in files:
        parts = file.split("/")
        if len(parts) > depth + 2:
            below.setdefault(parts[depth], set()).add(text(parts[depth + 1]).casefold())
    seen: dict[str, str] = {}
    for one, folders in sorted(below.items()):
        shared = Counter(seen[folder] for folder in folders if folder in seen)
        for other, count in shared.items():
            if count > 1:
                both = sorted(folders & below[other])[:2]
                raise refusal(
                    name,
                    f"has folders {both[0]!r} and {both[1]!r} in both {other!r} and {one!r} of {shown(found.folder)}:"
                    " if these are splits, call them train and test; if they are classes, move the images up into them",
                )
        seen |= dict.fromkeys(folders, one)


def _out_of_place(name: str, found: Listing, file: str, place: str) -> Exception:
    return refusal(name, f"has an image out of place: {shown(found.path(file))} is not in {place}; move it")
