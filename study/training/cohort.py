"""Trials of one condition, trained together as one net of grouped convolutions.

Owns how their states become parts of one net. Each stays a whole state, which is saved, restored and evaluated as if it
were alone: its weights, gradients, averages and counts are views of the cohort's. Knows no loop and no files.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from study.nets import resnet
from study.nets.evaluation import memory_format
from study.spec import Trial
from study.training.counts import stack
from study.training.state import Passes, TrainState


class Cohort(Passes):
    """Two states or more behind one net. A state is in one cohort at a time, the last that it was put into."""

    def __init__(self, trial: Trial, states: Sequence[TrainState]) -> None:
        """`trial`: any of theirs; they differ by seed alone."""
        self.members = list(states)
        like, layout = next(states[0].net.parameters()), memory_format(states[0].device, trial.recipe.precision)
        self.net = resnet.build_together(trial, len(states)).to(like).to(memory_format=layout)
        self.forward = self.net
        _join(self.net, [state.net for state in states])
        self.counts = stack([state.counts for state in states])

    def tensors(self) -> Iterator[Tensor]:
        """All that an update changes, without gradients."""
        yield from self.net.state_dict().values()
        yield from self.counts.tensors()
        for state in self.members:
            yield from (*state.optimizer.velocities, state.optimizer.rate)


@torch.no_grad()
def _join(together: resnet.Net, nets: Sequence[resnet.Net]) -> None:
    """Give `together` the values of the nets, whose parameters, gradients and buffers become views of its own."""
    for name, parameter in together.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        views = zip(nets, parameter.detach().chunk(len(nets)), parameter.grad.chunk(len(nets)), strict=True)
        for net, values, gradient in views:
            own = net.get_parameter(name)
            own.grad = None  # its layout may be another one's
            own.data = values.copy_(own)
            own.grad = gradient
    for name, buffer in together.named_buffers():
        path, _, attribute = name.rpartition(".")
        for net, values in zip(nets, buffer.chunk(len(nets)), strict=True):
            setattr(net.get_submodule(path), attribute, values.copy_(net.get_buffer(name)))
