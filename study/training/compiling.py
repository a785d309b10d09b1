"""The forward pass of a net as `torch.compile` makes it: on a CPU of the whole net, on a GPU block by block.

On a CPU, layouts would be converted at every block. On a GPU the whole net takes minutes to compile at 110 layers, and
its blocks are of a few kinds, whatever the depth: each is compiled once, and a captured step has their kernels.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from study.nets.resnet import Net

KINDS = (
    256  # of blocks, by stage, shortcut, width, batch, precision and cohort, that a process compiles: dynamo stops at 8
)


def compiled_forward(net: Net, device: torch.device) -> Callable[..., Any]:
    """The net, compiled for training passes; the first of them compiles."""
    if device.type == "cuda":
        return ByBlock(net)
    torch.compiler.reset()  # of earlier trials in this process: dynamo runs the ninth net of one class uncompiled
    return torch.compile(net)


class ByBlock:
    """A net whose blocks are compiled, those of one kind once in a process."""

    def __init__(self, net: Net) -> None:
        self.net, self.blocks, self.run = net, net.blocks, _compiled()

    def __call__(self, images: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = self.net.begin(images)
        for block in self.blocks:
            x = self.run(block, x)
        return self.net.score(x)


@cache
def _compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    torch._dynamo.config.recompile_limit = KINDS
    return torch.compile(_run, dynamic=False)


def _run(block: nn.Module, x: Tensor) -> Tensor:
    maps: Tensor = block(x)
    return maps
