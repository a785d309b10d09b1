"""How results reach the disk: complete or not at all, and two names in a results folder.

Knows nothing of their content.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"  # its files with their SHA-256, and what they were made of
DECISIONS = "decisions"  # folder of the records of `run --until-decided`: beside the report, and no part of it


def write(path: Path, content: str | bytes) -> Path:
    """Write under a temporary name and rename, so that a reader sees the old file or the new one, never half of one."""
    with writing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The temporary name under which the block writes what is too large to hold; it becomes `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
