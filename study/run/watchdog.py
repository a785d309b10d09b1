"""Ends the processes of trials that have fallen silent, so that the engine starts these trials again elsewhere.

Knows accounts and heartbeats, not the engine: whoever starts the watchdog passes how a process is killed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from study.execution import Execution
from study.periodic import every
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, read_account
from study.store.layout import TrialFolder

log = logging.getLogger(__name__)


@contextmanager
def killing_the_silent(
    trials: Sequence[Trial], execution: Execution, kill: Callable[[Account], None]
) -> Iterator[None]:
    """While the block runs, `kill` the process of a trial of this launch whose heartbeat has stopped.

    The trials of a cohort fall silent together; their process is killed once.
    """
    last: dict[str, tuple[heartbeat.Version, float]] = {}  # by trial: its last beat, and when it was first seen

    def check() -> None:
        silent: dict[object, tuple[Account, list[str]]] = {}  # by process
        for trial in trials:
            folder, now = execution.trial_folder(trial.id), time.monotonic()
            file = TrialFolder(folder).progress
            beat = heartbeat.version(file)
            if last.setdefault(trial.id, (beat, now))[0] != beat:
                last[trial.id] = beat, now
            if now - last[trial.id][1] <= heartbeat.SILENCE_SECONDS:
                continue
            account = read_account(folder)
            runs = account.outcome == Outcome.RUNNING and account.launch == execution.launch
            if runs and heartbeat.version(file) == beat:  # and has not begun just now
                silent.setdefault(account.process, (account, []))[1].append(trial.id)
            last[trial.id] = beat, now  # it was killed, it waits, or it has ended
        for account, ids in silent.values():
            log.warning("silent: %s; the process is killed, and training goes on in another", ", ".join(ids))
            kill(account)

    with every(heartbeat.BEAT_SECONDS, check):
        yield
