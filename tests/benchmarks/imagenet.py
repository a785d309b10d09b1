"""Training steps of ResNet-18 and ResNet-50 beside torchvision's models, in the same memory format and precision.

224x224 images that are there already, all cores, BatchNorm over the whole batch; torchvision's ResNet-50 has its stride
in the 3x3, so ours has, too, here. Both by SGD with momentum; each takes turns with the other within a round.
"""

import os
import statistics
import time
from dataclasses import replace

import common
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from experiments.recipes import IMAGENET_DATA, paper_imagenet
from study.limits import cores
from study.nets.evaluation import autocast
from study.spec import Model, Trial
from study.training import memory
from study.training.state import TrainState

ROUNDS, BATCH, CPU = int(os.environ.get("ROUNDS", "3")), 16, torch.device("cpu")
STEPS = 2  # a round


def ours(depth: int, precision: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Model.imagenet(family="residual", depth=depth, shortcut="B", stride="3x3" if depth >= 50 else "first")
    recipe = replace(paper_imagenet(model), batch=BATCH, bn_batch=BATCH, precision=precision)
    state = TrainState(Trial(model=model, data=IMAGENET_DATA, recipe=recipe, seed=0), CPU)
    return state.net, state.optimizer


def theirs(depth: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = getattr(torchvision.models, f"resnet{depth}")().to(memory_format=torch.channels_last)
    return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


def seconds(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, precision: str) -> float:
    """Of one step."""
    started = time.perf_counter()
    with autocast(CPU, precision):
        logits = net(images).float()
    loss = functional.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(cores())
    memory.keep_freed(True)
    images = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels, rows = torch.arange(BATCH), []
    for depth in (18, 50):
        for precision in ("fp32", "bf16"):
            nets = {"ours": ours(depth, precision), "torchvision's": theirs(depth)}
            for net, optimizer in nets.values():
                net.train()
                seconds(net, optimizer, images, labels, precision)
            took: dict[str, list[float]] = {name: [] for name in nets}
            for _ in range(ROUNDS * STEPS):
                for name, (net, optimizer) in nets.items():
                    took[name].append(seconds(net, optimizer, images, labels, precision))
            ratios = [a / b for a, b in zip(took["ours"], took["torchvision's"], strict=True)]
            rows.append(
                {
                    **{"net": f"ResNet-{depth}", "precision": precision},
                    **{f"{name} seconds": statistics.median(each) for name, each in took.items()},
                    "times torchvision's": statistics.median(ratios),
                }
            )
    common.write("imagenet", f"a training step, 224x224, batch {BATCH}; medians of {ROUNDS * STEPS} steps", rows)


if __name__ == "__main__":
    main()
