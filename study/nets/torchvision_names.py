"""Weights under torchvision's names: imported, so that published nets can be evaluated, and exported.

Owns the names. torchvision's ResNet-18 and 34 are ours of option B; its 50, 101 and 152 have the stride in the 3x3
(v1.5). The authors' released nets have it in the first 1x1, as ours by default, a bias in ResNet-50's first
convolution, which the following BatchNorm makes superfluous, and Caffe's pooling, whose windows begin at the first
pixel where ours and torchvision's begin one before it: their weights would give other numbers here.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from study.nets.resnet import Net
from study.nets.weight_names import named, take, unwrapped
from study.spec import InputError, Model

_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(convs|norms|shortcut)\.(\d+)\.(.*)")


def torchvision_name(name: str) -> str:
    """`stages.0.1.norms.2.weight` is `layer1.1.bn3.weight`."""
    if match := _BLOCK.fullmatch(name):
        stage, block, part, number, rest = match.groups()
        part = {"convs": f"conv{int(number) + 1}", "norms": f"bn{int(number) + 1}", "shortcut": f"downsample.{number}"}[
            part
        ]
        return f"layer{int(stage) + 1}.{block}.{part}.{rest}"
    for here, name_there in (("stem_norm.", "bn1."), ("stem.", "conv1."), ("classifier.", "fc.")):
        if name.startswith(here):
            return name_there + name.removeprefix(here)
    raise AssertionError(name)


def to_torchvision(net: Net) -> dict[str, Tensor]:
    """The net's weights and averages; without torchvision's counters of batches, so load them with `strict=False`."""
    return {torchvision_name(name): tensor for name, tensor in net.state_dict().items()}


def from_torchvision(net: Net, weights: Mapping[str, Tensor]) -> None:
    """Load weights under torchvision's names, or others that are known. Raises `InputError` unless they are its."""
    take(net, named(weights))


def vgg_from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG-16's under the names of a detector's backbone: `features.7` is `stages.1.1`, `classifier.0` is `fc6`.

    Raises `InputError` unless they are those of VGG-16.
    """
    names, place = {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "classifier"}, 0
    for stage, count in enumerate(Model.vgg().stages):
        for index in range(count):
            names[f"features.{place}"] = f"stages.{stage}.{index}"
            place += 2  # a ReLU follows
        place += 1  # a pooling follows
    parts = ("weight", "bias")
    expected = {f"{torchvision}.{part}": f"{here}.{part}" for torchvision, here in names.items() for part in parts}
    weights = unwrapped(weights)
    if wrong := sorted(set(expected) ^ set(weights)):
        raise InputError(f"the weights are of another net: {', '.join(wrong[:4])} {'...' if len(wrong) > 4 else ''}")
    return {expected[name]: tensor for name, tensor in weights.items()}
