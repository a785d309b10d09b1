"""Files that survive a kill at any instant: written under another name, synced, renamed, checked when read.

Owns the format on disk (a SHA-256 line, then `torch.save`) and its retention. Does not know what a state holds.
"""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2
log = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk, too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, iteration: int, state: dict[str, Any], kept: int = KEPT) -> Path:
    """Write the state after `iteration` updates and drop all but the newest `kept` checkpoints."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"{iteration:09d}.checkpoint"
    write_atomically(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    for old in _newest_first(folder)[kept:]:
        old.unlink(missing_ok=True)  # an orphan of a killed launch may be dropping it, too
    return path


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest undamaged state, or None. Damaged files are set aside with a warning; no pickled code is run."""
    for path in _newest_first(folder):
        checksum, _, payload = path.read_bytes().partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() == checksum:
            return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning("checkpoint %s is damaged (its checksum differs); kept as %s, using an older one", path, aside.name)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.checkpoint"), reverse=True)
