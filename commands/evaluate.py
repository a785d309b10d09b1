"""`python -m experiments evaluate`: finished nets, tested as the paper tests them.

Owns which nets are tested and where their numbers go: those of trials into the store and MLflow, those of imported
weights to the reader alone. How nets are tested is `study/run/evaluate.py`, and the protocols' arithmetic
`study/tasks/protocols.py`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from commands.accounts import accounts
from commands.options import DEVICE, JSON, PATH, Choice, Selection, choosing, grouped, print_aligned, select
from study.execution import Execution
from study.printable import printable
from study.spec import IMAGENET_STAGES, InputError, Trial, check_choice, detection_of
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
MEASURES = {
    TOP1: "top-1 error",
    TOP5: "top-5 error",
    MAP: "mAP",
    MAP_50: "mAP@.5",
    MAP_50_95: "mAP@[.5, .95]",
}
# Options that say something about a file of weights; all others are about trials.
OF_WEIGHTS = (
    *("weights", "key", "model", "stride", "shortcut", "normalise", "protocols"),
    *("data", "data_root", "device", "threads", "as_json"),
)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A file of weights that no trial made, and what is known of its net."""

    weights: Path | None = None
    key: str = ""
    model: str = ""
    stride: str = ""
    shortcut: str = ""
    normalise: str = ""


imported = grouped(
    Imported,
    click.option(
        "--weights",
        type=PATH,
        help="Instead of trials: a file of weights, a state dict of PyTorch (.pth, .pt, .th, .bin) or safetensors, with"
        " names of torchvision, timm, Hugging Face or the usual CIFAR repositories. The file tells the net.",
    ),
    click.option("--key", default="", help="Of --weights: the key in the file, if it holds several state dicts."),
    click.option("--model", default="", help="Of --weights: the net, to be checked: resnet50, or plain20."),
    click.option("--stride", default="", help="Where bottlenecks of --weights stride: 3x3 (torchvision's) or first."),
    click.option(
        "--shortcut",
        default="",
        help="Of --weights whose shortcuts have no parameters: A (zeros behind the channels), A-centred (on both sides,"
        " akamaster's), A-average, or none (plain).",
    ),
    click.option(
        "--normalise",
        default="",
        help="How images are normalised for --weights: imagenet (default), cifar10, cifar100, caffe, none, pixel-mean"
        " or another name of the guide on weights, or numbers: MEAN/STD of pixels in 0..1, red, green and blue with"
        " commas between them.",
    ),
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
        for field in fields(imported):
            if getattr(imported, field.name):
                raise InputError(f"--{field.name} is for --weights; leave it out, or name a file of weights")
        return _of_trials(select(choice, execution), request, as_json)
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in OF_WEIGHTS:
            raise InputError(f"{option.opts[0]} is for trials; leave it out, or leave out --weights")
    about, rows = _of_weights(imported, choice, execution, list(dict.fromkeys(request.protocols)) or [CENTRE])
    _print({"weights": str(imported.weights), **about, "evaluations": rows}, as_json)
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


def _of_weights(
    imported: Imported, choice: Choice, execution: Execution, protocols: Sequence[str]
) -> tuple[dict[str, Any], list[Row]]:
    """Test a file of weights: what its net is and how images are normalised, and the numbers."""
    assert imported.weights is not None
    family, depth = _named_net(imported)
    if not choice.data:
        raise InputError(
            "--weights are tested on data of their own: say --data imagenet, or --data images:NAME, shards:NAME,"
            " folder:NAME, cifar10, cifar100 or fashion-mnist"
        )
    from study.run.evaluate import IMAGENET, Foreign, tested_weights  # with torch: a second for a wrong option

    foreign = Foreign(
        path=imported.weights,
        key=imported.key,
        family=family,
        depth=depth,
        stride=imported.stride,
        shortcut=imported.shortcut,
        normalise=imported.normalise or IMAGENET,
    )
    about, rows = tested_weights(foreign, choice.data, protocols, execution)
    about["normalise"]["by_default"] = not imported.normalise
    return about, rows


def _named_net(imported: Imported) -> tuple[str, int]:
    """Family and depth of --model; '' and 0 if it is left out. Raises `InputError` for a name or a stride of no net."""
    if not imported.model:
        return "", 0
    match = re.fullmatch(r"(resnet|plain)([1-9]\d{0,4})", imported.model)
    if not match:
        raise InputError(
            f"model {imported.model!r} is unknown; choose one of resnet18, resnet34, resnet50, resnet101, resnet152, or"
            " resnet or plain and another depth, as plain20; or leave it out: the weights tell"
        )
    family, depth = ("plain" if match[1] == "plain" else "residual"), int(match[2])
    if depth in IMAGENET_STAGES["bottleneck"] and not imported.stride:
        raise InputError(
            f"weights do not say where the bottlenecks of {imported.model} stride; say --stride 3x3, as"
            " torchvision's, or --stride first, as the paper's"
        )
    if imported.stride:
        kind = "basic" if depth in IMAGENET_STAGES["basic"] else "bottleneck"
        check_choice(f"stride of a {kind} block", imported.stride, ("first", "3x3")[: 1 + (kind == "bottleneck")])
    return family, depth


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
    if "normalise" in answer:
        _print_net(answer)
    for id, why in answer.get("without_weights", {}).items():
        print(f"not tested: {id}: {why}")
    if "profile" in answer:
        new, not_finished = sum(row["new"] for row in rows), len(answer["not_finished"])
        print(f"{new} tested, {len(rows) - new} were already, {not_finished} trials are not finished")


def _print_net(answer: dict[str, Any]) -> None:
    """What was tested: the net as its file tells, and by whose constants images were normalised."""
    net, normalise = answer["net"], answer["normalise"]
    facts = [f"shortcut {net['shortcut']}" + (f" (by names of {net['shortcut_by']})" if "shortcut_by" in net else "")]
    facts += [f"stride {net['stride']}"] if net["block"] == "bottleneck" else []
    facts += [f"width {net['width']}", f"{net['classes']} classes"]
    facts += [f"restricted to the {net['restricted_to']} of these images"] if "restricted_to" in net else []
    facts += [f"key {net['key']}"] if net["key"] else []
    facts += [f"not used: {', '.join(net['other_keys'])} (--key)"] if net["other_keys"] else []
    print(printable(f"net: {net['title']}, {', '.join(facts)}"))
    numbers = ""
    if "mean" in normalise:
        mean, std = ("/".join(f"{value:.4g}" for value in normalise[name]) for name in ("mean", "std"))
        numbers = f"; mean {mean}, std {std} of pixels in 0..1, {normalise['order']}"
    other = "; the default, --normalise names others" if normalise["by_default"] else ""
    print(f"normalised: {normalise['name']} ({normalise['whose']}){numbers}{other}")
