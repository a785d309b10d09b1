"""Testing is torchvision's at a single scale, and each improvement of Appendix B is what its arithmetic says."""

import math
from dataclasses import replace

import pytest
import torch
from test_faster_rcnn import RESNET, SMALL, VGG, as_if_trained, photographs, torchvisions, trial
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from study.nets.faster_rcnn import Detector, build
from study.spec import InputError, Model
from study.tasks import detection_inference
from study.tasks.detection_inference import detect, levels, protocols_of, vote
from study.tasks.names import CONTEXT, REFINED, SINGLE_SCALE, TESTED_MULTI_SCALE


def detector(model: Model = SMALL, context: bool = False, seed: int = 0) -> Detector:
    return as_if_trained(build(trial(model, context=context, seed=seed))).eval()


@pytest.fixture
def image() -> Tensor:
    return photographs()[0][0]


@pytest.mark.parametrize("model", [VGG, RESNET], ids=["VGG-16", "ResNet-50"])
def test_a_single_scale_is_what_torchvisions_faster_rcnn_detects(model: Model) -> None:
    ours = detector(model)
    theirs = torchvisions(ours).eval()
    for image in photographs()[0]:
        boxes, scores, labels = detect([ours], image, SINGLE_SCALE)
        with torch.no_grad():
            (expected,) = theirs([image])
        assert 20 < len(boxes) <= 100 and len(labels.unique()) > 1
        torch.testing.assert_close(boxes, expected["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(scores, expected["scores"], rtol=1e-5, atol=1e-5)
        assert torch.equal(labels, expected["labels"])


def test_proposals_and_their_scores_are_the_rpns(image: Tensor) -> None:
    net = detector()
    with torch.no_grad():
        batch, _ = net.transform([image])
        shared = net.shared(batch)
        boxes, scores = net.propose(batch, shared)
        expected, _ = net.rpn(batch, {"0": shared})
    assert torch.equal(boxes[0], expected[0]) and len(boxes[0]) == 50
    assert torch.equal(scores[0], scores[0].sort(descending=True).values)


@pytest.mark.parametrize("protocol", [SINGLE_SCALE, REFINED, CONTEXT, TESTED_MULTI_SCALE])
def test_detections_fall_in_score_lie_in_the_image_and_repeat(protocol: str, image: Tensor) -> None:
    net = detector(context=protocol in (CONTEXT, TESTED_MULTI_SCALE))
    boxes, scores, labels = found = detect([net], image, protocol)
    assert boxes.shape == (len(scores), 4) and boxes.dtype == torch.float32 and 0 < len(boxes) <= 100
    assert torch.equal(scores, scores.sort(descending=True).values) and scores[-1] > 0.05
    assert labels.min() >= 1 and labels.max() <= 3
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 110.001 and boxes[:, 3].max() <= 80.001
    assert all(torch.equal(a, b) for a, b in zip(found, detect([net], image, protocol), strict=True))


def test_an_ensemble_of_a_net_with_itself_is_the_net(image: Tensor) -> None:
    net = detector(context=True)
    for protocol in (CONTEXT, TESTED_MULTI_SCALE):
        alone, twice = detect([net], image, protocol), detect([net, net], image, protocol)
        for a, b in zip(alone, twice, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_an_ensemble_averages_what_its_nets_make_of_the_union_of_their_proposals(image: Tensor) -> None:
    nets = [detector(seed=seed) for seed in (0, 1)]
    views = [detection_inference._view(net, image, 96) for net in nets]
    size = views[0].size
    with torch.no_grad():
        regions = detection_inference._proposals(nets, views)
        own = [net.propose(view.batch, view.shared)[0][0] for net, view in zip(nets, views, strict=True)]
        scores, boxes = detection_inference._predict(nets, [{96: view} for view in views], regions, size)
        logits, deltas = zip(
            *(n.classify(n.describe(v.shared, [regions], [size])) for n, v in zip(nets, views, strict=True)),
            strict=True,
        )
        expected = nets[0].roi_heads.box_coder.decode((deltas[0] + deltas[1]) / 2, [regions])
    assert len(regions) == 50  # as many as of one net, of both, and no two nearly alike
    for alone in own:
        assert 0 < (regions[:, None] == alone).all(2).any(1).sum() < 50
    assert (box_iou(regions, regions) - torch.eye(50)).max() <= 0.7
    torch.testing.assert_close(scores, (logits[0].softmax(1) + logits[1].softmax(1)) / 2)
    torch.testing.assert_close(boxes, clip_boxes_to_image(expected, size))


def test_boxes_that_overlap_by_half_vote_by_their_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.6, 0.3, 0.9, 0.5, 0.2])
    labels = torch.tensor([1, 1, 1, 2, 1])
    kept = torch.tensor([0, 3, 4])
    # The second overlaps the first by 80 / 120, the third by only 60 / 140; the fourth is of another class.
    voted = vote(boxes[kept], labels[kept], boxes, scores, labels)
    x = (0.6 * 0 + 0.3 * 2) / 0.9
    torch.testing.assert_close(voted, torch.tensor([[x, 0, 10 + x, 10], [0, 0, 10, 10], [50, 50, 60, 60]]))


def test_refinement_adds_as_many_predictions_from_the_regressed_boxes(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 new ones and 300 old: a region's new box is the one regressed for its likeliest class."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    predict = detection_inference._predict

    def noted(detectors: object, pyramids: object, regions: Tensor, shape: object) -> tuple[Tensor, Tensor]:
        scores, boxes = predict(detectors, pyramids, regions, shape)  # type: ignore[arg-type]
        seen.append((regions, scores, boxes))
        return scores, boxes

    monkeypatch.setattr(detection_inference, "_predict", noted)
    boxes, scores, _ = detect([detector()], image, REFINED)
    (first, first_scores, regressed), (second, second_scores, _) = seen
    assert len(first) == len(second) == 50
    for region, score, box in zip(second, first_scores, regressed, strict=True):
        assert torch.equal(region, box[1 + score[1:].argmax()])
    assert scores[0] == torch.cat([first_scores, second_scores])[:, 1:].max()


def test_refinement_of_boxes_that_regress_to_themselves_changes_nothing(image: Tensor) -> None:
    """The new predictions are the old ones; and where each box is the only one of its object, it votes alone."""
    net = detector()
    with torch.no_grad():
        net.predictor.bbox_pred.weight.zero_()
    single, refined = detect([net], image, SINGLE_SCALE), detect([net], image, REFINED)
    torch.testing.assert_close(single[1], refined[1])
    assert torch.equal(single[2], refined[2])


def test_a_region_is_pooled_at_the_two_scales_that_enclose_224_pixels() -> None:
    """At a shorter side of 600, 224 pixels become 224 at 600, so that 448 become 224 at 300."""
    sides = (200, 400, 600, 800, 1000)
    lengths = torch.tensor([224 * 600 / wanted for wanted in (100, 300, 399, 401, 700, 900, 3000)] + [0.0])
    boxes = torch.stack([torch.zeros_like(lengths), torch.zeros_like(lengths), lengths / 2, lengths * 2], dim=1)
    lower, upper = levels(boxes, sides, 600)
    assert lower.tolist() == [0, 0, 0, 1, 2, 3, 3, 3]
    assert torch.equal(upper, lower + 1)
    half = levels(boxes / 2, tuple(side // 2 for side in sides), 300)  # the same, all lengths in proportion
    assert torch.equal(half[0], lower)


def test_several_scales_of_which_there_is_one_are_a_single_scale(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection_inference, "SIDES", (600,))
    net = detector(context=True)
    for a, b in zip(detect([net], image, TESTED_MULTI_SCALE), detect([net], image, CONTEXT), strict=True):
        assert torch.equal(a, b)


def test_features_at_two_scales_are_merged_by_maxout(image: Tensor) -> None:
    net = detector()
    views = {side: detection_inference._view(net, image, side) for side in (64, 96, 160)}
    assert views[64].size == (64, 88) and views[160].size == (160, 220)
    region = torch.tensor([[10.0, 10, 42, 42]])  # 32 pixels at 96: 224 * 96 / 600 at 107.5, between 96 and 160
    with torch.no_grad():
        each = [
            net.describe(views[side].shared, [region * scale], [views[side].size])
            for side, scale in ((96, 1), (160, torch.tensor([220 / 132, 160 / 96, 220 / 132, 160 / 96])))
        ]
        scores, _ = detection_inference._predict([net], [views], region, views[96].size)
        expected = net.classify(torch.maximum(*each))[0].softmax(1)
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(scores, expected)


def test_context_is_the_feature_of_the_whole_image_beside_each_regions() -> None:
    net, plain = detector(context=True), detector()
    images, targets = photographs()
    with torch.no_grad():
        batch, resized = net.transform(images, targets)
        shared, boxes = net.shared(batch), [target["boxes"] for target in resized]
        features = net.describe(shared, boxes, batch.image_sizes)
        alone = plain.describe(shared, boxes, batch.image_sizes)
        whole = plain.describe(
            shared, [torch.tensor([[0.0, 0, width, height]]) for height, width in batch.image_sizes], batch.image_sizes
        )
    torch.testing.assert_close(features, torch.cat([alone, whole[[0, 0, 1]]], dim=1))


def test_a_detector_is_trained_with_the_context_that_it_is_tested_with() -> None:
    losses = build(trial(context=True)).train()(*photographs())
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    assert protocols_of(trial(context=True)) == (CONTEXT, TESTED_MULTI_SCALE)
    assert protocols_of(trial()) == (SINGLE_SCALE, REFINED)
    with pytest.raises(InputError, match=r"protocol of faster-rcnn-resnet18B-synthetic '\+context' is unknown; choose"):
        detect([detector()], photographs()[0][0], CONTEXT)


def test_an_image_without_proposals_has_no_detections(image: Tensor) -> None:
    net = detector(context=True)
    net.rpn.min_size = 1000
    for protocol in (CONTEXT, TESTED_MULTI_SCALE):
        assert [len(each) for each in detect([net], image, protocol)] == [0, 0, 0]


def test_nets_that_see_images_at_other_sizes_are_no_ensemble(image: Tensor) -> None:
    of = trial()
    larger = build(replace(of, data=replace(of.data, size=128))).eval()
    with pytest.raises(InputError, match=r"has \(size, longest, classes\) \(128, 160, 3\), and .* \(96, 160, 3\)"):
        detect([detector(), larger], image, SINGLE_SCALE)
