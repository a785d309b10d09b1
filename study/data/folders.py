"""Folders of small images of one size, `folder:NAME`: found, split into training and test images, and decoded once.

Their bytes are hashed once a machine, too: as long as no name, size or time of a file changes, the digest is kept.
Which images are of which class and split is `study/data/divided.py`.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from study.data.cache import Images, Status, check_unchanged, digest_of_files, images
from study.data.decoding import eight_bits, opened, orientation, upright
from study.data.divided import Divided, divided
from study.data.listing import Listing, listing, own_folder, shown
from study.data.sources import refusal

LAYOUT = "square images of one size as CLASS/*.png, or as train/CLASS/* and test/CLASS/*,"


def found(name: str, root: Path) -> tuple[Listing, Divided]:
    """What lies in root/NAME, and which images are of which class and split. Raises `InputError`."""
    everything = listing(name, own_folder(name, root, LAYOUT))
    return everything, divided(name, everything)


def folder_of_images(name: str, root: Path) -> tuple[Images, str]:
    """The images of root/NAME and the SHA-256 of their names and bytes, under which they are kept in root/.cache."""
    everything, parts = found(name, root)
    label, folder, files = name.removeprefix("folder:"), everything.folder, sorted(parts.train + parts.test)
    status = partial(_status, name, folder, files)
    digest, read = digest_of_files(name, root, f"{label}-files", status, partial(_digest, name, folder, files))

    def decode() -> list[np.ndarray]:
        arrays = _decode_folder(name, folder, parts)
        check_unchanged(name, read, status)  # these are the bytes that were hashed
        return arrays

    return images(name, root, f"{label}-{digest[:16]}", decode, needed=False), digest


def _digest(name: str, folder: Path, files: list[str]) -> str:
    """Of names and bytes, and of how images were turned, where any was."""
    sha = hashlib.sha256()
    for file in files:
        with _read(name, folder / file):
            contents = (folder / file).read_bytes()
            sha.update(os.fsencode(file) + b"\0" + hashlib.sha256(contents).digest())
            sha.update(_turned(contents))
    return sha.hexdigest()


def _turned(contents: bytes) -> bytes:
    """What the orientation adds to the digest: nothing of upright images, which is nearly all."""
    with suppress(Exception):  # of a damaged image, which is refused where it is decoded
        if (how := orientation(opened(io.BytesIO(contents)))) > 1:
            return b"turned %d" % how
    return b""


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
        raise refusal(
            name, f"has an image that cannot be read: {shown(path)} ({error}); mend it, or move it away"
        ) from error


def _decode_folder(name: str, folder: Path, parts: Divided) -> list[np.ndarray]:
    """Training images and labels, test images and labels."""
    files = [*parts.train, *parts.test]
    decoded = [_decode_image(name, folder / file) for file in files]
    _check_sizes(name, [folder / file for file in files], decoded)
    channels = max(len(image) for image in decoded)  # a grey image among coloured ones becomes coloured
    pixels = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in decoded])
    labels = np.array([parts.label_of[file] for file in files], np.int64)
    count = len(parts.train)
    return [pixels[:count], labels[:count], pixels[count:], labels[count:]]


def _check_sizes(name: str, paths: list[Path], images: list[np.ndarray]) -> None:
    _, height, width = images[0].shape
    for path, image in zip(paths, images, strict=True):
        if image.shape[1] != image.shape[2] or image.shape[1:] != (height, width):
            raise refusal(
                name,
                f"must have square images of one size: {shown(path)} is {image.shape[2]}x{image.shape[1]},"
                f" {shown(paths[0])} is {width}x{height} (width x height); images of any size are"
                f" images:{name.partition(':')[2]}, for imagenet-* experiments",
            )


def _decode_image(name: str, path: Path) -> np.ndarray:
    """uint8 [1 or 3, H, W]."""
    try:
        with opened(io.BytesIO(path.read_bytes())) as image:
            pixels = np.asarray(eight_bits(upright(image)))
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {shown(path)} ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
