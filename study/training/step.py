"""One update of a trial, or of a cohort: a function of tensors on the device.

Owns the order of an update: batch, forward, loss, backward, sum over processes, SGD, counts. What runs on the device
reads no tensor on the host, branches on no value and changes the state in place, so that a GPU never waits for it and
it can be captured and replayed (`capture.py`). What depends on the iteration is prepared before, on the host: which
batch comes next, and the learning rate. On a CPU the same function runs eagerly.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from study.spec import Trial
from study.training.counts import Counts
from study.training.distributed import ALONE, Group
from study.training.learning_rate import learning_rate
from study.training.state import TrainState


class Subject(Protocol):
    """What a step changes: the state of one trial, or those of a cohort behind one net."""

    net: Any
    forward: Callable[..., Any]
    counts: Counts

    @property
    def members(self) -> Sequence[TrainState]: ...

    def tensors(self) -> Iterator[Tensor]: ...


class Step:
    """The updates of one trial, in one of its processes, or of a cohort."""

    def __init__(self, trials: Sequence[Trial], state: Subject, data: Sequence[Any], group: Group = ALONE) -> None:
        """`data`: what each trial's task has loaded."""
        self.recipe, self.trials, self.state, self.group = trials[0].recipe, trials, state, group
        self.task = state.members[0].task
        part = group.part(self.recipe.batch)
        self.images = len(range(self.recipe.batch)[part])  # of a batch, that are this process's
        self.batches = self.task.batches(trials, data, part, state.counts.updates)
        self.wrong = self.task.SUMMED.index("wrong") if "wrong" in self.task.SUMMED else None
        # They keep their places in memory; see `SGD`.
        self.gradients = [p.grad for p in state.net.parameters() if p.grad is not None]
        self.rates: list[float | None] = [None] * len(trials)  # that lie on the device
        self.summed: Tensor | None = None

    def prepare(self) -> None:
        """On the host, before the next update: bring its batches within reach, and set its learning rates."""
        members = self.state.members
        self.batches.bring([member.iteration for member in members])
        for index, member in enumerate(members):
            warmed_at = 0 if self.recipe.warmup == "threshold" else member.warmed_at  # which the device knows
            rate = learning_rate(self.recipe, member.iteration, warmed_at, member.plateaus)
            if rate != self.rates[index]:
                member.counts.rate.fill_(rate)
                self.rates[index] = rate

    def __call__(self) -> None:
        """One update, on the device."""
        self.differentiate()
        self.exchange()
        self.update()

    def differentiate(self) -> None:
        """The batch, forward and backward: gradients, and what is summed."""
        state = self.state
        state.net.train()
        self.group.begin_pass(state.net)
        batch = self.batches.pick()
        loss, self.summed = self.task.loss(self.trials[0], state.forward, batch, self.group.size)
        torch._foreach_zero_(self.gradients)
        loss.backward()

    def exchange(self) -> None:
        """Between processes."""
        assert self.summed is not None
        self.group.add_up(self.state.net, self.summed, self.images)

    def update(self) -> None:
        """SGD, and counts."""
        assert self.summed is not None
        rates = self.state.counts.learning_rate(self.recipe)
        for member, rate in zip(self.state.members, rates.view(-1).unbind(), strict=True):
            member.optimizer.update(rate)
        self.state.counts.add(self.summed, self.recipe, self.wrong)
