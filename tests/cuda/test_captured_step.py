"""On a GPU a step is captured and replayed: the same bits as the step itself, without the host."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from study.data.arrays import describe, load
from study.execution import Execution
from study.run.attempt import Attempt
from study.run.worker import run_cohort, run_trial
from study.spec import Trial
from study.store.account import Outcome, read_account
from study.training.checkpoints import load_newest
from study.training.cohort import Cohort
from study.training.counts import Counts
from study.training.loop import Updates, train, train_cohort
from study.training.state import TrainState

Small = Callable[..., Trial]
PRECISIONS = ("fp32", "tf32", "bf16")
WAYS: list[dict[str, Any]] = [
    *({"precision": precision} for precision in PRECISIONS),
    {"bn_batch": 8},
    {"recalibrate": 64},
    {"momentum_rule": "nesterov", "schedule": "cosine", "drops": ()},
    {"warmup": "threshold", "warmup_learning_rate": 0.01, "warmup_iterations": 15},
]


def seeds(trial: Trial, count: int) -> tuple[Trial, ...]:
    return tuple(replace(trial, seed=seed) for seed in range(count))


def trained(
    trial: Trial, device: torch.device, captured: bool = True, segments: Sequence[int] = (), root: Path = Path()
) -> TrainState:
    state = TrainState(trial, device, captured)
    if segments:
        state.divide(segments)
    for _ in train(trial, state, load(trial.data, root, device)):
        pass
    return state


def cohort_of(trials: Sequence[Trial], device: torch.device) -> tuple[Cohort, Iterator[None]]:
    states = [TrainState(trial, device) for trial in trials]
    cohort, first = Cohort(trials[0], states), load(trials[0].data, Path(), device)
    data = [first.for_seed(trial.seed) for trial in trials]
    evaluators = [s.task.Evaluator(trial, s, d) for trial, s, d in zip(trials, states, data, strict=True)]
    return cohort, train_cohort(trials, cohort, data, evaluators)


def equal(one: TrainState, other: TrainState) -> bool:
    """Bit for bit: weights, averages, velocities, counts and records."""
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and one.records == other.records


def distance(one: nn.Module, other: nn.Module) -> float:
    """Of all weights, relative to their norm."""
    a, b = (torch.cat([parameter.detach().flatten() for parameter in net.parameters()]) for net in (one, other))
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_captured_step_is_the_eager_one(small: Small, device: torch.device, way: dict[str, Any]) -> None:
    trial = small(**way)
    assert equal(trained(trial, device), trained(trial, device, captured=False))


def test_a_captured_step_in_segments_is_the_whole_one(small: Small, device: torch.device) -> None:
    assert equal(trained(small(), device, segments=(1, 2, 3)), trained(small(), device))


def test_photographs_are_brought_to_a_captured_step(small: Small, device: torch.device, tmp_path: Path) -> None:
    spec = describe("photographs", tmp_path, size=32, flip=True, colour="pca")
    trial = replace(small(batch=8, bn_batch=8), data=spec)
    assert equal(trained(trial, device, root=tmp_path), trained(trial, device, captured=False, root=tmp_path))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_repeated_trial_has_the_same_bits(small: Small, device: torch.device, precision: str) -> None:
    trial = small(precision=precision)
    assert equal(trained(trial, device), trained(trial, device))


def test_replays_do_not_wait_for_the_host(small: Small, device: torch.device) -> None:
    trial = small(warmup="threshold", warmup_learning_rate=0.01, warmup_iterations=15)
    state = TrainState(trial, device)
    updates = Updates([trial], state, [load(trial.data, Path(), device)])
    updates.make_one()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            updates.make_one()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert state.counts.updates.item() == 11


def test_a_warm_up_ends_at_the_same_update_as_on_a_cpu(small: Small, device: torch.device) -> None:
    """By the same counts of wrong answers."""
    recipe = small(warmup="threshold", warmup_learning_rate=0.01, warmup_iterations=200).recipe
    wrong = torch.linspace(1.5 * recipe.batch, 0, 120).clamp(max=recipe.batch).round()
    ends = []
    for where in (torch.device("cpu"), device):
        counts = Counts.new(2, where)
        for one in wrong:
            counts.add(torch.stack([torch.tensor(0.0), one]).to(where), recipe, 1)
        ends.append(counts.warmed_at.item())
    assert ends[0] == ends[1] and 50 < ends[0] < 120


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_member_of_a_cohort_is_its_trial_alone_to_rounding(
    small: Small, device: torch.device, precision: str
) -> None:
    trials = seeds(small(precision=precision), 3)
    cohort, updates = cohort_of(trials, device)
    for _ in islice(updates, 4):
        pass
    for trial, member in zip(trials, cohort.members, strict=True):
        state = TrainState(trial, device)
        for _ in islice(train(trial, state, load(trial.data, Path(), device)), 4):
            pass
        tolerance = 1e-4 if precision == "fp32" else 5e-2
        assert distance(member.net, state.net) < tolerance


def test_a_member_that_diverges_touches_no_other(small: Small, device: torch.device) -> None:
    trials = seeds(small(iterations=9, drops=()), 3)
    healthy, updates = cohort_of(trials, device)
    for _ in islice(updates, 1):
        pass
    ill, ill_updates = cohort_of(trials, device)
    ill.members[1].net.classifier.weight.data.fill_(float("inf"))
    for _ in ill_updates:
        pass
    assert ill.members[1].diverged_at == 1
    for seed in (0, 2):
        pairs = zip(healthy.members[seed].tensors(), ill.members[seed].tensors(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


class Killed(BaseException):
    """What no code expects: nothing is written after it, as after kill -9."""


@pytest.mark.parametrize("count", [1, 3])
def test_a_killed_trial_or_cohort_ends_with_the_same_bits(
    small: Small, gpu_store: Execution, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    trials = seeds(small(precision="bf16"), count)
    tags: dict[str, dict[str, str]] = {trial.id: {"profile": "test"} for trial in trials}
    run_cohort(trials, gpu_store, tags)
    killed, real, calls = replace(gpu_store, storage=gpu_store.storage.with_name("killed")), Attempt.checkpoint, 0

    def dying(attempt: Attempt, state: TrainState) -> None:
        nonlocal calls
        calls += 1
        if calls == 9 * count - 1:  # of several, between the checkpoints of two
            raise Killed
        real(attempt, state)

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "checkpoint", dying)
        with pytest.raises(Killed):
            run_cohort(trials, replace(killed, checkpoint_seconds=0.0), tags)
    assert run_cohort(trials, killed, tags) == [Outcome.FINISHED] * count
    for trial in trials:
        folders = [execution.trial_folder(trial.id) for execution in (gpu_store, killed)]
        ended = [read_account(folder).tags for folder in folders]
        seals = {(tags["records_sha256"], tags["test_wrong_sha256"]) for tags in ended}
        nets = [(load_newest(folder / "checkpoints") or {})["net"] for folder in folders]
        assert len(seals) == 1 and all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_evaluations_and_layers_of_a_member_are_those_of_its_net_alone(
    small: Small, gpu_store: Execution, device: torch.device
) -> None:
    trials = seeds(small(), 2)
    run_cohort(trials, gpu_store, {trial.id: {"profile": "test"} for trial in trials})
    for trial in trials:
        folder = gpu_store.trial_folder(trial.id)
        state = TrainState(trial, device)
        state.restore(load_newest(folder / "checkpoints", device) or {})
        evaluator = state.task.Evaluator(trial, state, load(trial.data, Path(), device))
        measured = evaluator.record(last=True)
        assert {name: state.records[-1][name] for name in measured} == measured
        finals = evaluator.finals()
        assert finals.wrong is not None
        assert measured["test_error_pct"] == 100 * int(finals.wrong.flags().sum()) / finals.wrong.images
        assert finals.layers and {row["iteration"] for row in finals.layers} == {0, trial.recipe.iterations}
        assert finals.tags.items() <= read_account(folder).tags.items()


def test_a_trial_that_runs_out_of_memory_goes_on_in_segments(
    small: Small, gpu_store: Execution, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is made to be too small, and the allocator is given less than the whole net takes."""
    if device.type != "cuda":
        pytest.skip("the allocator of a CPU has no limit to set")
    deep = small(batch=256, bn_batch=256)
    deep = replace(deep, model=replace(deep.model, depth=110, width=16))
    total = torch.cuda.get_device_properties(device).total_memory
    state = TrainState(deep, device)
    next(train(deep, state, load(deep.data, Path(), device)))
    whole = torch.cuda.max_memory_allocated(device)
    del state
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * whole / total)
    try:
        assert run_trial(deep, gpu_store, {"profile": "test"}) is Outcome.FINISHED
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    tags = read_account(gpu_store.trial_folder(deep.id)).tags
    assert int(tags["segments"]) > 1 and tags["out_of_memory"].startswith("out of memory")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="blocks are compiled for a GPU alone")
def test_compiled_blocks_train_as_the_others(small: Small, device: torch.device) -> None:
    trial = small(precision="bf16")
    compiled = TrainState(trial, device)
    compiled.compile()
    data = load(trial.data, Path(), device)
    for _ in islice(train(trial, compiled, data), 4):
        pass
    plain = TrainState(trial, device)
    for _ in islice(train(trial, plain, data), 4):
        pass
    assert distance(compiled.net, plain.net) < 5e-2


def test_two_processes_on_one_gpu_train_as_one(small: Small, gpu_store: Execution) -> None:
    """Their sum is between two graphs, by gloo: NCCL takes a GPU for each."""
    trial = small(bn_batch=16)
    two = replace(gpu_store, storage=gpu_store.storage.with_name("two"), processes=2)
    for execution in (gpu_store, two):
        assert run_trial(trial, execution, {"profile": "test"}) is Outcome.FINISHED
    folders = [execution.trial_folder(trial.id) for execution in (gpu_store, two)]
    one, other = ((load_newest(folder / "checkpoints") or {})["net"] for folder in folders)
    for name, tensor in one.items():
        assert (tensor - other[name]).norm() <= 1e-2 * tensor.norm() + 1e-5
