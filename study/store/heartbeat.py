"""Small files between launcher, workers and onlookers: who launches, how far a trial is, whether all should stop.

Owns the launch file and the trials' heartbeats. Clocks of different machines are never compared: whoever waits for a
beat sees the file change. Standard library only.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

from study.execution import Execution
from study.spec import is_of
from study.store import atomic
from study.store.account import Outcome
from study.store.layout import Store, TrialFolder

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 120.0  # after which a launcher, or a trial, is taken for dead
Version = tuple[float | str, int] | str | None


@dataclass(frozen=True)
class Progress:
    """How far a trial is; the file `progress.json` in its folder."""

    launch: str = ""  # in which it came so far
    iteration: int = 0
    train_error_pct: float | None = None  # of the last record; None of a detector
    seconds: float = 0.0  # that it took, earlier attempts included
    seconds_left: float | None = None  # by its own pace; None until it has one
    outcome: Outcome | None = None  # of its result; None until it has one


def write(folder: Path, progress: Progress) -> None:
    """Replace the trial's progress; that the file changes is the heartbeat, which a full disk does not stop."""
    path = TrialFolder(folder).progress
    values = asdict(progress)
    if progress.outcome is None:
        del values["outcome"]
    try:
        atomic.write(path, json.dumps(values).encode(), durable=False)
    except OSError as error:
        if not atomic.is_full(error):
            raise
        with contextlib.suppress(OSError):
            os.utime(path)


def read(folder: Path, launch: str = "") -> Progress | None:
    """The trial's last progress; None if there is none yet, or none in the launch that is asked for."""
    known = {field.name: field.type for field in fields(Progress)}
    try:
        values = atomic.decoded(atomic.read(TrialFolder(folder).progress) or b"{}")
        values = {name: value for name, value in values.items() if name in known}
        if "outcome" in values:
            values["outcome"] = Outcome(values["outcome"])
    except (ValueError, AttributeError):
        return None
    if not all(is_of(known[name], value) for name, value in values.items()):
        return None
    progress = Progress(**values)
    return progress if values and launch in ("", progress.launch) else None


def version(path: Path) -> Version:
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
        self.path, self.name = Store(execution.storage).launch, execution.launch

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


class Pull(StrEnum):
    """Why a worker is to stop."""

    ENDED = "ended"  # the launch asked its trials to save and stop
    REPLACED = "replaced"  # the launcher died, or another launch began: this worker must not write any more


class Leash:
    """What a worker holds of its launch."""

    def __init__(self, execution: Execution) -> None:
        self.path, self.name = Store(execution.storage).launch, execution.launch
        self.seen, self.at = version(self.path), time.monotonic()

    def pulled(self) -> Pull | None:
        """None while the launch goes on."""
        now = version(self.path)
        if now is None:
            return Pull.ENDED
        if now != self.seen:
            self.seen, self.at = now, time.monotonic()
        elif time.monotonic() - self.at > SILENCE_SECONDS:
            return Pull.REPLACED
        try:
            launch = atomic.decoded(atomic.read(self.path) or b"{}").get("launch", self.name)
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # out of reach for a moment; a dead launcher is known by its silence
            return None
        return None if launch == self.name else Pull.REPLACED
