"""What lies in the folder of somebody's own data set: images, other files, and what is passed over.

Owns which files are images, which are never looked at, and what the folders of splits are called. Decodes nothing.
The same for `folder:`, `images:`, `voc:` and `coco:`.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from study.data.sources import refusal
from study.spec import InputError

# Those of torchvision's ImageFolder, and .gif, .jpe, .jfif and .pbm. What a file is, its first bytes tell.
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm"),
)
TRAIN, TEST, VALIDATION = "train", "test", "val"
SPLITS = {  # what splits are called, in lower case
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), VALIDATION),
}
_STRANGE = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")  # made by systems


@dataclass
class Listing:
    """All files below a folder, by their place in it with '/', sorted as text."""

    folder: Path
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: int = 0  # files and folders whose name begins with a dot, and what systems leave behind

    def path(self, file: str) -> Path:
        return self.folder / file

    def passed_over(self, used: Iterable[str] = ()) -> list[str]:
        """What of it is no image and is not `used`, counted, in words."""
        kinds = Counter(Path(file).suffix.lower() or Path(file).name for file in set(self.others) - set(used))
        words = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
        return words + ([f"{self.hidden} hidden"] if self.hidden else [])


def own_folder(name: str, root: Path, layout: str) -> Path:
    """The folder root/NAME of the data set KIND:NAME. Raises `InputError`; `layout` is what belongs there."""
    kind, _, label = name.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", label):
        raise InputError(f"data set {name!r} must be {kind}:NAME, with NAME of letters, digits and _ . - only")
    folder = root / label
    if folder.is_dir():
        return folder
    if root.absolute().name == label and root.is_dir():
        above = Path(os.path.relpath(root.absolute().parent)) if not root.is_absolute() else root.parent
        raise refusal(
            name, f"is missing: {folder} was looked for. {root} is the set's own folder: say --data-root {above}"
        )
    raise refusal(name, f"is missing: {folder} was looked for; put {layout} there")


def listing(name: str, folder: Path) -> Listing:
    """What lies below the folder; links are followed. Raises `InputError` for what cannot be read, and for a loop."""
    result = Listing(folder)
    _walk(name, folder, "", result, [])
    for files in (result.images, result.others, result.folders):
        files.sort()
    return result


def _walk(name: str, folder: Path, place: str, result: Listing, above: list[tuple[int, int]]) -> None:
    try:
        status = os.stat(folder / place)
        if (status.st_dev, status.st_ino) in above:
            raise refusal(name, f"has a link to a folder above itself: {folder / place}; remove it")
        with os.scandir(folder / place) as entries:
            for entry in entries:
                at = f"{place}/{entry.name}" if place else entry.name
                if entry.name.startswith(".") or entry.name in _STRANGE:
                    result.hidden += 1
                elif entry.is_dir():
                    result.folders.append(at)
                    _walk(name, folder, at, result, [*above, (status.st_dev, status.st_ino)])
                elif is_image(entry.name):
                    if not entry.is_file():
                        why = "a link that leads nowhere" if entry.is_symlink() else "no ordinary file"
                        raise refusal(
                            name, f"has an image that is {why}: {shown(folder / at)}; mend it, or move it away"
                        )
                    result.images.append(at)
                else:
                    result.others.append(at)
    except OSError as error:
        raise refusal(name, f"cannot be read: {shown(folder / place)} ({error.strerror}); mend it") from None


def is_image(file: str) -> bool:
    """Whether the name of a file ends as an image's."""
    return file.lower().endswith(ENDINGS)


def split_of(folder: str) -> str | None:
    """The split that a folder or file of that name is usually of; None of another name."""
    return SPLITS.get(folder.lower())


def text(name: str) -> str:
    """A name as people read it: composed Unicode, which a Mac writes decomposed; bytes that are no text as '?'."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="replace"))


def shown(path: Path) -> str:
    """A path in a message: it may have bytes that are no text."""
    return os.fsencode(path).decode(errors="replace")


def check_alike(name: str, place: Path, classes: Sequence[str]) -> None:
    """Raise `InputError` for two names that differ in case or in the writing of an accent alone."""
    seen: dict[str, str] = {}
    for one in classes:
        other = seen.setdefault(text(one).casefold(), one)
        if other != one:
            how = "how their accents are written" if text(other) == text(one) else "upper and lower case"
            raise refusal(
                name,
                f"has classes {text(other)!r} and {text(one)!r} in {place}, which differ in {how} alone; make them one,"
                " or rename one",
            )
