"""Everything that a trial's future depends on: weights, optimiser, counts and records.

Owns what a checkpoint holds and how it is restored, and the optimiser. A restored state continues bit for bit on a
CPU. Its tensors keep their places in memory: whoever has captured a step that works on them can replay it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study.spec import Recipe, Trial
from study.tasks.kinds import task_of
from study.tasks.task import Record, Task
from study.training import checkpoints
from study.training.memory import Segmented


class TrainState:
    """The state of a trial after `iteration` updates."""

    def __init__(self, trial: Trial, device: torch.device) -> None:
        recipe = trial.recipe
        self.task: Task[Any, Any] = task_of(trial)
        self.net: Any = self.task.build(trial).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward: Callable[..., Any] = self.net  # of training passes; evaluations call the net itself
        self.optimizer = sgd(self.net, recipe)
        self.iteration = 0
        self.updates = torch.zeros((), dtype=torch.int64, device=device)  # the same, counted by the step itself
        self.warmed_at = {"none": 0, "fixed": recipe.warmup_iterations, "threshold": None}[recipe.warmup]
        self.recent: list[float] = []  # training errors of the last batches, while a threshold warm-up lasts
        self.window = torch.zeros(len(self.task.SUMMED), dtype=torch.float64, device=device)  # since the last record
        self.window_batches = 0
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)  # first update of non-finite loss
        self.records: list[Record] = []
        self.plateaus: list[int] = []  # iterations at which schedule 'plateau' divided the learning rate

    @property
    def device(self) -> torch.device:
        return self.window.device

    @property
    def compiled(self) -> bool:
        return self.forward is not self.net and not isinstance(self.forward, Segmented)

    def compile(self) -> None:
        """Let training passes run compiled; on a GPU they are replayed as CUDA graphs, which spares launches."""
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        torch.compiler.reset()  # of earlier trials in this process: dynamo runs the ninth net of one class uncompiled
        self.forward = torch.compile(self.net, mode=mode)

    def divide(self, ends: Sequence[int]) -> None:
        """Let training passes run in segments that end after these blocks (`study/training/memory.py`)."""
        self.forward = Segmented(self.net, ends) if len(ends) > 1 else self.net

    @property
    def diverged_at(self) -> int | None:
        """The update at which the loss ceased to be finite. Reading it waits for the device."""
        bad = int(self.first_bad)
        return None if bad < 0 else bad

    def means(self) -> list[float] | None:
        """Means of what the window sums, over its batches, in the order of the task's `SUMMED`; begins a new window.

        None where there was no batch. Reading them waits for the device.
        """
        means = (self.window / self.window_batches).tolist() if self.window_batches else None
        self.window.zero_()
        self.window_batches = 0
        return means

    def saved(self) -> dict[str, Any]:
        """What `restore` takes: its tensors are the state's own."""
        tensors = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return tensors | {name: getattr(self, name) for name in (*_IN_PLACE, *_PLAIN)}

    def restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in _IN_PLACE:
            getattr(self, name).copy_(saved[name])
        for name in _PLAIN:
            setattr(self, name, saved[name])
        self.updates.fill_(self.iteration)

    def save(self, folder: Path, kept: int = checkpoints.KEPT) -> None:
        checkpoints.save(folder, self.iteration, self.saved(), kept)

    @classmethod
    def restore_or_create(cls, trial: Trial, folder: Path, device: torch.device) -> "TrainState":
        state = cls(trial, device)
        saved = checkpoints.load_newest(folder, device)
        if saved is not None:
            state.restore(saved)
        return state


_IN_PLACE = ("window", "first_bad")  # tensors
_PLAIN = ("iteration", "warmed_at", "recent", "window_batches", "records", "plateaus")


def sgd(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The optimiser, with gradients and velocities in place before the first pass.

    Allocated later, one by one, they would lie between the activations and keep the memory of these from being used
    again: 1202 layers of width 16 would need about twice as much.
    """
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]  # BatchNorm's scale and shift, biases
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": recipe.weight_decay if recipe.decay == "all" else 0.0},
    ]
    nesterov = recipe.momentum_rule == "nesterov"
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=nesterov, foreach=True)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        if recipe.momentum:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.SGD, rate: float, momentum_rule: str) -> None:
    """Change the rate as PyTorch does or, by 'caffe', as Caffe, whose velocity v = momentum v + rate gradient holds it.

    PyTorch's holds gradients only, so to be Caffe's it is rescaled by old / new where the rate changes.
    """
    for group in optimizer.param_groups:
        if momentum_rule == "caffe" and group["momentum"] and group["lr"] not in (0.0, rate) and rate > 0:
            velocities: list[Tensor] = [optimizer.state[p]["momentum_buffer"] for p in group["params"]]
            for velocity in velocities:
                velocity.mul_(group["lr"] / rate)
        group["lr"] = rate
