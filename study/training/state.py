"""Everything that a trial's future depends on: weights, optimiser, counts and records.

Owns what a checkpoint holds and how it is restored. A restored state continues bit for bit on a CPU. Its tensors keep
their places in memory: a captured step that works on them can be replayed.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from study.nets.evaluation import memory_format
from study.spec import Trial
from study.tasks.kinds import task_of
from study.tasks.task import Record, Task
from study.training import checkpoints
from study.training.compiling import compiled_forward
from study.training.counts import NOT_YET, Counts
from study.training.learning_rate import WARMUP_WINDOW
from study.training.memory import Segmented
from study.training.sgd import SGD


class Passes:
    """A net, and how its training passes are run: whole, compiled, or in segments."""

    net: Any
    forward: Callable[..., Any]  # of training passes; evaluations call a net itself
    counts: Counts

    @property
    def device(self) -> torch.device:
        return self.counts.updates.device

    @property
    def compiled(self) -> bool:
        return self.forward is not self.net and not isinstance(self.forward, Segmented)

    def compile(self) -> None:
        """Let training passes run compiled."""
        self.forward = compiled_forward(self.net, self.device)

    def divide(self, ends: Sequence[int]) -> None:
        """Let training passes run in segments that end after these blocks (`study/training/memory.py`)."""
        self.forward = Segmented(self.net, ends) if len(ends) > 1 else self.net


class TrainState(Passes):
    """The state of a trial after `iteration` updates."""

    def __init__(self, trial: Trial, device: torch.device, capture: bool = True) -> None:
        """`capture`: whether updates on a GPU are captured and replayed, where they can be."""
        self.recipe = trial.recipe
        self.task: Task[Any, Any] = task_of(trial)
        layout = memory_format(device, self.recipe.precision)
        self.net = self.task.build(trial).to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.forward = self.net
        self.optimizer = SGD(self.net, self.recipe, fused=device.type == "cuda")
        self.captures = capture and device.type == "cuda" and self.task.DIVISIBLE
        self.counts = Counts.new(len(self.task.SUMMED), device)
        self.iteration = 0  # updates that the host has started
        self.window_batches = 0  # of them, since the last record
        self.records: list[Record] = []
        self.plateaus: list[int] = []  # iterations at which schedule 'plateau' divided the learning rate
        self.missed: Tensor | None = None  # of the last iterate: which test images it classifies wrong, bool [images]

    @property
    def members(self) -> "list[TrainState]":
        """The states that a step changes: this one alone."""
        return [self]

    @property
    def warmed_at(self) -> int | None:
        """The first update after warm-up, None while a threshold warm-up lasts. Reading that waits for the device."""
        if self.recipe.warmup != "threshold":
            return self.recipe.warmup_iterations  # 0 without one
        ended = int(self.counts.warmed_at)
        return None if ended == NOT_YET else ended

    @property
    def diverged_at(self) -> int | None:
        """The update at which the loss ceased to be finite. Reading it waits for the device."""
        bad = int(self.counts.first_bad)
        return None if bad == NOT_YET else bad

    def means(self) -> list[float] | None:
        """Means of what the window sums, over its batches, in the order of the task's `SUMMED`; begins a new window.

        None where there was no batch. Reading them waits for the device.
        """
        means = (self.counts.window / self.window_batches).tolist() if self.window_batches else None
        self.counts.window.zero_()
        self.window_batches = 0
        return means

    def tensors(self) -> Iterator[Tensor]:
        """All that an update changes, without gradients."""
        yield from self.net.state_dict().values()
        yield from (*self.optimizer.velocities, self.optimizer.rate, *self.counts.tensors())

    def saved(self) -> dict[str, Any]:
        """What `restore` takes: its tensors may be the state's own."""
        net = self.net.state_dict()
        for name, tensor in net.items():  # in place: it also holds versions
            net[name] = _alone(tensor)
        return {
            "net": net,
            "optimizer": self.optimizer.saved(),
            "window": _alone(self.counts.window),
            "first_bad": _alone(self.counts.first_bad),
            "warmed_at": self.warmed_at,
            "recent": self._recent(),
            "missed": self.missed,
        } | {name: getattr(self, name) for name in _PLAIN}

    def restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.optimizer.restore(saved["optimizer"])
        for name in _PLAIN:
            setattr(self, name, saved[name])
        self.missed = saved.get("missed")  # which older code did not save
        counts, warmed_at = self.counts, saved["warmed_at"]
        counts.updates.fill_(self.iteration)
        counts.window.copy_(saved["window"])
        counts.first_bad.copy_(saved["first_bad"])
        counts.warmed_at.fill_(NOT_YET if warmed_at is None else warmed_at)
        counts.wrong.fill_(NOT_YET)
        for update, error_pct in enumerate(saved["recent"], start=self.iteration - len(saved["recent"])):
            counts.wrong[update % WARMUP_WINDOW] = round(error_pct * self.recipe.batch / 100)

    def _recent(self) -> list[float]:
        """Training errors of the last batches in percent, oldest first, while a threshold warm-up lasts."""
        if self.warmed_at is not None:
            return []
        first = max(0, self.iteration - WARMUP_WINDOW)
        wrong = self.counts.wrong.tolist()
        return [100 * wrong[update % WARMUP_WINDOW] / self.recipe.batch for update in range(first, self.iteration)]

    def save(self, folder: Path, kept: int = checkpoints.KEPT) -> None:
        checkpoints.save(folder, self.iteration, self.saved(), kept)

    @classmethod
    def restore_or_create(cls, trial: Trial, folder: Path, device: torch.device) -> "TrainState":
        state = cls(trial, device)
        saved = checkpoints.load_newest(folder, device)
        if saved is not None:
            state.restore(saved)
        return state


_PLAIN = ("iteration", "window_batches", "records", "plateaus")


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it is part of a larger one, which `torch.save` would write as a whole."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
