"""Trials of one condition, trained together as one net of grouped convolutions, are the trials alone to rounding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from study.data.arrays import load
from study.spec import Model, Trial
from study.training import checkpoints
from study.training.capture import without_trace
from study.training.cohort import Cohort
from study.training.loop import train, train_cohort
from study.training.sgd import SGD
from study.training.state import TrainState
from study.training.step import Step

Small = Callable[..., Trial]
CPU = torch.device("cpu")
SEEDS = 3
UPDATES = 20


def seeds(trial: Trial, count: int = SEEDS) -> list[Trial]:
    return [replace(trial, seed=seed) for seed in range(count)]


def states(trials: Sequence[Trial], dtype: torch.dtype = torch.float32) -> list[TrainState]:
    made = [TrainState(trial, CPU) for trial in trials]
    for state in made if dtype == torch.float64 else []:
        state.net.double()
        state.optimizer = SGD(state.net, state.recipe, fused=False)
        state.forward = in_float64(state.net)
    return made


def in_float64(net: Any) -> Callable[[Tensor], Tensor]:
    return lambda images: net(images.double())


def together(trials: Sequence[Trial], members: Sequence[TrainState]) -> Iterator[None]:
    data = [load(trial.data, Path(), seed=trial.seed) for trial in trials]
    cohort = Cohort(trials[0], members)
    if next(cohort.net.parameters()).dtype == torch.float64:
        cohort.forward = in_float64(cohort.net)
    evaluators = [
        state.task.Evaluator(trial, state, part) for trial, state, part in zip(trials, members, data, strict=True)
    ]
    return train_cohort(trials, cohort, data, evaluators)


def alone(trial: Trial, state: TrainState, updates: int) -> None:
    for _ in islice(train(trial, state, load(trial.data, Path(), seed=trial.seed)), updates):
        pass


def far_apart(one: TrainState, other: TrainState) -> float:
    """The largest difference of weights, averages, velocities, and sums since the last record."""

    def compared(state: TrainState) -> list[Tensor]:
        return [*state.net.state_dict().values(), *state.optimizer.velocities, state.counts.window]

    pairs = zip(compared(one), compared(other), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


RESIDUAL = Model.cifar(family="residual", depth=8, shortcut="A", width=4)
NETS = [
    *(replace(RESIDUAL, shortcut=option) for option in ("A", "B", "C", "A-average")),
    Model.cifar(family="plain", depth=8, shortcut="none", width=4),
    Model.cifar(family="residual", depth=11, shortcut="B", width=4, block="bottleneck"),
]
RECIPES: list[dict[str, Any]] = [
    {"bn_batch": 8},
    {"decay": "weights", "momentum_rule": "torch"},
    {"momentum_rule": "nesterov", "schedule": "cosine", "drops": ()},
    # Members that end their warm-up at updates of their own.
    {"warmup": "threshold", "warmup_learning_rate": 0.01, "warmup_iterations": 15},
]
NEVER = {"record_every": 1000, "evaluate_every": 1000}


@pytest.mark.parametrize(("model", "recipe"), [(net, {}) for net in NETS] + [(RESIDUAL, one) for one in RECIPES])
def test_a_grouped_net_is_the_nets_alone(small: Small, model: Model, recipe: dict[str, Any]) -> None:
    """In float64, after 20 updates: weights, BatchNorm's averages, velocities, sums of losses and wrong answers."""
    trials = seeds(replace(small(**{"iterations": 100, "drops": (10,), **NEVER, **recipe}), model=model))
    members, singles = states(trials, torch.float64), states(trials, torch.float64)
    for _ in islice(together(trials, members), UPDATES):
        pass
    for trial, member, single in zip(trials, members, singles, strict=True):
        alone(trial, single, UPDATES)
        assert single.iteration == member.iteration == UPDATES
        assert far_apart(member, single) < 1e-10
        assert member.warmed_at == single.warmed_at


def test_segments_of_a_grouped_net_are_the_whole(small: Small) -> None:
    trials = seeds(small())
    whole, divided = states(trials), states(trials)
    data = [load(trial.data, Path()) for trial in trials]
    cohorts = [Cohort(trials[0], members) for members in (whole, divided)]
    cohorts[1].divide([1, 3])
    for cohort in cohorts:
        step = Step(trials, cohort, data)
        step.prepare()
        for _ in range(3):
            step()
    assert all(far_apart(a, b) == 0 for a, b in zip(whole, divided, strict=True))


def test_members_learn_labels_shuffled_by_their_own_seed(small: Small) -> None:
    trial = small(iterations=30, drops=(), **NEVER)
    trials = seeds(replace(trial, data=replace(trial.data, labels="shuffled")), 2)
    members, singles = states(trials, torch.float64), states(trials, torch.float64)
    for _ in islice(together(trials, members), 5):
        pass
    for trial, member, single in zip(trials, members, singles, strict=True):
        alone(trial, single, 5)
        assert far_apart(member, single) < 1e-10


def test_a_member_that_diverges_touches_no_other(small: Small) -> None:
    trials = seeds(small(iterations=40, drops=(), **NEVER))
    healthy, ill = states(trials), states(trials)
    ill[1].net.classifier.weight.data.fill_(float("inf"))
    data = [load(trial.data, Path()) for trial in trials]
    for members in (healthy, ill):
        step = Step(trials, Cohort(trials[0], members), data)
        step.prepare()
        for _ in range(5):
            step()
    assert ill[1].diverged_at == 1 and healthy[1].diverged_at is None
    for seed in (0, 2):
        assert far_apart(healthy[seed], ill[seed]) == 0


def test_a_cohort_ends_with_its_first_member_at_the_end(small: Small) -> None:
    """A diverged member has its record, and one further on than the others, too; the rest is where it was left."""
    trials = seeds(small(iterations=12, drops=(), record_every=4, evaluate_every=12), 2)
    members = states(trials)
    alone(trials[0], members[0], 8)
    for _ in together(trials, members):
        pass
    assert [member.iteration for member in members] == [12, 4]
    assert [record["iteration"] for record in members[0].records] == [4, 8, 12]
    assert members[0].records[-1]["test_error_pct"] is not None
    assert [record["iteration"] for record in members[1].records] == [4]
    ill = states(trials)
    ill[1].net.classifier.weight.data.fill_(float("nan"))
    for _ in together(trials, ill):
        pass
    assert [member.iteration for member in ill] == [1, 1]
    assert [record["iteration"] for record in ill[1].records] == [1] and not ill[0].records


def test_a_member_saves_what_a_trial_alone_saves(small: Small, tmp_path: Path) -> None:
    """Its checkpoint is as large, holds its own weights, and goes on as a trial of its own."""
    trials = seeds(small(iterations=40, drops=(), **NEVER))
    members, single = states(trials), states(trials)[0]
    alone(trials[0], single, 5)
    for _ in islice(together(trials, members), 5):
        pass
    for name, state in (("alone", single), ("member", members[0])):
        state.save(tmp_path / name)
    (size,), (other) = ([file.stat().st_size for file in (tmp_path / name).iterdir()] for name in ("alone", "member"))
    assert abs(size - other[0]) < 0.01 * size
    restored = TrainState(trials[0], CPU)
    restored.restore(checkpoints.load_newest(tmp_path / "member") or {})
    assert far_apart(restored, members[0]) == 0
    alone(trials[0], restored, 5)
    assert restored.iteration == 10


def test_what_warms_up_leaves_no_trace(small: Small) -> None:
    """Neither in weights, averages and velocities, nor in what is counted."""
    trials = seeds(small(warmup="threshold", warmup_learning_rate=0.01, warmup_iterations=15))
    members, untouched = states(trials), states(trials)
    cohort = Cohort(trials[0], members)
    step = Step(trials, cohort, [load(trial.data, Path()) for trial in trials])
    step.prepare()
    before = [tensor.clone() for tensor in cohort.tensors()]
    with without_trace(cohort.tensors()):
        for _ in range(3):
            step()
        assert any(not torch.equal(a, b) for a, b in zip(before, cohort.tensors(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, cohort.tensors(), strict=True))
    assert all(far_apart(a, b) == 0 for a, b in zip(members, untouched, strict=True))
