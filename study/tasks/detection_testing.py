"""How well detectors do: their detections on the test images, by protocol, and the average precision of these.

Owns which metric is a data set's: VOC 2007's is the 11-point AP, later ones the whole area's, COCO's mAP over ten
overlaps. How a detector detects is `study/tasks/detection_inference.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from study.data.annotations import test_split
from study.data.detection_sets import SETS, Metric
from study.data.scenes import Scenes, load
from study.nets.faster_rcnn import Detector, build
from study.run.evaluate import Nets, Testing
from study.spec import DetectionTrial, InputError, Trial
from study.store import atomic
from study.tasks.detection_inference import detect
from study.tasks.detection_metrics import Found, coco_map, voc_ap
from study.nets.evaluation import autocast


def detections(nets: Sequence[Detector], scenes: Scenes, protocol: str, precision: str) -> Iterator[Found]:
    """What the nets, together if there are several, find in each test image, in order; in evaluation mode meanwhile."""
    training = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        for image, _ in scenes.test():
            with autocast(image.device, precision):
                boxes, scores, labels = (each.cpu().numpy() for each in detect(nets, image, protocol))
            yield Found(boxes, scores, labels)
    finally:
        for net, was_training in zip(nets, training, strict=True):
            net.train(was_training)


def precisions_pct(found: Sequence[Found], scenes: Scenes) -> dict[str, float]:
    """Average precision of the detections in percent, by measure; {} where the annotations are a server's secret.

    Of VOC 'map' and 'ap_<class>' at IoU .5; of COCO 'map_50' and 'map_50_95'.
    """
    examples = scenes.examples("test")
    if not scenes.labelled:
        return {}
    if scenes.metric is Metric.COCO:
        return coco_map(examples, found, scenes.classes)
    return voc_ap(examples, found, scenes.classes, points="all" if scenes.metric is Metric.VOC_AREA else "11")


def write_submission(folder: Path, found: Sequence[Found], scenes: Scenes) -> None:
    """The detections as VOC's server takes them: `comp4_det_test_<class>.txt`, a line each, pixels counted from 1."""
    for label, name in enumerate(scenes.classes, 1):
        lines = [
            f"{example.image_id} {score:.6f} {box[0] + 1:.2f} {box[1] + 1:.2f} {box[2]:.2f} {box[3]:.2f}\n"
            for example, each in zip(scenes.examples("test"), found, strict=True)
            for box, score, its_label in zip(each.boxes, each.scores, each.labels, strict=True)
            if its_label == label
        ]
        atomic.write(folder / f"comp4_det_test_{name}.txt", "".join(lines).encode())


class DetectorTesting(Testing):
    """Tests finished detectors, alone and together, as `study.run.evaluate` tests classifiers."""

    def _built(self, trial: Trial) -> Detector:
        assert isinstance(trial, DetectionTrial)
        return build(trial)

    def _load(self, trial: Trial) -> Scenes:
        scenes = load(trial.data, self.execution.data_root, self.device)
        if not scenes.labelled:
            raise InputError(
                f"{scenes.test_split} has no annotations here, only its server has them: what {trial.id} detects in it"
                " is in the trial's folder, in files as the server takes them"
            )
        return scenes

    def _split(self, trial: Trial) -> str:
        return test_split(trial.data.name)

    def _measures(self, trial: Trial) -> Sequence[str]:
        return ("map_50", "map_50_95") if SETS[trial.data.name].metric is Metric.COCO else ("map",)

    def _measured(self, nets: dict[Trial, Any], protocol: str) -> dict[Nets, tuple[dict[str, float], int]]:
        scenes = self._loaded(next(iter(nets)))
        measured: dict[Nets, tuple[dict[str, float], int]] = {}
        for of in [*((trial,) for trial in nets), *([tuple(nets)] if len(nets) > 1 else [])]:
            found = list(detections([nets[trial] for trial in of], scenes, protocol, of[0].recipe.precision))
            measured[of] = precisions_pct(found, scenes), len(found)
        return measured
