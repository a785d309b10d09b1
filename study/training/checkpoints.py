"""The states that a trial can go on from. Owns their format (a SHA-256 line, then `torch.save`), checks and retention.

Does not know what a state holds.
"""

import hashlib
import io
import logging
import warnings
import zipfile
from collections.abc import Sequence
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
    states = (_load(path, device) for path in _newest_first(folder))
    return next((state for state in states if state is not None), None)


def load_together(folders: Sequence[Path], device: torch.device | str = "cpu") -> list[dict[str, Any] | None]:
    """A state for each folder, of the newest iteration that all have, so that a cohort goes on as it was.

    A kill between two members' checkpoints leaves them one apart: the newer one is dropped. Those that are further
    apart were not trained together; each goes on from its own newest. None is the state before the first update.
    """
    paths = [{int(path.stem): path for path in _newest_first(folder)} for folder in folders]
    # Two are kept as soon as there are two: who has fewer can go back to the first update.
    reachable = [set(by) | ({0} if len(by) < KEPT else set()) for by in paths]
    for iteration in sorted(set.intersection(*reachable), reverse=True):
        states = [_load(by[iteration], device) if iteration else None for by in paths]
        if iteration == 0 or all(state is not None for state in states):
            for by in paths:
                for newer in (path for at, path in by.items() if at > iteration):
                    newer.unlink(missing_ok=True)
            return states
    return [load_newest(folder, device) for folder in folders]


def _load(path: Path, device: torch.device | str) -> dict[str, Any] | None:
    """The state in this file; None where it is damaged, or gone."""
    checksum, _, payload = (atomic.read(path) or b"").partition(b"\n")
    problem = "its checksum, or its size, differs"
    if hashlib.sha256(payload).hexdigest().encode() == checksum and not _expands(payload):
        try:
            with warnings.catch_warnings(action="ignore"):  # of what is then refused
                state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a reader of bytes that anybody may have written raises nearly anything
            problem = f"torch.load does not read it: {type(error).__name__}"
        else:
            if isinstance(state, dict):
                return state
            problem = "it holds no state"
    if path.exists():
        aside = path.with_suffix(".damaged")
        path.rename(aside)
        log.warning("checkpoint %s is damaged (%s); kept as %s, using an older one", path, problem, aside.name)
    return None


def _expands(payload: bytes) -> bool:
    """Whether it claims more bytes than it has, which nothing does that `torch.save` writes."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            return sum(member.file_size for member in archive.infolist()) > len(payload)
    except Exception:  # of a damaged archive it raises nearly anything, and so will torch.load
        return False


def newest_iteration(folder: Path) -> int:
    """The iteration of the newest checkpoint, damaged or not; 0 where there is none."""
    return max((int(path.stem) for path in _newest_first(folder)), default=0)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.checkpoint"), key=lambda path: path.name, reverse=True)
