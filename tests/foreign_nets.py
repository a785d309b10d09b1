"""ResNets as other repositories define them, from their published architecture: own modules, names and arithmetic.

Nothing of `study/nets` is used, so that equal outputs say something of both.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Layout:
    """What a repository calls its parts, and what it makes of them."""

    stem: tuple[str, str] = ("conv1", "bn1")
    kernel: int = 3  # of the stem; 7 is followed by max pooling
    stages: tuple[str, ...] = ("layer1", "layer2", "layer3")
    block: str = "{}"  # of a number from `first`
    first: int = 0
    parts: tuple[tuple[str, str], ...] = (("conv1", "bn1"), ("conv2", "bn2"))  # three of a bottleneck
    shortcut: tuple[str, str] = ("downsample.0", "downsample.1")
    classifier: str = "fc"
    zeros: str = ""  # of option A: 'both' sides of the channels, or 'behind'; '' is option B, a 1x1 convolution
    stride: int = 0  # which convolution of a block halves the map
    bias: bool = False  # of convolutions


BOTTLENECK = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
AKAMASTER = Layout(shortcut=("shortcut.0", "shortcut.1"), classifier="linear", zeros="both")
KUANGLIU = replace(AKAMASTER, zeros="")  # of three stages
CHENYAOFO = BEARPAW = Layout()
BEARPAW_DEEP = replace(BEARPAW, parts=BOTTLENECK, stride=1)
DXY = Layout(
    stem=("conv_1_3x3", "bn_1"),
    stages=("stage_1", "stage_2", "stage_3"),
    parts=(("conv_a", "bn_a"), ("conv_b", "bn_b")),
    classifier="classifier",
    zeros="behind",
)
HYSTS = Layout(
    stem=("conv", "bn"),
    stages=("stage1", "stage2", "stage3"),
    block="block{}",
    first=1,
    shortcut=("shortcut.conv", "shortcut.bn"),
)
WEIAICUNZAI = Layout(
    stem=("conv1.0", "conv1.1"),
    stages=("conv2_x", "conv3_x", "conv4_x"),
    parts=tuple((f"residual_function.{i}", f"residual_function.{i + 1}") for i in (0, 3)),
    shortcut=("shortcut.0", "shortcut.1"),
)
WEIAICUNZAI_DEEP = replace(
    WEIAICUNZAI,
    parts=tuple((f"residual_function.{i}", f"residual_function.{i + 1}") for i in (0, 3, 6)),
    stride=1,
)
TORCHVISION = Layout(kernel=7, stages=("layer1", "layer2", "layer3", "layer4"))
TORCHVISION_DEEP = replace(TORCHVISION, parts=BOTTLENECK, stride=1)
CADENE = replace(TORCHVISION_DEEP, classifier="last_linear", bias=True)  # fbresnet, of fb.resnet.torch
HUGGING_FACE = Layout(
    stem=("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
    kernel=7,
    stages=tuple(f"resnet.encoder.stages.{i}.layers" for i in range(4)),
    parts=tuple((f"layer.{i}.convolution", f"layer.{i}.normalization") for i in range(2)),
    shortcut=("shortcut.convolution", "shortcut.normalization"),
    classifier="classifier.1",
)
HUGGING_FACE_DEEP = replace(
    HUGGING_FACE,
    parts=tuple((f"layer.{i}.convolution", f"layer.{i}.normalization") for i in range(3)),
    stride=1,
)
MMPRETRAIN = replace(
    TORCHVISION_DEEP,
    stem=("backbone.conv1", "backbone.bn1"),
    stages=tuple(f"backbone.layer{i}" for i in range(1, 5)),
    classifier="head.fc",
)
DETECTRON2 = Layout(
    stem=("backbone.stem.conv1", "backbone.stem.norm1"),  # `exported` has the norms where Detectron2 has them
    kernel=7,
    stages=tuple(f"backbone.res{i}" for i in range(2, 6)),
    parts=tuple((f"conv{i}", f"norm{i}") for i in (1, 2, 3)),
    shortcut=("shortcut", "shortcut_norm"),
    classifier="linear",
)


def add(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """Add a module below dotted names."""
    *path, last = name.split(".")
    for step in path:
        if step not in dict(module.named_children()):
            module.add_module(step, nn.Module())
        module = module.get_submodule(step)
    module.add_module(last, child)
    return child


class Foreign(nn.Module):
    """A net of a layout: so many blocks in each stage, on images of `channels`."""

    def __init__(self, layout: Layout, blocks: tuple[int, ...], width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.layout, deep = layout, len(layout.parts) == 3
        kernel = layout.kernel
        add(self, layout.stem[0], nn.Conv2d(channels, width, kernel, 1 + (kernel == 7), kernel // 2, bias=layout.bias))
        add(self, layout.stem[1], nn.BatchNorm2d(width))
        self.path: list[tuple[nn.Module, int, int]] = []
        inputs = width
        for stage, (name, count) in enumerate(zip(layout.stages, blocks, strict=True)):
            inner = width * 2**stage
            outputs = inner * (4 if deep else 1)
            for number in range(count):
                block = add(self, f"{name}.{layout.block.format(number + layout.first)}", nn.Module())
                stride = 2 if stage and not number else 1
                sizes = [inputs, *[inner] * (len(layout.parts) - 1), outputs]
                for place, (conv, norm) in enumerate(layout.parts):
                    side = 1 if deep and place != 1 else 3
                    step = stride if place == layout.stride else 1
                    ends = sizes[place], sizes[place + 1]
                    add(block, conv, nn.Conv2d(*ends, side, step, side // 2, bias=layout.bias))
                    add(block, norm, nn.BatchNorm2d(ends[1]))
                if not layout.zeros and (stride != 1 or inputs != outputs):
                    add(block, layout.shortcut[0], nn.Conv2d(inputs, outputs, 1, stride, bias=layout.bias))
                    add(block, layout.shortcut[1], nn.BatchNorm2d(outputs))
                self.path.append((block, stride, outputs - inputs))
                inputs = outputs
        add(self, layout.classifier, nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = (self.get_submodule(name) for name in self.layout.stem)
        x = torch.relu(norm(conv(x)))
        if self.layout.kernel == 7:
            x = functional.max_pool2d(x, 3, 2, 1)
        for block, stride, added in self.path:
            y = x
            for place, (conv_name, norm_name) in enumerate(self.layout.parts):
                y = torch.relu(y) if place else y
                y = block.get_submodule(norm_name)(block.get_submodule(conv_name)(y))
            if self.layout.zeros and (stride != 1 or added):
                before = added // 2 if self.layout.zeros == "both" else 0
                x = functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, added - before))
            elif stride != 1 or added:
                conv_name, norm_name = self.layout.shortcut
                x = block.get_submodule(norm_name)(block.get_submodule(conv_name)(x))
            x = torch.relu(x + y)
        scores: Tensor = self.get_submodule(self.layout.classifier)(x.mean((2, 3)))
        return scores


def trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """With weights and averages as after training, none of them what a new net has; in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=draw)
                module.running_var.uniform_(0.5, 1.5, generator=draw)
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.uniform_(-0.2, 0.2, generator=draw)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=draw)
                if module.bias is not None:
                    module.bias.uniform_(-0.3, 0.3, generator=draw)
    return net.eval()
