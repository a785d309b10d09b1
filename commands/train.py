"""Train what a selection lacks: it is predicted, launched, shown while it runs, and counted."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from commands.accounts import accounts, compared, reason
from commands.budget import check_budget, check_space
from commands.onlooker import Onlooker, Tracked
from commands.options import Costs, Selection
from commands.plan import HERE, accuracy, plan_of, probe_conditions
from commands.sets import set_lines
from commands.status import shown
from experiments.recipes import deviations
from study.execution import Execution
from study.run.forecast import Plan, has_result
from study.spec import Trial
from study.store.account import Account


def run_missing(selected: Selection, costs: Costs, probe: bool, console: Console) -> int:
    """Launch every selected trial that has no result; returns how many then still have none, after naming them.

    Raises `InputError` before anything runs where the budget or the disk is too small.
    """
    known = accounts(selected)
    if probe:
        probe_conditions(selected, known, HERE, lambda text: console.print(text, soft_wrap=True))
    plan = plan_of(selected, known)
    check_budget(plan, costs)
    check_space(plan, selected.execution.storage)
    from study.run.launch import launch  # with torch and mlflow: seconds that commands which only look do not spend

    with ExitStack() as view:

        def on_start(todo: list[Trial], execution: Execution) -> None:
            for line in set_lines(selected):
                console.print(line, markup=False, soft_wrap=True)
            console.print(
                f"{len(todo)} of {len(selected.serves)} trials of profile {selected.profile.name} to run,"
                f" {plan.at_once} at a time, longest first",
                soft_wrap=True,
            )
            room = None if execution.address else plan.nodes[0]
            onlooker = Onlooker(replace(selected, execution=execution), Tracked(known), room=room)
            view.enter_context(shown(onlooker, console))

        launch(selected.trials, selected.execution, _tags(selected, plan), on_start)
    known = accounts(selected, checked=True)
    missing = [trial for trial in selected.trials if not has_result(known, trial)]
    for trial in missing:
        console.print(f"no result: {trial.id} {reason(known.get(trial.id, Account()))}", markup=False, soft_wrap=True)
    for trial in selected.trials:
        short = known[trial.id].tags.get("out_of_memory", "") if trial not in missing else ""
        if short and trial.id in plan.placed:  # Ray's workers log it where nobody looks
            console.print(f"{trial.id} has a result, but ran {short}", markup=False, soft_wrap=True)
    if off := accuracy(compared(known, [trial for trial in selected.trials if trial.id in plan.placed])):
        console.print(off, soft_wrap=True)
    console.print(f"{len(selected.serves) - len(missing)} of {len(selected.serves)} trials have a result")
    return len(missing)


def _tags(selected: Selection, plan: Plan) -> dict[str, dict[str, str]]:
    """MLflow tags of each run: purpose, deviations from the paper, predicted cost."""
    tags = {}
    again = replace(selected.command(Path("again")), store="again").make()
    starts = {trial.id: trial for trial in selected.serves}
    for forecast in plan.forecasts:
        expected = {"predicted_seconds": f"{forecast.seconds:.2f}", "predicted_from": forecast.source}
        if forecast.probed_gpu_bytes:
            expected["probed_gpu_bytes"] = str(forecast.probed_gpu_bytes)
        tags[forecast.trial.id] = {
            "profile": selected.profile.name,
            "experiments": ", ".join(selected.serves[forecast.trial]),
            "again": again,
            "deviations": "; ".join(map(str, deviations(forecast.trial, starts))) or "none",
            **expected,
        }
    return tags
