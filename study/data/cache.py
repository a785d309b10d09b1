"""What is made once below the data root and kept: arrays in .cache, and folders of generated images.

Whole or not at all, by one of the processes that need it, while the others wait for its lock.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock

from study.data.sources import refusal


def cached(name: str, root: Path, file: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays that are made once and kept as root/.cache/`file`.npz; `name` is what an error calls the data set.

    Raises `InputError` if they cannot be kept, and whatever `make` raises.
    """
    path = root / ".cache" / f"{file}.npz"
    lock = FileLock(path.with_suffix(".lock"))
    with _keeping(name, path):
        path.parent.mkdir(exist_ok=True)
        lock.acquire()
    try:
        if not path.exists():
            made = make()
            with _keeping(name, path):
                with path.with_suffix(".part").open("wb") as out:
                    np.savez(out, **made)  # type: ignore[arg-type]
                path.with_suffix(".part").replace(path)
    finally:
        lock.release()
    with _keeping(name, path), path.open("rb") as stored, np.load(stored) as arrays:
        return dict(arrays)


@contextmanager
def _keeping(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise refusal(name, f"cannot be kept in {path} ({error}); make it writable, or delete what is there") from error


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
