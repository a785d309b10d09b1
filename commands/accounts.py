"""What is known of trials: their accounts in the store, else what MLflow has.

Reads only.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from commands.options import Selection
from study.run.forecast import Accounts
from study.spec import Trial
from study.store import ledger

READERS = 16  # threads that read accounts: those of an object store take their time


def accounts(selected: Selection, checked: bool = False) -> dict[str, dict[str, Any]]:
    """What is known of each trial, by id: its ledger's account or else what MLflow has; {} before the first launch.

    If `checked`, the curves of results are read: one that is damaged is 'unusable', with what to do as its reason.
    """
    execution, trials = selected.execution, selected.trials

    def account(trial: Trial) -> dict[str, Any]:
        folder = execution.trial_folder(trial.id)
        said = ledger.account(folder)
        wrong = ledger.problem(folder, trial, said) if checked and said.get("outcome") in ledger.RESULTS else ""
        return {**said, "outcome": ledger.UNUSABLE, "reason": wrong} if wrong else said

    with ThreadPoolExecutor(READERS) as readers:
        read = readers.map(account, trials)
        found = {trial.id: said for trial, said in zip(trials, read, strict=True) if said}
    unknown = [trial for trial in trials if trial.id not in found]
    if unknown and (execution.tracking_uri or (execution.storage / "mlflow.db").exists()):
        from study.store.mlflow import reader  # a second that is spared where the store knows every trial

        for run in reader.read(execution, unknown, records=False):
            found[run.trial.id] = {"outcome": run.outcome, "reason": run.tags.get("reason", ""), "tags": run.tags}
    return found


def reason(said: dict[str, Any]) -> str:
    """Why a trial has no result, in one line: how often it failed, and what it said last."""
    lines = str(said.get("reason", "")).strip().splitlines()
    failures = said.get("failures", 0)
    return (f"(failed {failures} times) " if failures > 1 else "") + (lines[0] if lines else "")


def compared(said: Accounts, trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """(predicted, taken) seconds of those trials that were predicted before they ran, and finished."""
    finished = [said[trial.id]["tags"] for trial in trials if said.get(trial.id, {}).get("outcome") == "finished"]
    expected = [tags for tags in finished if "predicted_seconds" in tags]
    return [(float(tags["predicted_seconds"]), float(tags["seconds"])) for tags in expected]
