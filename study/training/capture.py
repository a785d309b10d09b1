"""A step captured as CUDA graphs, which are replayed: its hundreds of kernels start without the host.

Owns the capture and the updates before it, which leave no trace. Does not know what a step does. Several processes
exchange between two graphs, because one that waits for another inside a graph could not say which one it lost.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from study.training.step import Step

WARM_UP = 3  # updates before a capture, in which libraries load and choose kernels


def replayed(step: Step) -> Callable[[], None]:
    """The same update as `step()`, replayed. The step must have been prepared for one update at least."""
    device = step.state.counts.updates.device
    with without_trace(step.state.tensors()):
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream(device).wait_stream(beside)
    if step.group.size == 1:
        return _captured(step)
    forward_and_backward, update = _captured(step.differentiate), _captured(step.update)

    def run() -> None:
        forward_and_backward()
        step.exchange()
        update()

    return run


def _captured(part: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    # Other threads of this process may call CUDA: they draw ahead, and pin what they have drawn.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        part()

    def replay() -> None:
        graph.replay()

    return replay


@contextmanager
def without_trace(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards the tensors have the values that they had before."""
    tensors = list(tensors)
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
