"""The counts of `study/cost.py` for detectors are those of the modules of torchvision and of the study."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_pool

from experiments import recipes
from study import cost
from study.nets.resnet import BatchNorm, Net
from study.spec import RANDOM, Data, DetectionTrial, Model

VOC, FASTER_RCNN = recipes.VOC_DATA, replace(recipes.FASTER_RCNN, weights=RANDOM, regions=128)
VGG = Model.vgg()
NETS = {
    model.title: model
    for model in (
        VGG,
        Model.imagenet(family="residual", depth=101, shortcut="B"),
        Model.imagenet(family="residual", depth=50, shortcut="C", stride="3x3"),
        Model.imagenet(family="residual", depth=18, shortcut="B", width=16),
        Model.imagenet(family="residual", depth=34, shortcut="A"),
        Model.imagenet(family="plain", depth=18, shortcut="none", width=8),
    )
}


def detector(model: Model, data: Data = VOC, **settings: object) -> DetectionTrial:
    recipe = replace(recipes.paper_imagenet(model), iterations=1_000, drops=(), batch=2, bn_batch=2, recalibrate=0)
    return DetectionTrial(
        model=model,
        data=data,
        recipe=recipe,
        seed=0,
        detection=replace(FASTER_RCNN, **settings),  # type: ignore[arg-type]
    )


@dataclass
class Modules:
    """A detector's, in the paper's composition."""

    shared: list[nn.Module]  # conv1, conv2, ...
    rpn: nn.Module
    head: nn.Module
    predictor: nn.Module
    pooled: int

    @property
    def all(self) -> nn.ModuleList:
        return nn.ModuleList([*self.shared, self.rpn, self.head, self.predictor])


def modules(trial: DetectionTrial) -> Modules:
    model, anchors = trial.model, 3 * len(trial.detection.anchors)
    if model.family == "vgg":
        assert model.width == 64, "torchvision's has no other"
        net = vgg16()
        layers = list(net.features)[:-1]
        starts = [n for n, layer in enumerate(layers) if n == 0 or isinstance(layer, nn.MaxPool2d)]
        shared: list[nn.Module] = [nn.Sequential(*layers[a:b]) for a, b in pairwise([*starts, len(layers)])]
        head: nn.Module = TwoMLPHead(512 * 7**2, 4096)
        channels, features, pooled = 512, 4096, 7
        assert [p.shape for p in head.parameters()] == [p.shape for p in net.classifier[:-1].parameters()]
    else:
        whole = Net(model, 3, 1, lambda channels: BatchNorm(channels, 1)).eval()
        stem, *stages = nn.Sequential(whole.stem, whole.stem_norm, nn.ReLU(True), whole.pool), *whole.stages
        shared, head = [stem, *stages[:-1]], stages[-1]
        channels, features, pooled = model.features // 2, model.features, 14
    predictor = FastRCNNPredictor(features * (2 if trial.detection.context else 1), trial.data.classes + 1)
    return Modules(shared, RPNHead(channels, anchors), head, predictor, pooled)


@contextmanager
def counting(module: nn.Module, seen: list[int]) -> Iterator[None]:
    """Multiply-adds of every convolution and fully connected layer that runs."""

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        seen.append(layer.weight.numel() * (output.numel() // len(layer.weight)))

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def forward(of: Modules, image: Tensor, regions: int, context: bool) -> None:
    """Every region is the whole image: which they are costs nothing."""
    height, width = image.shape[2:]
    rois = torch.tensor([[0.0, 0, 0, width, height]], device=image.device).expand(regions + context, -1)
    for stage in of.shared:
        image = stage(image)
    of.rpn([image])
    pooled = roi_pool(image, rois, of.pooled, 1 / 16)
    features = of.head(pooled).flatten(2).mean(2) if of.pooled == 14 else of.head(pooled)
    if context:
        features = torch.cat([features[:-1], features[-1:].expand(regions, -1)], dim=1)
    of.predictor(features)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("model", NETS.values(), ids=NETS)
def test_parameters_and_multiply_adds_are_those_of_the_modules(model, context):
    trial = detector(model, context=context, anchors=(64, 128, 256, 512))
    seen: list[int] = []
    with torch.device("meta"), torch.no_grad():
        of = modules(trial)
        with counting(of.all, seen):
            forward(of, torch.empty(1, 3, 600, 800), trial.detection.proposals, context)
    assert cost.size(trial)[0] == sum(p.numel() for p in of.all.parameters())
    assert cost.size(trial)[1] == sum(seen)


def test_sides_that_do_not_halve_are_rounded_as_the_modules_round_them():
    for model in (VGG, NETS["ResNet-101"]):
        trial = detector(model, replace(VOC, size=203), proposals=1)
        seen: list[int] = []
        with torch.device("meta"), torch.no_grad():
            of = modules(trial)
            with counting(of.all, seen):
                forward(of, torch.empty(1, 3, 203, 271), 1, context=False)
        assert cost.size(trial)[1] == sum(seen)


@pytest.mark.parametrize("fixed", [0, 2, 4])
@pytest.mark.parametrize("model", NETS.values(), ids=NETS)
def test_what_is_trained_are_the_stages_that_are_not_fixed_and_norms_that_are_not_frozen(model, fixed):
    with torch.device("meta"):
        of = modules(detector(model))
    rest = nn.ModuleList([*of.shared[fixed:], of.rpn, of.head, of.predictor])
    numbers = sum(p.numel() for p in rest.parameters())
    norms = sum(p.numel() for m in rest.modules() if isinstance(m, BatchNorm) for p in m.parameters())
    assert cost.trained_parameters(detector(model, fixed_stages=fixed)) == numbers - norms
    if model.family != "vgg":
        assert cost.trained_parameters(detector(model, fixed_stages=fixed, norm="frozen-affine")) == numbers


def test_a_classifier_of_the_same_net_has_the_parameters_of_the_shared_stages_and_the_head():
    model = NETS["ResNet-101"]
    net = [layer for layer in cost.layers(detector(model)) if layer.norm]  # the RPN and the predictor have none
    own = sum(layer.parameters for layer in net)
    assert own + 1000 * (model.features + 1) == cost.parameters(model, recipes.IMAGENET_DATA)


@pytest.mark.parametrize("fixed", [0, 2])
@pytest.mark.parametrize(
    "model", [VGG, Model.imagenet(family="residual", depth=50, shortcut="B", width=16)], ids=lambda model: model.title
)
def test_activations_are_what_autograd_keeps(model, fixed):
    trial = detector(model, replace(VOC, size=96), fixed_stages=fixed, regions=8, context=True)
    with torch.device("meta"):
        of = modules(trial)
        for stage in of.shared[:fixed]:
            stage.requires_grad_(False)
        own = {parameter.untyped_storage()._cdata for parameter in [*of.all.parameters(), *of.all.buffers()]}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in own:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            forward(of, torch.empty(1, 3, 96, 128), 8, context=True)
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert cost.activation_bytes(trial) == pytest.approx(trial.recipe.batch * held, rel=0.06)
    assert cost.net_bytes(trial) > cost.activation_bytes(trial) + 12 * cost.trained_parameters(trial)


def test_fixed_stages_regions_and_batches_cost_what_they_should():
    trial = detector(NETS["ResNet-101"])
    seconds = cost.predicted_seconds(trial)
    assert cost.predicted_seconds(detector(trial.model, fixed_stages=0)) > seconds
    assert cost.predicted_seconds(detector(trial.model, regions=64)) < 0.8 * seconds
    assert cost.predicted_seconds(detector(trial.model, proposals=1)) == seconds  # those are of tests
    longer = replace(trial, recipe=replace(trial.recipe, iterations=3_000))
    assert cost.predicted_seconds(longer) == pytest.approx(3 * seconds)
    larger = replace(trial, recipe=replace(trial.recipe, batch=4))
    assert 1.9 * seconds < cost.predicted_seconds(larger) < 2 * seconds
    assert cost.predicted_bytes(larger) > cost.predicted_bytes(trial) > cost.BYTES_A_PROCESS
    assert cost.record_bytes(longer) > cost.record_bytes(trial)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_a_checkpoint_has_the_size_that_was_predicted(norm, tmp_path):
    model = Model.imagenet(family="residual", depth=18, shortcut="B", width=16)
    trial = detector(model, norm=norm)
    of = modules(trial)
    if norm == "group":
        of.head, *of.shared = (_grouped(module) for module in (of.head, *of.shared))
    for module in of.all.modules() if norm == "frozen" else []:
        if isinstance(module, BatchNorm):
            module.requires_grad_(False)
    for stage in of.shared[: trial.detection.fixed_stages]:
        stage.requires_grad_(False)
    velocities = {str(n): torch.zeros_like(p) for n, p in enumerate(of.all.parameters()) if p.requires_grad}
    torch.save({"net": of.all.state_dict(), "velocities": velocities}, tmp_path / "state.pt")
    assert cost.checkpoint_bytes(trial) == pytest.approx((tmp_path / "state.pt").stat().st_size, rel=0.02)


def _grouped(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        grouped = nn.GroupNorm(1, child.num_features) if isinstance(child, BatchNorm) else _grouped(child)
        module.add_module(name, grouped)
    return module
