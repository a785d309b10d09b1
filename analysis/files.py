"""How results reach the disk: complete or not at all. Knows nothing of what is in them."""

from pathlib import Path

from study.store import atomic


def write(path: Path, content: str | bytes) -> Path:
    """Replace the file, so that a reader sees the old one or the new one. Results can be rendered again: not synced."""
    atomic.write(path, content.encode() if isinstance(content, str) else content, durable=False)
    return path
