"""Small files between launcher, workers and onlookers: how far a trial is, and whether all should stop. Stdlib only."""

import json
import os
from pathlib import Path
from typing import Any


def write(folder: Path, **progress: Any) -> None:
    """Replace the trial's progress; the file's age is the heartbeat."""
    temporary = folder / f".progress.json.{os.getpid()}"  # an orphan of a killed launch may write here, too
    temporary.write_text(json.dumps(progress))
    temporary.replace(folder / "progress.json")


def read(folder: Path, since: float = 0.0) -> dict[str, Any]:
    """What the trial last said: iteration, seconds, seconds_left, train_error_pct, outcome; {} if not since then."""
    path = folder / "progress.json"
    try:
        return json.loads(path.read_text()) if path.stat().st_mtime >= since else {}
    except (OSError, ValueError):
        return {}


def stop_file(storage: Path) -> Path:
    """While it exists, workers save their state and stop: it reaches every node that sees the storage."""
    return storage / "stop"
