"""One detection trial from its start, or its newest checkpoint, to its end: what `study/worker.py` hands over to.

Owns where a backbone's weights come from and how a detector's numbers come into the ledger. Attempts, heartbeats,
checkpoints and seals are those of every trial.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from study import checkpoints, ledger, memory, storage
from study.data import load as load_images
from study.detection.data import Scenes, load
from study.detection.inference import protocols_of
from study.detection.model import Detector, build, take_backbone, take_detector, torchvision_backbone
from study.detection.spec import RANDOM, TORCHVISION, DetectionTrial
from study.detection.testing import detections, precisions_pct, write_submission
from study.detection.training import train
from study.evaluation import recalibrated
from study.ledger import LOSSES
from study.models import build as build_net
from study.spec import Execution, InputError, Trial
from study.training import Record, TrainState
from study.worker import Attempt, drive

UNTRAINED = "untrained"  # a protocol: what the detector did before its first update
COLUMN_OF = {"map": "map_50", "map_50": "map_50", "map_50_95": "map_50_95"}  # of a record, by measure
Tested = list[dict[str, Any]]


def run(trial: DetectionTrial, execution: Execution, device: torch.device, attempt: Attempt) -> str:
    """Train and test the detector; returns its outcome.

    Raises `InputError` for missing data, and a backbone whose trial has not finished, or whose weights are elsewhere.
    """
    folder = attempt.folder / "checkpoints"
    scenes = load(trial.data, execution.data_root, device)
    memory.reset_peak(device)
    detector = build(trial)
    saved = checkpoints.load_newest(folder, device)
    if saved is None:
        _take_weights(detector, trial, execution, device)
    state = TrainState(trial, device, detector, len(LOSSES))
    if saved is not None:
        state.restore(saved)
    protocol, *_ = protocols_of(trial)
    test = partial(_precisions, detector, scenes, protocol, trial.recipe.precision)
    seconds = drive(trial, state, train(trial, state, scenes, test), execution, attempt)
    if state.diverged_at is None and state.iteration < trial.recipe.iterations:
        if not attempt.orphaned:
            attempt.write(lambda: state.save(folder))
        return attempt.ended("interrupted", "asked to stop")
    attempt.write(lambda: state.save(folder, kept=1))  # the final weights
    how = {"seconds": f"{seconds:.2f}", "data_digest": scenes.digest, "memory_mib": str(memory.peak(device) // 2**20)}
    for id in trial.needs:
        how["weights_records_sha256"] = ledger.account(execution.trial_folder(id))["tags"]["records_sha256"]
    if state.diverged_at is not None:
        return attempt.seal("diverged", state, seconds, how | {"diverged_at": str(state.diverged_at)}, None)
    return attempt.seal("finished", state, seconds, how, None, _tested(trial, detector, scenes, attempt, state.records))


def _precisions(detector: Detector, scenes: Scenes, protocol: str, precision: str) -> dict[str, float]:
    return precisions_pct(detections([detector], scenes, protocol, precision), scenes) if scenes.labelled else {}


def _tested(
    trial: DetectionTrial, detector: Detector, scenes: Scenes, attempt: Attempt, records: list[Record]
) -> Tested:
    """What the final net does by each protocol that is its own, and what it did untrained.

    Without annotations, files for the test server instead.
    """
    rows: Tested = []
    for protocol in protocols_of(trial):
        found = detections([detector], scenes, protocol, trial.recipe.precision)
        if not scenes.labelled:
            name = f"submission-{protocol.removeprefix('+').replace(' ', '-')}"
            attempt.write(lambda name=name, found=found: write_submission(attempt.folder / name, found, scenes))  # type: ignore[misc]
        of = {"split": scenes.test_split, "protocol": protocol, "nets": "", "images": len(found)}
        rows += [{**of, "measure": name, "value": value} for name, value in precisions_pct(found, scenes).items()]
    first, *_ = protocols_of(trial)
    return rows + [
        {**row, "protocol": UNTRAINED, "value": records[0][COLUMN_OF[row["measure"]]]}
        for row in rows
        if row["protocol"] == first and row["measure"] in COLUMN_OF
    ]


def _take_weights(detector: Detector, trial: DetectionTrial, execution: Execution, device: torch.device) -> None:
    """Give the detector the weights that it starts with."""
    weights = trial.detection.weights
    if weights == RANDOM:
        return
    if weights == TORCHVISION:
        torchvision_backbone(detector, execution.data_root / "weights")
        return
    (id,) = trial.needs
    source, state = _final(id, execution, device)
    if isinstance(source, DetectionTrial):
        take_detector(detector, state)
        return
    if source.model != trial.model:
        raise InputError(f"weights {id} are of {source.model.title} of other settings than {trial.title}'s")
    take_backbone(detector, _recalibrated(source, state, trial.recipe.recalibrate, execution, device))


def _final(id: str, execution: Execution, device: torch.device) -> tuple[Trial, Mapping[str, Tensor]]:
    """A finished trial and the weights that it ended with."""
    folder = execution.trial_folder(id)
    outcome, spec = ledger.account(folder).get("outcome", "not there"), storage.read(folder / "spec.json")
    if outcome != "finished" or spec is None:
        raise InputError(f"weights {id} are of a trial that is {outcome}; run it first: its experiment names it")
    saved = checkpoints.load_newest(folder / "checkpoints", device)
    if saved is None:
        raise InputError(f"the weights of {id} are not in this store; import them, or delete its folder to train it")
    return Trial.from_dict(json.loads(spec)), saved["net"]


def _recalibrated(
    source: Trial, state: Mapping[str, Tensor], images: int, execution: Execution, device: torch.device
) -> Mapping[str, Tensor]:
    """The state with BatchNorm's statistics over so many of the images that the net was trained on (Appendix A)."""
    if not images:
        return state
    net = build_net(source).to(device)
    net.load_state_dict(state)
    data = load_images(source.data, execution.data_root, device, source.seed)
    size = source.recipe.bn_batch
    with recalibrated(net, data.mixed(size, min(images, data.count("train"))), source.recipe.precision):
        return {name: tensor.clone() for name, tensor in net.state_dict().items()}
