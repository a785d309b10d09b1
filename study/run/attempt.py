"""One attempt at a trial: its account, its heartbeat, and whether it is to stop.

Owns everything that a worker writes while it trains, and what it does when the disk is full or its launch ends. Does
not know how a trial is trained.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psutil

from study.execution import Execution
from study.periodic import every
from study.spec import Trial
from study.store import atomic, heartbeat, provenance, records
from study.store.account import REASON_CHARACTERS, Account, Outcome, read_account, write_account
from study.store.heartbeat import Progress, Pull
from study.store.layout import TrialFolder
from study.training.checkpoints import newest_iteration
from study.training.state import TrainState

HEARTBEAT_SECONDS = 1.0  # ten times as long where the storage is an object store
ROOM_SECONDS = 2.0  # between checks whether a full disk has room again
DEATHS = 3  # deaths at one and the same point that are forgiven beyond the retries
log = logging.getLogger(__name__)


class Attempt:
    """One attempt at a trial.

    A background thread writes the heartbeat, because one update of a deep net can take a minute. The first beat comes
    before the account becomes 'running': a running trial that falls silent has beaten at least once in this attempt.
    """

    def __init__(self, trial: Trial, execution: Execution, tags: dict[str, str]) -> None:
        self.folder, self.execution = execution.trial_folder(trial.id), execution
        self.files = TrialFolder(self.folder)
        self.schema = records.columns(trial)
        self.leash = heartbeat.Leash(execution) if execution.launch else None
        self.stopping = self.orphaned = False
        self.outcome: Outcome | None = None  # how it ended
        self._check_leash()
        before = read_account(self.folder)
        if before.launch != execution.launch or not execution.launch:  # counts are a launch's
            before = Account(started=before.started)
        deaths, died_at = before.deaths, before.died_at
        if before.outcome == Outcome.RUNNING:  # its process could not even write how it ended
            reached = newest_iteration(self.files.checkpoints)
            deaths, died_at = (deaths + 1 if died_at == reached else 1), reached
        self.number = before.failures + 1
        self.dies_here_too_often = (
            f"its process died {deaths} times in a row after iteration {died_at}, without a word: killed from outside,"
            " or by the system because memory ran out"
            if deaths > execution.retries + DEATHS
            else ""
        )
        started = before.started or int(time.time() * 1000)
        began = datetime.fromtimestamp(started / 1000, UTC).isoformat(timespec="seconds")
        self.account = Account(
            launch=execution.launch,
            started=started,
            failures=before.failures,
            deaths=deaths,
            died_at=died_at,
            outcome=Outcome.RUNNING,
            host=platform.node(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            tags={**tags, "storage": str(execution.storage.absolute()), "started": began},
        )
        last = heartbeat.read(self.folder) or Progress()
        self.seconds_before = last.seconds
        self.progress = replace(last, launch=execution.launch, seconds_left=None, outcome=None)
        self._beat_once()
        self.write(lambda: write_account(self.folder, self.account))
        if provenance.patch():
            self.write(lambda: atomic.write(self.files.patch, provenance.patch().encode()))
        rest = HEARTBEAT_SECONDS if atomic.is_local(self.folder) else 10 * HEARTBEAT_SECONDS
        self._heart = every(rest, self._beat)

    def __enter__(self) -> "Attempt":
        self._heart.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._heart.__exit__(*error)
        self._beat_once()

    def reached(self, state: TrainState, seconds: float, seconds_left: float) -> None:
        """Set what the next heartbeat writes."""
        error_pct = state.records[-1].get("train_error_pct") if state.records else None
        self.progress = Progress(self.execution.launch, state.iteration, error_pct, seconds, seconds_left)

    def checkpoint(self, state: TrainState) -> None:
        """Keep the state and the records so far; of a trial that another process has sealed meanwhile, nothing."""
        if read_account(self.folder).has_result:
            self.stopping = self.orphaned = True
            return
        self.write(lambda: state.save(self.files.checkpoints))
        self.write(lambda: records.keep_records(self.folder, state.records, self.schema))

    def seal(
        self,
        outcome: Outcome,
        state: TrainState,
        seconds: float,
        tags: dict[str, str],
        layers: list[dict[str, Any]] | None,
        evaluations: Sequence[dict[str, Any]] = (),
        wrong: records.Wrong | None = None,
    ) -> Outcome:
        """Make the outcome a result, unless another process has made one. Returns the outcome of the result."""
        sealed = read_account(self.folder)
        self.outcome = sealed.outcome if sealed.has_result else outcome
        if sealed.has_result:
            return self.outcome
        account = replace(self.account, tags=self.account.tags | tags)
        self.reached(state, seconds, seconds_left=0.0)
        self.progress = replace(self.progress, outcome=outcome)
        self.write(
            lambda: records.seal_result(
                self.folder, outcome, state.records, account, layers, evaluations, self.schema, wrong
            )
        )
        return outcome

    def end(self, outcome: Outcome, reason: str, cause: str = "") -> Outcome:
        """Write why there is no result. An attempt that another one has replaced writes nothing more."""
        present = read_account(self.folder)
        self.outcome = present.outcome if present.has_result else outcome
        if present.has_result:
            return self.outcome
        replaced = self.orphaned or present.process != self.account.process
        failures = self.account.failures + (outcome == Outcome.FAILED)
        self.account = replace(
            self.account, outcome=outcome, reason=reason[:REASON_CHARACTERS], cause=cause, failures=failures
        )
        if not replaced:
            self.write(lambda: write_account(self.folder, self.account))
        return outcome

    def write(self, write: Callable[[], object]) -> None:
        """Write. While the disk is full, wait for room, or for being asked to stop."""
        warned = False
        while True:
            try:
                write()
                return
            except OSError as error:
                if not atomic.is_full(error):
                    raise
                if not warned:
                    log.warning("the disk of %s is full; the trial goes on when there is room", self.folder)
                    warned = True
                if self.stopping:
                    return
                time.sleep(ROOM_SECONDS)

    def _beat(self) -> None:
        self._beat_once()
        self._check_leash()

    def _beat_once(self) -> None:
        try:
            heartbeat.write(self.folder, self.progress)
        except OSError as error:  # of a network's file system, for a moment
            log.warning("no heartbeat: %s", error)

    def _check_leash(self) -> None:
        pull = self.leash.pulled() if self.leash else None
        self.orphaned = self.orphaned or pull == Pull.REPLACED
        self.stopping = self.stopping or pull is not None
