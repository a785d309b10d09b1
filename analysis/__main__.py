"""`python -m analysis study | report | figures | notebooks`: render results from logged runs.

Only `study`, the whole of `make degradation-study` in one process, trains what is missing first.
"""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from analysis import report as page
from analysis import runs, tables
from experiments import planned
from experiments.command import RUN_OPTIONS, Selection, main, selecting
from experiments.live import duration
from experiments.profiles import PAPER
from experiments.running import run_missing
from study import cost, provenance, tracking

RESULTS = click.option("--results", type=Path, default=Path("results"), help="Folder of results (default: results).")
console = Console(highlight=False)


@click.group()
def cli() -> None:
    """The paper's tables, figures and claims from the logged runs alone."""


@cli.command()
@selecting(RESULTS, *RUN_OPTIONS)
def study(selected: Selection) -> int:
    """Run what is missing, then report. Exit code 1 if a trial still has no result."""
    missing = run_missing(selected, console)
    show(selected)
    return 1 if missing else 0


@cli.command()
@selecting(RESULTS)
def report(selected: Selection) -> None:
    """Render everything, then print verdicts, Table 6, where things are and what the paper's profile would cost."""
    show(selected)


@cli.command()
@selecting(RESULTS)
def figures(selected: Selection) -> None:
    """Render everything."""
    *_, folder = render(selected)
    print(f"rendered {folder / 'index.html'}, with its figures and tables beside it")


@cli.command()
@selecting(RESULTS)
def notebooks(selected: Selection) -> None:
    """Render everything, and say where the executed notebooks are."""
    *_, folder = render(selected)
    for path in sorted((folder / "notebooks").glob("*.html")):
        print(path)


def show(selected: Selection) -> None:
    """Render everything and print what it says."""
    frames, verdicts, folder = render(selected)
    table = tables.table_6(frames, selected.profile.name)
    print(page.summary(verdicts, table, folder, paper_cost(selected, frames)))


def render(selected: Selection) -> tuple[runs.Frames, list[dict[str, Any]], Path]:
    """The frames of the selected trials, the verdicts, and the folder that now holds everything rendered from them."""
    folder = selected.arguments["results"] / selected.profile.name
    logged = tracking.read(selected.execution, selected.trials)
    frames = runs.load(selected.serves, logged)
    return frames, page.write(frames, selected.profile, folder, provenance.tags()), folder


def paper_cost(selected: Selection, frames: runs.Frames) -> str:
    """What the paper's profile would take, from predictions scaled by what these trials took."""
    trials = list(planned(PAPER))
    finished = frames.finals[frames.finals["outcome"] == "finished"]
    seconds_of = dict(zip(finished["id"], finished["seconds"].astype(float), strict=True))
    took = ((trial, seconds_of[trial.id]) for trial in selected.trials if trial.id in seconds_of)
    seconds = cost.calibration(took) * sum(map(cost.predicted_seconds, trials))
    return (
        f"would run {len(trials)} trials of 64,000 iterations or more on CIFAR-10: about"
        f" {seconds / 86_400 / 365.25:.1f} core-years on CPUs like this one ({duration(seconds)}); it is meant for"
        " GPUs, on which it has not been measured"
    )


if __name__ == "__main__":
    main(cli)
