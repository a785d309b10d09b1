"""Small files between launcher, workers and onlookers: who launches, how far a trial is, whether all should stop.

Owns the launch file and the trials' heartbeats. Clocks of different machines are never compared: whoever waits for a
beat sees the file change. Standard library only.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from study.execution import Execution
from study.store import atomic

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 120.0  # after which a launcher, or a trial, is taken for dead


def write(folder: Path, **progress: Any) -> None:
    """Replace the trial's progress; that the file changes is the heartbeat, which a full disk does not stop."""
    path = folder / "progress.json"
    try:
        atomic.write(path, json.dumps(progress).encode(), durable=False)
    except OSError as error:
        if not atomic.is_full(error):
            raise
        with contextlib.suppress(OSError):
            os.utime(path)


def read(folder: Path, launch: str = "") -> dict[str, Any]:
    """What the trial last said: launch, iteration, seconds, seconds_left, train_error_pct, outcome.

    {} if it said nothing yet, or nothing in the launch that is asked for.
    """
    try:
        said = json.loads(atomic.read(folder / "progress.json") or b"{}")
    except ValueError:
        return {}
    return said if launch in ("", said.get("launch")) else {}


def version(path: Path) -> Any:
    """A value that is another one after each write of the file; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return "out of reach"
    return getattr(stat, "st_mtime_ns", stat.st_mtime), stat.st_size


class Launch:
    """The launch file: while it is there and beats, workers of this launch train; when it is deleted they stop."""

    def __init__(self, execution: Execution) -> None:
        self.path, self.name = execution.storage / "launch.json", execution.launch

    def begin(self) -> None:
        atomic.write(self.path, json.dumps({"launch": self.name, "host": os.uname().nodename}).encode())

    def beat(self) -> None:
        """Show that the launcher lives. Nothing is written, so that a full disk does not end the launch."""
        with contextlib.suppress(OSError):
            if atomic.is_local(self.path):
                os.utime(self.path)
            else:
                self.begin()

    def end(self) -> None:
        self.path.unlink(missing_ok=True)


class Leash:
    """What a worker holds of its launch."""

    def __init__(self, execution: Execution) -> None:
        self.path, self.name = execution.storage / "launch.json", execution.launch
        self.seen, self.at = version(self.path), time.monotonic()

    def pulled(self) -> str:
        """'' while the launch goes on; 'ended' once it is to stop; 'replaced' if it died, or another one began."""
        now = version(self.path)
        if now is None:
            return "ended"
        if now != self.seen:
            self.seen, self.at = now, time.monotonic()
        elif time.monotonic() - self.at > SILENCE_SECONDS:
            return "replaced"
        try:
            said = json.loads(atomic.read(self.path) or b"{}").get("launch", self.name)
        except (OSError, ValueError):  # out of reach for a moment; a dead launcher is known by its silence
            return ""
        return "" if said == self.name else "replaced"
