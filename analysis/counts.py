"""Parameters and multiply-adds of the ImageNet nets, counted from the rows of the paper's Table 1.

Owns the arithmetic of architectures that this study does not train; those that it trains are counted in `study.cost`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from study.cost import Convolution

CLASSES = 1000


def imagenet_convolutions(row: Mapping[str, Any]) -> Iterator[Convolution]:
    """Every convolution of a row of Table 1; projections only in bottleneck nets (option B)."""
    channels, size = 64, 56
    yield Convolution(3, 64, 7, 112)
    for stage, (widths, blocks) in enumerate(zip(row["channels"], row["blocks"], strict=True)):
        size = size // 2 if stage else size
        for _ in range(blocks):
            inputs = channels
            for kernel, width in zip(row["layers_per_block"], widths, strict=True):
                yield Convolution(channels, width, int(kernel[0]), size)
                channels = width
            if row["block"] == "bottleneck" and inputs != channels:
                yield Convolution(inputs, channels, 1, size, projection=True)


def imagenet_parameters(row: Mapping[str, Any]) -> int:
    """Convolutions, BatchNorm's scale and shift, the classifier with its bias."""
    return sum(c.parameters for c in imagenet_convolutions(row)) + (row["channels"][-1][-1] + 1) * CLASSES


def imagenet_multiply_adds(row: Mapping[str, Any]) -> int:
    """Convolutions and classifier."""
    return sum(c.multiply_adds for c in imagenet_convolutions(row)) + row["channels"][-1][-1] * CLASSES


def vgg19_multiply_adds() -> int:
    """VGG-19: 3x3 convolutions in five stages, three fully connected layers."""
    channels, total = 3, 25_088 * 4096 + 4096 * 4096 + 4096 * CLASSES
    for width, layers, size in ((64, 2, 224), (128, 2, 112), (256, 4, 56), (512, 4, 28), (512, 4, 14)):
        for _ in range(layers):
            total += Convolution(channels, width, 3, size).multiply_adds
            channels = width
    return total
