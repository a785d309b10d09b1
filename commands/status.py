"""Where a study stands: how many trials have a result, what runs now, and how many seconds are left, give or take.

Owns the numbers that `status`, the watch page and Prometheus show, computed from what trials say of themselves: their
accounts and progress files in the store, and MLflow for what the store does not know. Reads only: it writes nothing,
takes no lock that a launch needs, and talks neither to trials nor to Ray.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from commands.options import Selection
from commands.run import accounts, reason
from study.cost import duration
from study.run import timing
from study.run.forecast import PAIRS, Accounts, Forecast, Interval, Plan, forecasts, interval, node_of, seconds_left
from study.run.placement import Node, Share
from study.spec import InputError
from study.store import heartbeat
from study.store.account import RESULTS, Account, Outcome
from study.store.heartbeat import Progress
from study.store.layout import Store

STATES = (Outcome.MISSING, Outcome.RUNNING, Outcome.INTERRUPTED, Outcome.FAILED, Outcome.UNUSABLE, *RESULTS)
WAITING = (Outcome.MISSING, Outcome.INTERRUPTED)  # what a launch has still to start, or to go on with
TO_RUN = (*WAITING, Outcome.FAILED, Outcome.UNUSABLE)
TRACKER_SECONDS = 10.0  # between questions to MLflow


@dataclass(frozen=True)
class Row:
    """One trial as `status --json` prints it. What was predicted before it ran counts, if it has run."""

    id: str
    outcome: Outcome
    iteration: int
    iterations: int
    train_error_pct: float | None
    seconds_left: float | None  # of a running trial, by its own pace
    predicted_seconds: float
    seconds: float | None
    reason: str


@dataclass(frozen=True)
class Standing:
    """A study at one moment."""

    profile: str
    rows: list[Row]  # of every planned trial
    seconds_left: float  # until the last one ends
    interval: Interval | None  # None until enough trials have finished
    ended: list[str] = field(default_factory=list)  # ids of results, in the order in which they were seen to end
    launch: str = ""  # 'running', 'silent', 'none', or '' where nobody looked

    def of(self, *outcomes: Outcome) -> list[Row]:
        """The trials that stand so."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def counts(self) -> dict[Outcome, int]:
        """Trials in each of `STATES`."""
        found = Counter(row.outcome for row in self.rows)
        return {state: found[state] for state in STATES}

    @property
    def complete(self) -> bool:
        return len(self.of(*RESULTS)) == len(self.rows)

    @property
    def rate(self) -> float:
        """Iterations a second of the trials that run, by the mean pace of each."""
        return sum(row.iteration / row.seconds for row in self.of(Outcome.RUNNING) if row.seconds)

    def remark(self) -> str:
        """What one should know of the launch, to follow a summary; '' while all is well."""
        if self.complete or self.launch in ("", "running"):
            return ""
        return "; no launch is running" if self.launch == "none" else "; the launch has been silent for two minutes"

    def plain(self) -> dict[str, Any]:
        """What `status --json` prints."""
        return {
            "profile": self.profile,
            "trials": [asdict(row) for row in self.rows],
            "seconds_left": self.seconds_left,
            "interval": asdict(self.interval) if self.interval else None,
        }

    def time_left(self) -> str:
        """`about 4 min left, between 3 min and 6 min (80 %)`."""
        if self.complete:
            return "nothing is left to run"
        about = f"about {duration(self.seconds_left)} left"
        if self.interval is None:
            return f"{about}; how far off that may be is unknown until {PAIRS} trials have finished"
        low, high = duration(self.interval.low), duration(self.interval.high)
        return f"{about}, between {low} and {high} ({100 * self.interval.coverage:.0f} %)"

    def sentence(self) -> str:
        """`12 of 48 trials have a result, 2 running, 34 waiting`, and what else there is."""
        counts = self.counts
        waiting, failed = sum(counts[state] for state in WAITING), counts[Outcome.FAILED] + counts[Outcome.UNUSABLE]
        said = [f"{len(self.of(*RESULTS))} of {len(self.rows)} trials have a result"]
        said += [f"{counts[Outcome.DIVERGED]} of them diverged"] if counts[Outcome.DIVERGED] else []
        said += [f"{counts[Outcome.RUNNING]} running", f"{waiting} waiting"]
        return ", ".join(said + ([f"{failed} failed"] if failed else []))


def forecasts_of(selected: Selection, said: Accounts) -> list[Forecast]:
    """What each trial is predicted to take on this machine, by probes and by what trials have taken."""
    execution = selected.execution
    return forecasts(selected.trials, execution, node_of(execution), said, timing.load(execution.storage))


def standing_of(
    selected: Selection,
    said: Accounts,
    forecasts: list[Forecast],
    room: Node | None = None,
    ended: Sequence[str] = (),
    launch: str = "",
) -> Standing:
    """The study, from its accounts and progress files, with so much room for trials (default: this machine's)."""
    rows = [_row(selected, each, said.get(each.trial.id, Account())) for each in forecasts]
    stands = list(zip(forecasts, rows, strict=True))
    finished = [(each.trial, row.seconds) for each, row in stands if row.outcome == Outcome.FINISHED and row.seconds]
    running = {each.trial: row.seconds_left for each, row in stands if row.outcome == Outcome.RUNNING}
    longest_first = sorted((each for each, row in stands if row.outcome in TO_RUN), key=lambda each: -each.seconds)
    plan = Plan([_holding(room or node_of(selected.execution), [each.share for each in forecasts])], forecasts, {})
    left = seconds_left(plan, running, [each.trial for each in longest_first], finished)
    off = interval(left, [(plan[trial].seconds, took) for trial, took in finished])
    return Standing(selected.profile.name, rows, left, off, list(ended), launch)


def _holding(room: Node, shares: Iterable[Share]) -> Node:
    """The room, or more where a trial needs more: its nodes are others than this machine."""
    for share in shares:
        cpus, gpus = max(room.cpus, share.all_cpus), max(room.gpus, math.ceil(share.all_gpus))
        room = replace(room, cpus=cpus, gpus=gpus)
    return room


def _row(selected: Selection, expected: Forecast, account: Account) -> Row:
    trial = expected.trial
    tags, outcome = account.tags, account.outcome
    progress = None if outcome == Outcome.MISSING else heartbeat.read(selected.execution.trial_folder(trial.id))
    if progress is None:
        progress = Progress(iteration=trial.recipe.iterations if outcome == Outcome.FINISHED else 0)
    return Row(
        id=trial.id,
        outcome=outcome,
        iteration=progress.iteration,
        iterations=trial.recipe.iterations,
        train_error_pct=_finite(progress.train_error_pct),
        seconds_left=_finite(progress.seconds_left) if outcome == Outcome.RUNNING else None,
        predicted_seconds=round(float(tags.get("predicted_seconds", expected.seconds)), 2),
        seconds=round(float(tags["seconds"]), 2) if "seconds" in tags else _finite(progress.seconds or None),
        reason=reason(account),
    )


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None


@dataclass
class Tracked:
    """What MLflow last said: accounts by id, None before its first answer; `problem` while it is out of reach."""

    accounts: dict[str, Account] | None = None
    problem: str = ""

    def results(self) -> set[str]:
        return {id for id, account in (self.accounts or {}).items() if account.has_result}


@contextmanager
def tracked(selected: Selection, rest: float = TRACKER_SECONDS) -> Iterator[Tracked]:
    """Ask MLflow now and then, in a thread of its own: a server that is out of reach keeps whoever asks waiting."""
    found, over = Tracked(), threading.Event()
    execution = selected.execution

    def ask() -> None:
        while True:
            if execution.tracking_uri or Store(execution.storage).database.exists():  # reading would create it
                from study.store.mlflow import reader  # with mlflow: a second that whoever looks on need not wait

                try:
                    runs = reader.read(execution, selected.trials, records=False)
                    found.accounts = {
                        run.trial.id: Account(outcome=run.outcome, reason=run.tags.get("reason", ""), tags=run.tags)
                        for run in runs
                    }
                    found.problem = ""
                except InputError as error:
                    found.problem = str(error)
            if over.wait(rest):
                return

    threading.Thread(target=ask, daemon=True).start()  # not waited for: a server may be out of reach for a minute
    try:
        yield found
    finally:
        over.set()


class Onlooker:
    """Looks at one study again and again. A trial that has a result is read once, its curve verified."""

    def __init__(self, selected: Selection, tracker: Tracked, clock: Callable[[], float] = time.monotonic) -> None:
        self.selected, self.tracker, self.clock = selected, tracker, clock
        self.accounts: dict[str, Account] = {}
        self.ended: list[str] = []
        self.forecasts: list[Forecast] = []
        self.launch_file, self.at = Store(selected.execution.storage).launch, clock()
        self.seen: heartbeat.Version = None
        self.room: tuple[str, Node] | None = None  # a launch, and what its trials were seen to take at once

    def look(self) -> Standing:
        """The study now."""
        known = {id for id, account in self.accounts.items() if account.has_result}
        changing = {folder.name for folder in Store(self.selected.execution.storage).begun()} - known
        news = {trial: of for trial, of in self.selected.serves.items() if trial.id in changing}
        self.accounts |= accounts(replace(self.selected, serves=news), checked=True)
        said = {**(self.tracker.accounts or {}), **self.accounts}
        new = {id for id, account in said.items() if account.has_result} - set(self.ended)
        self.ended += sorted(new, key=lambda id: (_ended(said[id]), id))
        if new or not self.forecasts:  # nothing else changes predictions
            self.forecasts = forecasts_of(self.selected, said)
        return standing_of(self.selected, said, self.forecasts, self._room(), self.ended, self._launch())

    def _launch(self) -> str:
        """Whether somebody trains: a launcher that is alive touches its file every few seconds."""
        now = heartbeat.version(self.launch_file)
        if now != self.seen:
            self.seen, self.at = now, self.clock()
        if now is None:
            return "none"
        return "silent" if self.clock() - self.at > heartbeat.SILENCE_SECONDS else "running"

    def _room(self) -> Node | None:
        """The most that trials of this launch were seen to take at once: nobody says how many nodes there are."""
        running = [
            trial
            for trial in self.selected.trials
            if trial.id in self.accounts and self.accounts[trial.id].outcome == Outcome.RUNNING
        ]
        if running:
            launch, execution = self.accounts[running[0].id].launch, self.selected.execution
            shares = [each.share for each in forecasts(running, execution, node_of(execution), {}, {})]
            before = self.room[1] if self.room and self.room[0] == launch else Node(0, 0, 0, 0)
            cpus = max(before.cpus, sum(share.all_cpus for share in shares))
            gpus = max(before.gpus, math.ceil(sum(share.all_gpus for share in shares)))
            self.room = launch, Node(cpus, gpus, 0, 0)
        return self.room[1] if self.room else None


def _ended(account: Account) -> float:
    """When a trial that was not interrupted ended, in seconds, by the clock of its node: for an order, no more."""
    return (account.started or 0) / 1000 + float(account.tags.get("seconds", 0))
