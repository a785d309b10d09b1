"""How results reach the disk: complete or not at all, and two names in a results folder.

Knows nothing of their content.
"""

import os
import tempfile
from pathlib import Path

from study.spec import InputError
from study.store import atomic

MANIFEST = "manifest.json"  # its files with their SHA-256, and what they were made of
DECISIONS = "decisions"  # folder of the records of `run --until-decided`: beside the report, and no part of it


def check_place(folder: Path) -> None:
    """Raise `InputError` for a folder that cannot be made or written, before what takes long. Leaves nothing there."""
    try:
        folder.exists()  # raises for a name that is too long
        there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"results {folder} cannot be written ({error.strerror}); choose another folder with --results"
        ) from None


def write(path: Path, content: str | bytes) -> Path:
    """Replace the file, so that a reader sees the old one or the new one. Results can be rendered again: not synced."""
    atomic.write(path, content.encode() if isinstance(content, str) else content, durable=False)
    return path
