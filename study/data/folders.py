"""Folders of small images of one size, `folder:NAME`: found, split into training and test images, and decoded once.

Their bytes are hashed once a machine, too: as long as no name, size or time of a file changes, the digest is kept.

NAME/{train,test}/CLASS/*.png or NAME/CLASS/*.png below the data root (.jpg too; other files are not images and are
passed over).
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from study.data.cache import Images, Status, check_unchanged, digest_of_files, images
from study.data.decoding import opened
from study.data.sources import SUFFIXES, refusal
from study.spec import InputError


def folder_of_images(name: str, root: Path) -> tuple[Images, str]:
    """The images of root/NAME and the SHA-256 of their names and bytes, under which they are kept in root/.cache."""
    label = name.removeprefix("folder:")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", label):
        raise InputError(f"data set {name!r} must be folder:NAME, with NAME of letters, digits and _ . - only")
    folder = root / label
    if not folder.is_dir():
        raise refusal(name, f"is missing: {folder} was looked for; put images there as CLASS/*.png or *.jpg")
    # glob follows links to folders, unlike Path.rglob, and passes over hidden files
    files = sorted(file for file in glob.glob("**", root_dir=folder, recursive=True) if file.lower().endswith(SUFFIXES))
    status = partial(_status, name, folder, files)
    digest, read = digest_of_files(name, root, f"{label}-files", status, partial(_digest, name, folder, files))

    def decode() -> list[np.ndarray]:
        arrays = _decode_folder(name, folder, files)
        check_unchanged(name, read, status)  # these are the bytes that were hashed
        return arrays

    return images(name, root, f"{label}-{digest[:16]}", decode), digest


def _digest(name: str, folder: Path, files: list[str]) -> str:
    sha = hashlib.sha256()
    for file in files:
        with _read(name, folder / file):
            sha.update(f"{file}\0".encode() + hashlib.sha256((folder / file).read_bytes()).digest())
    return sha.hexdigest()


def _status(name: str, folder: Path, files: list[str]) -> Status:
    sha, newest = hashlib.sha256(), 0
    for file in files:
        with _read(name, folder / file):
            status = os.stat(folder / file)
        times = status.st_mtime_ns, status.st_ctime_ns  # the second cannot be set: a copy with old times is a change
        sha.update(os.fsencode(file) + b"\0%d %d %d\0" % (status.st_size, *times))
        newest = max(newest, *times)
    return Status(sha.hexdigest(), newest)


@contextmanager
def _read(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise refusal(name, f"has an image that cannot be read: {path} ({error}); mend it, or move it away") from error


def _decode_folder(name: str, folder: Path, files: list[str]) -> list[np.ndarray]:
    """Training images and labels, test images and labels."""
    train, test = _divided(name, folder, files)
    classes = sorted({Path(file).parent.name for file in train})
    untrained = sorted({Path(file).parent.name for file in test} - set(classes))
    if not train or not test or untrained:
        counts = f"{len(train)} training and {len(test)} test images"
        raise refusal(name, f"in {folder} has {counts}, and none to train {', '.join(untrained) or 'or test'}")
    decoded = [_decode_image(name, folder / file) for file in train + test]
    _check_sizes(name, [folder / file for file in train + test], decoded)
    channels = max(len(image) for image in decoded)  # a grey image among coloured ones becomes coloured
    pixels = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in decoded])
    labels = np.array([classes.index(Path(file).parent.name) for file in train + test], np.int64)
    count = len(train)
    return [pixels[:count], labels[:count], pixels[count:], labels[count:]]


def _divided(name: str, folder: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """Training and test files. Without train/ and test/, a hash of its name makes one file in five a test file."""
    split = (folder / "train").is_dir() and (folder / "test").is_dir()
    place, depth = ("{train,test}/CLASS/", 3) if split else ("CLASS/", 2)
    train: list[str] = []
    test: list[str] = []
    for file in files:
        parts = file.split("/")
        if len(parts) != depth or (split and parts[0] not in ("train", "test")):
            raise refusal(name, f"has an image out of place: {folder / file} is not in {place}")
        testing = parts[0] == "test" if split else _fifth(file)
        (test if testing else train).append(file)
    return train, test


def _fifth(file: str) -> bool:
    """Whether the hash of its name makes this a test file, as it does one file in five."""
    return hashlib.sha256(file.encode()).digest()[0] % 5 == 0


def _check_sizes(name: str, paths: list[Path], images: list[np.ndarray]) -> None:
    _, height, width = images[0].shape
    for path, image in zip(paths, images, strict=True):
        if image.shape[1] != image.shape[2] or image.shape[1:] != (height, width):
            raise refusal(
                name,
                f"must have square images of one size: {path} is {image.shape[2]}x{image.shape[1]},"
                f" {paths[0]} is {width}x{height} (width x height)",
            )


def _decode_image(name: str, path: Path) -> np.ndarray:
    """uint8 [1 or 3, H, W]."""
    try:
        with opened(path) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {path} ({error})") from error
    if mode not in ("1", "L", "P", "RGB"):
        raise refusal(name, f"has an image of mode {mode}: {path}; convert it to 8-bit grey or RGB")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
