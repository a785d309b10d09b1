"""Trials in this process, one after another: `--local`. Owns the attempt at one trial, as Ray's workers make it too."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from study.execution import Execution
from study.spec import InputError, Trial
from study.store.account import Failure, Outcome

if TYPE_CHECKING:
    from study.training.distributed import Peers

log = logging.getLogger(__name__)
Tags = Mapping[str, dict[str, str]]  # of every trial, by its id


def attempt(
    trial: Trial, execution: Execution, tags: dict[str, str], peers: "Peers | None" = None
) -> Outcome | Failure:
    """Run the trial. Bad input ends it like any other failure that another attempt cannot mend.

    Raises what the trial raises while it has retries left.
    """
    from study.run.worker import run_trial  # here: with torch, which launchers and Ray's driver need not load

    try:
        return run_trial(trial, execution, tags, peers) if peers else run_trial(trial, execution, tags)
    except InputError as error:
        return Failure(str(error))


def run_locally(trials: Sequence[Trial], execution: Execution, tags: Tags, stopped: Callable[[], bool]) -> None:
    """Run the trials in this order until `stopped()`."""
    for trial in trials:
        outcome: Outcome | Failure | None = None
        while outcome is None and not stopped():
            with suppress(Exception):  # logged by the attempt, and tried again until it returns
                outcome = attempt(trial, execution, tags[trial.id])
        log_failure(trial, outcome)


def log_failure(trial: Trial, outcome: Outcome | Failure | None) -> None:
    """Log why a trial cannot be run here; other outcomes log themselves."""
    if isinstance(outcome, Failure):
        log.error("trial %s failed: %s", trial.id, outcome.message)
