"""What a trial takes of a machine, and when and where it starts."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import plain_vs_residual
from experiments.profiles import CLASS, PAPER, QUICK, Profile
from experiments.recipes import minutes_deep
from study import cost
from study.execution import Execution
from study.limits import machine_bytes
from study.nets.resnet import build
from study.run import placement
from study.run.machine import memory_allowed
from study.run.placement import Node, Placed, Share, schedule, share
from study.spec import InputError, Trial
from study.training import memory
from study.training.state import TrainState

GIB = 2**30
Small = Callable[..., Trial]


def cores(count: int, gib: float = 0) -> Node:
    return Node(cpus=count, gpus=0, memory_bytes=int(gib * GIB), gpu_memory_bytes=0)


def net(profile: Profile, depth: int, family: str = "residual") -> Trial:
    model = profile.model(family, depth)
    recipe = minutes_deep if (profile, depth) == (QUICK, 1202) else profile.recipe
    return profile.trials(model, recipe(model), 1)[0]


def starts(placed: list[Placed]) -> list[tuple[int, float]]:
    return [(each.node, each.start) for each in placed]


def test_a_trial_starts_as_soon_as_a_node_has_room(small: Small) -> None:
    trials = [((small(seed=seed),), seconds, Share(1, 0)) for seed, seconds in enumerate((5, 3, 4, 1))]
    assert starts(schedule(trials, [cores(2)])) == [(0, 0), (0, 0), (0, 3), (0, 5)]
    assert starts(schedule(trials, [cores(1), cores(1)])) == [(0, 0), (1, 0), (1, 3), (0, 5)]


def test_no_trial_overtakes_one_that_waits_for_room(small: Small) -> None:
    wide = ((small(seed=1),), 2.0, Share(2, 0))
    placed = schedule([((small(seed=0),), 9.0, Share(1, 0)), wide, ((small(seed=2),), 1.0, Share(1, 0))], [cores(2)])
    assert [each.start for each in placed] == [0, 9, 11]  # the last one would have fitted beside the first
    assert placement.makespan(placed) == 12 and placement.makespan([]) == 0


def test_fractions_share_a_gpu_and_are_never_split_over_two(small: Small) -> None:
    node = Node(cpus=8, gpus=2, memory_bytes=0, gpu_memory_bytes=0)

    def at(*fractions: float) -> list[float]:
        order = [((small(seed=i),), 1.0, Share(1, f)) for i, f in enumerate(fractions)]
        return [placed.start for placed in schedule(order, [node])]

    assert at(0.5, 0.5, 1.0, 0.5) == [0, 0, 0, 1]
    assert at(0.6, 0.6, 0.6) == [0, 0, 1]
    assert at(0.3333, 1.0, 0.3333, 0.3333, 2.0) == [0, 0, 0, 0, 1]  # thirds fill one GPU, and the other stays whole


def test_no_node_is_ever_given_more_than_it_has(small: Small) -> None:
    draw, nodes = random.Random(0), [Node(4, 2, 0, 0), Node(8, 1, 0, 0), Node(2, 0, 0, 0)]
    shapes = [Share(draw.randint(1, 4), draw.choice((0, 0, 0.25, 0.5, 1))) for _ in range(300)]
    trials = [((small(seed=seed),), draw.uniform(1, 9), shape) for seed, shape in enumerate(shapes)]
    placed = schedule(trials, nodes)
    assert [each.start for each in placed] == sorted(each.start for each in placed)
    for now in (each.start for each in placed):
        for index, node in enumerate(nodes):
            running = [s for p, s in zip(placed, shapes, strict=True) if p.node == index and p.start <= now < p.end]
            assert sum(s.cpus for s in running) <= node.cpus and sum(s.gpus for s in running) <= node.gpus


def test_a_trial_that_fits_on_no_node_is_refused(small: Small) -> None:
    with pytest.raises(InputError, match="takes 3 CPUs and 0 GPUs, and no node has as many: choose fewer --threads"):
        schedule([((small(),), 1.0, Share(3, 0))], [cores(2)])
    with pytest.raises(InputError, match="takes 1 CPUs and 0.5 GPUs, and no node has as many"):
        schedule([((small(),), 1.0, Share(1, 0.5))], [cores(2)])


def test_small_nets_take_one_core_and_only_what_does_not_fit_even_in_segments_takes_more(execution: Execution) -> None:
    execution = replace(execution, local=False)
    machine = cores(4, gib=8)
    assert {
        share(net(QUICK, depth), execution, machine).cpus for depth in (*plain_vs_residual.depths(QUICK), 1202)
    } == {1}
    assert share(net(PAPER, 110), execution, machine).cpus == 1  # 2.1 GiB whole, 1.4 GiB in segments
    assert share(net(PAPER, 1202), execution, machine).cpus == 2
    assert share(net(PAPER, 1202), execution, cores(4, gib=2)).cpus == 4  # no node has more to give than all of it
    assert share(net(PAPER, 1202), replace(execution, threads=3), machine).cpus == 3
    assert share(net(PAPER, 1202), execution, cores(4)).cpus == 1  # nothing is known of the memory


@pytest.mark.parametrize("own", [{"memory_gib": 4.0}, {"local": True}])
def test_memory_that_is_set_or_one_trial_at_a_time_takes_the_threads_alone(
    execution: Execution, own: dict[str, object]
) -> None:
    execution = replace(execution, **({"local": False} | own))  # type: ignore[arg-type]
    assert share(net(PAPER, 1202), execution, cores(4, gib=8)) == Share(1, 0)


def test_a_gpu_is_taken_as_asked_or_as_needed(execution: Execution) -> None:
    execution = replace(execution, local=False, gpus_per_trial=0)
    node = Node(cpus=16, gpus=1, memory_bytes=0, gpu_memory_bytes=16 * GIB)
    assert share(net(PAPER, 20), replace(execution, gpus_per_trial=1.0), node) == Share(1, 1.0)
    assert share(net(PAPER, 20), execution, node) == Share(1, 0.125)  # 8 at most
    assert share(net(PAPER, 1202), execution, node) == Share(1, 1.0)
    assert share(net(PAPER, 20), execution, node, gpu_bytes=4 * GIB) == Share(1, 0.5)  # 14.4 of 16 GiB for 2 x 5
    assert share(net(PAPER, 20), execution, node, gpu_bytes=3 * GIB + GIB // 2) == Share(1, 0.3333)
    assert share(net(PAPER, 20), execution, replace(node, cpus=4)) == Share(1, 0.25)  # a core each
    assert share(net(PAPER, 20), replace(execution, threads=8), node) == Share(8, 0.5)
    assert share(net(PAPER, 20), execution, replace(node, gpu_memory_bytes=0)) == Share(1, 1.0)  # not known
    assert share(net(PAPER, 20), replace(execution, device="cpu"), node) == Share(1, 0.0)


def test_this_machine_is_the_cores_asked_for_and_one_trials_in_a_loop(execution: Execution) -> None:
    many = replace(execution, local=False, cpus=3, threads=2, device="cpu")
    assert placement.this_machine(many) == Node(3, 0, machine_bytes(), 0)
    assert placement.this_machine(replace(many, local=True)).cpus == 2


@pytest.mark.parametrize("named", ["1", "0,0", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-GPU-8932f937/1/0", "x"])
def test_a_machine_whose_gpus_are_named_wrongly_does_not_train_on_its_cpu(
    execution: Execution, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setattr(placement, "DRIVERS", (__file__,))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES={named} names no GPU .* or say --device cpu"):
        placement.this_machine(replace(execution, device="auto"))
    assert placement.this_machine(replace(execution, device="cpu")).gpus == 0
    for hidden in ("", "-1", "NoDevFiles", " "):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert placement.this_machine(replace(execution, device="auto")).gpus == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(placement, "DRIVERS", ())  # a machine without any GPU
    assert placement.this_machine(replace(execution, device="auto")).gpus == 0


def test_the_memory_of_a_machine_is_what_trials_are_allowed_of_it(execution: Execution) -> None:
    assert machine_bytes() == memory_allowed(execution, torch.device("cpu"))


@pytest.mark.parametrize("profile, depth", [(QUICK, 56), (CLASS, 20), (CLASS, 110), (PAPER, 56)])
def test_the_least_memory_is_what_the_net_needs_in_segments(profile: Profile, depth: int) -> None:
    trial = net(profile, depth)
    real, data = build(trial).to(memory_format=torch.channels_last), trial.data  # type: ignore[call-overload]
    kept = memory.kept_by_block(real, (trial.recipe.batch, data.channels, data.size, data.size), "fp32")
    counts = range(1, len(kept) + 1)
    least = min(memory.activations(kept, memory.segment_ends(kept, n), torch.device("cpu")) for n in counts)
    ours = cost.least_bytes(trial) - cost.BYTES_A_PROCESS - 3 * 4 * cost.parameters(trial.model, data)
    assert 0.98 * least < ours < 1.1 * least
    assert cost.least_bytes(trial) <= cost.predicted_bytes(trial)


@pytest.mark.parametrize("family, depth", [("plain", 20), ("residual", 110)])
def test_a_checkpoint_is_as_large_as_predicted(family: str, depth: int, tmp_path: Path) -> None:
    trial = net(QUICK, depth, family)
    TrainState(trial, torch.device("cpu")).save(tmp_path)
    (saved,) = tmp_path.iterdir()
    assert cost.checkpoint_bytes(trial) == pytest.approx(saved.stat().st_size, rel=0.03)
