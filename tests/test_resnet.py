"""The nets are the paper's, to the last parameter."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision

from analysis import paper
from experiments import recipes
from experiments.profiles import PAPER
from study import cost
from study.nets.resnet import BatchNorm, build
from study.nets.torchvision_names import from_torchvision, to_torchvision
from study.spec import IMAGENET_STAGES, Data, InputError, Model, Trial

CIFAR = recipes.PAPER_DATA
TINY = Data.arrays(name="synthetic", channels=1, size=8, classes=4, normalise="scalar")


def trial(model: Model, data: Data = TINY, seed: int = 0, **recipe: Any) -> Trial:
    return Trial(model=model, data=data, recipe=replace(recipes.minutes(model), **recipe), seed=seed)


def net(family: str = "residual", depth: int = 20, shortcut: str = "A", block: str = "basic", width: int = 4) -> Model:
    return Model.cifar(
        family=family, block=block, depth=depth, shortcut="none" if family == "plain" else shortcut, width=width
    )


def counted(model: Model, data: Data) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(trial(model, data)).parameters())


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_parameter_counts_are_table_6(depth: int, shortcut: str) -> None:
    row = next(row for row in paper.table("cifar_architecture")["rows"] if row["depth"] == depth)
    model = PAPER.model("residual", depth, shortcut)
    assert counted(model, CIFAR) == cost.parameters(model, CIFAR) == row["params"][shortcut]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_plain_and_option_a_have_equal_parameters(depth: int) -> None:
    assert counted(PAPER.model("plain", depth), CIFAR) == counted(PAPER.model("residual", depth), CIFAR)


LEGAL = [
    (family, shortcut, block, width, n)
    for family, shortcut in (("plain", "none"), *(("residual", option) for option in ("A", "B", "C", "A-average")))
    for block, width, n in itertools.product(("basic", "bottleneck"), (1, 5), (1, 3))
]
DEEP = [("residual", "B", block, 5, 200) for block in ("basic", "bottleneck")]  # depth repeats what n = 3 has


@pytest.mark.parametrize(("family", "shortcut", "block", "width", "n"), LEGAL + DEEP)
def test_every_legal_combination_builds_with_the_counted_parameters(
    family: str, shortcut: str, block: str, width: int, n: int
) -> None:
    model = net(family, (6 if block == "basic" else 9) * n + 2, shortcut, block, width)
    assert counted(model, TINY) == cost.parameters(model, TINY)


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C", "A-average"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("size", [8, 28, 32, 33])
def test_multiply_adds_are_what_the_convolutions_do(shortcut: str, block: str, size: int) -> None:
    model = net("plain" if shortcut == "none" else "residual", 20, shortcut, block)
    data, seen = replace(TINY, size=size), []
    module = build(trial(model, data))

    def count(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.append(layer.weight[0].numel() * output.numel())  # type: ignore[index]

    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    module(torch.zeros(1, 1, size, size))
    assert sum(seen) == cost.multiply_adds(model, data)


def test_depth_counts_weighted_layers_and_shortcuts_are_3n() -> None:
    module = build(trial(net(depth=32)))
    layers = [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == 32
    assert sum(len(stage) for stage in module.stages) == 3 * 5


def test_option_a_takes_every_second_pixel_and_adds_zero_channels() -> None:
    module = build(trial(net()))
    shortcut = module.stages[1][0].shortcut
    x = torch.randn(2, 4, 8, 8)
    y = shortcut(x)
    assert y.shape == (2, 8, 4, 4)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2]) and not y[:, 4:].any()
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("size", [8, 7])
def test_average_pooling_in_option_a_means_what_every_second_pixel_stands_for(size: int) -> None:
    shortcut = build(trial(net(shortcut="A-average"))).stages[1][0].shortcut
    x = torch.randn(2, 4, size, size)
    y = shortcut(x)
    assert y.shape == (2, 8, 4, 4) and not y[:, 4:].any()
    for row in range(4):
        for column in range(4):  # at an odd edge there are fewer than 2x2 pixels
            window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(y[:, :4, row, column], window.mean(dim=(2, 3)))
    assert not list(shortcut.parameters())


def test_a_residual_net_computes_plain_plus_identity() -> None:
    plain, residual = build(trial(net("plain"))), build(trial(net("residual")))
    x = torch.randn(2, 4, 8, 8).relu()
    a, b = plain.stages[0][0].eval(), residual.stages[0][0].eval()
    y = x
    y = torch.relu(a.norms[0](a.convs[0](y)))
    y = a.norms[1](a.convs[1](y))
    assert torch.equal(a(x), torch.relu(y))
    assert torch.equal(b(x), torch.relu(y + x))


def test_the_stride_of_a_bottleneck_is_in_its_first_convolution() -> None:
    block = build(trial(net(depth=29, block="bottleneck"))).stages[1][0]
    assert [conv.stride for conv in block.convs] == [(2, 2), (1, 1), (1, 1)]


def test_one_seed_starts_every_net_from_the_same_weights_where_shapes_agree() -> None:
    nets = [build(trial(net(family, depth))) for family, depth in (("plain", 20), ("residual", 56), ("plain", 56))]
    first, *others = [dict(n.named_parameters()) for n in nets]
    for other in others:
        shared = [name for name in first if name in other and first[name].shape == other[name].shape]
        assert len(shared) > 50
        assert all(torch.equal(first[name], other[name]) for name in shared)
    assert not torch.equal(build(trial(net(), seed=1)).stem.weight, build(trial(net(), seed=0)).stem.weight)


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 8 * 9), ("fan_out", 16 * 9)])
def test_weights_have_the_deviation_of_he_initialisation(mode: str, fan: int) -> None:
    weight = build(trial(net(width=8), init=mode)).stages[1][0].convs[0].weight  # 8 -> 16 channels
    assert abs(weight.std().item() / (2 / fan) ** 0.5 - 1) < 0.1
    assert abs(weight.mean().item()) < 0.02


def test_torchs_initialisation_is_uniform_within_its_bound_and_differs_from_he() -> None:
    module = build(trial(net(width=8), init="torch"))
    for layer, fan_in in ((module.stages[1][0].convs[0], 8 * 9), (module.classifier, 32)):
        bound = fan_in**-0.5
        draws = torch.cat([parameter.flatten() for parameter in layer.parameters()])
        assert 0.95 * bound < draws.abs().max() <= bound
        assert abs(draws.std().item() / (bound / 3**0.5) - 1) < 0.1
    assert module.classifier.bias.any() and not build(trial(net(width=8))).classifier.bias.any()


def test_batchnorm_over_sub_batches_normalises_each_alone() -> None:
    x = torch.randn(8, 3, 4, 4) * torch.arange(1, 9)[:, None, None, None]
    split, whole = BatchNorm(3, 4), torch.nn.BatchNorm2d(3)
    assert torch.equal(split(x), torch.cat([whole(x[:4]), whole(x[4:])]))
    assert torch.equal(split.running_var, whole.running_var)
    assert torch.equal(split.eval()(x), whole.eval()(x))


# ImageNet, Table 1

IMAGENET = replace(CIFAR, name="imagenet", size=224, classes=1000, padding=0, scales=(256, 480), colour="pca")
COUNTED = {  # names in paper/tables.yaml, `counted` of Table 1, by family, depth and shortcut
    **dict.fromkeys((("plain", 18, "none"), ("residual", 18, "A")), "plain_18_or_18A"),
    **dict.fromkeys((("plain", 34, "none"), ("residual", 34, "A")), "plain_34_or_34A"),
    **{("residual", depth, option): f"resnet_{depth}_{option}" for depth in (18, 34) for option in "BC"},
    **{("residual", depth, "B"): f"resnet_{depth}_B_stride_in_1x1" for depth in (50, 101, 152)},
    ("residual", 50, "C"): "resnet_50_C_stride_in_1x1",
}


@pytest.mark.parametrize(("family", "depth", "shortcut"), COUNTED)
def test_imagenet_nets_have_the_parameters_and_multiply_adds_of_table_1(family: str, depth: int, shortcut: str) -> None:
    model = Model.imagenet(family=family, depth=depth, shortcut=shortcut)
    expected = paper.table("table_1")["counted"][COUNTED[family, depth, shortcut]]
    assert counted(model, IMAGENET) == cost.parameters(model, IMAGENET) == expected["params"]
    assert round(cost.multiply_adds(model, IMAGENET) / 1e9, 3) == expected["giga_multiply_adds"]


def test_the_stride_in_the_3x3_costs_what_v1_5_costs() -> None:
    model = Model.imagenet(family="residual", depth=50, shortcut="B", stride="3x3")
    assert round(cost.multiply_adds(model, IMAGENET) / 1e9, 3) == 4.089
    assert (model.title, model.label) == ("ResNet-50 v1.5", "resnet50B-v1.5")


@pytest.mark.parametrize("depth", [depth for depths in IMAGENET_STAGES.values() for depth in depths])
def test_with_torchvisions_weights_a_net_gives_torchvisions_outputs(depth: int) -> None:
    """Random weights and averages; torchvision's bottlenecks are v1.5."""
    torch.manual_seed(depth)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.2, 0.6)
    model = Model.imagenet(family="residual", depth=depth, shortcut="B", stride="first" if depth < 50 else "3x3")
    ours = build(trial(model, replace(IMAGENET, classes=10))).eval()
    from_torchvision(ours, theirs.state_dict())
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    exported, kept = to_torchvision(ours), theirs.state_dict()
    assert set(exported) == {name for name in kept if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(kept[name], tensor) for name, tensor in exported.items())


def test_weights_of_another_net_are_refused_in_one_line() -> None:
    ours = build(trial(Model.imagenet(family="residual", depth=18, shortcut="B"), replace(IMAGENET, classes=10)))
    with pytest.raises(InputError, match="the weights are of another net: layer"):
        from_torchvision(ours, torchvision.models.resnet50(num_classes=10).state_dict())
    with pytest.raises(InputError, match="fc.weight is .1000, 512., and .10, 512. in the net"):
        from_torchvision(ours, torchvision.models.resnet18().state_dict())


def test_larger_images_are_scored_at_every_place() -> None:
    """Fully convolutional (Sec. 3.4): the mean over places of a linear classifier of each place's features."""
    resnet = build(trial(Model.imagenet(family="residual", depth=18, shortcut="A", width=8), IMAGENET)).eval()
    images = torch.randn(1, 3, 320, 256)
    with torch.no_grad():
        features = resnet.stages(resnet.pool(torch.relu(resnet.stem_norm(resnet.stem(images)))))
        scores = torch.einsum("nchw,kc->nkhw", features, resnet.classifier.weight)
        expected = scores.mean((2, 3)) + resnet.classifier.bias
        torch.testing.assert_close(resnet(images), expected, rtol=1e-5, atol=1e-5)
