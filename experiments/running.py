"""Run a selection: what is missing is launched, watched and counted."""

from contextlib import ExitStack
from typing import Any

from rich.console import Console

from experiments.command import Selection
from experiments.live import watching
from experiments.recipes import deviations
from study.spec import Trial


def run_missing(selected: Selection, console: Console) -> int:
    """Launch every selected trial that has no result; returns how many then still have none, after naming them."""
    from study.launch import launch  # with torch and mlflow: seconds that commands which only look do not spend

    tags = {
        trial.id: {
            "profile": selected.profile.name,
            "experiments": ", ".join(names),
            "deviations": "; ".join(deviations(trial)) or "none",
        }
        for trial, names in selected.serves.items()
    }
    with ExitStack() as looking:

        def on_start(todo: list[Trial]) -> None:
            console.print(
                f"{len(todo)} of {len(selected.serves)} trials of profile {selected.profile.name} to run,"
                f" {selected.execution.trials_at_once} at a time, longest first",
                soft_wrap=True,
            )
            looking.enter_context(watching(todo, selected.execution, console))

        launch(selected.trials, selected.execution, tags, on_start)
    runs = logged(selected)
    missing = [trial for trial in selected.trials if not has_result(runs, trial)]
    for trial in missing:
        reason = runs[trial.id].tags.get("reason", "") if trial.id in runs else ""
        console.print(f"no result: {trial.id} {reason.splitlines()[0] if reason else ''}", markup=False, soft_wrap=True)
    console.print(f"{len(selected.serves) - len(missing)} of {len(selected.serves)} trials have a result")
    return len(missing)


def logged(selected: Selection) -> dict[str, Any]:
    """The logged runs by trial id, without their curves; {} before the first launch."""
    execution = selected.execution
    if not execution.tracking_uri and not (execution.storage / "store.json").exists():
        return {}
    from study import tracking

    return {run.trial.id: run for run in tracking.read(execution, selected.trials, records=False)}


def has_result(runs: dict[str, Any], trial: Trial) -> bool:
    return trial.id in runs and runs[trial.id].outcome in ("finished", "diverged")
