"""What is made once below the data root and kept: arrays and digests in .cache, and folders of generated images.

Whole or not at all, by one of the processes that need it, while the others wait for its lock. Large arrays are mapped,
so that all processes of a machine share their memory.
"""

import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from study.data.sources import refusal
from study.spec import InputError

FORMAT = 1  # of digests that are kept; raised when what they mean changes
COARSEST_CLOCK = 2 * 10**9  # nanoseconds: of FAT; no file system that is in use stamps changes more coarsely
_MAPPED = 2**20  # bytes: smaller arrays are read, and their checksum with them


class _UnkeptError(InputError):
    """The cache cannot be written or read."""


# ---------------------------------------------------------------- arrays


def cached(
    name: str, root: Path, file: str, make: Callable[[], dict[str, np.ndarray]], *, needed: bool = True
) -> dict[str, np.ndarray]:
    """Arrays that are made once and kept as root/.cache/`file`.npz; `name` is what an error calls the data set.

    Large ones of bytes are mapped: what a process writes to them stays its own, and never reaches the file. Raises
    `InputError` if they cannot be kept or read, and whatever `make` raises. What is not `needed` in the cache is made
    each time if it cannot be written there.
    """
    path = root / ".cache" / f"{file}.npz"
    if not path.exists():
        arrays: dict[str, np.ndarray] = {}
        try:
            with _locked(name, path):
                if not path.exists():
                    arrays = make()
                    _write(name, path, arrays)
        except _UnkeptError:
            if needed:
                raise
            return arrays or make()
    with _keeping(name, path):
        return _mapped(path)


def _write(name: str, path: Path, arrays: dict[str, np.ndarray]) -> None:
    part = path.with_suffix(".part")
    with _keeping(name, path):
        try:
            with part.open("wb") as out:
                np.savez(out, **arrays)  # type: ignore[arg-type]
                out.flush()
                os.fsync(out.fileno())  # no checksum is read of what is mapped: it must be whole on the disk
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz, the large ones of bytes where they lie in it: these need no alignment."""
    arrays = {}
    with np.load(path) as archive:
        for key in archive.files:
            member = archive.zip.getinfo(f"{key}.npy")
            mapped = _member(path, archive.zip, member) if member.file_size >= _MAPPED else None
            arrays[key] = archive[key] if mapped is None else mapped
    return arrays


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray | None:
    """A member of a .npz, mapped; None if its items need alignment."""
    with archive.open(member) as stored:
        if np.lib.format.read_magic(stored) != (1, 0) or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError("it is not as np.savez writes arrays")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stored)
        start = stored.tell()
    if dtype.alignment > 1:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # of the ZIP format: two lengths, of its name and of what is extra
        start += member.header_offset + 30 + sum(struct.unpack("<2H", file.read(4)))
    return np.asarray(np.memmap(path, dtype, "c", start, shape, "F" if fortran else "C"))


class Images(NamedTuple):
    """Decoded images of one size, uint8 [N, C, H, W], and their labels, int64 [N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digest: str  # SHA-256 of the four arrays

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "Images":
        """Images of the four arrays."""
        sha = hashlib.sha256()
        for array in arrays:
            sha.update(np.ascontiguousarray(array).data)
        train_images, train_labels, test_images, test_labels = arrays
        return cls(train_images, train_labels, test_images, test_labels, sha.hexdigest())


def images(
    name: str, root: Path, file: str, decode: Callable[[], Sequence[np.ndarray]], *, needed: bool = True
) -> Images:
    """Images that are decoded once, with their digest; see `cached`."""

    def make() -> dict[str, np.ndarray]:
        decoded = Images.of(decode())
        return {key: np.asarray(value) for key, value in decoded._asdict().items()}

    kept = cached(name, root, file, make, needed=needed)
    if "digest" not in kept:  # kept before digests were
        return Images.of(list(kept.values()))
    return Images(**kept | {"digest": str(kept["digest"])})  # type: ignore[arg-type]


# ---------------------------------------------------------------- digests


class Status(NamedTuple):
    """What files are without reading them."""

    digest: str  # of their names, sizes and times
    newest: int  # the last change, in nanoseconds since 1970


def digest_of_files(
    name: str, root: Path, file: str, status: Callable[[], Status], read: Callable[[], str]
) -> tuple[str, Status]:
    """The digest that `read` takes of files, kept as root/.cache/`file`.json for as long as their status is the same.

    A change that comes within one tick of the file system's clock after another leaves the status as it is. So the
    digest is kept only if the last change was ticks before the reading began, by the clock of the cache's own file
    system, as Git trusts its index. It is taken each time where it cannot be kept. Raises `InputError` if files change
    while they are read.
    """
    path = root / ".cache" / f"{file}.json"
    before = status()
    if kept := _kept(path, before):
        return kept, before
    try:
        return _kept_anew(name, path, before, status, read), before
    except _UnkeptError:
        digest = read()
        check_unchanged(name, before, status)
        return digest, before


def _kept_anew(name: str, path: Path, before: Status, status: Callable[[], Status], read: Callable[[], str]) -> str:
    with _locked(name, path):
        if kept := _kept(path, before):  # by another process, meanwhile
            return kept
        part = path.with_suffix(".part")
        with _keeping(name, path):
            part.write_bytes(b"")
            began = part.stat().st_mtime_ns
        digest = read()
        check_unchanged(name, before, status)
        if before.newest + COARSEST_CLOCK < began:
            with _keeping(name, path):
                part.write_text(json.dumps({"format": FORMAT, "status": before.digest, "digest": digest}) + "\n")
                part.replace(path)
        else:
            part.unlink()
    return digest


def check_unchanged(name: str, before: Status, status: Callable[[], Status]) -> None:
    """Raise `InputError` if files have another status than `before`."""
    if status() != before:
        raise refusal(name, "was changed while it was read; run again when nothing writes to it")


def _kept(path: Path, status: Status) -> str | None:
    """None if there is none, or of other files, of another format or damaged: it is made anew."""
    try:
        kept = json.loads(path.read_text())
        same = (kept["format"], kept["status"]) == (FORMAT, status.digest)
        return str(kept["digest"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---------------------------------------------------------------- folders


def made(name: str, root: Path, folder: str, write: Callable[[Path], None]) -> Path:
    """root/folder, which `write` fills if it is not there: whole or not at all, by one of several processes."""
    target, part = root / folder, root / f".part-{folder}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder}.lock"):
            if not target.exists():
                shutil.rmtree(part, ignore_errors=True)
                write(part)
                part.replace(target)
    except OSError as error:
        raise refusal(name, f"cannot be made in {target} ({error}); make its folder writable") from error
    return target


def file_name(name: str) -> str:
    """The name of a data set as part of a file name: 'images:zoo' becomes 'images-zoo'."""
    return name.replace(":", "-")


@contextmanager
def _locked(name: str, path: Path) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"))
    with _keeping(name, path):
        path.parent.mkdir(exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _keeping(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        line = refusal(name, f"cannot be kept in {path} ({error}); make it writable, or delete what is there")
        raise _UnkeptError(str(line)) from error
