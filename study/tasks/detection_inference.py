"""How detectors are tested: Faster R-CNN's single scale, and what Appendix B improves on it, each on top of the others.

Owns what becomes of proposals: the scales they are pooled at, refinement, suppression, voting, and ensembles. Knows
neither data sets nor metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, nms, remove_small_boxes

from study.nets.faster_rcnn import Detector, resizing
from study.spec import DetectionTrial, InputError, Trial, check_choice, detection_of
from study.tasks.names import CONTEXT, REFINED, SINGLE_SCALE, TESTED_MULTI_SCALE

PAPER_SIZE = 600  # the paper's shorter side, which lengths in pixels are in proportion to
SIDES = (200, 400, 600, 800, 1000)  # shorter sides of multi-scale testing
REGION = 224  # a region is pooled at the scales at which its size is nearest to this one squared
VOTES = 0.5  # least IoU of the boxes that vote for one


@dataclass(frozen=True)
class View:
    """What a detector sees of an image at one scale."""

    batch: ImageList  # of the one image
    shared: Tensor  # [1, channels, h, w]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as resized."""
        height, width = self.batch.image_sizes[0]
        return height, width


def protocols_of(trial: Trial) -> tuple[str, ...]:
    """What its detector is tested by: one that was trained with context is nothing without."""
    detection = detection_of(trial)
    assert detection is not None
    return (CONTEXT, TESTED_MULTI_SCALE) if detection.context else (SINGLE_SCALE, REFINED)


@torch.no_grad()
def detect(detectors: Sequence[Detector], image: Tensor, protocol: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 [m, 4] in the image's pixels, scores [m], which fall, and labels int64 [m] from 1; m <= 100.

    The image is float [3, H, W] in 0..1. Several detectors, in evaluation mode, are an ensemble: the best of the union
    of their proposals, and the means of their probabilities and box deltas. Raises `InputError` for a protocol that is
    not theirs, and for detectors that do not see images at one size.
    """
    assert detectors and not any(detector.training for detector in detectors)
    trials = [detector.trial for detector in detectors]
    for trial in trials:
        check_choice(f"protocol of {trial.label}", protocol, protocols_of(trial))
        if (sees := _sees(trial)) != _sees(trials[0]):
            raise InputError(
                f"{trial.label} has (size, longest, classes) {sees}, and {trials[0].label} {_sees(trials[0])};"
                " choose detectors that have the same"
            )
    size = trials[0].data.size
    sides = tuple(round(side * size / PAPER_SIZE) for side in SIDES) if protocol == TESTED_MULTI_SCALE else (size,)
    views = [{side: _view(detector, image, side) for side in sorted({size, *sides})} for detector in detectors]
    single, shape = [view[size] for view in views], views[0][size].size
    pyramids = [{side: view[side] for side in sides} for view in views]
    scores, boxes = _predict(detectors, pyramids, _proposals(detectors, single), shape)
    if protocol != SINGLE_SCALE:
        best = 1 + scores[:, 1:].argmax(1)
        again = _predict(detectors, pyramids, boxes[torch.arange(len(best), device=best.device), best], shape)
        scores, boxes = torch.cat([scores, again[0]]), torch.cat([boxes, again[1]])
    heads = detectors[0].roi_heads
    candidates = _candidates(scores, boxes, heads.score_thresh)
    kept = batched_nms(*candidates, heads.nms_thresh)[: heads.detections_per_img]
    chosen, chosen_scores, labels = (tensor[kept] for tensor in candidates)
    if protocol != SINGLE_SCALE:
        chosen = vote(chosen, labels, *candidates)
    return resize_boxes(chosen, shape, image.shape[-2:]), chosen_scores, labels


def vote(kept: Tensor, kept_labels: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Each kept box [k, 4] as the mean, weighted by score, of the boxes [n, 4] of its class with IoU >= 0.5 with it.

    Gidaris and Komodakis 2015, Sec. 5; the kept ones are among the boxes.
    """
    weights = scores * ((box_iou(kept, boxes) >= VOTES) & (kept_labels[:, None] == labels))
    means: Tensor = weights @ boxes / weights.sum(1, keepdim=True)
    return means


def levels(boxes: Tensor, sides: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """Numbers of the two rising sides, adjacent, that each box [n, 4] of shorter side `size` is pooled at, [n] each.

    They enclose the side at which its area is that of REGION squared; beyond the ends they are the last two there.
    """
    lengths = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    wanted = size * (REGION * size / PAPER_SIZE) / lengths
    above = torch.searchsorted(torch.tensor(sides, device=boxes.device, dtype=wanted.dtype), wanted, right=True)
    lower = (above - 1).clamp(0, max(len(sides) - 2, 0))
    return lower, (lower + 1).clamp(max=len(sides) - 1)


def _sees(trial: DetectionTrial) -> tuple[int, int, int]:
    return trial.data.size, trial.detection.longest, trial.data.classes


def _view(detector: Detector, image: Tensor, side: int) -> View:
    batch, _ = resizing(detector.trial, side).eval()([image])
    return View(batch, detector.shared(batch))


def _proposals(detectors: Sequence[Detector], views: Sequence[View]) -> Tensor:
    """The best boxes [n, 4] of the union of the detectors', suppressed as one's are: of one, its own."""
    proposals = [detector.propose(view.batch, view.shared) for detector, view in zip(detectors, views, strict=True)]
    boxes, scores = (torch.cat([proposal[0] for proposal in parts]) for parts in zip(*proposals, strict=True))
    rpn = detectors[0].rpn
    return boxes[nms(boxes, scores, rpn.nms_thresh)[: rpn.post_nms_top_n()]]


def _predict(
    detectors: Sequence[Detector], pyramids: Sequence[Mapping[int, View]], regions: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Probabilities [n, 1 + classes] and boxes [n, 1 + classes, 4] of regions [n, 4] of an image of that shape.

    Where there are several views, the features at the two that suit a region are merged by maxout; with context, the
    whole image's at these too.
    """
    outputs = []
    for detector, pyramid in zip(detectors, pyramids, strict=True):
        lower, upper = levels(regions, list(pyramid), detector.trial.data.size)
        features = regions.new_full((len(regions), detector.predictor.cls_score.in_features), -torch.inf)
        for number, view in enumerate(pyramid.values()):
            here = (lower == number) | (upper == number)
            pooled = detector.describe(view.shared, [resize_boxes(regions[here], shape, view.size)], [view.size])
            features[here] = torch.maximum(features[here], pooled)
        outputs.append(detector.classify(features))
    scores = torch.stack([logits.softmax(-1) for logits, _ in outputs]).mean(0)
    deltas = torch.stack([deltas for _, deltas in outputs]).mean(0)
    boxes = detectors[0].roi_heads.box_coder.decode(deltas, [regions])
    return scores, clip_boxes_to_image(boxes.view(*scores.shape, 4), shape)


def _candidates(scores: Tensor, boxes: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [m, 4], scores [m] and labels [m] of what may be an object, every class of a region on its own."""
    labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    flat = boxes[:, 1:].reshape(-1, 4), scores[:, 1:].reshape(-1), labels[:, 1:].reshape(-1)
    likely = flat[1] > least
    boxes, scores, labels = (tensor[likely] for tensor in flat)
    large = remove_small_boxes(boxes, 0.01)
    return boxes[large], scores[large], labels[large]
