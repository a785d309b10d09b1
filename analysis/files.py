"""How results reach the disk: complete or not at all, and two names in a results folder.

Knows nothing of their content.
"""

from pathlib import Path

from study.store import atomic

MANIFEST = "manifest.json"  # its files with their SHA-256, and what they were made of
DECISIONS = "decisions"  # folder of the records of `run --until-decided`: beside the report, and no part of it


def write(path: Path, content: str | bytes) -> Path:
    """Replace the file, so that a reader sees the old one or the new one. Results can be rendered again: not synced."""
    atomic.write(path, content.encode() if isinstance(content, str) else content, durable=False)
    return path
