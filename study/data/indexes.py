"""Where photographs lie: finding and checking ImageNet, folders of pictures and tar shards, none of them unpacked.

Owns layouts, counts and labels, and how shards are written. Decodes nothing, and knows neither batches nor training.
What is missing, truncated or other than expected is an `InputError`.

Looked for under the data root:
imagenet      in imagenet/, if that is a folder, else in the root itself: ILSVRC2012_img_train.tar or train/WNID/*.JPEG;
              ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz, which has its labels, or val/WNID/*.JPEG
images:NAME   NAME/train/CLASS/* and NAME/val/CLASS/*, or test for val, or NAME/CLASS/* (`study/data/divided.py`)
shards:NAME   NAME/train-*.tar and NAME/val-*.tar with members KEY.jpg (.jpeg, .png) and KEY.cls, as WebDataset has them
photographs   200 crops of the pictures that scikit-learn and matplotlib ship, made once
"""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock

from study.data.cache import cached, file_name
from study.data.divided import divided
from study.data.listing import TEST, VALIDATION, listing, own_folder, shown
from study.data.looks import TURNED, looks, looks_of_bytes, looks_to_bytes
from study.data.pictures import photographs
from study.data.sources import SUFFIXES, refusal
from study.seeds import generator
from study.spec import InputError

NAMES = ("imagenet", "images:NAME", "shards:NAME", "photographs")
COUNTS, CLASSES = {"train": 1_281_167, "val": 50_000}, 1000  # of ILSVRC 2012, Sec. 4.1
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_BLOCK = 512  # bytes of a tar's headers and padding
# Name, label, bytes, where in its archive they begin, and the number of that archive: -1 for an image in its own file.
_Entry = tuple[str, int, int, int, int]


@dataclass(frozen=True, eq=False)
class Index:
    """The images of one split, by class and name; of shards, as they lie there. Every field but `archives` is [N]."""

    names: np.ndarray  # bytes: places of files, relative to `load`'s folder, or names of an archive's members
    labels: np.ndarray  # int64
    lengths: np.ndarray  # int64, in bytes
    offsets: np.ndarray  # int64, of the first byte in its archive
    archive: np.ndarray  # int64, number in `archives`, or -1 for an image in its own file
    archives: np.ndarray  # bytes: places of archives, relative to `load`'s folder

    def name(self, i: int) -> str:
        return os.fsdecode(self.names[i])

    def read(self, folder: Path, i: int) -> bytes:
        """Bytes of image i; fewer than `lengths[i]` if the file has become shorter. Raises `OSError`."""
        number = int(self.archive[i])
        place = self.names[i] if number < 0 else self.archives[number]
        with (folder / os.fsdecode(place)).open("rb") as file:
            if number < 0:
                return file.read()
            file.seek(int(self.offsets[i]))
            return file.read(int(self.lengths[i]))


def load(name: str, root: Path) -> tuple[Path, Index, Index, str]:
    """The folder that places are relative to, training and test images, and a digest of them.

    The digest is the SHA-256 of the images' names without folders, their sizes in bytes, labels and shards, which is
    what the order of training depends on: not of their contents, which would take hours. ImageNet has the same one in
    tars and in folders. The index is kept in root/.cache, for as long as no folder or tar changes.
    """
    folder, arrays = _indexed(name, root)
    train_index, test_index = (
        Index(**{field.name: arrays[f"{split}_{field.name}"] for field in fields(Index)}) for split in ("train", "test")
    )
    return folder, train_index, test_index, _digest([train_index, test_index], TURNED in _looks(arrays))


def looks_of(name: str, root: Path) -> dict[str, int]:
    """How many images of 'images:NAME' are read otherwise than plainly, by how; of others that is not counted."""
    return _looks(_indexed(name, root)[1])


def _looks(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    return looks_of_bytes(arrays["looks"]) if "looks" in arrays else {}


def _indexed(name: str, root: Path) -> tuple[Path, dict[str, np.ndarray]]:
    kind, _, _ = name.partition(":")
    if kind not in _SOURCES:
        raise InputError(f"{name!r} is no data set of photographs; choose one of {', '.join(NAMES)}")
    if kind == "imagenet":
        folder = root / "imagenet" if (root / "imagenet").is_dir() else root
    elif kind == "photographs":
        folder = photographs(name, root)
    else:
        folder = own_folder(name, root, _layout(name))
    train, test = _SOURCES[kind](name, folder)
    sha = hashlib.sha256()
    for path in sorted({*train.watched, *test.watched}):
        status = path.stat()
        size = status.st_size if path.is_file() else 0
        sha.update(f"{path.relative_to(folder)}\0{status.st_mtime_ns}\0{size}\0".encode())

    def make() -> dict[str, np.ndarray]:
        parts = {"train": train.read(), "test": test.read()}
        _check(name, folder, *parts.values())
        arrays = {
            f"{split}_{field.name}": getattr(part, field.name)
            for split, part in parts.items()
            for field in fields(Index)
        }
        if kind == "images":
            places = (folder / part.name(i) for part in parts.values() for i in range(len(part.labels)))
            arrays["looks"] = looks_to_bytes(looks(places))
        return arrays

    file = f"{file_name(name)}-index-{sha.hexdigest()[:16]}"
    return folder, cached(name, root, file, make, needed=kind == "imagenet")


def _digest(parts: Sequence[Index], turned: bool) -> str:
    sha = hashlib.sha256()
    for part in parts:
        names = (name.rpartition(b"/")[2] for name in part.names.tolist())
        sha.update(b"\0".join(names) + b"\0\0")
        shards = part.archive if len(part.archives) > 1 else part.archive[:0]
        for column in (part.lengths, part.labels, shards):
            sha.update(column.astype("<i8").tobytes())
    if turned:  # before, images were not
        sha.update(b"turned")
    return sha.hexdigest()


@dataclass(frozen=True)
class _Source:
    """How to index one split, and the tars and folders that the index is true of."""

    watched: list[Path]
    entries: Callable[[], Iterator[_Entry]]
    archives: Sequence[str] = ()

    def read(self) -> Index:
        names: list[bytes] = []
        numbers = array("q")  # lists of a million images' numbers would take ten times the memory
        for name, *of_image in self.entries():
            names.append(os.fsencode(name))
            numbers.extend(of_image)
        labels, lengths, offsets, archive = np.array(numbers, np.int64).reshape(-1, 4).T.copy()
        archives = [os.fsencode(place) for place in self.archives]
        return Index(np.array(names, np.bytes_), labels, lengths, offsets, archive, np.array(archives, np.bytes_))


def _check(name: str, folder: Path, train: Index, test: Index) -> None:
    for split, part in (("training", train), ("test", test)):
        if not len(part.labels):
            raise refusal(name, f"in {folder} has no {split} images; put {_layout(name)} there")
    untrained = np.setdiff1d(np.arange(int(max(train.labels.max(), test.labels.max())) + 1), train.labels)
    if len(untrained):
        raise refusal(
            name, f"in {folder} has no training image of class number {untrained[0]}, counted from 0; add some"
        )


def _layout(name: str) -> str:
    return {
        "imagenet": "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and " + DEVKIT + " of image-net.org",
        "images": "images as train/CLASS/*.jpg and val/CLASS/*.jpg, or as CLASS/*.jpg,",
        "shards": "shards train-*.tar and val-*.tar, as `python -m experiments shard` writes them,",
        "photographs": "nothing, but delete it",
    }[name.partition(":")[0]]


# ---------------------------------------------------------------- folders


def _images(name: str, folder: Path) -> tuple[_Source, _Source]:
    found = listing(name, folder)
    parts = divided(name, found, tested=(VALIDATION, TEST))
    watched = [folder, *(folder / below for below in found.folders)]

    def source(files: list[str]) -> _Source:
        # By class and then by place in it: as ImageNet's folders are indexed.
        ordered = sorted(files, key=lambda file: (parts.label_of[file], file))
        return _Source(
            watched, lambda: ((file, parts.label_of[file], _bytes(name, folder / file), 0, -1) for file in ordered)
        )

    return source(parts.train), source(parts.test)


def _bytes(name: str, path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise refusal(name, f"has an image that cannot be read: {shown(path)} ({error.strerror}); mend it") from None


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _folder(name: str, folder: Path, split: str, classes: list[str], count: int) -> _Source:
    """folder/split/WNID/*, with the classes of training, of ImageNet: as many as `count`."""
    present = _classes(folder / split)

    def entries() -> Iterator[_Entry]:
        if odd := set(present) ^ set(classes):
            raise refusal(name, f"has a class {min(odd)!r} in one of {folder}/train and {folder / split} only; mend it")
        _no_image_in(name, folder / split, "is in no folder of a class")
        total = 0
        for label, wnid in enumerate(classes):
            files = _listed(name, folder / split / wnid)
            total += len(files)
            if split == "train" and not files:
                raise refusal(
                    name, f"has no image of class {wnid!r} in {folder / split / wnid}; add some, or remove it"
                )
            for file, length in files:
                yield f"{split}/{wnid}/{file}", label, length, 0, -1
        if total != count:
            raise _miscounted(name, folder / split, total, count)

    return _Source([folder / split, *(folder / split / wnid for wnid in present)], entries)


def _listed(name: str, folder: Path) -> list[tuple[str, int]]:
    """Images in a class's folder by name, and their bytes."""
    with os.scandir(folder) as listing:
        visible = [entry for entry in listing if not entry.name.startswith(".")]
    entries = sorted(visible, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            _no_image_in(name, Path(entry.path), "lies deeper than CLASS/")
    images = [entry for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    return [(entry.name, entry.stat().st_size) for entry in images]


def _no_image_in(name: str, folder: Path, why: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_file() and entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            raise refusal(name, f"has an image without a label: {entry.path} {why}; move it into one, or away")


def _miscounted(name: str, place: Path, actual: int, count: int, what: str = "images") -> InputError:
    return refusal(name, f"has {actual} {what} in {place}, and must have {count}; get what is missing, or it all again")


# ---------------------------------------------------------------- ImageNet


def _imagenet(name: str, folder: Path) -> tuple[_Source, _Source]:
    train_tar, val_tar = folder / "ILSVRC2012_img_train.tar", folder / "ILSVRC2012_img_val.tar"
    for tar, split in ((train_tar, "train"), (val_tar, "val")):
        if not tar.is_file() and not (folder / split).is_dir():
            raise refusal(
                name, f"is missing: {tar} or {folder / split}/WNID/*.JPEG was looked for; put {_layout(name)} there"
            )
    if train_tar.is_file():
        inner = {Path(member.name).stem: member for member in _members(name, train_tar)}
        classes = sorted(inner)
        _check_wnids(name, train_tar, classes)
        train = _Source([train_tar], partial(_train_entries, name, train_tar, inner), [train_tar.name])
    else:
        classes = _classes(folder / "train")
        _check_wnids(name, folder / "train", classes)
        train = _folder(name, folder, "train", classes, COUNTS["train"])
    if val_tar.is_file():
        devkit = folder / DEVKIT
        if not devkit.is_file():
            raise refusal(name, f"has no labels: {devkit} was looked for, beside {val_tar}; get it from image-net.org")
        entries = partial(_validation_entries, name, val_tar, devkit, classes)
        return train, _Source([val_tar, devkit], entries, [val_tar.name])
    return train, _folder(name, folder, "val", classes, COUNTS["val"])


def _check_wnids(name: str, place: Path, classes: list[str]) -> None:
    if len(classes) != CLASSES:
        raise _miscounted(name, place, len(classes), CLASSES, "classes")
    for wnid in classes:
        if not re.fullmatch(r"n\d{8}", wnid):
            raise refusal(name, f"has a class {wnid!r} in {place}, which is no WNID such as n01440764; move it away")


def _train_entries(name: str, tar: Path, inner: dict[str, "_Member"]) -> Iterator[_Entry]:
    """Of the tar of training images, in which every class is a tar, `inner` by its WNID."""
    count = 0
    for label, wnid in enumerate(sorted(inner)):
        start = inner[wnid].offset
        for image in sorted(_members(name, tar, start, start + inner[wnid].length)):
            count += 1
            yield image.name, label, image.length, image.offset, 0
    if count != COUNTS["train"]:
        raise _miscounted(name, tar, count, COUNTS["train"])


def _validation_entries(name: str, tar: Path, devkit: Path, classes: list[str]) -> Iterator[_Entry]:
    wnids, images = _validation_wnids(name, devkit), sorted(_members(name, tar))
    for count, place in ((len(images), tar), (len(wnids), devkit)):
        if count != COUNTS["val"]:
            raise _miscounted(name, place, count, COUNTS["val"])
    labelled = [(classes.index(wnid), image) for wnid, image in zip(wnids, images, strict=True)]
    for label, image in sorted(labelled):
        yield image.name, label, image.length, image.offset, 0


def _validation_wnids(name: str, devkit: Path) -> list[str]:
    """The WNID of each validation image, in order of name; torchvision knows the devkit's format and checksum."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / DEVKIT).symlink_to(devkit.absolute())
        try:
            parse_devkit_archive(folder)
        except Exception as error:  # of a checksum, or of anything in a damaged archive
            raise refusal(name, f"cannot be read: {devkit} is damaged ({error}); get it from image-net.org") from error
        names: list[str] = load_meta_file(folder)[1]
        return names


class _Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int  # of its first byte in the file that holds the tar
    length: int  # bytes


def _members(name: str, path: Path, start: int = 0, end: int | None = None) -> Iterator[_Member]:
    """The files in the tar at start..end of `path`. Refuses a tar that is cut."""
    with path.open("rb") as file:
        end = end or file.seek(0, os.SEEK_END)
        file.seek(start)
        after = start
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    after = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if member.isfile() and after <= end:
                        yield _Member(member.name, member.offset_data, member.size)
            file.seek(after)
            whole = after + _BLOCK <= end and not any(file.read(_BLOCK))  # a tar ends with empty blocks
            problem = "it does not end as a tar does"
        except tarfile.TarError as error:
            whole, problem = False, str(error)
    if not whole:
        raise refusal(name, f"cannot be read: {path} is truncated or damaged ({problem}); delete it and get it again")


# ---------------------------------------------------------------- shards


def _shards(name: str, folder: Path) -> tuple[_Source, _Source]:
    train, val = (_shard_source(name, folder, sorted(folder.glob(f"{split}-*.tar"))) for split in ("train", "val"))
    if not train.watched or not val.watched:
        raise refusal(name, f"is missing: {folder}/{{train,val}}-*.tar were looked for; put {_layout(name)} there")
    return train, val


def _shard_source(name: str, folder: Path, shards: list[Path]) -> _Source:
    def entries() -> Iterator[_Entry]:
        for number, path in enumerate(shards):
            images: dict[str, _Member] = {}
            labels: dict[str, int] = {}
            with path.open("rb") as file:
                for member in _members(name, path):
                    key, suffix = os.path.splitext(member.name)
                    if suffix.lower() in SUFFIXES:
                        images[key] = member
                    elif suffix == ".cls":
                        file.seek(member.offset)
                        text = file.read(member.length).decode(errors="replace").strip()
                        if not text.isdecimal() or len(text) > 6:
                            raise refusal(
                                name, f"has a label {text[:20]!r} in {member.name} of {path}, not a number 0, 1, ..."
                            )
                        labels[key] = int(text)
            if unlabelled := images.keys() ^ labels.keys():
                lacking = f"{min(unlabelled)} lacks its image or its label, KEY.jpg or KEY.cls"
                raise refusal(name, f"is not paired in {path}: {lacking}; write the shard again")
            for key, image in images.items():
                yield image.name, labels[key], image.length, image.offset, number

    return _Source(shards, entries, [path.name for path in shards])


def write_shards(source: str, name: str, root: Path, shard_mib: int) -> tuple[Path, dict[str, int]]:
    """Write the photographs of `source` into shards of about `shard_mib` MiB, root/NAME/{train,val}-*.tar.

    In a fixed random order, so that a shard is a sample of all classes. Returns the folder and how many images each
    split has. Raises `InputError` if root/NAME exists.
    """
    try:
        from webdataset import ShardWriter
    except ImportError as error:
        raise InputError("writing shards takes webdataset; run: pip install -e '.[shards]'") from error

    folder, train, test, digest = load(source, root)
    target = root / name
    part = target.with_name(f".part-{name}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or target.exists():
        raise InputError(f"shards cannot go to {target}: choose a new NAME, of letters, digits and _ . - only")
    with FileLock(target.with_name(f".{name}.lock")):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for split, index in (("train", train), ("val", test)):
            order = torch.randperm(len(index.labels), generator=generator("shards", digest, split)).tolist()
            pattern = str(part / f"{split}-%06d.tar")
            with ShardWriter(pattern, maxcount=10**9, maxsize=shard_mib * 2**20, verbose=0, mtime=0) as shards:
                for i in order:
                    suffix = Path(index.name(i)).suffix.lower().lstrip(".").replace("jpeg", "jpg")
                    label = str(index.labels[i]).encode()
                    shards.write({"__key__": f"{i:08d}", suffix: index.read(folder, i), "cls": label})
        part.replace(target)
    return target, {"train": len(train.labels), "val": len(test.labels)}


_SOURCES = {"imagenet": _imagenet, "images": _images, "shards": _shards, "photographs": _images}
