"""Looking on while trials run: a live table on a terminal, plain lines elsewhere.

Reads the progress files that trials leave in the store; never talks to a trial or to Ray.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from study.cost import duration
from study.execution import Execution
from study.run.forecast import Plan, seconds_left
from study.spec import Trial
from study.store import atomic, heartbeat
from study.store.account import Outcome
from study.store.heartbeat import Progress

LOOK_SECONDS = 1.0  # ten times as long where the storage is an object store
SAY_SECONDS = 20.0


class Watch:
    """The trials of one launch, in the order of their starts, as their progress files show them."""

    def __init__(self, trials: Sequence[Trial], execution: Execution, plan: Plan) -> None:
        self.trials, self.execution, self.plan = trials, execution, plan
        self.running: list[tuple[Trial, Progress]] = []
        self.ended: list[tuple[Trial, Progress]] = []

    def look(self) -> list[tuple[Trial, Progress]]:
        """Read the files again; returns the trials that ended since the last look."""
        known, begun = {trial for trial, _ in self.ended}, []
        for trial in self.trials:
            folder = self.execution.trial_folder(trial.id)
            if trial not in known and (progress := heartbeat.read(folder, self.execution.launch)):
                begun.append((trial, progress))
        new = [(trial, progress) for trial, progress in begun if progress.outcome]
        self.running = [(trial, progress) for trial, progress in begun if not progress.outcome]
        self.ended += new
        return new

    def seconds_left(self) -> float:
        """Until the last trial ends; predictions are scaled by what the trials of this launch took."""
        finished = [(trial, end.seconds) for trial, end in self.ended if end.outcome == Outcome.FINISHED]
        running = {trial: progress.seconds_left for trial, progress in self.running}
        over = {trial for trial, _ in self.ended}
        waiting = [trial for trial in self.trials if trial not in running and trial not in over]
        return seconds_left(self.plan, running, waiting, finished)

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
        for trial, progress in self.running:
            table.add_row(
                f"{trial.model.title} seed {trial.seed}",
                f"{progress.iteration} / {trial.recipe.iterations}",
                percent(progress.train_error_pct),
                "-" if progress.seconds_left is None else duration(progress.seconds_left),
            )
        return Group(self.summary(), table)


@contextmanager
def watching(trials: Sequence[Trial], execution: Execution, console: Console, plan: Plan) -> Iterator[None]:
    """Show the trials' heartbeat, and what was predicted of it, until the block ends."""
    watch, stop = Watch(trials, execution, plan), threading.Event()
    rest = LOOK_SECONDS if atomic.is_local(execution.storage) else 10 * LOOK_SECONDS
    live = Live(watch.table(), console=console, transient=True, refresh_per_second=2) if console.is_terminal else None

    def show() -> None:
        said = time.monotonic()
        while True:
            stopping = stop.wait(rest)
            new = watch.look()
            for number, (trial, end) in enumerate(new, len(watch.ended) - len(new) + 1):
                error = ending(end.outcome, end.train_error_pct)
                console.print(
                    f"[{number}/{len(trials)}] {trial.id}: {error}"
                    f" after {end.iteration} iterations, {duration(end.seconds)}"
                    f" (predicted {duration(plan[trial].seconds)})",
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


def ending(outcome: Outcome | None, train_error_pct: float | None) -> str:
    """How a trial ended: `12.5 % training error`; a detector has none."""
    if outcome == Outcome.DIVERGED or train_error_pct is None:
        return str(outcome)
    return f"{percent(train_error_pct)} training error"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
