"""Layer responses and gradients are what a second, slower computation gives, and measuring them changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from study.data.arrays import load
from study.execution import Execution
from study.nets import layers
from study.nets.resnet import build
from study.run.worker import run_trial
from study.spec import Trial
from study.store.mlflow import mirror, reader
from study.store.records import LAYERS
from study.training.loop import train
from study.training.state import TrainState

Small = Callable[..., Trial]
CPU = torch.device("cpu")


def trained(trial: Trial) -> tuple[TrainState, torch.Tensor, torch.Tensor]:
    data = load(trial.data, Path())
    state = TrainState(trial, CPU)
    for _ in train(trial, state, data):
        pass
    return state, *next(data.mixed(trial.recipe.bn_batch, trial.recipe.bn_batch))


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_responses_and_gradients_equal_a_computation_written_out(small: Small, family: str) -> None:
    state, images, labels = trained(small(family))
    rows = layers.measure(state.net, images, labels, "fp32", 24)
    net = build(small(family))
    net.load_state_dict(state.net.state_dict())

    def normalised(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        weight, bias = (p[None, :, None, None] for p in (norm.weight, norm.bias))
        return (x - mean) / torch.sqrt(var + norm.eps) * weight + bias

    x = normalised(net.stem_norm, net.stem(images))
    outputs, ratios = [x], [None]
    x = x.relu()
    for block in net.blocks:
        first = normalised(block.norms[0], block.convs[0](x))
        second = normalised(block.norms[1], block.convs[1](first.relu()))
        outputs += [first, second]
        ratios += [None, (second.std() / x.std()).item()]
        x = (second + (block.shortcut(x) if block.shortcut else 0)).relu()
    functional.cross_entropy(net.classifier(x.mean((2, 3))), labels).backward()
    convolutions = [net.stem, *(conv for block in net.blocks for conv in block.convs)]

    assert [row["layer"] for row in rows] == list(range(1, 8)) and {row["iteration"] for row in rows} == {24}
    for row, output, ratio, conv in zip(rows, outputs, ratios, convolutions, strict=True):
        assert row["response_std"] == pytest.approx(output.std().item(), rel=1e-4)
        assert row["gradient_norm"] == pytest.approx(conv.weight.grad.norm().item(), rel=1e-3)
        assert row["weight_norm"] == pytest.approx(conv.weight.norm().item(), rel=1e-6)
        assert row["branch_over_input"] == (ratio if ratio is None else pytest.approx(ratio, rel=1e-4))


def test_of_a_bottleneck_net_only_the_3x3_layers_are_measured(small: Small) -> None:
    trial = small()
    trial = replace(trial, model=replace(trial.model, block="bottleneck", depth=11))
    state, images, labels = trained(trial)
    rows = layers.measure(state.net, images, labels, "fp32", 24)
    assert [row["layer"] for row in rows] == [1, 2, 3, 4]
    assert [row["branch_over_input"] is None for row in rows] == [True, False, False, False]
    last = state.net.blocks[-1]
    assert rows[-1]["weight_norm"] == last.convs[1].weight.norm().item()  # type: ignore[union-attr, operator]


def test_measuring_leaves_the_net_as_it_found_it_and_segments_change_no_number(small: Small) -> None:
    state, images, labels = trained(small())
    before = {name: value.clone() for name, value in state.net.state_dict().items()}
    gradients = [p.grad.clone() for p in state.net.parameters() if p.grad is not None]
    state.net.eval()
    whole = layers.measure(state.net, images, labels, "fp32", 24)
    state.divide(range(1, len(state.net.blocks) + 1))
    assert layers.measure(state.net, images, labels, "fp32", 24, state.forward) == whole
    assert not state.net.training
    assert all(torch.equal(value, before[name]) for name, value in state.net.state_dict().items())
    after = [p.grad for p in state.net.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(after, gradients, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in state.net.modules())


def test_a_finished_run_has_its_layers_before_and_after_training(store: Execution, small: Small) -> None:
    trial = small()
    assert run_trial(trial, store, {"profile": "test"}) == "finished"
    mirror.publish(store, [trial])
    (run,) = reader.read(store, [trial])
    assert run.layers is not None and run.layers.schema.equals(LAYERS)
    rows = run.layers.to_pylist()
    assert [(row["iteration"], row["layer"]) for row in rows] == [(i, n) for i in (0, 24) for n in range(1, 8)]
    batch = trial.recipe.batch
    images, labels = next(load(trial.data, Path()).mixed(batch, batch))
    net = build(trial).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert rows[:7] == layers.measure(net, images, labels, "fp32", 0)
    assert all(row["response_std"] == pytest.approx(1, abs=0.05) for row in rows[:7])  # as BatchNorm makes them
    assert rows[7:] != rows[:7]


def test_a_diverged_run_has_no_layers_and_altered_ones_make_it_unusable(store: Execution, small: Small) -> None:
    wild, tame = small(learning_rate=1e30), small(seed=1)
    assert run_trial(wild, store, {"profile": "test"}) == "diverged"
    assert run_trial(tame, store, {"profile": "test"}) == "finished"
    mirror.publish(store, [wild, tame])
    assert {run.trial: run.layers is None for run in reader.read(store, [wild, tame])} == {wild: True, tame: False}
    (run,) = reader.read(store, [tame])
    path = store.storage / "artifacts" / run.run_id / "artifacts" / "layers.parquet"
    path.write_bytes((store.trial_folder(wild.id) / "records.parquet").read_bytes())
    (run,) = reader.read(store, [tame])
    assert run.outcome == "unusable" and f"layers of run {run.run_id} were altered" in run.tags["reason"]
