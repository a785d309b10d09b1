"""How results reach the disk: complete or not at all. Knows nothing of what is in them."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    """Write under a temporary name and rename, so that a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
