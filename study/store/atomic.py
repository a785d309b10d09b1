"""Small files that survive a kill at any instant, on a local disk, NFS or an object store such as S3.

Owns atomic replacement and what a full disk looks like. Does not know what is written. A storage is a `Path`; of a URL
(`s3://bucket/folder`) it is universal-pathlib's, which has the same methods and finds its settings where the store's
own tools do (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from study.addresses import check_bare
from study.spec import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


def place(where: str | Path) -> Path:
    """The path of a local folder, or of a URL. Raises `InputError` for a URL that this installation cannot open."""
    if "://" not in str(where):
        return local(where)
    check_bare("storage", str(where), "give it in the variables of its tools, as AWS_SECRET_ACCESS_KEY")
    from upath import UPath

    try:
        path = UPath(str(where), use_listings_cache=False)  # a cached listing would hide what other nodes write
        path.fs  # noqa: B018 (connects, or says which package is missing)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"storage {where} cannot be opened ({error}); `pip install .[s3]` adds S3") from None
    return cast(Path, path)


def local(where: str | Path) -> Path:
    """The path on this machine that a person typed, `~` being a home as in a shell: `--storage=~/x` reaches no shell.

    Raises `InputError` for no name, as of a variable that is not set, for nobody's home, and for a name that is no
    UTF-8, as pages and addresses that contain it must be.
    """
    if not str(where):
        raise InputError("a path is empty: it names no place; name one, '.' for this folder, or leave the option out")
    try:
        path = Path(where).expanduser()
    except RuntimeError:
        raise InputError(
            f"{where} names no home that is known; name the folder in full, or ./{where} for its own name"
        ) from None
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"folder {ascii(str(path))} has a name that is no UTF-8; choose another") from None
    return path


def check_folder(path: Path) -> None:
    """Raise `InputError` where the path is no folder and none can be made of it: it, or what it lies in, is a file."""
    if is_local(path):
        there = next((one for one in (path, *path.parents) if one.exists()), path)
        if there.exists() and not there.is_dir():
            raise InputError(f"{there} is a file, and {path} must be a folder; choose another place")


def is_local(path: Path) -> bool:
    """Whether the path is on a file system, a network's included, and not in an object store."""
    return isinstance(path, Path)


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """The temporary name, beside `path`, under which the block writes a file; at the block's end it becomes `path`.

    A reader, or a crash, sees the old file or the new one. What is not `durable` may be undone by a loss of power.
    Leaves nothing behind where the block raises. For file systems; an object store has `write`. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: an orphan of a killed launch may write here, too, from a host where it has the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk's names no place
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync(path.parent)  # the rename itself must reach the disk, too


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace `path` by `content`, whole or not at all. Raises `OSError`; see `is_full` and `replacing`."""
    if not is_local(path):
        path.write_bytes(content)  # an object appears whole or not at all
        return
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content)


def read(path: Path) -> bytes | None:
    """The content, or None where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def decoded(content: bytes) -> Any:
    """The value of a JSON file. Raises `ValueError` for anything else, and where it is nested too deep to be read."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the quota on it, is full."""
    return isinstance(error, OSError) and error.errno in FULL
