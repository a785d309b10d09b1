"""One detection trial from its start, or its newest checkpoint, to its end: what `study/run/worker.py` hands over to.

Owns where a backbone's weights come from and how a detector's numbers come into the ledger. Attempts, heartbeats,
checkpoints and seals are those of every trial.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from study import cost
from study.data.arrays import load as load_images
from study.data.scenes import Scenes, load
from study.execution import Execution
from study.nets.faster_rcnn import (
    Detector,
    build,
    take_backbone,
    take_detector,
    torchvision_backbone,
    torchvision_file,
)
from study.nets.resnet import build as build_net
from study.run.evaluate import check_digest, lack_of
from study.run.placement import MARGIN
from study.run.worker import Attempt, drive, memory_allowed
from study.spec import RANDOM, TORCHVISION, DetectionTrial, InputError, Trial
from study.store import atomic, ledger
from study.store.ledger import LOSSES
from study.tasks.detection_inference import protocols_of
from study.tasks.detection_metrics import Found
from study.tasks.detection_testing import detections, precisions_pct, write_submission
from study.tasks.names import UNTRAINED
from study.training import checkpoints, memory
from study.training.detection_loop import train
from study.nets.evaluation import recalibrated
from study.training.loop import Record, TrainState

COLUMN_OF = {"map": "map_50", "map_50": "map_50", "map_50_95": "map_50_95"}  # of a record, by measure
SOURCE = "weights_records_sha256"  # a tag, and until then a file: the seal of the trial that the weights came from
ELSEWHERE = "import a bundle with weights, or choose other --experiments"
log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The attempt was asked to stop: what was being measured is measured anew when the trial goes on."""


def check_weights(detectors: Sequence[DetectionTrial], todo: Set[str], execution: Execution) -> list[Trial]:
    """Raise `InputError` unless what each detector starts from is there, or among the ids `todo`, which run before it.

    Nothing is asked of detectors that have begun. Returns the finished classifiers that are to be recalibrated, which
    takes their data.
    """
    starting = [trial for trial in detectors if not _has_weights(trial.id, execution)]
    of_torchvision = [trial for trial in starting if trial.detection.weights == TORCHVISION]
    for trial in {(trial.model, trial.data): trial for trial in of_torchvision}.values():
        torchvision_file(trial, execution.data_root / "weights")
    sources = []
    for trial in starting:
        for id in set(trial.needs) - todo:
            source, _ = _needed(trial, id, execution)
            if trial.recipe.recalibrate and not isinstance(source, DetectionTrial):
                sources.append(source)
    return sources


def run(trial: DetectionTrial, execution: Execution, device: torch.device, attempt: Attempt) -> str:
    """Train and test the detector; returns its outcome.

    Raises `InputError` for missing data, and a backbone whose trial has not finished, or whose weights are elsewhere;
    `memory.OutOfMemory` where memory runs out: a detector has no segments to try again in.
    """
    needed, allowed = cost.predicted_bytes(trial), memory_allowed(execution, device)
    if needed > MARGIN * allowed:  # a prediction is no reason to refuse
        log.warning("memory may not suffice for %s: %s", trial.id, memory.advice(needed, allowed))
    if execution.compile:
        log.warning("%s is a detector, so it is not compiled", trial.id)
    try:
        return _run(trial, execution, device, attempt, {"compiled": "no", "memory_predicted_mib": str(needed // 2**20)})
    except (RuntimeError, MemoryError) as error:
        if not memory.is_exhausted(error):
            raise
    memory.release(device)  # only here the failed attempt's tensors are gone
    raise memory.OutOfMemory(f"out of memory: {memory.advice(needed, allowed)}")


def _run(
    trial: DetectionTrial, execution: Execution, device: torch.device, attempt: Attempt, how: dict[str, str]
) -> str:
    folder, first = attempt.folder / "checkpoints", protocols_of(trial)[0]
    scenes = load(trial.data, execution.data_root, device)
    memory.reset_peak(device)
    detector = build(trial)
    saved = checkpoints.load_newest(folder, device)
    if saved is None and (seal := _take_weights(detector, trial, execution, device)):
        attempt.write(lambda: atomic.write(attempt.folder / SOURCE, seal.encode()))
    state = TrainState(trial, device, detector, len(LOSSES))
    if saved is not None:
        state.restore(saved)
    final: dict[str, list[Found]] = {}  # what the last iterate found for its record

    def found(protocol: str) -> list[Found]:
        if protocol in final:
            return final.pop(protocol)
        each: list[Found] = []
        for one in detections([detector], scenes, protocol, trial.recipe.precision):
            if attempt.stopping:
                raise _Stopped
            each.append(one)
        return each

    def test() -> dict[str, float]:
        if not scenes.labelled:
            return {}
        each = found(first)
        if state.iteration == trial.recipe.iterations:
            final[first] = each
        return precisions_pct(each, scenes)

    try:
        seconds = drive(trial, state, train(trial, state, scenes, test), execution, attempt)
        if state.diverged_at is None and state.iteration < trial.recipe.iterations:
            raise _Stopped
        attempt.write(lambda: state.save(folder, kept=1))  # the final weights
        rows = _tested(trial, scenes, attempt, state.records, found) if state.diverged_at is None else []
    except _Stopped:
        if not attempt.orphaned:
            attempt.write(lambda: state.save(folder))
        return attempt.ended("interrupted", "asked to stop")
    how |= {"seconds": f"{seconds:.2f}", "data_digest": scenes.digest, "memory_mib": str(memory.peak(device) // 2**20)}
    if seal := (atomic.read(attempt.folder / SOURCE) or b"").decode():
        how[SOURCE] = seal
    if state.diverged_at is not None:
        return attempt.seal("diverged", state, seconds, how | {"diverged_at": str(state.diverged_at)}, None)
    return attempt.seal("finished", state, seconds, how, None, rows)


def _tested(
    trial: DetectionTrial,
    scenes: Scenes,
    attempt: Attempt,
    records: list[Record],
    found_by: Callable[[str], list[Found]],
) -> list[dict[str, Any]]:
    """What the final net does by each protocol that is its own, and what it did untrained.

    Without annotations, files for the test server instead.
    """
    rows: list[dict[str, Any]] = []
    for protocol in protocols_of(trial):
        found = found_by(protocol)
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


def _take_weights(detector: Detector, trial: DetectionTrial, execution: Execution, device: torch.device) -> str:
    """Give the detector the weights that it starts with; returns the seal of the trial that they are of, '' if none."""
    weights = trial.detection.weights
    if weights == RANDOM:
        return ""
    if weights == TORCHVISION:
        torchvision_backbone(detector, execution.data_root / "weights")
        return ""
    (id,) = trial.needs
    source, tags = _needed(trial, id, execution)
    saved = checkpoints.load_newest(execution.trial_folder(id) / "checkpoints", device)
    if lack := lack_of(saved, tags, ledger.columns(source)):
        raise InputError(f"{trial.id} cannot start from {id}: {lack}; {ELSEWHERE}")
    assert saved is not None
    if isinstance(source, DetectionTrial):
        take_detector(detector, saved["net"])
    elif source.model != trial.model:
        raise InputError(f"weights {id} are of {source.model.title} of other settings than {trial.title}'s")
    else:
        images = trial.recipe.recalibrate
        take_backbone(detector, _recalibrated(source, tags, saved["net"], images, execution, device))
    return tags["records_sha256"]


def _needed(trial: DetectionTrial, id: str, execution: Execution) -> tuple[Trial, dict[str, str]]:
    """The finished trial that the detector starts from, and its tags.

    Raises `InputError` for what has not finished, and where its weights are not in this store.
    """
    folder = execution.trial_folder(id)
    said, spec = ledger.account(folder), atomic.read(folder / "spec.json")
    outcome = said.get("outcome", "")
    if outcome == "finished" and spec is not None and _has_weights(id, execution):
        return Trial.from_dict(json.loads(spec)), said["tags"]
    why = {
        "finished": f"its weights are not in this store; {ELSEWHERE}",
        "diverged": "it diverged, so it has no weights: the detector of this seed cannot be trained;"
        " choose other --seeds or --experiments",
        "": "neither its result nor its weights are in this store; delete its run in MLflow, if there is one, and"
        f" train it, or {ELSEWHERE}",
    }.get(outcome, f"it is {outcome}; run it to its end, or choose other --experiments")
    raise InputError(f"{trial.id} cannot start from {id}: {why}")


def _has_weights(id: str, execution: Execution) -> bool:
    return any((execution.trial_folder(id) / "checkpoints").glob("*.checkpoint"))


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
    net = build_net(source).to(device)
    net.load_state_dict(state)
    data = load_images(source.data, execution.data_root, device, source.seed)
    check_digest(data.digest, source, tags, execution)
    size = source.recipe.bn_batch
    with recalibrated(net, data.mixed(size, min(images, data.count("train"))), source.recipe.precision):
        return {name: tensor.clone() for name, tensor in net.state_dict().items()}
