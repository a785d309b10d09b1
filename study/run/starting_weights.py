"""What a trial's first weights are made of besides random draws: a file of torchvision's or others', the final net of
another trial, or training images.

Owns whether these weights are there, and that they are the ones that the other trial's result was sealed with.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from study.data.arrays import load
from study.execution import Execution
from study.nets import starts
from study.nets.evaluation import loss_and_error, memory_format, recalibrated
from study.nets.faster_rcnn import (
    file_backbone,
    file_state,
    take_backbone,
    take_detector,
    torchvision_backbone,
    torchvision_file,
)
from study.nets.resnet import build
from study.run.evaluate import check_digest, lack_of
from study.spec import GROWN, PASS_THROUGH, RANDOM, TORCHVISION, InputError, Trial, as_detector, detection_of
from study.store import atomic
from study.store.account import Outcome, read_account
from study.store.layout import TrialFolder
from study.store.records import columns
from study.training import checkpoints

SEAL = "weights_records_sha256"  # a tag: the seal of the trial that the first weights are of
IMAGES = 512  # training images that a start is set from
EQUAL_LOSS = 1e-4  # by how much the loss of a grown net may differ from that of the net it is grown from, in nats
ELSEWHERE = "import a bundle with weights, or choose other --experiments"


def check(trials: Sequence[Trial], execution: Execution) -> list[Trial]:
    """Raise `InputError` unless what each trial starts from is there, or among these trials, which run before it.

    Nothing is required of detectors that have begun. Returns the finished classifiers that are to be recalibrated,
    which takes their data.
    """
    todo = {trial.id for trial in trials}
    planned = {trial.id: trial for trial in trials}
    for trial in (trial for trial in trials if trial.recipe.start == GROWN):
        for id in trial.needs:  # also of those that have begun: their layers are measured at the start once more
            _check_grows(planned[id] if id in planned else _source(trial, id, execution)[0], trial)
    starting = [trial for trial in trials if detection_of(trial) and not _has_weights(trial.id, execution)]
    of_torchvision = [trial for trial in starting if _weights(trial) == TORCHVISION]
    for trial in {(trial.model, trial.data): trial for trial in of_torchvision}.values():
        torchvision_file(trial, execution.data_root / "weights")
    for trial in {(trial.model, trial.data, detection_of(trial)): trial for trial in starting}.values():
        if (detector := as_detector(trial)) and detector.detection.weights_file:
            file_state(detector, execution.data_root / "weights")
    sources = []
    for trial in starting:
        for id in set(trial.needs) - todo:
            source, _ = _source(trial, id, execution)
            if trial.recipe.recalibrate and not detection_of(source):
                sources.append(source)
    return sources


def take(net: Any, trial: Trial, execution: Execution, device: torch.device, data: Any) -> str:
    """Give a trial's net, as it is built, the weights that it starts with; returns the seal of the trial that they are
    of, '' if none. `data`: the trial's, from whose training images, the same for all seeds, a start may be set.

    Raises `InputError` for weights that are missing, or of another net.
    """
    if trial.recipe.start == PASS_THROUGH:
        starts.pass_through(net, _images(trial, data)[0])
    if trial.recipe.start == GROWN:
        return _grow(net, trial, execution, device, data)
    weights = _weights(trial)
    if weights == RANDOM:
        return ""
    if weights == TORCHVISION:
        torchvision_backbone(net, execution.data_root / "weights")
        return ""
    if (detector := as_detector(trial)) and detector.detection.weights_file:
        file_backbone(net, execution.data_root / "weights")
        return ""
    (id,) = trial.needs
    source, tags = _source(trial, id, execution)
    saved = checkpoints.load_newest(TrialFolder(execution.trial_folder(id)).checkpoints, device)
    if lack := lack_of(saved, tags, columns(source)):
        raise InputError(f"{trial.id} cannot start from {id}: {lack}; {ELSEWHERE}")
    assert saved is not None
    if detection_of(source):
        take_detector(net, saved["net"])
    elif source.model != trial.model:
        raise InputError(f"weights {id} are of {source.model.title} of other settings than {trial.title}'s")
    else:
        images = trial.recipe.recalibrate
        take_backbone(net, _recalibrated(source, tags, saved["net"], images, execution, device))
    return tags["records_sha256"]


def _grow(net: Any, trial: Trial, execution: Execution, device: torch.device, data: Any) -> str:
    (id,) = trial.needs
    source, tags = _source(trial, id, execution)
    _check_grows(source, trial)
    saved = checkpoints.load_newest(TrialFolder(execution.trial_folder(id)).checkpoints, device)
    if lack := lack_of(saved, tags, columns(source)):
        raise InputError(f"{trial.id} cannot start from {id}: {lack}; {ELSEWHERE}")
    assert saved is not None
    shallower = build(source).to(device)
    shallower.load_state_dict(saved["net"])
    images, labels = _images(trial, data)
    starts.grow(net, shallower, images)
    before, after = (loss_and_error(one, [(images, labels)], "fp32")[0] for one in (shallower, net))
    assert before is not None and after is not None
    if not abs(after - before) <= EQUAL_LOSS:
        raise InputError(
            f"{trial.id} starts at loss {after:.6f}, and {id}, from which it is grown, ended at {before:.6f}: they must"
            f" be equal to {EQUAL_LOSS:g}"
        )
    return tags["records_sha256"]


def _check_grows(source: Trial, trial: Trial) -> None:
    shallower = replace(trial.model, depth=source.model.depth)
    if source.model != shallower or not source.model.depth < trial.model.depth or source.data != trial.data:
        raise InputError(
            f"{trial.id} cannot be grown from {source.id}, {source.model.title} of width {source.model.width} on"
            f" {source.data.name}; choose a shallower net with its width, {trial.model.width}, and its data"
        )


def _images(trial: Trial, data: Any) -> tuple[Tensor, Tensor]:
    """The training images that a start is set from, and their labels: a named stream's, the same for every seed."""
    count = min(IMAGES, data.count("train"))
    images, labels = next(data.mixed(count, count))
    return images.contiguous(memory_format=memory_format(images.device, trial.recipe.precision)), labels


def _weights(trial: Trial) -> str:
    """What its net starts from, as `Detection.weights` has it: a classifier from random weights."""
    detection = detection_of(trial)
    return detection.weights if detection else RANDOM


def _source(trial: Trial, id: str, execution: Execution) -> tuple[Trial, dict[str, str]]:
    """The finished trial that the trial starts from, and its tags.

    Raises `InputError` for what has not finished, and where its weights are not in this store.
    """
    folder = execution.trial_folder(id)
    account, spec = read_account(folder), atomic.read(TrialFolder(folder).spec)
    if account.outcome == Outcome.FINISHED and spec is not None and _has_weights(id, execution):
        return Trial.from_dict(json.loads(spec)), account.tags
    why = {
        Outcome.FINISHED: f"its weights are not in this store; {ELSEWHERE}",
        Outcome.DIVERGED: "it diverged, so it has no weights: the trial of this seed cannot be trained;"
        " choose other --seeds or --experiments",
        Outcome.MISSING: "neither its result nor its weights are in this store; delete its run in MLflow, if there is"
        f" one, and train it, or {ELSEWHERE}",
    }.get(account.outcome, f"it is {account.outcome}; run it to its end, or choose other --experiments")
    raise InputError(f"{trial.id} cannot start from {id}: {why}")


def _has_weights(id: str, execution: Execution) -> bool:
    return TrialFolder(execution.trial_folder(id)).has_checkpoint


def _recalibrated(
    source: Trial,
    tags: dict[str, str],
    state: Mapping[str, Tensor],
    images: int,
    execution: Execution,
    device: torch.device,
) -> Mapping[str, Tensor]:
    """The state with BatchNorm's statistics over so many of the images that the net was trained on (Appendix A)."""
    if not images:
        return state
    net = build(source).to(device)
    net.load_state_dict(state)
    data = load(source.data, execution.data_root, device, source.seed)
    check_digest(data.digest, source, tags, execution)
    size = source.recipe.bn_batch
    with recalibrated(net, data.mixed(size, min(images, data.count("train"))), source.recipe.precision):
        return {name: tensor.clone() for name, tensor in net.state_dict().items()}
