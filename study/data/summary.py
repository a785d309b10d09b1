"""What somebody's own data set comes to, in numbers and words for whoever is about to train on it."""

from collections import Counter
from pathlib import Path

from study.data import annotations, folders, indexes
from study.data.cache import cached, file_name
from study.data.counts import IMAGES, Summary
from study.data.detection_sets import is_own
from study.data.divided import Divided, divided
from study.data.folders import folder_of_images
from study.data.listing import TEST, VALIDATION, Listing, listing, own_folder, text
from study.data.looks import looks, looks_of_bytes, looks_to_bytes
from study.spec import Data


def summary(data: Data, root: Path) -> Summary | None:
    """Of `folder:`, `images:`, `voc:` and `coco:`, as they lie below `root`, and of sets known by name; None of others.

    Raises `InputError` for what is missing or cannot be used.
    """
    kind = data.name.partition(":")[0]
    if data.name in IMAGES:
        return Summary(data.name, *IMAGES[data.name], data.classes)
    if is_own(data.name):
        own = annotations.load(data.name, root)
        return Summary(data.name, len(own.train), len(own.test), len(own.classes), own.classes, own.notes)
    if kind == "folder":
        found, parts = folders.found(data.name, root)
        _, digest = folder_of_images(data.name, root)
        paths = [found.path(file) for file in (*parts.train, *parts.test)]
        kept = cached(
            data.name,
            root,
            f"{file_name(data.name)}-looks-{digest[:16]}",
            lambda: {"looks": looks_to_bytes(looks(paths))},
            needed=False,
        )
        return _of_folders(data.name, found, parts, looks_of_bytes(kept["looks"]))
    if kind == "images":
        found = listing(data.name, own_folder(data.name, root, ""))
        parts = divided(data.name, found, (VALIDATION, TEST))
        return _of_folders(data.name, found, parts, indexes.looks_of(data.name, root))
    return None


def _of_folders(name: str, found: Listing, parts: Divided, read: dict[str, int]) -> Summary:
    tested = Counter(parts.label_of[file] for file in parts.test)
    notes = [f"{count} {what}" for what, count in read.items()]
    notes += [f"{count} in {split}/ are not used" for split, count in parts.unused.items()]
    if passed := found.passed_over():
        notes.append(f"passed over: {', '.join(passed)}")
    if untested := [text(one) for label, one in enumerate(parts.classes) if not tested[label]]:
        notes.append(f"{len(untested)} classes without a test image: {', '.join(untested[:5])}")
    classes = tuple(text(one) for one in parts.classes)
    if len(classes) > 10 and all(one.isdecimal() for one in classes):
        notes.append("classes are numbered in the order of their names as text (0, 1, 10, ..., 2), as ImageFolder does")
    return Summary(name, len(parts.train), len(parts.test), len(classes), classes, tuple(notes))
