"""What is known of trials: their accounts in the store, else what MLflow has.

Reads only.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from commands.options import Selection
from study.run.forecast import Accounts
from study.spec import THIS_VERSION, Trial, Version
from study.store import versions
from study.store.account import Account, Outcome, read_account
from study.store.layout import Store
from study.store.records import Run, problem_of

SHOWN = ("cohort", "device", "predicted_seconds", "processes", "seconds")  # tags that a standing is made of
READERS = 16  # threads that read accounts: those of an object store take their time


def accounts(selected: Selection, checked: bool = False) -> dict[str, Account]:
    """The account of each trial that has one, by id: its folder's, or else what MLflow has; {} before the first launch.

    If `checked`, the curves of results are read: one that is damaged is 'unusable', with what to do as its reason.
    """
    execution, trials = selected.execution, selected.trials

    def account_of(trial: Trial) -> Account:
        folder = execution.trial_folder(trial.id)
        account = read_account(folder)
        problem = problem_of(folder, trial, account) if checked and account.has_result else ""
        return replace(account, outcome=Outcome.UNUSABLE, reason=problem) if problem else account

    with ThreadPoolExecutor(READERS) as readers:
        pairs = zip(trials, readers.map(account_of, trials), strict=True)
        known = {trial.id: account for trial, account in pairs if account.outcome != Outcome.MISSING}
    unknown = [trial for trial in trials if trial.id not in known]
    if unknown and (execution.tracking_uri or Store(execution.storage).database.exists()):
        from study.store.mlflow import reader  # a second that is spared where the store knows every trial

        known |= {run.trial.id: as_account(run) for run in reader.read(execution, unknown, records=False)}
    return known


def other_versions(selected: Selection) -> dict[Version, int]:
    """How many trials of the store are of another schema or protocol, which this code cannot use, by version."""
    return versions.others(selected.execution.storage, {trial.id for trial in selected.trials})


def versions_line(others: Mapping[Version, int]) -> str:
    """`64 trials in this store are of another schema or protocol (64 of schema 2, protocol 1) ...`; '' for none."""
    if not others:
        return ""
    which = "; ".join(f"{count} of {version}" for version, count in others.items())
    return (
        f"{sum(others.values())} trials in this store are of another schema or protocol ({which});"
        f" this code has {THIS_VERSION} and does not use them"
    )


def plain_versions(others: Mapping[Version, int]) -> list[dict[str, int]]:
    """The same for scripts."""
    return [version._asdict() | {"trials": count} for version, count in others.items()]


def as_account(run: Run) -> Account:
    """What MLflow knows of a trial."""
    return Account(
        outcome=run.outcome,
        reason=run.tags.get("reason", ""),
        cause=run.tags.get("cause", ""),
        tags=run.tags,
    )


def for_standing(account: Account) -> Account:
    """Without the tags that no standing shows: whoever looks on for days has one a trial."""
    return replace(account, tags={name: account.tags[name] for name in SHOWN if name in account.tags})


def reason(account: Account) -> str:
    """Why a trial has no result, in one line: how often it failed, and the last reason."""
    lines = account.reason.strip().splitlines()
    return (f"(failed {account.failures} times) " if account.failures > 1 else "") + (lines[0] if lines else "")


def compared(known: Accounts, trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """(predicted, taken) seconds of those trials that were predicted before they ran, and finished."""
    tags = [known[trial.id].tags for trial in trials if trial.id in known and _finished(known[trial.id])]
    both = [one for one in tags if {"predicted_seconds", "seconds"} <= one.keys()]
    return [(float(one["predicted_seconds"]), float(one["seconds"])) for one in both]


def _finished(account: Account) -> bool:
    return account.outcome == Outcome.FINISHED
