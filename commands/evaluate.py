"""`python -m experiments evaluate`: finished nets, tested as the paper tests them.

Owns which nets are tested and where their numbers go: those of trials into the store and MLflow, those of imported
weights to the reader alone. How nets are tested is `study/run/evaluate.py`, and the protocols' arithmetic
`study/tasks/protocols.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from commands.accounts import accounts
from commands.options import DEVICE, JSON, PATH, Choice, Selection, choosing, grouped, print_aligned, select
from study.execution import Execution
from study.spec import InputError, Model, Trial, check_choice, detection_of
from study.store.account import Outcome
from study.tasks.names import (
    CENTRE,
    DETECTOR_PROTOCOLS,
    MAP,
    MAP_50,
    MAP_50_95,
    MULTI_SCALE,
    TEN_CROP,
    TOP1,
    TOP5,
)

Row = dict[str, Any]
TORCHVISION = tuple(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))
MEASURES = {
    TOP1: "top-1 error",
    TOP5: "top-5 error",
    MAP: "mAP",
    MAP_50: "mAP@.5",
    MAP_50_95: "mAP@[.5, .95]",
}
# Options that say something about a file of weights; all others are about trials.
OF_WEIGHTS = ("weights", "model", "stride", "protocols", "data", "data_root", "device", "threads", "as_json")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A file of weights that no trial made, and what its net is."""

    weights: Path | None = None
    model: str = ""
    stride: str = ""


imported = grouped(
    Imported,
    click.option("--weights", type=PATH, help="Instead of trials: a state dict under torchvision's names."),
    click.option("--model", default="", help=f"The net that --weights are of: {', '.join(TORCHVISION)}."),
    click.option("--stride", default="", help="Where bottlenecks of --weights stride: 3x3 (torchvision's) or first."),
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which of the selected trials are tested, and how."""

    protocols: tuple[str, ...] = ()
    ids: str = ""
    ensemble: bool = False
    again: bool = False


request = grouped(
    Request,
    click.option(
        "--protocol",
        "protocols",
        multiple=True,
        help=f"{CENTRE!r} (default), {TEN_CROP!r}, {MULTI_SCALE!r}, or of detectors one of Table 9's; may be repeated.",
    ),
    click.option("--trials", "ids", default="", help="Of the selected trials only these ids, separated by spaces."),
    click.option("--ensemble", is_flag=True, help="Also the selected nets together: the mean of their probabilities."),
    click.option("--again", is_flag=True, help="Also what has been evaluated, in place of its older numbers."),
)


@click.command("evaluate")
@choosing(DEVICE)
@request
@imported
@JSON
@click.pass_context
def evaluate_command(
    context: click.Context, choice: Choice, execution: Execution, request: Request, imported: Imported, as_json: bool
) -> int:
    """Test finished nets on the validation images (of digits and CIFAR the test images), and log what they do.

    Exit code 1 if the weights of a finished net are not on this machine.
    """
    if imported.weights is None:
        for name, value in (("model", imported.model), ("stride", imported.stride)):
            if value:
                raise InputError(f"--{name} is for --weights; leave it out, or name a file of weights")
        return _of_trials(select(choice, execution), request, as_json)
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in OF_WEIGHTS:
            raise InputError(f"{option.opts[0]} is for trials; leave it out, or leave out --weights")
    rows = _of_weights(imported, choice, execution, list(dict.fromkeys(request.protocols)) or [CENTRE])
    _print({"weights": str(imported.weights), "evaluations": rows}, as_json)
    return 0


def _of_trials(selected: Selection, request: Request, as_json: bool) -> int:
    """Test those of the selected trials that are finished."""
    execution = selected.execution
    known, trials = accounts(selected, checked=True), _chosen(selected.trials, request.ids.split())
    finished = [trial for trial in trials if trial.id in known and known[trial.id].outcome == Outcome.FINISHED]
    if not finished:
        raise InputError(
            f"none of the {len(trials)} selected trials is finished in {execution.storage}; run them:"
            f" {selected.command().make()}"
        )
    if request.ensemble:
        _check_ensemble(trials, finished)
    # With torch and mlflow: seconds before wrong options are refused.
    from study.run.evaluate import Testing
    from study.run.launch import only_launcher
    from study.store.mlflow import client, mirror

    tasks = _tasks(finished, request.protocols)
    client.create_store(execution)
    rows: list[Row] = []
    lacking: dict[str, str] = {}
    with only_launcher(execution.storage):
        for tested, protocols in tasks:
            testing = Testing(execution, {trial.id: known[trial.id].tags for trial in tested}, request.again)
            if request.ensemble:  # by id: the same nets are one ensemble, whatever selected them
                testing.test(sorted(tested, key=lambda trial: trial.id), protocols, together=True)
            else:
                for trial in sorted(tested, key=lambda trial: trial.data.name):
                    testing.test([trial], protocols)
            rows += testing.rows
            lacking |= testing.lacking
        mirror.publish(execution, finished)
    answer = {
        **{"profile": selected.profile.name, "evaluations": rows, "without_weights": lacking},
        "not_finished": [trial.id for trial in trials if trial not in finished],
    }
    _print(answer, as_json)
    return 1 if lacking else 0


def _tasks(finished: Sequence[Trial], named: Sequence[str]) -> list[tuple[list[Trial], list[str]]]:
    """Classifiers and detectors with the protocols that are theirs.

    Unless any are named, classifiers are tested by the centre crop, or else detectors at a single scale. Raises
    `InputError` for a protocol that a trial cannot be tested by, or that none of them has.
    """
    # With torch, as above.
    from study.tasks.detection_inference import protocols_of
    from study.tasks.protocols import check_protocol

    detectors = [trial for trial in finished if detection_of(trial)]
    classifiers = [trial for trial in finished if not detection_of(trial)]
    named = list(dict.fromkeys(named)) or [CENTRE if classifiers else protocols_of(detectors[0])[0]]
    of_detectors = [protocol for protocol in named if protocol in DETECTOR_PROTOCOLS]
    of_classifiers = [protocol for protocol in named if protocol not in DETECTOR_PROTOCOLS]
    for protocols, trials, others in (
        (of_detectors, detectors, "classifiers"),
        (of_classifiers, classifiers, "detectors"),
    ):
        if protocols and not trials:
            raise InputError(
                f"protocol {protocols[0]!r} is not for {others}, and no others are among the finished trials"
            )
    for protocol, classifier in product(of_classifiers, classifiers):
        check_protocol(protocol, classifier.data)
    tasks: list[tuple[list[Trial], list[str]]] = []
    if of_classifiers:
        tasks.append((classifiers, of_classifiers))
    for protocol in of_detectors:
        having = [detector for detector in detectors if protocol in protocols_of(detector)]
        if not having:
            raise InputError(
                f"protocol {protocol!r} is of detectors with context, or of those without, and none is such"
            )
        tasks.append((having, [protocol]))
    return tasks


def _chosen(trials: list[Trial], ids: Sequence[str]) -> list[Trial]:
    if unknown := set(ids) - {trial.id for trial in trials}:
        raise InputError(f"trial {min(unknown)!r} is not among the {len(trials)} selected; `status` names them")
    return [trial for trial in trials if trial.id in ids] if ids else trials


def _check_ensemble(trials: Sequence[Trial], finished: Sequence[Trial]) -> None:
    """An ensemble is of what was selected, never of what happens to be there."""
    if missing := [trial.id for trial in trials if trial not in finished]:
        raise InputError(
            f"an ensemble is of all selected nets, and {len(missing)} of {len(trials)} are not finished"
            f" ({missing[0]}); run them, or choose others with --trials"
        )
    if len(trials) < 2:
        raise InputError(f"an ensemble has two nets or more, not {trials[0].id} alone")
    if len({trial.data for trial in trials}) > 1:
        raise InputError(
            f"an ensemble's nets see the same data; these see {', '.join(sorted({t.data.label for t in trials}))}, or"
            " the same in several ways: choose with --experiments or --trials"
        )


def _of_weights(imported: Imported, choice: Choice, execution: Execution, protocols: Sequence[str]) -> list[Row]:
    """Test a file of weights."""
    assert imported.weights is not None
    check_choice("model", imported.model, TORCHVISION)
    depth = int(imported.model.removeprefix("resnet"))
    if depth >= 50 and not imported.stride:
        raise InputError(
            f"weights do not say where the bottlenecks of {imported.model} stride; say --stride 3x3, as"
            " torchvision's, or --stride first, as the paper's"
        )
    model = Model.imagenet(family="residual", depth=depth, shortcut="B", stride=imported.stride or "first")
    if not choice.data:
        raise InputError("--weights are tested on data of their own: say --data imagenet, or --data images:NAME")
    from study.data.arrays import describe  # with torch: seconds before a wrong option is refused
    from study.run.evaluate import tested_weights

    data = describe(choice.data, execution.data_root, normalise="imagenet")  # as torchvision's nets are fed
    return tested_weights(imported.weights, model, data, protocols, execution)


def _print(answer: dict[str, Any], as_json: bool) -> None:
    """A table a protocol: numbers of different protocols never stand in one column."""
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    rows: list[Row] = answer["evaluations"]
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        tested = [row for row in rows if row["protocol"] == protocol]
        measures = [name for name in MEASURES if any(name in row for row in tested)]
        lines = [("net", "data", "seed", "protocol", *(MEASURES[name] for name in measures), "images")]
        for row in tested:
            numbers = [f"{row[name]:.2f} %" if name in row else "-" for name in measures]
            about = (row["net"], row["data"], str(row.get("seed", "-")), protocol)
            lines.append((*about, *numbers, str(row["images"])))
        print_aligned(lines)
        print()
    for id, why in answer.get("without_weights", {}).items():
        print(f"not tested: {id}: {why}")
    if "profile" in answer:
        new, not_finished = sum(row["new"] for row in rows), len(answer["not_finished"])
        print(f"{new} tested, {len(rows) - new} were already, {not_finished} trials are not finished")
