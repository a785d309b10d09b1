"""`python -m experiments list | plan | run | status`: what could be run, what would be, run it, how far it is."""

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from experiments import EXPERIMENTS, name_of
from experiments.command import RUN_OPTIONS, Selection, main, selecting
from experiments.live import duration, percent
from experiments.profiles import PROFILES
from experiments.running import has_result, logged, run_missing
from study import cost, progress
from study.spec import Trial

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
console = Console(highlight=False)


@click.group()
def cli() -> None:
    """The study of 'Deep Residual Learning for Image Recognition' (He et al., CVPR 2016)."""


@cli.command("list")
@JSON
def list_command(as_json: bool) -> None:
    """Experiments and profiles."""
    experiments = {name_of(experiment): (experiment.__doc__ or "").strip() for experiment in EXPERIMENTS}
    profiles = {profile.name: profile.summary for profile in PROFILES}
    if as_json:
        print(json.dumps({"experiments": experiments, "profiles": profiles}, indent=2))
        return
    for name, text in experiments.items():
        print(f"{name}\n    " + text.replace("\n", "\n    ").replace("    \n", "\n") + "\n")
    for name, text in profiles.items():
        print(f"PROFILE={name:8}{text}")


@cli.command()
@selecting(JSON)
def plan(selected: Selection) -> None:
    """Every trial with its predicted seconds and memory, longest first, before anything runs."""
    runs = logged(selected)
    finished = [run for run in runs.values() if run.outcome == "finished"]
    factor = cost.calibration((run.trial, float(run.tags["seconds"])) for run in finished)
    rows = [plan_row(selected, trial, factor, runs) for trial in selected.trials]
    rows.sort(key=lambda row: -row["seconds"])
    left = [row["seconds"] for row in rows if not row["done"]]
    result = {
        "profile": selected.profile.name,
        "trials": rows,
        "total_seconds": round(sum(left), 1),
        "makespan_seconds": round(cost.makespan(left, selected.execution.trials_at_once), 1),
    }
    if selected.arguments["as_json"]:
        print(json.dumps(result, indent=2))
        return
    lines = [("trial", "iterations", "parameters", "predicted", "memory", "")]
    for row in rows:
        memory = f"{row['memory_bytes'] / 2**30:.1f} GiB"
        done = "done" if row["done"] else ""
        lines.append(
            (row["id"], f"{row['iterations']:,}", f"{row['params']:,}", duration(row["seconds"]), memory, done)
        )
    print_aligned(lines)
    at_once = selected.execution.trials_at_once
    scale = "scaled by the trials that have finished" if factor != 1 else "not yet calibrated on this machine"
    print(
        f"\n{len(left)} of {len(rows)} trials to run: about {duration(sum(left))} of one core,"
        f" {duration(result['makespan_seconds'])} with {at_once} at a time (predictions {scale})"
    )


def plan_row(selected: Selection, trial: Trial, factor: float, runs: dict[str, Any]) -> dict[str, Any]:
    """One trial as `plan --json` prints it."""
    return {
        "id": trial.id,
        "experiments": selected.serves[trial],
        "family": trial.model.family,
        "depth": trial.model.depth,
        "shortcut": trial.model.shortcut,
        "data": trial.data.name,
        "seed": trial.seed,
        "iterations": trial.recipe.iterations,
        "params": cost.parameters(trial.model, trial.data),
        "multiply_adds": cost.multiply_adds(trial.model, trial.data),
        "seconds": round(factor * cost.predicted_seconds(trial), 2),
        "memory_bytes": cost.predicted_bytes(trial),
        "done": has_result(runs, trial),
    }


@cli.command()
@selecting(*RUN_OPTIONS)
def run(selected: Selection) -> int:
    """Run what has no result yet. Exit code 1 if a trial then still has none."""
    return 1 if run_missing(selected, console) else 0


@cli.command()
@selecting(JSON)
def status(selected: Selection) -> None:
    """Where each trial of the study stands now."""
    runs = logged(selected)
    rows = []
    for trial in selected.trials:
        said = progress.read(selected.execution.trial_folder(trial.id))
        outcome = runs[trial.id].outcome if trial.id in runs else "missing"
        rows.append(
            {
                "id": trial.id,
                "outcome": outcome,
                "iteration": said.get("iteration", 0),
                "iterations": trial.recipe.iterations,
                "train_error_pct": said.get("train_error_pct"),
                "seconds_left": said.get("seconds_left") if outcome == "running" else None,
            }
        )
    if selected.arguments["as_json"]:
        print(json.dumps({"profile": selected.profile.name, "trials": rows}, indent=2))
        return
    lines = [("trial", "outcome", "iteration", "training error", "left")]
    for row in rows:
        left = "" if row["seconds_left"] is None else duration(row["seconds_left"])
        reached = f"{row['iteration']} / {row['iterations']}"
        lines.append((row["id"], row["outcome"], reached, percent(row["train_error_pct"]), left))
    print_aligned(lines)
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in {row["outcome"] for row in rows}}
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))


def print_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    """A table of which no cell is ever cut, because ids are there to be copied: the first column left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main(cli)
