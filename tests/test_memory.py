"""Memory: what is predicted, what is kept, and that running a net in segments changes no number."""

import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from experiments.profiles import DIGITS
from study import cost
from study.cost import MARGIN
from study.data.arrays import describe, load
from study.execution import Execution
from study.nets.resnet import build
from study.run import worker
from study.run.machine import memory_allowed
from study.spec import InputError, Model, Trial
from study.store.account import read_account
from study.store.records import read_records
from study.training import memory
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")
Small = Callable[..., Trial]
NETS = [
    Model.cifar(family="plain", block="basic", depth=20, shortcut="none", width=8),
    Model.cifar(family="residual", block="basic", depth=56, shortcut="A", width=8),
    Model.cifar(family="residual", block="basic", depth=20, shortcut="B", width=8),
    Model.cifar(family="residual", block="basic", depth=20, shortcut="C", width=8),
    Model.cifar(family="residual", block="bottleneck", depth=29, shortcut="B", width=8),
]


def in_segments(state: TrainState, count: int) -> TrainState:
    blocks = state.net.blocks
    state.divide([round(i * len(blocks) / count) for i in range(1, count + 1)])
    return state


def bits(state: TrainState) -> list[torch.Tensor]:
    """Weights, BatchNorm's averages and gradients."""
    return [*state.net.state_dict().values(), *(p.grad for p in state.net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("segments", [2, 3])
@pytest.mark.parametrize("way", [{}, {"precision": "bf16"}, {"bn_batch": 8}], ids=str)
def test_segments_change_no_bit_of_weights_averages_gradients_or_records(
    small: Small, way: dict[str, object], segments: int
) -> None:
    trial = small(**way)
    whole, divided = TrainState(trial, CPU), in_segments(TrainState(trial, CPU), segments)
    for state in (whole, divided):
        for _ in train(trial, state, load(trial.data, Path())):
            pass
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(divided), strict=True))
    assert whole.records == divided.records


def test_recomputing_without_our_context_would_move_the_averages_twice(small: Small) -> None:
    """The trap of pytorch issue 96136, so that the test above cannot pass by chance."""
    trial = small()
    images, labels = load(trial.data, Path()).batch(0, 0, trial.recipe.batch)
    ours, trapped = (in_segments(TrainState(trial, CPU), 3) for _ in range(2))
    x = trapped.net.begin(images)
    for segment in trapped.forward.segments[:-1]:
        x = torch.utils.checkpoint.checkpoint(segment, x, use_reentrant=False)
    x = trapped.forward.segments[-1](x)
    for logits in (ours.forward(images), trapped.net.score(x)):
        functional.cross_entropy(logits, labels).backward()
    assert torch.equal(ours.net.stem_norm.running_mean, trapped.net.stem_norm.running_mean)
    assert not torch.equal(ours.net.blocks[0].norms[0].running_mean, trapped.net.blocks[0].norms[0].running_mean)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", NETS, ids=lambda model: model.label)
def test_the_counted_activations_are_those_autograd_keeps(small: Small, model: Model, precision: str) -> None:
    trial = replace(small(precision=precision), model=model)
    net = build(trial).to(memory_format=torch.channels_last)
    kept = memory.kept_by_block(net, (32, DIGITS.channels, DIGITS.size, DIGITS.size), precision)
    # bf16 copies of the weights and BatchNorm's statistics come on top: more of a share where batches are small
    weights = 2 * cost.parameters(model, DIGITS) if precision == "bf16" else 0
    assert sum(block.all for block in kept) - weights == pytest.approx(cost.activation_bytes(trial), rel=0.04)


def test_measuring_leaves_the_net_as_it_was(small: Small) -> None:
    state = TrainState(small(), CPU)
    before = [tensor.clone() for tensor in bits(state)]
    memory.kept_by_block(state.net, (16, 1, 8, 8), "fp32")
    assert all(torch.equal(a, b) for a, b in zip(before, bits(state), strict=True))
    assert state.net.training and not state.net.blocks[0]._forward_hooks


def test_measuring_leaves_no_graph_behind(small: Small) -> None:
    net, graphs = TrainState(small(), CPU).net, []
    hook = net.blocks[0].register_forward_hook(lambda module, inputs, output: graphs.append(weakref.ref(output)))
    memory.kept_by_block(net, (16, 1, 8, 8), "fp32")
    hook.remove()
    assert len(graphs) == 2 and all(graph() is None for graph in graphs)


def test_segments_cover_every_block_once_and_are_of_about_equal_bytes() -> None:
    kept = [memory.Kept(all=size, output=1) for size in [4] * 10 + [2] * 10 + [1] * 10]
    for count in (1, 2, 5, 30):
        ends = memory.segment_ends(kept, count)
        assert ends == sorted(set(ends)) and ends[-1] == len(kept) and len(ends) <= count
        sizes = [sum(block.all for block in kept[start:end]) for start, end in pairwise([0, *ends])]
        assert max(sizes) <= 70 / count + 4


def test_less_memory_means_more_segments_and_none_left_means_a_warning(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    net, shape = TrainState(replace(small(), model=NETS[1]), CPU).net, (16_384, 1, 8, 8)  # measured on few images
    whole = memory.fit(net, shape, "fp32", 2**40)
    assert whole.whole
    fixed = memory.in_use(CPU)
    counts = []
    for share in (0.7, 0.4):
        division = memory.fit(net, shape, "fp32", int((fixed + share * (whole.needed - fixed)) / MARGIN))
        counts.append(len(division.ends))
        assert division.needed < whole.needed
    assert 1 < counts[0] < counts[1]
    memory.fit(net, shape, "fp32", 2**20)
    assert "a trial may take 0.0 GiB" in caplog.text and "--memory-gib" in caplog.text


def test_more_memory_than_there_is_cannot_be_asked_for(store: Execution) -> None:
    with pytest.raises(InputError, match="memory-gib 1000000.0 is more than the"):
        memory_allowed(replace(store, memory_gib=1e6), CPU)
    two = memory_allowed(replace(store, local=False, cpus=2), CPU)
    assert two * 2 == pytest.approx(memory_allowed(store, CPU), abs=2)


@pytest.mark.parametrize(
    "said, exhausted",
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 147456 bytes", True),
        ("could not create a primitive", True),
        ("could not create a primitive descriptor for a convolution", False),
        ("CUDA error: out of memory", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(said: str, exhausted: bool) -> None:
    assert memory.is_exhausted(RuntimeError(said)) is exhausted
    assert memory.is_exhausted(MemoryError()) and memory.is_exhausted(torch.OutOfMemoryError())


def test_a_worker_with_little_memory_runs_in_segments_and_gives_the_same_records(
    small: Small, store: Execution, caplog: pytest.LogCaptureFixture
) -> None:
    trial = replace(small(iterations=2, drops=(), batch=1024, bn_batch=1024), model=replace(NETS[1], width=16))
    records = []
    for gib in (0.0, 0.001):
        execution = replace(store, memory_gib=gib, compile=bool(gib))
        shutil.rmtree(execution.trial_folder(trial.id), ignore_errors=True)
        assert worker.run_trial(trial, execution, {"profile": "test"}) == "finished"
        folder = execution.trial_folder(trial.id)
        tags = read_account(folder).tags
        records.append(read_records(folder))
        assert (int(tags["segments"]) > 1) is bool(gib) and tags["compiled"] == "no"
    assert records[0].equals(records[1])
    assert "memory may not suffice" in caplog.text and "so it is not compiled" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux only")
def test_the_peak_counts_from_its_reset() -> None:
    large = torch.ones(50 * 2**20)
    del large
    memory.release(CPU)
    memory.reset_peak(CPU)
    assert memory.peak(CPU) < memory.in_use(CPU) + 20 * 2**20
    larger = torch.ones(25 * 2**20)
    assert memory.peak(CPU) > memory.in_use(CPU) - 2**20 > larger.nbytes


WORKER = """
import json, sys
from pathlib import Path
from study.execution import Execution
from study.run import worker
from study.spec import Trial

execution = Execution(
    storage=Path(sys.argv[2]), data_root=Path(sys.argv[2]), threads=2, local=True, checkpoint_seconds=0, memory_gib=5
)
print(worker.run_trial(Trial.from_dict(json.loads(sys.argv[1])), execution, {"profile": "test"}))
"""


@pytest.mark.slow
def test_1202_layers_at_full_width_fit_into_5_gib_and_survive_a_kill_bit_for_bit(
    small: Small, tmp_path: Path, empty_store: Path
) -> None:
    model = Model.cifar(family="residual", block="basic", depth=1202, shortcut="A", width=16)
    data = replace(describe("synthetic", Path()), channels=3, size=32, classes=10, padding=4, flip=True)
    short = small(iterations=2, batch=128, bn_batch=128, drops=(), record_every=1, evaluate_every=2)
    trial, states = replace(short, model=model, data=data), []
    for killed in (False, True):
        storage = tmp_path / f"killed-{killed}"
        shutil.copytree(empty_store, storage)
        execution = Execution(storage=storage, data_root=storage)
        command = [sys.executable, "-c", WORKER, json.dumps(trial.to_dict()), str(storage)]
        if killed:
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            while not (execution.trial_folder(trial.id) / "checkpoints" / "000000001.checkpoint").exists():
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
            process.communicate()
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "finished\n"
        tags = read_account(execution.trial_folder(trial.id)).tags
        assert int(tags["segments"]) > 1 and int(tags["memory_mib"]) < 5 * 2**10
        states.append(TrainState.restore_or_create(trial, execution.trial_folder(trial.id) / "checkpoints", CPU))
    undisturbed, resumed = states
    assert all(torch.equal(a, b) for a, b in zip(bits(undisturbed), bits(resumed), strict=True))
    assert undisturbed.records == resumed.records


LIMITED = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
import psutil, torch
from study.run import worker
from study.data.arrays import load
from study.execution import Execution
from study.spec import Trial

trial = Trial.from_dict(json.loads(sys.argv[1]))
execution = Execution(storage=Path(sys.argv[2]), data_root=Path(sys.argv[2]), local=True)
little = replace(trial, recipe=replace(trial.recipe, batch=2, bn_batch=2))
worker.run_trial(little, execution, {"profile": "test"})  # what a process loads once is loaded
worker.memory_allowed = lambda *_: 2**40  # as where other processes took what there was
limit = psutil.Process().memory_info().data + int(float(sys.argv[3]) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(worker.run_trial(trial, execution, {"profile": "test"}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is not enforced elsewhere")
def test_a_trial_that_runs_out_of_memory_is_retried_in_segments_then_explained(small: Small, store: Execution) -> None:
    model = Model.cifar(family="residual", block="basic", depth=218, shortcut="A", width=16)
    trial = replace(small(iterations=1, drops=(), batch=512, bn_batch=512), model=model)
    wanted = cost.activation_bytes(trial) / 2**20

    def run(mib: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, json.dumps(trial.to_dict()), str(store.storage), str(mib)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"})

    short = run(0.15 * wanted)
    assert short.stdout == "failed\n" and short.stderr.count("out of memory in ") == 2, short.stderr
    said = read_account(store.trial_folder(trial.id))
    assert said.outcome == "failed" and "--memory-gib" in said.reason and said.cause == "out of memory"
    enough = run(0.85 * wanted)
    assert enough.stdout == "finished\n", enough.stderr
    assert "out of memory in 1 segments: about" in enough.stderr and "trying once more" in enough.stderr
    tags = read_account(store.trial_folder(trial.id)).tags
    assert tags["segments"] == "4" and "out_of_memory" in tags
