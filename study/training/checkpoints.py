"""The states that a trial can go on from. Owns their format (a SHA-256 line, then `torch.save`), checks and retention.

Does not know what a state holds.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from study.store import atomic

KEPT = 2
log = logging.getLogger(__name__)


def save(folder: Path, iteration: int, state: dict[str, Any], kept: int = KEPT) -> Path:
    """Write the state after `iteration` updates and drop all but the newest `kept` checkpoints."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"{iteration:09d}.checkpoint"
    atomic.write(path, hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    for old in _newest_first(folder)[kept:]:
        old.unlink(missing_ok=True)  # an orphan of a killed launch may be dropping it, too
    return path


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest undamaged state, or None. Damaged files are set aside with a warning; no pickled code is run."""
    for path in _newest_first(folder):
        checksum, _, payload = (atomic.read(path) or b"").partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() == checksum:
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
            return state
        aside = path.with_suffix(".damaged")
        path.rename(aside)
        log.warning("checkpoint %s is damaged (its checksum differs); kept as %s, using an older one", path, aside.name)
    return None


def newest_iteration(folder: Path) -> int:
    """The iteration of the newest checkpoint, damaged or not; 0 where there is none."""
    return max((int(path.stem) for path in _newest_first(folder)), default=0)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.checkpoint"), key=lambda path: path.name, reverse=True)
