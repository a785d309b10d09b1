"""What each 3x3 layer does to signals and gradients: the layer responses of Fig. 7, and what Sec. 4.1 says of both.

Owns one forward and one backward pass over a batch, in training mode: BatchNorm normalises by that batch, so that nets
can be looked at before their running averages mean anything. Leaves the net as it found it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.nets.evaluation import autocast, memory_format
from study.nets.resnet import Block, Net, without_observing


def measure(
    net: Net,
    images: Tensor,
    labels: Tensor,
    precision: str,
    iteration: int,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """A row of `study.store.records.LAYERS` for each 3x3 convolution in order, from images [N, C, H, W] and labels [N].

    `forward`: how the net is run if not whole, for example in segments.
    response_std: standard deviation of the layer's output after BatchNorm, before ReLU or addition (Fig. 7).
    gradient_norm, weight_norm: L2 norms of the loss's gradient by the layer's weights, and of these weights.
    branch_over_input: at the last 3x3 layer of a block, the deviation of the block's output before ReLU and addition
    (in a residual net, of F(x)) over that of its input x; None elsewhere, and where the input is constant.
    """
    layers: list[tuple[nn.Conv2d, nn.Module]] = [(net.stem, net.stem_norm)]
    ends: dict[nn.Module, Block] = {}  # the block that ends with a layer, by the layer's convolution
    for block in net.blocks:
        for conv, norm in zip(block.convs, block.norms, strict=True):
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                layers.append((conv, norm))
        ends[layers[-1][0]] = block
    std: dict[nn.Module, float] = {}

    def input_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        std[module] = _std(inputs[0])

    def output_of(module: nn.Module, _: Any, output: Tensor) -> None:
        std[module] = _std(output)

    hooks = [block.register_forward_pre_hook(input_of) for block in net.blocks]
    norms = dict.fromkeys([norm for _, norm in layers] + [block.norms[-1] for block in net.blocks])
    hooks += [norm.register_forward_hook(output_of) for norm in norms]
    was_training = net.training
    try:
        net.train()
        with without_observing(net), autocast(images.device, precision):
            layout = memory_format(images.device, precision)
            logits = (forward or net)(images.contiguous(memory_format=layout)).float()
        loss = functional.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, [conv.weight for conv, _ in layers])
    finally:
        for hook in hooks:
            hook.remove()
        net.train(was_training)
    rows = []
    for number, ((conv, norm), gradient) in enumerate(zip(layers, gradients, strict=True), 1):
        ended = ends.get(conv)
        inputs = std[ended] if ended else 0.0
        rows.append(
            {
                "iteration": iteration,
                "layer": number,
                "response_std": std[norm],
                "gradient_norm": gradient.norm().item(),
                "weight_norm": conv.weight.detach().norm().item(),
                "branch_over_input": std[ended.norms[-1]] / inputs if ended and inputs else None,
            }
        )
    return rows


def _std(x: Tensor) -> float:
    return x.detach().float().std().item()
