"""Training a detector (Sec. 4.3, App. A): what differs from a classifier, under the names of `study/tasks/task.py`.

RPN and regions are trained together, end to end. The paper alternates between RPN and Fast R-CNN (four steps); this is
the approximate joint training of Faster R-CNN's authors' later code, whose result they call close to it. Images, flips
and the draws of anchors, regions and dropout are functions of (seed, iteration). Owns which metric is a data set's:
VOC 2007's is the 11-point AP, later ones the whole area's, COCO's the mAP over ten overlaps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from study.data import scenes
from study.data.detection_sets import Metric, set_of
from study.data.scenes import Scenes, Target
from study.nets import faster_rcnn
from study.nets.evaluation import autocast
from study.nets.faster_rcnn import Detector
from study.seeds import generator
from study.spec import DetectionTrial, InputError, Trial, as_detector
from study.store import records
from study.store.records import LOSSES
from study.tasks.detection_inference import detect, protocols_of
from study.tasks.detection_metrics import Detected, coco_map, voc_ap
from study.tasks.names import MAP, MAP_50, MAP_50_95, UNTRAINED
from study.tasks.task import Batches, Finals, Row, Stopped, Trained, Values, evaluations

COLUMNS = records.DETECTED
SUMMED = LOSSES
RECORDS_UNTRAINED = True
DIVISIBLE = False
TORCHVISIONS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")  # its names of LOSSES
COLUMN_OF = {MAP: "map_50", MAP_50: "map_50", MAP_50_95: "map_50_95"}  # of a record, by measure


def _detector(trial: Trial) -> DetectionTrial:
    detector = as_detector(trial)
    assert detector
    return detector


def load(trial: Trial, root: Path, device: torch.device | str = "cpu") -> Scenes:
    recipe = trial.recipe
    if recipe.warmup == "threshold" or recipe.schedule == "plateau":
        raise InputError(
            f"warmup {recipe.warmup!r} and schedule {recipe.schedule!r} of {trial.id}: a detector has no training"
            " error to wait for; choose 'none' or 'fixed', and 'steps' or 'cosine'"
        )
    return scenes.load(trial.data, root, device)


def build(trial: Trial) -> Detector:
    return faster_rcnn.build(_detector(trial))


@dataclass(frozen=True)
class Batch:
    """Images float32 [3, H, W] of their own sizes, their objects, and the seed of what the detector draws."""

    images: list[Tensor]
    targets: list[Target]
    draws: int


def batches(trials: Sequence[Trial], data: Sequence[Scenes], part: slice, updates: Tensor) -> Batches[Batch]:
    (trial,), (scenes_of,) = trials, data
    return Decoded(trial, scenes_of)


class Decoded:
    """Batches of scenes, which the host decodes. Their sizes differ, so that a step on them cannot be captured."""

    def __init__(self, trial: Trial, data: Scenes) -> None:
        self.trial, self.data = trial, data
        self.batch: Batch | None = None

    def bring(self, iterations: Sequence[int]) -> None:
        seed, (iteration,) = self.trial.seed, iterations
        images, targets = zip(*self.data.batch(seed, iteration, self.trial.recipe.batch), strict=True)
        self.batch = Batch(list(images), list(targets), generator(seed, "regions", iteration).initial_seed())

    def pick(self) -> Batch:
        assert self.batch is not None
        return self.batch


def loss(trial: Trial, forward: Callable[..., Any], batch: Batch, processes: int) -> tuple[Tensor, Tensor]:
    assert processes == 1
    device = batch.images[0].device
    with _drawing(batch.draws, device), autocast(device, trial.recipe.precision):
        by_name = forward(batch.images, batch.targets)
    losses = torch.stack([by_name[name].float() for name in TORCHVISIONS])
    return losses.sum(), losses.detach()


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Within, PyTorch's own generator, from which torchvision and dropout draw, starts from this seed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def trained(trial: Trial, means: Sequence[float]) -> dict[str, float]:
    return {"train_loss": sum(means), **dict(zip(LOSSES, means, strict=True))}


class Evaluator:
    """Average precisions for records and of the final net. Detecting takes long: it asks whether it is to stop."""

    def __init__(
        self,
        trial: Trial,
        state: Trained,
        data: Scenes,
        stopping: Callable[[], bool] = lambda: False,
        begin: Callable[[Any], object] = lambda net: None,
    ) -> None:
        """Nothing is measured of a detector at its start: `begin` is not used."""
        self.trial, self.state, self.data, self.stopping = _detector(trial), state, data, stopping
        self.last: list[Detected] | None = None  # what the last iterate detected, for its record

    def record(self, last: bool) -> dict[str, float | None]:
        if not self.data.labelled:
            return {}
        answers = self._detections(protocols_of(self.trial)[0])
        if last:
            self.last = answers
        values = precisions_pct(answers, self.data)
        return {MAP_50: values.get(MAP_50, values.get(MAP)), MAP_50_95: values.get(MAP_50_95)}

    def finals(self) -> Finals:
        """What the net does by each protocol that is its own, and what it did untrained.

        Without annotations, files for the test server instead.
        """
        rows: list[Row] = []
        submissions = {}
        first, *others = protocols_of(self.trial)
        for protocol in (first, *others):
            answers = self.last if protocol == first and self.last is not None else self._detections(protocol)
            if not self.data.labelled:
                submissions[protocol] = submission(answers, self.data)
            rows += evaluations(self.data.test_split, protocol, precisions_pct(answers, self.data), len(answers))
        untrained = self.state.records[0]
        rows += [
            {**row, "protocol": UNTRAINED, "value": untrained[COLUMN_OF[row["measure"]]]}
            for row in rows
            if row["protocol"] == first and row["measure"] in COLUMN_OF
        ]
        return Finals(evaluations=rows, submissions=submissions)

    def _detections(self, protocol: str) -> list[Detected]:
        answers: list[Detected] = []
        for one in detections([self.state.net], self.data, protocol, self.trial.recipe.precision):
            if self.stopping():
                raise Stopped
            answers.append(one)
        return answers


def split(trial: Trial) -> str:
    return set_of(trial.data.name).test_split


def measures(trial: Trial) -> tuple[str, ...]:
    return (MAP_50, MAP_50_95) if set_of(trial.data.name).metric is Metric.COCO else (MAP,)


def test(nets: Mapping[Trial, Any], data: Scenes, protocol: str) -> tuple[list[Values], int]:
    trials = list(nets)
    if not data.labelled:
        raise InputError(
            f"{data.test_split} has no annotations here, only its server has them: what {trials[0].id} detects in it"
            " is in the trial's folder, in files as the server takes them"
        )
    precision = trials[0].recipe.precision
    values: list[Values] = []
    for together in [*([net] for net in nets.values()), *([list(nets.values())] if len(nets) > 1 else [])]:
        answers = list(detections(together, data, protocol, precision))
        values.append(precisions_pct(answers, data))
    return values if len(nets) > 1 else values * 2, data.count("test")


def detections(nets: Sequence[Detector], data: Scenes, protocol: str, precision: str) -> Iterator[Detected]:
    """What the nets, together if there are several, find in each test image, in order; in evaluation mode meanwhile."""
    training = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        for image, _ in data.test():
            with autocast(image.device, precision):
                boxes, scores, labels = (tensor.cpu().numpy() for tensor in detect(nets, image, protocol))
            yield Detected(boxes, scores, labels)
    finally:
        for net, was_training in zip(nets, training, strict=True):
            net.train(was_training)


def precisions_pct(answers: Sequence[Detected], data: Scenes) -> Values:
    """Average precision of the detections in percent, by measure; {} where the annotations are a server's secret.

    Of VOC 'map' and 'ap_<class>' at IoU .5; of COCO 'map_50' and 'map_50_95'.
    """
    if not data.labelled:
        return {}
    examples = data.examples("test")
    if data.metric is Metric.COCO:
        return coco_map(examples, answers, data.classes)
    return voc_ap(examples, answers, data.classes, points="all" if data.metric is Metric.VOC_AREA else "11")


def submission(answers: Sequence[Detected], data: Scenes) -> dict[str, bytes]:
    """Files as VOC's server takes them: `comp4_det_test_<class>.txt`, a line a box, pixels counted from 1."""
    files = {}
    for label, name in enumerate(data.classes, 1):
        lines = [
            f"{example.image_id} {score:.6f} {box[0] + 1:.2f} {box[1] + 1:.2f} {box[2]:.2f} {box[3]:.2f}\n"
            for example, detected in zip(data.examples("test"), answers, strict=True)
            for box, score, box_label in zip(detected.boxes, detected.scores, detected.labels, strict=True)
            if box_label == label
        ]
        files[f"comp4_det_test_{name}.txt"] = "".join(lines).encode()
    return files
