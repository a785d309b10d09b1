"""A step is a function of tensors on the device: it can be captured and replayed."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from study.data.arrays import load
from study.spec import Trial
from study.tasks.classification import DRAWN_AHEAD, Drawn
from study.training.loop import train
from study.training.sgd import SGD
from study.training.state import TrainState
from study.training.step import Step

Small = Callable[..., Trial]
CPU = torch.device("cpu")
READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")


class Reading(TorchDispatchMode):
    """Notes every operation by which the host reads a tensor, or by which a tensor of unknown size is made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in READS:
            self.read.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def tensors(state: TrainState) -> Iterator[Tensor]:
    """All that an update changes."""
    yield from state.tensors()
    yield from (parameter.grad for parameter in state.net.parameters())


WAYS = [
    {},
    {"bn_batch": 8},
    {"precision": "bf16"},
    {"momentum_rule": "nesterov"},
    {"warmup": "threshold", "warmup_iterations": 2, "warmup_learning_rate": 0.01},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_step_reads_no_tensor_on_the_host_and_changes_its_state_in_place(small: Small, way: dict[str, Any]) -> None:
    trial = small(**way)
    state = TrainState(trial, CPU)
    state.optimizer = SGD(state.net, trial.recipe, fused=True)  # as on a GPU: the CPU's reads the rate on the host
    step = Step([trial], state, [load(trial.data, Path())])
    step.prepare()
    before = [tensor.data_ptr() for tensor in tensors(state)]
    with Reading() as reading:
        for _ in range(3):
            step()
    assert not reading.read
    assert before == [tensor.data_ptr() for tensor in tensors(state)]
    assert state.counts.updates.item() == 3


def test_a_restored_state_keeps_its_tensors_in_place(small: Small, tmp_path: Path) -> None:
    trial = small()
    state = TrainState(trial, CPU)
    for _ in islice(train(trial, state, load(trial.data, Path())), 6):
        pass
    places = [tensor.data_ptr() for tensor in tensors(state)]
    state.restore(state.saved())
    assert places == [tensor.data_ptr() for tensor in tensors(state)]
    assert state.counts.updates.item() == 6


@pytest.mark.parametrize("part", [slice(None), slice(8, 16)])
def test_batches_picked_from_the_table_are_those_of_the_data_set(small: Small, part: slice) -> None:
    """Across epochs and tables, and from any iteration on."""
    trial = small(batch=400, bn_batch=400, iterations=10 * DRAWN_AHEAD, drops=())
    data, updates = load(trial.data, Path()), torch.zeros((), dtype=torch.int64)
    drawn = Drawn([trial], [data], part, updates)
    for iteration in (0, 1, 5, DRAWN_AHEAD - 1, DRAWN_AHEAD, DRAWN_AHEAD + 1, 3 * DRAWN_AHEAD + 7, 2):
        updates.fill_(iteration)
        drawn.bring([iteration])
        for picked, expected in zip(drawn.pick(), data.batch(trial.seed, iteration, 400, part), strict=True):
            assert torch.equal(picked, expected)
