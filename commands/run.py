"""Run a selection: what is missing is predicted, launched, watched and counted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from commands.live import watching
from commands.options import Selection
from commands.plan import accuracy, check_budget, check_space, plan_of
from experiments.recipes import deviations
from study.execution import Execution
from study.run.forecast import Accounts, Plan, has_result
from study.spec import Trial
from study.store.account import Account, Outcome, read_account
from study.store.layout import Store
from study.store.records import problem_of

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
        console.print(f"no result: {trial.id} {reason(said.get(trial.id, Account()))}", markup=False, soft_wrap=True)
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
        found = {trial.id: account for trial, account in pairs if account.outcome != Outcome.MISSING}
    unknown = [trial for trial in trials if trial.id not in found]
    if unknown and (execution.tracking_uri or Store(execution.storage).database.exists()):
        from study.store.mlflow import reader  # with mlflow: a second that is spared where the store knows every trial

        for run in reader.read(execution, unknown, records=False):
            found[run.trial.id] = Account(outcome=run.outcome, reason=run.tags.get("reason", ""), tags=run.tags)
    return found


def reason(account: Account) -> str:
    """Why a trial has no result, in one line: how often it failed, and the last reason."""
    lines = account.reason.strip().splitlines()
    return (f"(failed {account.failures} times) " if account.failures > 1 else "") + (lines[0] if lines else "")


def compared(said: Accounts, trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """(predicted, taken) seconds of those trials that were predicted before they ran, and finished."""
    known = [said[trial.id] for trial in trials if trial.id in said]
    finished = [account.tags for account in known if account.outcome == Outcome.FINISHED]
    expected = [tags for tags in finished if "predicted_seconds" in tags]
    return [(float(tags["predicted_seconds"]), float(tags["seconds"])) for tags in expected]
