"""Finished nets are tested, and their folders keep how well they did.

Owns which weights a trial's net has and that its numbers are kept with it; imported weights have no trial, and nothing
of them is kept. How a net is tested is its task's (`study/tasks/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from study.data.arrays import describe, load
from study.data.constants import MEASURED
from study.data.constants import constants as constants_of
from study.data.summary import summary
from study.data.wnids import WNIDS, outputs_of
from study.execution import Execution
from study.nets.evaluation import memory_format
from study.nets.resnet import BatchNorm, Net
from study.nets.weight_files import Weights, read_weights
from study.nets.weight_names import CENTRED, another, model_of, named, take, zeros_behind
from study.run.machine import check_precision, device_of, set_up_torch
from study.spec import Data, InputError, Trial
from study.store.layout import TrialFolder
from study.store.records import add_evaluations, read_evaluations, table_digest
from study.tasks.kinds import task_of
from study.tasks.protocols import check_protocol, errors_pct, probabilities, split_of
from study.tasks.task import Row, evaluations
from study.training import checkpoints

IMAGENET = "imagenet"  # the normalisation of most repositories
Nets = tuple[Trial, ...]  # one, or those of an ensemble


class Testing:
    """Tests nets and keeps their numbers in the trial folder, protocol by protocol: a kill loses what was being tested.

    For whoever holds the store's lock. A result is sealed, and only its own weights are tested: what was measured once
    stays true, and is measured anew only if `again`.
    """

    def __init__(self, execution: Execution, tags: dict[str, dict[str, str]], again: bool = False) -> None:
        """`tags`: those of each trial's account, by its id."""
        self.execution, self.tags, self.again = execution, tags, again
        self.device = device_of(execution)
        set_up_torch(execution)
        self.rows: list[Row] = []  # what is now known of the nets, measured now or before
        self.lacking: dict[str, str] = {}  # trials that could not be tested, and why
        self._data: Any = None

    def test(self, trials: Sequence[Trial], protocols: Sequence[str], together: bool = False) -> None:
        """Test each of these nets and, if `together`, all as an ensemble, whose numbers are kept with the first.

        The trials are of one task. Nets that are tested together are in memory together. Raises `InputError` for data
        that are missing or not those that the nets were trained on.
        """
        nets: dict[Trial, Any] | None = None
        subjects: list[Nets] = [(trial,) for trial in trials] + ([tuple(trials)] if together else [])
        for protocol in protocols:
            new = [subject for subject in subjects if self.again or not self._known(subject, protocol)]
            if new:
                nets = self._nets(trials) if nets is None else nets
                self._measure(nets, protocol, new)
            for subject in subjects:
                if known := self._known(subject, protocol):
                    self.rows.append(_row(subject, known) | {"new": subject in new})

    def _nets(self, trials: Sequence[Trial]) -> dict[Trial, Any]:
        """The final nets of those trials whose weights are here. Raises `InputError` for a precision that is not."""
        nets = {}
        for trial in trials:
            check_precision(trial, self.device)
            saved = checkpoints.load_newest(TrialFolder(self._folder((trial,))).checkpoints, self.device)
            if lack := lack_of(saved, self.tags[trial.id], task_of(trial).COLUMNS):
                self.lacking[trial.id] = lack
                continue
            assert saved is not None
            net = _placed(task_of(trial).build(trial), self.device, trial.recipe.precision)
            try:
                net.load_state_dict(saved["net"])
            except (KeyError, TypeError, AttributeError, RuntimeError):
                self.lacking[trial.id] = "the weights of the newest state are not those of its net"
                continue
            nets[trial] = net
        return nets

    def _measure(self, nets: dict[Trial, Any], protocol: str, new: Sequence[Nets]) -> None:
        """Test the nets, alone and all together, and keep the numbers of those that are new."""
        if not nets:
            return
        first = next(iter(nets))
        task = task_of(first)
        values, images = task.test(nets, self._loaded(first), protocol)
        measured = dict(zip([*((trial,) for trial in nets), tuple(nets)], values, strict=True))
        for subject in (subject for subject in new if subject in measured):
            rows = evaluations(task.split(first), protocol, measured[subject], images, _ids(subject))
            add_evaluations(self._folder(subject), rows)

    def _loaded(self, trial: Trial) -> Any:
        """The trial's data, in memory until others are needed."""
        if self._data is None or self._data.spec != trial.data:
            self._data = None
            self._data = task_of(trial).load(trial, self.execution.data_root, self.device)
        check_digest(self._data.digest, trial, self.tags[trial.id], self.execution)
        return self._data

    def _known(self, subject: Nets, protocol: str) -> list[Row]:
        """The rows kept of these nets tested so, one a measure; none if one is missing."""
        task, table = task_of(subject[0]), read_evaluations(self._folder(subject))
        key = {"split": task.split(subject[0]), "protocol": protocol, "nets": _ids(subject)}
        rows = [row for row in table.to_pylist() if key.items() <= row.items()] if table else []
        by_measure, wanted = {row["measure"]: row for row in rows}, task.measures(subject[0])
        return [by_measure[measure] for measure in wanted] if by_measure.keys() >= set(wanted) else []

    def _folder(self, subject: Nets) -> Path:
        return self.execution.trial_folder(subject[0].id)


def _ids(subject: Nets) -> str:
    return ",".join(trial.id for trial in subject) if len(subject) > 1 else ""


def _row(subject: Nets, known: Sequence[Row]) -> Row:
    first = subject[0]
    return {
        "ids": [trial.id for trial in subject],
        "net": first.title if len(subject) == 1 else f"ensemble of {len(subject)}",
        "seed": first.seed,
        "data": first.data.name,
        **{name: known[0][name] for name in ("split", "protocol", "images")},
        **{row["measure"]: row["value"] for row in known},
    }


def check_digest(digest: str, trial: Trial, tags: dict[str, str], execution: Execution) -> None:
    """Raise `InputError` unless data of that digest are those that the trial, of these tags, was trained on."""
    if digest != (trained_on := tags.get("data_digest", "")):
        raise InputError(
            f"{trial.data.name} in {execution.data_root} is not what {trial.id} was trained with (digest"
            f" {digest[:12]}, not {trained_on[:12]}); name the folder of those data with --data-root"
        )


def lack_of(saved: dict[str, Any] | None, tags: dict[str, str], schema: pa.Schema) -> str:
    """Why a state is not the one that was sealed with the result; '' if it is."""
    if saved is None:
        return "its weights are not in this store"
    try:
        records = pa.Table.from_pylist(saved["records"], schema=schema)
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException):
        return "the newest state is not one of a trial"
    return "" if table_digest(records) == tags["records_sha256"] else "the newest state is not the one it ended with"


def _placed(net: nn.Module, device: torch.device, precision: str) -> Any:
    """On the device, laid out in memory as for training."""
    layout = memory_format(device, precision)
    return net.to(device=device, memory_format=layout)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A file of weights that no trial made, and what is known of their net; '' is what the file has to tell."""

    path: Path
    key: str = ""  # where in the file they are
    family: str = ""  # 'plain' or 'residual'
    depth: int = 0
    stride: str = ""
    shortcut: str = ""
    normalise: str = IMAGENET


def tested_weights(
    foreign: Foreign, name: str, protocols: Sequence[str], execution: Execution
) -> tuple[dict[str, Any], list[Row]]:
    """What net the weights of a file are of and how its images were normalised; and how well it does on a data set.

    Raises `InputError` for a file that is none, weights of another net than is named, and data that are missing, or of
    other classes or channels.
    """
    constants = constants_of(foreign.normalise)
    data = describe(name, execution.data_root, normalise="pixel-mean" if constants else foreign.normalise)
    for protocol in protocols:
        check_protocol(protocol, data)
    if constants:
        constants.as_loaded(data.channels)
    weights = read_weights(foreign.path, foreign.key)
    net, about = _net_of(weights, foreign)
    channels, classes = net.stem.in_channels, net.classifier.out_features
    if channels != data.channels:
        raise InputError(f"{foreign.path} takes images of {channels} channels, and {name} has {data.channels}")
    if classes != data.classes:
        _restrict(net, data, foreign.path, execution)
        about["restricted_to"] = data.classes
    if constants and constants.blue_first and channels == 3:
        with torch.no_grad():
            net.stem.weight.copy_(net.stem.weight.flip(1))
    device = device_of(execution)
    set_up_torch(execution)
    net, images_of = _placed(net.eval(), device, "fp32"), load(data, execution.data_root, device)
    images_of = images_of.normalised_by(constants) if constants else images_of
    rows = []
    for protocol in protocols:
        (errors, _), images = errors_pct(probabilities([net], images_of, protocol, device))
        tested = {"net": about["title"], "data": data.name, "split": split_of(data), "protocol": protocol}
        rows.append(tested | {"images": images} | errors)
    normalised: dict[str, Any] = {
        "name": foreign.normalise,
        "whose": constants.whose if constants else MEASURED[foreign.normalise],
    }
    if constants:
        order = "blue, green, red" if constants.blue_first else "red, green, blue"
        normalised |= {"mean": constants.mean, "std": constants.std, "order": order}
    return {"net": about, "normalise": normalised}, rows


def _restrict(net: Net, data: Data, path: Path, execution: Execution) -> None:
    """Leave a net of ImageNet the outputs of those classes that the data have, as ImageNet-A and -R are tested.

    Raises `InputError` unless the net has 1,000, and the folders of the data are WNIDs of ImageNet's.
    """
    outputs: list[int] = []
    if net.classifier.out_features == len(WNIDS) and (found := summary(data, execution.data_root)):
        outputs = outputs_of(found.labels)
    if not outputs:
        raise InputError(
            f"{path} tells {net.classifier.out_features} classes apart, and {data.name} has {data.classes}; choose data"
            " of its classes, or, of a net of ImageNet, folders called by WNIDs as n01440764"
        )
    classifier = nn.Linear(net.classifier.in_features, len(outputs))
    with torch.no_grad():
        classifier.weight.copy_(net.classifier.weight[outputs])
        classifier.bias.copy_(net.classifier.bias[outputs])
    net.classifier = classifier


def _net_of(weights: Weights, foreign: Foreign) -> tuple[Net, dict[str, Any]]:
    """The net of the weights, on the CPU, and what is known of it."""
    found = named(weights.tensors)
    model = model_of(found, family=foreign.family, stride=foreign.stride, shortcut=foreign.shortcut)
    if foreign.depth not in (0, model.depth):
        raise another(f"{model.title}, and not one of {foreign.depth} layers; leave out --model, or name another file")
    if "classifier.weight" not in found.tensors:
        raise InputError(f"{weights.path} has no classifier by any name known here, so there is nothing to evaluate")
    option = foreign.shortcut or (found.option_a if model.shortcut == "A" else "")
    if option == CENTRED:
        zeros_behind(found, model)
    classes, channels = len(found.tensors["classifier.weight"]), found.shape("stem.weight")[1]
    with torch.device("meta"):
        take(Net(model, channels, classes, lambda width: BatchNorm(width, 1)), found)  # compares, and makes nothing
    net = Net(model, channels, classes, lambda width: BatchNorm(width, 1))
    take(net, found)
    about = {"title": model.title, "family": model.family, "depth": model.depth, "width": model.width}
    about |= {"block": model.block, "stride": model.stride, "shortcut": option or model.shortcut, "classes": classes}
    about |= {"shortcut_by": found.whose} if option and not foreign.shortcut else {}
    about |= {"key": weights.key, "other_keys": list(weights.others)}
    return net, about
