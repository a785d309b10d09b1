"""Where a study stands: how many trials have a result, what runs now, and how many seconds are left.

Owns the one model that `status`, `--follow`, the view of a run, the watch page and Prometheus show. It is computed from
accounts and progress files; who reads these again and again is `commands/onlooker.py`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from commands.accounts import plain_versions, reason
from commands.options import Selection
from study.cost import duration
from study.run import cohorts, timing
from study.run.forecast import (
    PAIRS,
    Accounts,
    Forecast,
    Interval,
    Plan,
    forecasts,
    has_result,
    interval,
    node_of,
    seconds_left,
)
from study.run.placement import Node, Share
from study.spec import Version
from study.store import heartbeat
from study.store.account import RESULTS, Account, Outcome
from study.store.heartbeat import Progress

STATES = (Outcome.MISSING, Outcome.RUNNING, Outcome.INTERRUPTED, Outcome.FAILED, Outcome.UNUSABLE, *RESULTS)
WAITING = (Outcome.MISSING, Outcome.INTERRUPTED)  # what a launch has still to start, or to go on with
TO_RUN = (*WAITING, Outcome.FAILED, Outcome.UNUSABLE)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial. `predicted_seconds` is what was predicted before it ran, if it has run."""

    id: str
    title: str  # its net's, or its detector's
    seed: int
    outcome: Outcome
    iteration: int
    iterations: int
    train_error_pct: float | None
    seconds_left: float | None  # of a running trial, by its own pace
    predicted_seconds: float
    seconds: float | None  # of a cohort's, its equal part
    cohort: int  # trials that are trained together with it, itself included
    reason: str
    cause: str  # what kind of failure it is; '' if there is none, or the account is from before it was kept

    def plain(self) -> dict[str, Any]:
        """A trial as `status --json` prints it."""
        row = asdict(self)
        del row["title"], row["seed"], row["cause"]
        return row


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A study at one moment."""

    profile: str
    rows: list[Row]  # of every planned trial
    seconds_left: float  # until the last one ends
    interval: Interval | None  # None until enough trials have finished
    ended: Sequence[str] = ()  # ids of results, in the order in which they were seen to end
    others: Mapping[Version, int] = field(default_factory=dict)  # trials of the store that this code cannot use
    launch: str = ""  # 'running', 'silent', 'none', or '' where nobody looked

    def of(self, *outcomes: Outcome) -> list[Row]:
        """The trials with one of these outcomes."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def counts(self) -> dict[Outcome, int]:
        """Trials in each of `STATES`."""
        counts = Counter(row.outcome for row in self.rows)
        return {state: counts[state] for state in STATES}

    @property
    def complete(self) -> bool:
        return len(self.of(*RESULTS)) == len(self.rows)

    @property
    def rate(self) -> float:
        """Iterations a second of the trials that run, by the mean pace of each."""
        running = self.of(Outcome.RUNNING)
        return sum(row.iteration / (row.seconds * row.cohort) for row in running if row.seconds)

    def plain(self) -> dict[str, Any]:
        """What `status --json` prints."""
        return {
            "profile": self.profile,
            "trials": [row.plain() for row in self.rows],
            "seconds_left": self.seconds_left,
            "interval": asdict(self.interval) if self.interval else None,
            "other_versions": plain_versions(self.others),
        }

    def summary(self) -> str:
        """Counts, the time left, and what is wrong with the launch, in one line."""
        if self.complete or self.launch in ("", "running"):
            remark = ""
        elif self.launch == "none":
            remark = "; no launch is running"
        else:
            remark = "; the launch has been silent for two minutes"
        return f"{self.sentence()}; {self.time_left()}{remark}"

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
        """`12 of 48 trials have a result, 2 running, 34 waiting`, with diverged and failed ones if there are any."""
        counts = self.counts
        waiting, failed = sum(counts[state] for state in WAITING), counts[Outcome.FAILED] + counts[Outcome.UNUSABLE]
        parts = [f"{len(self.of(*RESULTS))} of {len(self.rows)} trials have a result"]
        parts += [f"{counts[Outcome.DIVERGED]} of them diverged"] if counts[Outcome.DIVERGED] else []
        parts += [f"{counts[Outcome.RUNNING]} running", f"{waiting} waiting"]
        parts += [f"{failed} failed"] if failed else []
        return ", ".join(parts)


def forecasts_of(selected: Selection, known: Accounts) -> list[Forecast]:
    """What each trial is predicted to take on this machine, by probes and by what trials have taken."""
    execution, node = selected.execution, node_of(selected.execution)
    left = [trial for trial in selected.trials if not has_result(known, trial)]
    going = [trial for trial in left if trial.id in known and known[trial.id].outcome == Outcome.RUNNING]
    together = cohorts.running(going, known)
    together += cohorts.cohorts([trial for trial in left if trial not in going], execution, [node])
    return forecasts(selected.trials, execution, node, known, timing.load(execution.storage), together)


def standing_of(
    selected: Selection,
    known: Accounts,
    expected: Sequence[Forecast],
    room: Node | None = None,
    ended: Sequence[str] = (),
    launch: str = "",
    others: Mapping[Version, int] | None = None,
) -> Standing:
    """The study, from its accounts and progress files, with so much room for trials (default: this machine's)."""
    rows = [_row(selected, forecast, known.get(forecast.trial.id, Account())) for forecast in expected]
    pairs = list(zip(expected, rows, strict=True))
    finished = [(one.trial, row.seconds) for one, row in pairs if row.outcome == Outcome.FINISHED and row.seconds]
    pace = {one.trial: row.seconds_left for one, row in pairs if row.outcome == Outcome.RUNNING}
    running = {
        cohort: max((seconds for trial in cohort if (seconds := pace[trial]) is not None), default=None)
        for cohort in cohorts.running(pace, known)
    }
    node = _holding(room or node_of(selected.execution), [one.share for one in expected])
    plan = Plan([node], list(expected), {})
    waiting = cohorts.cohorts([one.trial for one, row in pairs if row.outcome in TO_RUN], selected.execution, [node])
    longest_first = cohorts.longest_first(waiting, lambda trial: plan[trial].seconds)
    left = seconds_left(plan, running, longest_first, finished)
    return Standing(
        profile=selected.profile.name,
        rows=rows,
        seconds_left=left,
        interval=interval(left, [(plan[trial].seconds, took) for trial, took in finished]),
        ended=tuple(ended),
        launch=launch,
        others=others or {},
    )


def _holding(room: Node, shares: Iterable[Share]) -> Node:
    """The room, or more where a trial needs more: its nodes are others than this machine."""
    for share in shares:
        cpus, gpus = max(room.cpus, share.all_cpus), max(room.gpus, math.ceil(share.all_gpus))
        room = replace(room, cpus=cpus, gpus=gpus)
    return room


def _row(selected: Selection, expected: Forecast, account: Account) -> Row:
    trial, execution = expected.trial, selected.execution
    tags, outcome = account.tags, account.outcome
    if outcome == Outcome.RUNNING and execution.launch and account.launch != execution.launch:
        outcome = Outcome.INTERRUPTED  # an earlier launch was killed while it ran
    progress = None if outcome == Outcome.MISSING else heartbeat.read(execution.trial_folder(trial.id))
    if progress is None:
        progress = Progress(iteration=trial.recipe.iterations if outcome == Outcome.FINISHED else 0)
    return Row(
        id=trial.id,
        title=trial.title,
        seed=trial.seed,
        outcome=outcome,
        iteration=progress.iteration,
        iterations=trial.recipe.iterations,
        train_error_pct=_finite(progress.train_error_pct),
        seconds_left=_finite(progress.seconds_left) if outcome == Outcome.RUNNING else None,
        predicted_seconds=round(float(tags.get("predicted_seconds", expected.seconds)), 2),
        seconds=round(float(tags["seconds"]), 2) if "seconds" in tags else _finite(progress.seconds or None),
        cohort=account.cohort if "cohort" in tags else expected.cohort,
        reason=reason(account),
        cause=account.cause,
    )


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None
