"""`python -m analysis study | report | figures | notebooks | decide`: render results from logged runs.

Only `study`, the whole of `make degradation-study` in one process, and `decide`, which is `python -m experiments run
--until-decided`, train what is missing first. The others also render a bundle, `--bundle FILE`, for which neither
torch, ray nor mlflow need be installed.
"""

from dataclasses import replace
from pathlib import Path

import click
import pyarrow as pa
from rich.console import Console

from analysis import report as page
from analysis import runs, tables
from analysis.gaps import Problem, problems
from analysis.verdicts import Verdict
from commands import decide as deciding
from commands import mlflow_report
from commands.options import DECIDING_OPTIONS, RUN_OPTIONS, Selection, selecting
from commands.run import run_missing
from experiments import planned
from experiments.profiles import PAPER
from study import cost
from study.cost import duration
from study.execution import Execution
from study.store import bundle, provenance
from study.store.account import RESULTS as OUTCOMES_WITH_RESULT
from study.store.account import Outcome
from study.store.bundle import Bundle
from study.store.layout import TrialFolder
from study.store.records import Run, read_records


def _bundle(context: click.Context, _: click.Parameter, path: Path | None) -> Bundle | None:
    """Read the bundle before any other option: what it was exported with are their defaults."""
    if path is None:
        return None
    found = bundle.read(path)
    scope = found.scope
    context.default_map = {"profile": found.profile, "experiments": scope.experiments, "seeds": scope.seeds}
    return found


RESULTS = click.option("--results", type=Path, default=Path("results"), help="Folder of results (default: results).")
BUNDLE = click.option(
    "--bundle", type=Path, is_eager=True, callback=_bundle, help="Render this exported bundle instead of a store."
)
console = Console(highlight=False)


@click.group()
def cli() -> None:
    """The paper's tables, figures and claims from the logged runs alone."""


@cli.command()
@selecting(RESULTS, *RUN_OPTIONS)
def study(selected: Selection) -> int:
    """Run what is missing, then report. Exit code 1 if a trial still has no result that can be used."""
    missing = run_missing(selected, console)
    frames = show(selected)
    return 0 if not missing and frames.finals["outcome"].isin(OUTCOMES_WITH_RESULT).all() else 1


@cli.command()
@selecting(RESULTS, BUNDLE)
def report(selected: Selection) -> None:
    """Render everything, then print verdicts, Table 6, where things are and what the paper's profile would cost."""
    show(of_bundle(selected))


@cli.command()
@selecting(RESULTS, BUNDLE)
def figures(selected: Selection) -> None:
    """Render everything."""
    *_, folder = render(of_bundle(selected))
    print(f"rendered {folder / 'index.html'}, with its figures and tables beside it")


@cli.command()
@selecting(RESULTS, BUNDLE)
def notebooks(selected: Selection) -> None:
    """Render everything, and say where the executed notebooks are."""
    *_, folder = render(of_bundle(selected))
    for path in sorted((folder / "notebooks").glob("*.html")):
        print(path)


@cli.command()
@selecting(*DECIDING_OPTIONS, *RUN_OPTIONS)
def decide(selected: Selection) -> int:
    """Add paired seeds until a claim is decided. Exit code 1 if seeds or budget end before."""
    return deciding.decide(selected, console)


def show(selected: Selection) -> runs.Frames:
    """Render everything and print what it says."""
    frames, verdicts, known, folder = render(selected)
    table = tables.table_6(frames, selected.profile.name)
    found = selected.arguments.get("bundle")
    ui = f"python -m experiments import {found.path}, then make ui" if found else "make ui"
    print(page.summary(verdicts, table, folder, paper_cost(selected, frames), ui, known))
    return frames


def render(selected: Selection) -> tuple[runs.Frames, list[Verdict], list[Problem], Path]:
    """The frames of the selected trials, verdicts, problems, and the folder that now holds everything rendered."""
    profile = selected.profile
    others: dict[str, list[str]] = {}
    folder, facts = selected.arguments["results"] / profile.name, provenance.tags()
    found = selected.arguments.get("bundle")
    if found:
        logged, facts = found.runs, {**facts, "bundle": found.path.name, "bundle_written_by": found.manifest["code"]}
    else:
        from study.store.mlflow import reader  # and with it mlflow

        logged = (so_far(run, selected.execution) for run in reader.iterate(selected.execution, selected.trials))
        others = reader.foreign(selected.execution, profile.name, selected.trials)
    frames = runs.load(selected.serves, logged)
    verdicts = page.write(frames, profile, folder, facts, others)
    if not found:
        mlflow_report.show(frames, verdicts, profile, selected.execution, folder)
    return frames, verdicts, problems(frames.finals, profile, others), folder


def so_far(run: Run, execution: Execution) -> Run:
    """The run; of a trial under way, with the records that it last wrote to its folder, of which none is sealed."""
    if run.outcome.is_result or run.outcome == Outcome.UNUSABLE:
        return run
    folder = execution.trial_folder(run.trial.id)
    try:
        return replace(run, records=read_records(folder))
    except pa.ArrowException as error:
        reason = f"{TrialFolder(folder).records} cannot be read ({error}); delete it"
        return replace(run, outcome=Outcome.UNUSABLE, tags=run.tags | {"reason": reason})


def of_bundle(selected: Selection) -> Selection:
    """The selection, on a bundle's data if it is of a bundle and no other data were asked for.

    Says how many of its results are not shown, because they are of trials that are not selected.
    """
    found, chosen, arguments = selected.arguments.get("bundle"), selected.profile, selected.arguments
    if found is None:
        return selected
    if found.scope.data and chosen.name == found.profile and not arguments["data"] and not arguments["held_out"]:
        chosen = chosen.with_data(found.scope.data)
        selected = replace(selected, profile=chosen, serves=planned(chosen, arguments["experiments"].split()))
    others = sum(run.trial not in selected.serves for run in found.runs if run.records is not None)
    if others:
        print(f"{others} results of {found.path} are not shown: their trials are not selected")
    return selected


def paper_cost(selected: Selection, frames: runs.Frames) -> str:
    """What the paper's profile would take, from predictions scaled by what these trials took."""
    trials = list(planned(PAPER))
    finished = frames.finals[frames.finals["outcome"] == "finished"]
    seconds_of = dict(zip(finished["id"], finished["seconds"].astype(float), strict=True))
    took = ((trial, seconds_of[trial.id]) for trial in selected.trials if trial.id in seconds_of)
    seconds = cost.calibration(took) * sum(map(cost.predicted_seconds, trials))
    return (
        f"would run {len(trials)} trials of 64,000 iterations or more on CIFAR-10, ImageNet, VOC and COCO: about"
        f" {seconds / 86_400 / 365.25:.1f} core-years on CPUs like this one ({duration(seconds)}); it is meant for"
        " GPUs, on which it has not been measured"
    )
