"""Who looks at one study again and again: its folders in the store, and MLflow for what the store does not know.

Reads only: it writes nothing, takes no lock that a launch needs, and talks neither to trials nor to Ray.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from commands.accounts import accounts, as_account, for_standing, other_versions
from commands.options import Selection
from commands.standing import Standing, forecasts_of, standing_of
from study.run import cohorts
from study.run.forecast import Forecast, forecasts, node_of
from study.run.placement import Node
from study.spec import InputError, Trial, Version
from study.store import atomic, heartbeat
from study.store.account import Account, Outcome
from study.store.layout import Store

LOOK_SECONDS = 1.0  # between two looks; ten times as long where each file is a request to an object store
TRACKER_SECONDS = 10.0  # between questions to MLflow
LOOK_PART = 0.1  # of the time may be spent on looks, and as much on questions: both take longer the more trials


@dataclass
class Tracked:
    """MLflow's last answer: accounts by id, None before the first; `problem` while it is out of reach."""

    accounts: Mapping[str, Account] | None = None
    problem: str = ""

    def results(self) -> set[str]:
        return {id for id, account in (self.accounts or {}).items() if account.has_result}


@contextmanager
def tracked(selected: Selection, rest: float = TRACKER_SECONDS) -> Iterator[Tracked]:
    """Ask MLflow now and then, in a thread of its own: a server out of reach must not stop whoever looks on."""
    answer, over = Tracked(), threading.Event()
    execution = selected.execution

    def ask() -> None:
        while True:
            began = time.monotonic()
            if execution.tracking_uri or Store(execution.storage).database.exists():  # reading would create it
                from study.store.mlflow import reader  # with mlflow: a second that the first look does not wait

                try:
                    runs = reader.iterate(execution, selected.trials, records=False)
                    answer.accounts = {run.trial.id: for_standing(as_account(run)) for run in runs}
                    answer.problem = ""
                except InputError as error:
                    answer.problem = str(error)
            if over.wait(max(rest, (time.monotonic() - began) / LOOK_PART)):
                return

    threading.Thread(target=ask, daemon=True).start()  # not waited for: a server may be out of reach for a minute
    try:
        yield answer
    finally:
        over.set()


class Onlooker:
    """Looks at one study again and again. A trial that has a result is read once, its curve verified.

    `room` is what the launch has for its trials; None where that is unknown and follows from what is seen to run.
    """

    def __init__(
        self,
        selected: Selection,
        tracker: Tracked,
        clock: Callable[[], float] = time.monotonic,
        room: Node | None = None,
    ) -> None:
        self.selected, self.tracker, self.clock, self.room = selected, tracker, clock, room
        self.accounts: dict[str, Account] = {}
        self.ended: list[str] = []
        self.expected: list[Forecast] = []
        self.others: dict[Version, int] | None = None  # read once: nobody adds to them
        self.took = 0.0  # seconds of a processor that the last look took
        self.launch_file, self.at = Store(selected.execution.storage).launch, clock()
        self.seen: heartbeat.Version = None
        self.most: tuple[str, Node] | None = None  # a launch, and what its trials were seen to take at once

    @property
    def rest_seconds(self) -> float:
        """Between two looks."""
        least = LOOK_SECONDS if atomic.is_local(self.selected.execution.storage) else 10 * LOOK_SECONDS
        return max(least, self.took / LOOK_PART)

    def look(self) -> Standing:
        """The study now."""
        began = time.thread_time()
        standing = self._look()
        self.took = time.thread_time() - began
        return standing

    def _look(self) -> Standing:
        results = {id for id, account in self.accounts.items() if account.has_result}
        changing = {folder.name for folder in Store(self.selected.execution.storage).begun()} - results
        news = {trial: names for trial, names in self.selected.serves.items() if trial.id in changing}
        read = accounts(replace(self.selected, serves=news), checked=True)
        self.accounts |= {id: for_standing(account) for id, account in read.items()}
        known = {**(self.tracker.accounts or {}), **self.accounts}
        new = {id for id, account in known.items() if account.has_result} - set(self.ended)
        self.ended += sorted(new, key=lambda id: (_ended(known[id]), id))
        if new or not self.expected:  # nothing else changes predictions
            self.expected = forecasts_of(self.selected, known)
        if self.others is None:
            self.others = other_versions(self.selected)
        room = self.room or self._most_at_once()
        return standing_of(self.selected, known, self.expected, room, self.ended, self._launch(), self.others)

    def _launch(self) -> str:
        """Whether somebody trains: a launcher that is alive touches its file every few seconds."""
        now = heartbeat.version(self.launch_file)
        if now != self.seen:
            self.seen, self.at = now, self.clock()
        if now is None:
            return "none"
        return "silent" if self.clock() - self.at > heartbeat.SILENCE_SECONDS else "running"

    def _most_at_once(self) -> Node | None:
        """The most that trials of this launch were seen to take at once: how many nodes there are is not recorded."""
        running = [trial for trial in self.selected.trials if self._runs(trial)]
        if running:
            launch, execution = self.accounts[running[0].id].launch, self.selected.execution
            together = cohorts.running(running, self.accounts)
            expected = forecasts(running, execution, node_of(execution), {}, {}, together)
            share_of = {one.trial: one.share for one in expected}
            shares = [share_of[cohort[0]] for cohort in together]
            before = self.most[1] if self.most and self.most[0] == launch else Node(0, 0, 0, 0)
            cpus = max(before.cpus, sum(share.all_cpus for share in shares))
            gpus = max(before.gpus, math.ceil(sum(share.all_gpus for share in shares)))
            self.most = launch, Node(cpus, gpus, 0, 0)
        return self.most[1] if self.most else None

    def _runs(self, trial: Trial) -> bool:
        return trial.id in self.accounts and self.accounts[trial.id].outcome == Outcome.RUNNING


def _ended(account: Account) -> float:
    """When a trial that was not interrupted ended, in seconds, by the clock of its node: for an order, no more."""
    return (account.started or 0) / 1000 + account.cohort * float(account.tags.get("seconds", 0))
