"""Run a selection: what is missing is predicted, launched, watched and counted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from commands.live import watching
from commands.options import Selection
from commands.plan import accuracy, check_budget, check_space, plan_of
from experiments.recipes import deviations
from study.execution import Execution
from study.run.forecast import Accounts, Plan, has_result
from study.spec import Trial
from study.store import ledger

READERS = 16  # threads that read accounts: those of an object store take their time


def run_missing(selected: Selection, console: Console) -> int:
    """Launch every selected trial that has no result; returns how many then still have none, after naming them.

    Raises `InputError` before anything runs where the budget or the disk is too small.
    """
    plan = plan_of(selected, accounts(selected), lambda text: console.print(text, soft_wrap=True))
    check_budget(plan, selected.arguments)
    check_space(plan, selected.execution.storage)
    from study.run.launch import launch  # with torch and mlflow: seconds that commands which only look do not spend

    with ExitStack() as looking:

        def on_start(todo: list[Trial], execution: Execution) -> None:
            console.print(
                f"{len(todo)} of {len(selected.serves)} trials of profile {selected.profile.name} to run,"
                f" {plan.at_once} at a time, longest first",
                soft_wrap=True,
            )
            looking.enter_context(watching(todo, execution, console, plan))

        launch(selected.trials, selected.execution, _tags(selected, plan), on_start)
    said = accounts(selected, checked=True)
    missing = [trial for trial in selected.trials if not has_result(said, trial)]
    for trial in missing:
        console.print(f"no result: {trial.id} {reason(said.get(trial.id, {}))}", markup=False, soft_wrap=True)
    if off := accuracy(compared(said, [trial for trial in selected.trials if trial.id in plan.placed])):
        console.print(off, soft_wrap=True)
    console.print(f"{len(selected.serves) - len(missing)} of {len(selected.serves)} trials have a result")
    return len(missing)


def _tags(selected: Selection, plan: Plan) -> dict[str, dict[str, str]]:
    """What each run is to say of itself: why it is run, how it departs from the paper, what was expected of it."""
    tags = {}
    for each in plan.forecasts:
        expected = {"predicted_seconds": f"{each.seconds:.2f}", "predicted_from": each.source}
        if each.probed_gpu_bytes:
            expected["probed_gpu_bytes"] = str(each.probed_gpu_bytes)
        tags[each.trial.id] = {
            "profile": selected.profile.name,
            "experiments": ", ".join(selected.serves[each.trial]),
            "deviations": "; ".join(deviations(each.trial)) or "none",
            **expected,
        }
    return tags


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
        from study.store.mlflow import reader  # with mlflow: a second that is spared where the ledger knows every trial

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
