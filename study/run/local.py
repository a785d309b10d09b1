"""Trials in this process, one after another: `--local`.

Owns what Ray's driver and workers do too: the order of cohorts, and the attempt at one.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from study import cost
from study.execution import Execution
from study.run.cohorts import cohorts, longest_first, name
from study.run.placement import Cohort, Node, this_machine
from study.spec import InputError, Trial
from study.store.account import Failure, Outcome, has_result

if TYPE_CHECKING:
    from study.training.distributed import Peers

log = logging.getLogger(__name__)
Tags = Mapping[str, dict[str, str]]  # of every trial, by its id


def cohorts_to_run(trials: Sequence[Trial], execution: Execution, nodes: Sequence[Node], tags: Tags) -> list[Cohort]:
    """The trials as cohorts for these nodes, longest first by what was predicted of each."""
    return longest_first(cohorts(trials, execution, nodes), lambda trial: predicted_seconds(trial, tags))


def predicted_seconds(trial: Trial, tags: Tags) -> float:
    """What the tags of the trial predict, or else constants."""
    return float(tags[trial.id].get("predicted_seconds", cost.predicted_seconds(trial)))


def attempt(
    cohort: Cohort, execution: Execution, tags: Tags, peers: "Peers | None" = None
) -> Sequence[Outcome] | Failure:
    """Run the cohort. Bad input ends it like any other failure that another attempt cannot mend.

    Raises what its trials raise while they have retries left.
    """
    from study.run.worker import run_cohort  # here: with torch, which launchers and Ray's driver need not load

    size = sum(not has_result(execution.trial_folder(trial.id)) for trial in cohort)
    tags = {trial.id: {**tags[trial.id], "cohort": str(size)} for trial in cohort}
    try:
        return run_cohort(cohort, execution, tags, peers) if peers else run_cohort(cohort, execution, tags)
    except InputError as error:
        return Failure(str(error))


def run_locally(trials: Sequence[Trial], execution: Execution, tags: Tags, stopped: Callable[[], bool]) -> None:
    """Run the trials one after another, or cohort after cohort, until `stopped()`."""
    for cohort in cohorts_to_run(trials, execution, [this_machine(execution)], tags):
        end: Sequence[Outcome] | Failure | None = None
        while end is None and not stopped():
            with suppress(Exception):  # logged by the attempt, and tried again until it returns
                end = attempt(cohort, execution, tags)
        if isinstance(end, Failure):
            log_failure(cohort, end)


def log_failure(cohort: Cohort, failure: Failure) -> None:
    """Log why a cohort cannot be run here; other outcomes log themselves."""
    log.error("%s failed: %s", name(cohort), failure.message)
