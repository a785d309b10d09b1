"""The loop: its schedule, its records, and that a resumed trial is the uninterrupted one, bit for bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from experiments.profiles import PAPER
from experiments.recipes import paper_cifar
from study.data.arrays import Dataset, load
from study.nets.evaluation import loss_and_error, recalibrated
from study.nets.resnet import build
from study.spec import Trial
from study.training.learning_rate import learning_rate
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")
Small = Callable[..., Trial]
WAYS = [
    {},
    {"precision": "bf16"},
    {"bn_batch": 8},
    {"decay": "weights"},
    {"warmup": "fixed", "warmup_iterations": 10, "warmup_learning_rate": 0.01},
    {"warmup": "threshold", "warmup_iterations": 14, "warmup_learning_rate": 0.01},
    {"momentum_rule": "nesterov", "schedule": "cosine", "drops": (), "init": "torch"},
    {"momentum_rule": "torch", "recalibrate": 64},
]


def digits(trial: Trial) -> Dataset:
    return load(trial.data, Path("nowhere"))


def run(trial: Trial, state: TrainState | None = None, until: int | None = None) -> TrainState:
    state = state or TrainState(trial, CPU)
    for _ in train(trial, state, digits(trial)):
        if state.iteration == until:
            break
    return state


def same(a: TrainState, b: TrainState) -> bool:
    tensors = zip(a.net.state_dict().values(), b.net.state_dict().values(), strict=True)
    momenta = [[s["momentum_buffer"] for s in x.optimizer.state_dict()["state"].values()] for x in (a, b)]
    return (
        all(torch.equal(x, y) for x, y in tensors)
        and all(torch.equal(x, y) for x, y in zip(*momenta, strict=True))
        and a.records == b.records
        and a.warmed_at == b.warmed_at
    )


def test_the_learning_rate_is_the_papers_at_every_iteration() -> None:
    recipe = paper_cifar(PAPER.model("residual", 56))
    rates = [learning_rate(recipe, i, 0) for i in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    deep = paper_cifar(PAPER.model("residual", 110))
    assert [learning_rate(deep, i, None) for i in (0, 5_000)] == [0.01, 0.01]
    assert [learning_rate(deep, i, 400) for i in (399, 400)] == [0.01, 0.1]


def test_a_cosine_falls_from_the_full_rate_to_zero_and_does_not_start_later_for_a_warmup() -> None:
    cosine = replace(paper_cifar(PAPER.model("residual", 110)), schedule="cosine", drops=())
    rates = [learning_rate(cosine, i, 0) for i in (0, 16_000, 32_000, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447, 0.0], abs=1e-6)
    assert rates[-1] > 0
    assert learning_rate(cosine, 15_999, 16_000) == 0.01 and learning_rate(cosine, 16_000, 16_000) == rates[1]


def test_a_threshold_warmup_ends_when_the_net_learns_and_at_its_limit_otherwise(small: Small) -> None:
    warm = {"warmup": "threshold", "iterations": 100, "drops": (), "warmup_learning_rate": 0.02}
    learning = run(small(**warm, warmup_iterations=99))
    assert learning.warmed_at is not None and 50 <= learning.warmed_at < 99
    stuck = small(**{**warm, "warmup_learning_rate": 0.0}, warmup_iterations=60)
    assert run(stuck).warmed_at == 60


def test_records_fall_on_the_grid_and_evaluations_on_theirs(small: Small) -> None:
    records = run(small(iterations=26)).records
    assert [r["iteration"] for r in records] == [4, 8, 12, 16, 20, 24, 26]
    assert [r["iteration"] for r in records if r["test_error_pct"] is not None] == [8, 16, 24, 26]
    assert [r["learning_rate"] for r in records] == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.005, 0.0005, 0.0005])


def test_the_running_error_is_the_mean_over_the_window_in_training_mode(small: Small) -> None:
    trial = small(learning_rate=0.0)  # the net stays as it began
    first, data = run(trial, until=4).records[0], digits(trial)
    net, loss, wrong = build(trial), 0.0, 0
    for i in range(4):
        images, labels = data.batch(trial.seed, i, 32)
        logits = net(images)
        loss += functional.cross_entropy(logits, labels).item() / 4
        wrong += int((logits.argmax(1) != labels).sum())
    assert first["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert first["train_error_pct"] == pytest.approx(100 * wrong / 128)


def test_the_clean_errors_are_of_every_image_once_with_running_averages(small: Small) -> None:
    trial = small()
    state, data = run(trial), digits(trial)
    state.net.eval()
    for split, images, labels in (
        ("clean_train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        with torch.no_grad():
            wrong = state.net((images.float() - data.mean) * data.scale).argmax(1) != labels
        assert state.records[-1][f"{split}_error_pct"] == pytest.approx(100 * wrong.float().mean().item(), abs=1e-4)


def test_evaluating_more_often_does_not_disturb_training(small: Small) -> None:
    often, seldom = run(small(evaluate_every=4)), run(small(evaluate_every=24))
    assert all(torch.equal(a, b) for a, b in zip(often.net.parameters(), seldom.net.parameters(), strict=True))
    assert [r["train_loss"] for r in often.records] == [r["train_loss"] for r in seldom.records]


def test_evaluation_leaves_mode_and_statistics_alone(small: Small) -> None:
    trial = small()
    net = build(trial).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loss_and_error(net, digits(trial).clean("test", 100), "fp32")
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_update_is_caffes_momentum(small: Small) -> None:
    """v = m v + lr (g + wd w), w = w - v: the velocity keeps the old rate's steps where the rate drops."""
    trial = small(iterations=6, drops=(3,), record_every=1, evaluate_every=6, weight_decay=0.01)
    state, data, net = run(trial), digits(trial), build(trial)
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for i in range(6):
        images, labels = data.batch(trial.seed, i, 32)
        net.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        with torch.no_grad():
            for v, p in zip(velocity, net.parameters(), strict=True):
                v.mul_(0.9).add_(p.grad + 0.01 * p, alpha=0.05 if i < 3 else 0.005)  # type: ignore[operator]
                p.sub_(v)
    for ours, theirs in zip(state.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", ["torch", "nesterov"])
def test_pytorchs_momentum_is_what_a_pytorch_script_with_a_scheduler_computes(small: Small, rule: str) -> None:
    trial = small(iterations=6, drops=(3,), record_every=1, evaluate_every=6, weight_decay=0.01, momentum_rule=rule)
    state, data, net = run(trial), digits(trial), build(trial)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=0.01, nesterov=rule == "nesterov")
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    for i in range(6):
        images, labels = data.batch(trial.seed, i, 32)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(state.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_rules_of_momentum_differ_from_where_the_rate_changes(small: Small) -> None:
    def nets(**recipe: Any) -> list[torch.Tensor]:
        rules = ("caffe", "torch")
        return [run(small(iterations=6, momentum_rule=rule, **recipe)).net.stem.weight for rule in rules]

    assert torch.equal(*nets(drops=()))
    assert not torch.allclose(*nets(drops=(3,)))


def test_without_momentum_there_is_no_velocity_to_rescale(small: Small) -> None:
    assert run(small(momentum=0.0)).iteration == 24


def test_recalibrating_changes_what_is_evaluated_and_nothing_that_is_trained(small: Small) -> None:
    moving, strict = run(small()), run(small(recalibrate=320))
    assert all(
        torch.equal(a, b)
        for a, b in zip(moving.net.state_dict().values(), strict.net.state_dict().values(), strict=True)
    )
    velocities = (state.optimizer.state_dict()["state"].values() for state in (moving, strict))
    assert all(torch.equal(*(v["momentum_buffer"] for v in pair)) for pair in zip(*velocities, strict=True))
    for a, b in zip(moving.records, strict.records, strict=True):
        assert (a["train_loss"], a["train_error_pct"]) == (b["train_loss"], b["train_error_pct"])
        for split in ("clean_train", "test"):
            assert (a[f"{split}_loss"] is None) == (b[f"{split}_loss"] is None)
            assert a[f"{split}_loss"] is None or a[f"{split}_loss"] != b[f"{split}_loss"]


def test_recalibrated_statistics_are_plain_means_over_batches_and_are_gone_afterwards(small: Small) -> None:
    trial = small(recalibrate=100, bn_batch=16)
    state, data = run(trial), digits(trial)
    net = state.net.train()
    outputs = [net.stem(images).detach() for images, _ in data.mixed(16, 100)]
    means = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var(dim=(0, 2, 3)) for output in outputs]).mean(0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    momenta = [norm.momentum for norm in net.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    assert len(outputs) == 6  # of 100 images in batches of 16
    with recalibrated(net, data.mixed(16, 100), "fp32"):
        assert net.training
        torch.testing.assert_close(net.stem_norm.running_mean, means, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(net.stem_norm.running_var, variances, rtol=1e-4, atol=1e-6)
        error = loss_and_error(net, data.clean("test", 500), "fp32")
    assert error == (state.records[-1]["test_loss"], state.records[-1]["test_error_pct"])
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert momenta == [norm.momentum for norm in net.modules() if isinstance(norm, torch.nn.BatchNorm2d)]


def test_weight_decay_can_spare_batchnorm_and_biases(small: Small) -> None:
    """BatchNorm's scale starts at one: strong decay pulls it down unless it is spared."""
    by_decay = {
        decay: run(small(decay=decay, weight_decay=0.5, iterations=4, drops=())).net.stem_norm.weight.mean().item()
        for decay in ("all", "weights")
    }
    assert by_decay["all"] < by_decay["weights"] - 0.05


def test_divergence_is_an_outcome_and_is_dated(small: Small) -> None:
    state = run(small("plain", learning_rate=1e12, iterations=24))
    assert state.diverged_at is not None and state.diverged_at <= state.iteration < 24
    last = state.records[-1]
    assert last["iteration"] == state.iteration
    assert last["train_loss"] is None and last["test_error_pct"] is None


def test_a_trial_stopped_between_its_divergence_and_where_that_is_seen_ends_as_the_uninterrupted_one(
    small: Small, tmp_path: Path
) -> None:
    trial = small("plain", learning_rate=0.0, iterations=24, record_every=24, evaluate_every=24, drops=())
    whole = TrainState(trial, CPU)
    for _ in train(trial, whole, digits(trial)):
        if whole.iteration == 12:  # beyond the updates that are all checked
            whole.net.stem.weight.data.fill_(torch.nan)
        if whole.iteration == 15:
            whole.save(tmp_path)
    resumed = run(trial, TrainState.restore_or_create(trial, tmp_path, CPU))
    assert (whole.diverged_at, whole.iteration) == (13, 20)
    assert (resumed.diverged_at, resumed.iteration, resumed.records) == (13, 20, whole.records)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(small: Small, way: dict[str, Any]) -> None:
    assert same(run(small(**way)), run(small(**way)))
    assert not same(run(small(**way)), run(small(**way, seed=1)))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_trial_stopped_anywhere_and_resumed_is_bitwise_the_uninterrupted_one(
    small: Small, tmp_path: Path, way: dict[str, Any]
) -> None:
    trial = small(**way)
    whole = run(trial)
    for stop in (1, 4, 7, 11, 16, 17, 23):
        folder = tmp_path / str(stop)
        run(trial, until=stop).save(folder)
        resumed = TrainState.restore_or_create(trial, folder, CPU)
        assert resumed.iteration == stop
        assert same(run(trial, resumed), whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_in_another_number_of_segments_changes_no_bit(small: Small, tmp_path: Path, precision: str) -> None:
    """A trial may go on where there is less memory, or more."""
    trial = small(precision=precision, bn_batch=8)
    run(trial, until=10).save(tmp_path)
    resumed = TrainState.restore_or_create(trial, tmp_path, CPU)
    resumed.divide(range(1, len(resumed.net.blocks) + 1))
    assert same(run(trial, resumed), run(trial))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_trial_stopped_and_resumed_is_bitwise_the_uninterrupted_one(
    small: Small, tmp_path: Path, precision: str
) -> None:
    trial = small(precision=precision)

    def compiled(state: TrainState, until: int | None = None) -> TrainState:
        state.compile()
        return run(trial, state, until)

    whole, eager = compiled(TrainState(trial, CPU)), run(trial)
    for stop in (7, 16):
        compiled(TrainState(trial, CPU), until=stop).save(tmp_path)
        assert same(compiled(TrainState.restore_or_create(trial, tmp_path, CPU)), whole)
    for one, other in zip(whole.records[:2], eager.records[:2], strict=True):  # rounding grows with every update
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)


def test_paired_seeds_share_the_batches_of_every_condition(small: Small) -> None:
    plain, residual = small("plain"), small("residual", learning_rate=0.1)
    for i in (0, 50, 99):
        a, b = (digits(t).batch(t.seed, i, 32) for t in (plain, residual))
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_residual_net_learns_the_digits(small: Small) -> None:
    state = run(small(iterations=120, drops=(100,), evaluate_every=40))
    assert state.records[-1]["test_error_pct"] < 15


def test_held_out_images_are_a_third_error(small: Small) -> None:
    trial = small(iterations=8, drops=())
    trial = replace(trial, data=replace(trial.data, held_out=200))
    assert digits(trial).count("train") == digits(small()).count("train") - 200
    assert run(trial).records[-1]["validation_error_pct"] is not None
    assert run(small(iterations=8, drops=())).records[-1]["validation_error_pct"] is None
