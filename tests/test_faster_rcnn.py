"""The detector is torchvision's Faster R-CNN around the study's nets: its losses, its weights and what stays fixed."""

import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_pool

from experiments import recipes
from study.nets import resnet
from study.nets.faster_rcnn import (
    Detector,
    build,
    from_torchvision_classifier,
    take_backbone,
    take_detector,
    torchvision_backbone,
    torchvision_file,
)
from study.nets.resnet import BatchNorm
from study.spec import Detection, DetectionTrial, InputError, Model, Trial

VGG = Model.vgg(width=4)
RESNET = Model.imagenet(family="residual", depth=50, shortcut="B", width=4)
SMALL = Model.imagenet(family="residual", depth=18, shortcut="B", width=4)
DATA = replace(recipes.PAPER_DATA, name="synthetic", size=96, classes=3, padding=0, normalise="imagenet")
DETECTION = Detection(
    weights="random",
    norm="frozen",
    fixed_stages=2,
    context=False,
    anchors=(24, 32, 48),
    longest=160,
    proposals=50,
    regions=16,
)


def trial(
    model: Model = SMALL, seed: int = 0, classes: int = 3, normalise: str = "imagenet", **of: Any
) -> DetectionTrial:
    recipe = replace(recipes.minutes(model), batch=2, bn_batch=2)
    data = replace(DATA, classes=classes, normalise=normalise)
    return DetectionTrial(model=model, data=data, recipe=recipe, seed=seed, detection=replace(DETECTION, **of))


def as_if_trained(detector: Detector) -> Detector:
    """With BatchNorm's averages, branches that do not grow with depth, and scores that differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, BatchNorm):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.2, 0.6)
        for layer in (detector.predictor.cls_score, detector.predictor.bbox_pred):
            layer.weight *= 20
    return detector


def photographs() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of two sizes, and their objects."""
    draw = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 80, 110, generator=draw), torch.rand(3, 120, 90, generator=draw)]
    return images, [
        {"boxes": torch.tensor([[10.0, 12, 50, 60], [40, 5, 100, 70]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[20.0, 30, 45, 52]]), "labels": torch.tensor([2])},
    ]


class Pool(nn.Module):
    """RoI pooling where torchvision expects its own kind of pooling."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return roi_pool(maps["0"], boxes, self.side, 1 / 16)


class Called(nn.Module):
    """A part of the detector as a module of its own."""

    def __init__(self, backbone: nn.Module, part: str) -> None:
        super().__init__()
        self.backbone, self.part, self.out_channels = backbone, part, backbone.channels

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.backbone, self.part)(x)


def torchvisions(detector: Detector) -> FasterRCNN:
    """torchvision's own Faster R-CNN with the detector's weights and numbers."""
    spec, backbone = detector.trial.detection, detector.backbone
    head, predictor = RPNHead(backbone.channels, 9), FastRCNNPredictor(backbone.features, 4)
    head.load_state_dict(detector.rpn.head.state_dict())
    predictor.load_state_dict(detector.predictor.state_dict())
    theirs = FasterRCNN(
        Called(backbone, "shared"),
        rpn_anchor_generator=AnchorGenerator((spec.anchors,), ((0.5, 1.0, 2.0),)),
        rpn_head=head,
        box_head=Called(backbone, "head"),
        box_predictor=predictor,
        min_size=96,
        max_size=160,
        rpn_pre_nms_top_n_train=12000,
        rpn_post_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_test=spec.proposals,
        box_nms_thresh=0.3,
        box_batch_size_per_image=spec.regions,
    )
    theirs.roi_heads.box_roi_pool = Pool(7 if detector.trial.model.family == "vgg" else 14)
    return theirs


@pytest.mark.parametrize("model", [VGG, RESNET], ids=["VGG-16", "ResNet-50"])
def test_losses_and_gradients_are_those_of_torchvisions_faster_rcnn(model: Model) -> None:
    ours = as_if_trained(build(trial(model))).train()
    theirs = torchvisions(ours).train()
    images, targets = photographs()
    torch.manual_seed(5)
    losses = ours(images, targets)
    torch.manual_seed(5)
    expected = theirs(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    for name, loss in losses.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-5)
    weights = [weight for weight in ours.backbone.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(sum(losses.values()), weights, retain_graph=True)
    for gradient, other in zip(gradients, torch.autograd.grad(sum(expected.values()), weights), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


def test_losses_are_drawn_from_torchs_generator_and_from_nothing_else() -> None:
    detector = build(trial(VGG)).train()
    images, targets = photographs()

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [loss.item() for loss in detector(images, targets).values()]

    assert losses(1) == losses(1) != losses(2)


def test_an_image_without_objects_is_background() -> None:
    detector = build(trial()).train()
    images, targets = photographs()
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    losses = detector(images[:1], [nothing])
    assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0 and losses["loss_objectness"] > 0


def test_in_bfloat16_boxes_are_still_exact() -> None:
    detector = as_if_trained(build(trial())).eval()
    images, _ = photographs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        batch, _ = detector.transform(images)
        shared = detector.shared(batch)
        boxes, _ = detector.propose(batch, shared)
        assert shared.dtype == boxes[0].dtype == torch.float32
        assert not torch.equal(boxes[0], boxes[0].bfloat16().float())
        assert detector.classify(detector.describe(shared, boxes, batch.image_sizes))[0].dtype == torch.float32


# Where weights come from


def test_a_detector_starts_from_the_weights_of_the_classifier_of_its_seed_whatever_else_is_drawn() -> None:
    ours = trial()
    net = resnet.build(Trial(model=ours.model, data=replace(ours.data, classes=7), recipe=ours.recipe, seed=0))
    torch.manual_seed(0)
    first = build(ours).state_dict()
    torch.manual_seed(1)
    second = build(ours).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in net.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(first[f"backbone.{name}"], tensor)
    other = build(trial(seed=1)).state_dict()
    assert not torch.equal(other["rpn.head.conv.0.0.weight"], first["rpn.head.conv.0.0.weight"])


def test_new_layers_start_as_gaussians_and_biases_as_zero() -> None:
    detector = build(trial(VGG))
    head = detector.rpn.head
    for layer, deviation in (
        (head.conv[0][0], 0.01),
        (head.cls_logits, 0.01),
        (head.bbox_pred, 0.01),
        (detector.predictor.cls_score, 0.01),
        (detector.predictor.bbox_pred, 0.001),
    ):
        assert abs(layer.weight.std().item() / deviation - 1) < 0.15
    assert not any(tensor.any() for name, tensor in detector.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("model", [SMALL, RESNET], ids=["ResNet-18", "ResNet-50"])
def test_shared_layers_and_head_are_the_classifier_that_they_are_taken_from(model: Model) -> None:
    source = as_if_trained(build(trial(model, seed=3))).backbone
    of = trial(model)
    net = resnet.build(Trial(model=model, data=replace(of.data, classes=7), recipe=of.recipe, seed=3)).eval()
    net.load_state_dict(source.state_dict(), strict=False)
    detector = build(of).eval()
    take_backbone(detector, net.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        shared = detector.backbone.shared(images)
        assert shared.shape == (2, detector.backbone.channels, 14, 14)  # as large as a pooled region
        assert torch.equal(net.classifier(detector.backbone.head(shared)), net(images))


def test_weights_of_another_net_are_refused_in_one_line() -> None:
    detector = build(trial())
    wider = build(trial(replace(SMALL, width=8))).backbone.state_dict()
    with pytest.raises(InputError, match=r"no ResNet-18 \(B\): stem.weight is \(8, 3, 7, 7\), and \(4, 3, 7, 7\) here"):
        take_backbone(detector, wider)
    with pytest.raises(InputError, match=r"the weights are of no ResNet-18 \(B\): fc6.bias, fc6.weight"):
        take_backbone(detector, build(trial(VGG)).backbone.state_dict())
    with pytest.raises(InputError, match=r"no Faster R-CNN, .* with 3 sizes of anchors: rpn.head.cls_logits.weight is"):
        take_detector(detector, build(trial(anchors=(32, 64))).state_dict())


def test_of_another_detector_all_but_the_siblings_is_taken() -> None:
    """Its classes are others, and it has context: COCO's detector becomes VOC's (Appendix B)."""
    theirs = build(trial(seed=1, classes=5, context=True)).state_dict()
    detector = build(trial())
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    take_detector(detector, theirs)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("predictor.") else theirs[name])


def publish(classifier: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its weights as VGG-16's of torchvision, which names files by their hash; returns the file's name."""
    torch.save(classifier.state_dict(), folder / "weights")
    name = f"vgg16-{sha256((folder / 'weights').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "weights").rename(folder / name)
    monkeypatch.setattr(torchvision.models.VGG16_Weights.IMAGENET1K_V1.value, "url", f"file:///nowhere/{name}")
    return name


@pytest.mark.slow
def test_with_torchvisions_weights_vgg_gives_torchvisions_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file under torchvision's name: the fifth pooling and the first two fully connected layers follow."""
    torch.manual_seed(0)
    classifier = torchvision.models.vgg16().eval()
    detector = build(trial(Model.vgg())).eval()
    publish(classifier, tmp_path, monkeypatch)
    torchvision_backbone(detector, tmp_path)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        shared = detector.backbone.shared(images)
        pooled = nn.functional.max_pool2d(shared, 2)
        torch.testing.assert_close(pooled, classifier.features(images), rtol=1e-5, atol=1e-5)
        expected = classifier.classifier[:6](classifier.features(images).flatten(1))
        torch.testing.assert_close(detector.backbone.head(pooled), expected, rtol=1e-5, atol=1e-5)
        torch.manual_seed(1)
        dropped = detector.backbone.train().head(pooled)
        torch.manual_seed(1)
        expected = classifier.classifier[:6].train()(classifier.features(images).flatten(1))
        torch.testing.assert_close(dropped, expected, rtol=1e-5, atol=1e-5)


def test_torchvisions_resnet_has_the_stride_in_the_3x3(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.resnet18(num_classes=10).eval()
    model = Model.imagenet(family="residual", depth=18, shortcut="B")
    detector = build(trial(model)).eval()
    take_backbone(detector, from_torchvision_classifier(model, classifier.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        scores = classifier.fc(detector.backbone(images))
        torch.testing.assert_close(scores, classifier(images), rtol=1e-5, atol=1e-5)
    paper = Model.imagenet(family="residual", depth=50, shortcut="B")
    with torch.device("meta"), pytest.raises(InputError, match="weights 'torchvision' are not of .* width 64; choose"):
        torchvision_backbone(build(trial(paper)), tmp_path)


def test_torchvisions_weights_are_downloaded_from_mirrors_unless_offline_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, root, vgg = tmp_path / "mirror", tmp_path / "root", trial(Model.vgg())
    mirror.mkdir()
    name = publish(nn.Linear(2, 2), mirror, monkeypatch)
    monkeypatch.setenv("STUDY_DATA_MIRRORS", mirror.as_uri())
    monkeypatch.setenv("STUDY_OFFLINE", "1")
    with pytest.raises(InputError, match=f"weights .*{name} are missing; STUDY_OFFLINE forbids"):
        torchvision_file(vgg, root)
    monkeypatch.delenv("STUDY_OFFLINE")
    assert torchvision_file(vgg, root).read_bytes() == (mirror / name).read_bytes()
    (root / name).write_bytes(b"half")
    with pytest.raises(InputError, match="is damaged or half-downloaded: its SHA-256 is .*; delete it, then run again"):
        torchvision_file(vgg, root)
    (root / name).unlink()
    (mirror / name).write_bytes(b"half")
    with pytest.raises(InputError, match="could not be downloaded .*half-downloaded.*nowhere"):
        torchvision_file(vgg, root)
    with pytest.raises(InputError, match="could not be downloaded"):
        torchvision_file(vgg, mirror / name)  # where a folder should be


def test_a_detector_sees_pixels_as_its_classifier_did(tmp_path: Path) -> None:
    image = torch.rand(3, 96, 96)
    (imagenet, _), (mean, _) = (build(trial(normalise=how)).transform([image]) for how in ("imagenet", "pixel-mean"))
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(mean.tensors[0], imagenet.tensors[0] * deviation)
    with pytest.raises(InputError, match="normalise of faster-rcnn-.* 'scalar' is unknown; choose one of imagenet"):
        build(trial(normalise="scalar"))
    with torch.device("meta"), pytest.raises(InputError, match="'pixel-mean' is not what weights 'torchvision'"):
        torchvision_backbone(build(trial(Model.vgg(), normalise="pixel-mean")), tmp_path)


# What stays fixed


def step(detector: Detector) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A detector's state before and after a step of training; a loop sets training mode time and again."""
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    images, targets = photographs()
    optimiser = torch.optim.SGD([weight for weight in detector.parameters() if weight.requires_grad], lr=0.01)
    detector.eval()
    detector.train()
    torch.manual_seed(0)
    sum(detector(images, targets).values()).backward()  # type: ignore[union-attr]
    optimiser.step()
    return before, dict(detector.state_dict())


def moved(norm: str) -> set[str]:
    """Last names of what a step moves in the BatchNorms of conv5."""
    before, after = step(as_if_trained(build(trial(norm=norm))))
    norms = [name for name in after if name.startswith("backbone.stages.3.") and ".norms." in name]
    assert norms
    return {name.rpartition(".")[2] for name in norms if not torch.equal(before[name], after[name])}


def test_frozen_norms_do_not_move() -> None:
    """A constant offset and scale (Appendix A); with 'frozen-affine' constant statistics."""
    assert moved("frozen") == set()
    assert moved("frozen-affine") == {"weight", "bias"}
    assert moved("batch") == {"weight", "bias", "running_mean", "running_var"}
    assert moved("group") == {"weight", "bias"}


@pytest.mark.parametrize("context", [False, True])
def test_batch_statistics_in_conv5_are_over_the_regions_of_bn_batch_images(context: bool) -> None:
    one = trial(norm="batch", context=context)
    one = replace(one, recipe=replace(one.recipe, bn_batch=1))
    backbone = build(one).backbone
    assert backbone.stem_norm.images == 1
    assert {norm.images for norm in backbone.stages[3].modules() if isinstance(norm, BatchNorm)} == {16 + context}


def test_group_normalisation_starts_from_batchnorms_scale_and_offset() -> None:
    classifier = as_if_trained(build(trial())).backbone.state_dict()
    detector = build(trial(norm="group"))
    take_backbone(detector, classifier)
    norm = detector.backbone.stages[2][0].norms[0]
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == math.gcd(32, 4 * 4)
    assert torch.equal(norm.weight, classifier["stages.2.0.norms.0.weight"])


@pytest.mark.parametrize(("model", "fixed"), [*((VGG, n) for n in range(6)), *((SMALL, n) for n in range(5))])
def test_fixed_stages_get_no_gradient(model: Model, fixed: int) -> None:
    detector = build(trial(model, fixed_stages=fixed)).train()
    torch.manual_seed(0)
    sum(detector(*photographs()).values()).backward()  # type: ignore[union-attr]
    convs = [
        [part.weight for module in stage for part in module.modules() if isinstance(part, nn.Conv2d)]
        for stage in detector.backbone.shared_stages()
    ]
    for number, weights in enumerate(convs):
        assert weights and all((weight.grad is None) == (number < fixed) for weight in weights)


# The paper's size


def parameters(model: Model) -> int:
    with torch.device("meta"):
        detector = build(trial(model, classes=20))
    return sum(weight.numel() for weight in detector.parameters())


def test_detectors_of_the_papers_size_have_these_parameters() -> None:
    """Counted by hand: the classifier's without its last layer, an RPN of 9 anchors, and the siblings of 21 classes."""
    rpn = lambda channels: 9 * channels**2 + channels + (channels + 1) * 9 * 5  # noqa: E731
    vgg = 138_357_544 - 4097 * 1000 + rpn(512) + 4097 * 21 * 5  # torchvision's VGG-16
    resnet = 44_549_160 - 2049 * 1000 + rpn(1024) + 2049 * 21 * 5  # torchvision's ResNet-101
    assert parameters(Model.vgg()) == vgg
    assert parameters(Model.imagenet(family="residual", depth=101, shortcut="B")) == resnet
