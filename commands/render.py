"""`python -m analysis study | report | figures | notebooks`: render results from logged runs.

Only `study`, the whole of `make degradation-study` in one process, trains what is missing first. The others also render
a bundle, `--bundle FILE`, for which neither torch, ray nor mlflow need be installed.
"""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pandas as pd
import pyarrow as pa
from rich.console import Console

from analysis import report as page
from analysis import runs
from analysis.files import check_place
from analysis.gaps import Problem, problems
from analysis.questions import in_one_sentence
from analysis.tables.results import table_6
from analysis.verdicts import Verdict
from commands import mlflow_report
from commands.options import PATH, PROBE, RESULTS, RUN_OPTIONS, Costs, Selection, costs, selecting
from commands.train import run_missing
from experiments import planned
from experiments.profiles import PAPER
from study import cost
from study.cards import H200, gpu_seconds
from study.cost import duration
from study.execution import Execution
from study.spec import InputError, Trial
from study.store import bundle as bundles
from study.store import provenance
from study.store.account import RESULTS as OUTCOMES_WITH_RESULT
from study.store.account import Outcome, has_result
from study.store.bundle import Bundle
from study.store.layout import TrialFolder
from study.store.records import Run, records_so_far


def _bundle(context: click.Context, _: click.Parameter, path: Path | None) -> Bundle | None:
    """Read the bundle before any other option: what it was exported with are their defaults."""
    if path is None:
        return None
    incoming = bundles.read(path)
    scope = incoming.scope
    context.default_map = {"profile": incoming.profile, "experiments": scope.experiments, "seeds": scope.seeds}
    return incoming


BUNDLE = click.option(
    "--bundle", type=PATH, is_eager=True, callback=_bundle, help="Render this exported bundle instead of a store."
)

LECTURES = click.option(
    "--lectures/--no-lectures", default=True, help="Execute the notebooks, too, which take most of the time (default)."
)


@click.command("study")
@selecting(*RUN_OPTIONS)
@costs
@PROBE
@RESULTS
@LECTURES
def study_command(selected: Selection, costs: Costs, probe: bool, results: Path, lectures: bool) -> int:
    """Run what is missing, then report. Exit code 1 if a trial still has no result that can be used."""
    check_place(results / selected.profile.name)
    missing = run_missing(selected, costs, probe, Console(highlight=False))
    frames = show(selected, results, lectures, trained=True)
    return 0 if not missing and frames.finals["outcome"].isin(OUTCOMES_WITH_RESULT).all() else 1


@click.command("report")
@selecting()
@RESULTS
@BUNDLE
@LECTURES
def report_command(selected: Selection, results: Path, bundle: Bundle | None, lectures: bool) -> None:
    """Render everything, then print verdicts, Table 6, where things are and what the paper's profile would cost."""
    show(of_bundle(selected, bundle), results, lectures, bundle)


@click.command("figures")
@selecting()
@RESULTS
@BUNDLE
@LECTURES
def figures_command(selected: Selection, results: Path, bundle: Bundle | None, lectures: bool) -> None:
    """Render everything."""
    rendering = render(of_bundle(selected, bundle), results, lectures, bundle)
    print(f"rendered {rendering.folder / 'index.html'}, with its figures and tables beside it")


@click.command("notebooks")
@selecting()
@RESULTS
@BUNDLE
def notebooks_command(selected: Selection, results: Path, bundle: Bundle | None) -> None:
    """Render everything, and print where the executed notebooks are."""
    rendering = render(of_bundle(selected, bundle), results, lectures=True, bundle=bundle)
    for path in sorted((rendering.folder / "notebooks").glob("*.html")):
        print(path)


@dataclass(frozen=True)
class Rendering:
    """What was rendered, and the folder that now holds it."""

    frames: runs.Frames
    verdicts: list[Verdict]
    problems: list[Problem]
    folder: Path


def show(
    selected: Selection, results: Path, lectures: bool, bundle: Bundle | None = None, trained: bool = False
) -> runs.Frames:
    """Render everything and print a summary."""
    rendering = render(selected, results, lectures, bundle, trained)
    table = table_6(rendering.frames)
    ui = selected.command(results).make("ui")
    if bundle:
        storage = shlex.quote(str(selected.execution.storage))
        ui = f"python -m experiments import {shlex.quote(str(bundle.path))} --storage {storage}, then {ui}"
    cost_of_paper = paper_cost(selected, rendering.frames)
    counted = in_one_sentence(rendering.verdicts, rendering.frames.finals)
    print(page.summary(rendering.verdicts, table, rendering.folder, cost_of_paper, ui, rendering.problems, counted))
    return rendering.frames


def render(
    selected: Selection, results: Path, lectures: bool, bundle: Bundle | None = None, trained: bool = False
) -> Rendering:
    """Render the selected trials, as they are in the store or in the bundle.

    Where this store was just `trained`, a trial that failed replaces a result that an earlier report shows.
    """
    profile, facts = selected.profile, provenance.tags()
    others: dict[str, list[str]] = {}
    folder = results / profile.name
    check_place(folder)
    if bundle:
        logged: Iterable[Run] = bundle.runs
        facts = {**facts, "bundle": bundle.path.name, "bundle_written_by": bundle.manifest["code"]}
    else:
        from study.store.mlflow import reader  # with mlflow, which a bundle does not need

        logged = (so_far(run, selected.execution) for run in reader.iterate(selected.execution, selected.trials))
        others = reader.foreign(selected.execution, profile.name, selected.trials)
    frames, command = runs.load(selected.serves, logged), selected.command(results)
    if not bundle and (frames.finals["outcome"] == Outcome.MISSING).any():
        reader.check_experiments(selected.execution, selected.trials)
        missing = frames.finals["id"][frames.finals["outcome"] == Outcome.MISSING]
        if copied := sum(has_result(selected.execution.trial_folder(id)) for id in missing):
            print(
                f"{copied} results are in {selected.execution.storage} and not in its MLflow, as after a copy of trials"
                f" from another store: {command.make()} shows them, and trains none of them again"
            )
    where = bundle.path if bundle else selected.execution.tracking_uri or f"store {selected.execution.storage}"
    attempted = frames.finals["outcome"] != Outcome.MISSING
    compared = frames.finals.assign(outcome=frames.finals["outcome"].mask(attempted, Outcome.FINISHED))
    _check_standing(folder, compared if trained else frames.finals, str(where))
    verdicts = page.write(frames, profile, folder, facts, others, lectures, command)
    if not bundle:
        mlflow_report.show(frames, verdicts, profile, selected.execution, folder, command)
    return Rendering(frames, verdicts, problems(frames.finals, profile, others, command), folder)


def _check_standing(folder: Path, finals: pd.DataFrame, where: str) -> None:
    """Refuse to replace a report by one that lacks its results; print how many it shows that were not selected."""
    before = page.standing(folder, finals)
    if before is None:
        return
    lacking, empty = before.lost, not finals["outcome"].isin(OUTCOMES_WITH_RESULT).any()
    if lacking or (before.unselected and empty):
        ids = lacking or before.unselected
        raise InputError(
            f"{folder} shows {len(ids)} results that {where} does not have ({ids[0]}"
            f"{' and others' if len(ids) > 1 else ''}) and stays as it is; name the store that has them, other"
            f" --results, or remove {folder}"
        )
    if before.unselected:
        print(
            f"{len(before.unselected)} results that {folder} showed are of trials that are not selected now;"
            f" {before.command} shows them again"
        )


def so_far(run: Run, execution: Execution) -> Run:
    """The run; of a trial under way, with the records that it last wrote to its folder, of which none is sealed."""
    if run.outcome.is_result or run.outcome == Outcome.UNUSABLE:
        return run
    folder = execution.trial_folder(run.trial.id)
    try:
        return replace(run, records=records_so_far(folder))
    except pa.ArrowException as error:
        reason = f"{TrialFolder(folder).records_so_far} cannot be read ({error}); delete it"
        return replace(run, outcome=Outcome.UNUSABLE, tags=run.tags | {"reason": reason})


def of_bundle(selected: Selection, bundle: Bundle | None) -> Selection:
    """The selection, on a bundle's data if it is of a bundle and no other data were asked for.

    Prints how many of its results are not shown, because they are of trials that are not selected.
    """
    if bundle is None:
        return selected
    choice, data = selected.choice, bundle.scope.data
    if data and selected.profile.name == bundle.profile and not choice.data and not choice.held_out:
        own, chosen = selected.profile.data, selected.profile.on_data(data)
        choice = replace(choice, data="" if data.name == own.name else data.name, held_out=data.held_out)
        serves = planned(chosen, choice.experiments.split())
        selected = replace(selected, profile=chosen, serves=serves, choice=choice)
    others = sum(run.trial not in selected.serves for run in bundle.runs if run.records is not None)
    if others:
        print(f"{others} results of {bundle.path} are not shown: their trials are not selected")
    return selected


def paper_cost(selected: Selection, frames: runs.Frames) -> str:
    """What the paper's profile would take, from predictions scaled by what these trials took.

    In GPU hours, by what trials took on GPUs, or else by constants of a card; on CPUs in core-years.
    """
    trials = list(planned(PAPER))
    seeds = Counter(trial.condition for trial in trials)
    together = {trial: min(seeds[trial.condition], H200.most_together) for trial in trials}
    finished = frames.finals[frames.finals["outcome"] == Outcome.FINISHED]
    by_id = {trial.id: trial for trial in selected.trials}
    took: dict[bool, list[tuple[Trial, float]]] = {True: [], False: []}  # by whether it was on a GPU
    cohort: dict[Trial, int] = {}
    for id, device, size, seconds in finished[["id", "device", "cohort", "seconds"]].itertuples(index=False):
        trial = by_id[id]
        took[device.startswith("cuda")].append((trial, seconds))
        cohort[trial] = int(size) if size > 0 else 1
    factor = cost.calibration(took[True], lambda trial: gpu_seconds(trial, cohort[trial]))
    hours = f"{factor * sum(gpu_seconds(*one) for one in together.items()) / 3600:,.0f} GPU-hours"
    seconds = cost.calibration(took[False]) * sum(map(cost.predicted_seconds, trials))
    years = f"{seconds / 86_400 / 365.25:.1f} core-years on CPUs like this one ({duration(seconds)})"
    about = f"{hours} on GPUs like this one" if took[True] else f"{years}, or {hours} by constants of an {H200.name}"
    return (
        f"would run {len(trials)} trials of 64,000 iterations or more on CIFAR-10, ImageNet, VOC and COCO: about"
        f" {about}; it has not been run to its end"
    )
