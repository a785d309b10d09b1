"""Looking on while trials run: a live table on a terminal, plain lines elsewhere.

Reads the progress files that trials leave in the store; never talks to a trial or to Ray.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from study import cost, progress
from study.spec import Execution, Trial

LOOK_SECONDS = 1.0
SAY_SECONDS = 20.0


class Watch:
    """The trials of one launch, as their progress files show them."""

    def __init__(self, trials: Sequence[Trial], execution: Execution) -> None:
        self.trials, self.execution, self.since = trials, execution, time.time()
        self.running: list[tuple[Trial, dict[str, Any]]] = []
        self.ended: list[tuple[Trial, dict[str, Any]]] = []

    def look(self) -> list[tuple[Trial, dict[str, Any]]]:
        """Read the files again; returns the trials that ended since the last look."""
        known, said = {trial for trial, _ in self.ended}, []
        for trial in self.trials:
            if trial not in known:
                said.append((trial, progress.read(self.execution.trial_folder(trial.id), self.since)))
        new = [(trial, now) for trial, now in said if "outcome" in now]
        self.running = [(trial, now) for trial, now in said if now and "outcome" not in now]
        self.ended += new
        return new

    def seconds_left(self) -> float:
        """Until the last trial ends: what running trials say of themselves, and predictions for those that wait."""
        factor = cost.calibration(
            (trial, said["seconds"]) for trial, said in self.ended if said["outcome"] == "finished"
        )
        seen = {trial for trial, _ in self.running + self.ended}
        left = [said["seconds_left"] for _, said in self.running]
        left += [factor * cost.predicted_seconds(trial) for trial in self.trials if trial not in seen]
        return cost.makespan(left, self.execution.trials_at_once)

    def summary(self) -> str:
        waiting = len(self.trials) - len(self.ended) - len(self.running)
        return (
            f"{len(self.ended)} of {len(self.trials)} trials ended, {len(self.running)} running, {waiting} waiting;"
            f" about {duration(self.seconds_left())} left"
        )

    def table(self) -> Group:
        table = Table()
        for column in ("running trial", "iteration", "training error", "left"):
            table.add_column(column, justify="left" if column == "running trial" else "right")
        for trial, said in self.running:
            table.add_row(
                f"{trial.model.title} seed {trial.seed}",
                f"{said['iteration']} / {trial.recipe.iterations}",
                percent(said["train_error_pct"]),
                duration(said["seconds_left"]),
            )
        return Group(self.summary(), table)


@contextmanager
def watching(trials: Sequence[Trial], execution: Execution, console: Console) -> Iterator[None]:
    """Show the trials' progress until the block ends."""
    watch, stop = Watch(trials, execution), threading.Event()
    live = Live(watch.table(), console=console, transient=True, refresh_per_second=2) if console.is_terminal else None

    def show() -> None:
        said = time.monotonic()
        while True:
            stopping = stop.wait(LOOK_SECONDS)
            new = watch.look()
            for number, (trial, end) in enumerate(new, len(watch.ended) - len(new) + 1):
                diverged = end["outcome"] == "diverged"
                error = "diverged" if diverged else f"{percent(end['train_error_pct'])} training error"
                console.print(
                    f"[{number}/{len(trials)}] {trial.id}: {error}"
                    f" after {end['iteration']} iterations, {duration(end['seconds'])}",
                    markup=False,
                    soft_wrap=True,
                )
            if live:
                live.update(watch.table())
            elif time.monotonic() - said >= SAY_SECONDS and not stopping:
                console.print(watch.summary(), markup=False, soft_wrap=True)
                said = time.monotonic()
            if stopping:
                return

    thread = threading.Thread(target=show, daemon=True)
    if live:
        live.start()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if live:
            live.stop()


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.4 h` or `12 days`."""
    for unit, size, digits in (("days", 86_400, 0), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
