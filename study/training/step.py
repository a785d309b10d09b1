"""One update of a trial: a function of tensors on the device.

Owns the order of an update: batch, forward, loss, backward, sum over processes, SGD, sums of the record's window. The
call of a step reads no tensor on the host, branches on no value and changes the state in place, so that a GPU never
waits for it and one update of a classifier can be captured and replayed. What depends on the iteration is prepared
before, on the host: which batch comes next, and the learning rate.

The learning rate is a number of the host: PyTorch's SGD with `foreach`, whose bits the study's CPU results have, would
read a tensor back. Whoever captures the step replaces `optimizer.step` by one that reads the rate on the device.
"""

from typing import Any

import torch
from torch import Tensor

from study.spec import Trial
from study.training.distributed import ALONE, Group
from study.training.state import TrainState, set_learning_rate


class Step:
    """The updates of one trial, in one of its processes."""

    def __init__(self, trial: Trial, state: TrainState, data: Any, group: Group = ALONE) -> None:
        """`data`: what the trial's task has loaded."""
        self.trial, self.state, self.group = trial, state, group
        part = group.part(trial.recipe.batch)
        self.images = len(range(trial.recipe.batch)[part])  # of a batch, that are this process's
        self.batches = state.task.batches(trial, data, part, state.updates)

    def prepare(self, rate: float) -> None:
        """On the host, before the next update: bring its batch within reach, and set its learning rate."""
        self.batches.bring(self.state.iteration)
        set_learning_rate(self.state.optimizer, rate, self.trial.recipe.momentum_rule)

    def __call__(self) -> Tensor:
        """One update, on the device; returns what it adds to the window, float32 [len(task.SUMMED)]."""
        state, group = self.state, self.group
        state.net.train()
        group.begin_pass(state.net)
        loss, summed = state.task.loss(self.trial, state.forward, self.batches.pick(), group.size)
        state.optimizer.zero_grad(set_to_none=False)  # the gradients keep their place in memory; see `sgd`
        loss.backward()
        summed = group.add_up(state.net, summed, self.images)
        state.optimizer.step()
        state.updates.add_(1)
        state.window.add_(summed)
        bad = ~torch.isfinite(summed.sum()) & (state.first_bad < 0)
        state.first_bad.copy_(torch.where(bad, state.updates, state.first_bad))
        return summed
