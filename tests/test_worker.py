"""One trial in its process: what it refuses, how it is profiled, what it measures at its end."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from study.data.arrays import Dataset, load
from study.execution import Execution
from study.nets.evaluation import loss_and_error
from study.nets.resnet import Net, without_observing
from study.run import worker
from study.run.launch import launch
from study.spec import InputError, Trial
from study.store import layout
from study.store.account import Outcome, read_account
from study.store.mlflow import client, reader
from study.store.records import RECALIBRATED, read_records, run_in
from study.tasks import classification
from study.training import checkpoints
from study.training.loop import train
from study.training.state import TrainState

Small = Callable[..., Trial]
CPU = torch.device("cpu")


@torch.no_grad()
def recalibrated_by_hand(net: Net, data: Dataset, size: int, batches: int) -> Net:
    """The net in evaluation mode, with the mean of the means and variances that its batches of `size` images have."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[norm].append(torch.stack([inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    net.train()
    with without_observing(net):
        for images, _ in data.mixed(size, batches * size):
            net(images)
    for norm, hook in zip(norms, hooks, strict=True):
        hook.remove()
        assert norm.running_mean is not None and norm.running_var is not None and len(seen[norm]) == batches
        mean, var = torch.stack(seen[norm]).mean(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
    return net


def test_profiling_a_trial_adds_a_chrome_trace_to_its_run_and_changes_no_record(small: Small, store: Execution) -> None:
    trial, other = small(), small(seed=1)
    tags = {"profile": "test"}
    launch([trial], replace(store, profile_trace="longest"), {trial.id: tags}, lambda *_: None)
    launch([other], replace(store, profile_trace=other.id), {other.id: tags}, lambda *_: None)
    for one in (trial, other):
        (run,) = reader.read(store, [one])
        assert [file.path for file in client.connect(store).list_artifacts(run.run_id) if "trace" in file.path]
        trace = json.loads((store.trial_folder(one.id) / "trace.json").read_text())
        assert any("convolution" in event.get("name", "") for event in trace["traceEvents"])
    (profiled,) = reader.read(store, [trial])
    again = replace(store, storage=store.storage.with_name("again"))
    launch([trial], again, {trial.id: tags}, lambda *_: None)
    (plain,) = reader.read(again, [trial])
    assert profiled.records is not None and profiled.records.equals(plain.records)


def test_only_a_trial_that_is_still_to_run_can_be_profiled(small: Small, store: Execution) -> None:
    trial = small()
    with pytest.raises(InputError, match="profile-trace 'resnet9000' is no trial that is still to run"):
        launch([trial], replace(store, profile_trace="resnet9000"), {trial.id: {}}, lambda *_: None)


def test_what_the_machine_lacks_is_refused_before_anything_runs(
    small: Small, store: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, started = small(), []
    monkeypatch.setenv("CXX", "no-such-compiler")
    for wrong, message in (
        ({"memory_gib": 1e6}, "memory-gib 1000000.0 is more than the"),
        ({"compile": True, "device": "cpu"}, "'no-such-compiler' is not found"),
    ):
        with pytest.raises(InputError, match=message):
            launch([trial], replace(store, **wrong), {trial.id: {}}, lambda todo, _: started.append(todo))
    for wrong in ({"gpus_per_trial": -1.0}, {"memory_gib": float("inf")}):
        with pytest.raises(InputError, match="must be 0 \\(as measured\\) or more, and memory-gib"):
            replace(store, **wrong)
    assert not started and not (store.storage / "trials").exists()


def test_a_folder_of_another_specification_is_refused(small: Small, store: Execution) -> None:
    trial = small()
    folder = store.trial_folder(trial.id)
    folder.mkdir(parents=True)
    Path(folder / "spec.json").write_text("{}")
    with pytest.raises(InputError, match="holds another specification"):
        worker.run_trial(trial, store, {"profile": "test"})


@pytest.mark.parametrize("recipe", [{}, {"recalibrate": 64}, {"bn_batch": 16}])
def test_a_finished_trial_says_its_errors_with_recalibrated_batch_norm(
    small: Small, store: Execution, recipe: dict[str, int]
) -> None:
    trial = small(**recipe)
    worker.run_trial(trial, store, {"profile": "test"})
    tags = read_account(store.trial_folder(trial.id)).tags
    said = [float(tags[name]) for name in RECALIBRATED]
    assert [repr(each) for each in said] == [tags[name] for name in RECALIBRATED]
    data = load(trial.data, Path())
    state = TrainState.restore_or_create(trial, store.trial_folder(trial.id) / "checkpoints", CPU)
    net = recalibrated_by_hand(state.net, data, trial.recipe.bn_batch, 20)
    for split, found in zip(("train", "test"), said, strict=True):
        expected = loss_and_error(net, data.clean(split, 100), "fp32")[1]
        assert found == pytest.approx(expected, abs=1.01 * 100 / data.count(split)), split  # rounding may tip an image
    records = read_records(store.trial_folder(trial.id))
    assert said[1] != records["test_error_pct"][-1].as_py()


def test_fewer_images_than_twenty_batches_are_recalibrated_over_as_far_as_they_go(
    small: Small, store: Execution
) -> None:
    trial = small(batch=400, bn_batch=400, iterations=4, drops=())
    worker.run_trial(trial, store, {"profile": "test"})
    assert set(RECALIBRATED) <= set(read_account(store.trial_folder(trial.id)).tags)


@pytest.mark.parametrize("died_after", [10, 24])
def test_recalibrated_errors_survive_a_kill_bit_for_bit(small: Small, store: Execution, died_after: int) -> None:
    trial, killed = small(), replace(store, storage=store.storage.with_name("killed"))
    state = TrainState(trial, CPU)
    for _ in islice(train(trial, state, load(trial.data, Path())), died_after):
        pass
    state.save(killed.trial_folder(trial.id) / "checkpoints")
    tags = []
    for execution in (store, killed):
        worker.run_trial(trial, execution, {"profile": "test"})
        tags.append(read_account(execution.trial_folder(trial.id)).tags)
    assert tags[0]["records_sha256"] == tags[1]["records_sha256"]
    assert [tags[0][name] for name in RECALIBRATED] == [tags[1][name] for name in RECALIBRATED]
    assert tags[0]["test_wrong"] == "360" and tags[0]["test_wrong_sha256"] == tags[1]["test_wrong_sha256"]


@pytest.mark.parametrize("recipe", [{}, {"recalibrate": 64}])
def test_the_wrong_test_images_are_those_of_the_recorded_error(
    small: Small, store: Execution, recipe: dict[str, int]
) -> None:
    trial = small(**recipe)
    worker.run_trial(trial, store, {"profile": "test"})
    folder = store.trial_folder(trial.id)
    wrong, error_pct = run_in(folder, trial).wrong, read_records(folder)["test_error_pct"][-1].as_py()
    assert wrong is not None and len(wrong.bits) == 360 // 8
    assert 0 < error_pct == 100 * int(wrong.flags().sum()) / wrong.images < 100
    if not recipe:
        net = TrainState.restore_or_create(trial, folder / "checkpoints", CPU).net.eval()
        ((images, labels),) = load(trial.data, Path()).clean("test", 500)
        assert wrong.flags().tolist() == (net(images).argmax(1) != labels).tolist()


def test_a_state_that_older_code_saved_ends_without_its_wrong_test_images(small: Small, store: Execution) -> None:
    trial = small()
    state = TrainState(trial, CPU)
    for _ in train(trial, state, load(trial.data, Path())):
        pass
    older = {name: value for name, value in state.saved().items() if name != "missed"}
    folder = store.trial_folder(trial.id)
    checkpoints.save(folder / "checkpoints", state.iteration, older)
    assert worker.run_trial(trial, store, {"profile": "test"}) == "finished"
    assert run_in(folder, trial).wrong is None and not (folder / layout.WRONG).exists()


def test_wrong_test_images_that_were_altered_are_found(small: Small, store: Execution) -> None:
    trial = small()
    launch([trial], store, {trial.id: {"profile": "test"}}, lambda *_: None)
    (run,) = reader.read(store, [trial])
    path = store.storage / "artifacts" / run.run_id / "artifacts" / layout.WRONG
    assert run.wrong is not None and path.read_bytes() == run.wrong.bits
    path.write_bytes(bytes(len(run.wrong.bits)))
    (altered,) = reader.read(store, [trial])
    assert altered.outcome == "unusable" and "the wrong test images of run" in altered.tags["reason"]


def test_a_diverged_net_has_no_recalibrated_error(small: Small, store: Execution) -> None:
    trial = small("plain", learning_rate=1e30)
    assert worker.run_trial(trial, store, {"profile": "test"}) == "diverged"
    assert not set(RECALIBRATED) & set(read_account(store.trial_folder(trial.id)).tags)


def test_a_trial_learns_the_shuffled_labels_of_its_seed(small: Small, store: Execution) -> None:
    """What it says of its end is what its net gives on those labels, and on no other seed's."""
    one = small(seed=1, iterations=48, drops=(40,))
    trial = replace(one, data=replace(one.data, labels="shuffled"))
    worker.run_trial(trial, store, {"profile": "test"})
    last = read_records(store.trial_folder(trial.id)).to_pylist()[-1]
    net = TrainState.restore_or_create(trial, store.trial_folder(trial.id) / "checkpoints", CPU).net
    errors = [
        loss_and_error(net, load(trial.data, Path(), seed=seed).clean("train", 500), "fp32")[1] for seed in (1, 2)
    ]
    assert last["clean_train_error_pct"] == errors[0] != errors[1]


def test_a_trial_that_is_asked_to_stop_while_it_is_evaluated_stops_within_a_batch_and_loses_nothing(
    small: Small, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the evaluations of a deep net take minutes: Ctrl-C waited for them."""
    trial = small(iterations=4, drops=(), record_every=2, evaluate_every=2)
    undisturbed = replace(execution, storage=execution.storage / "undisturbed")
    tags = {"profile": "test"}
    assert worker.run_trial(trial, undisturbed, tags) == Outcome.FINISHED
    asked, stops = 0, 0
    real = classification.asking

    def counting(_: Callable[[], bool], batches: Iterable[Tensor]) -> Iterator[Tensor]:
        def now() -> bool:
            nonlocal asked
            asked += 1
            return asked == stops

        return real(now, batches)

    monkeypatch.setattr(classification, "asking", counting)
    for stops in range(1, 100):  # at the first batch of any evaluation, the second, and so on
        asked = 0
        outcome = worker.run_trial(trial, execution, tags)
        if outcome == Outcome.FINISHED:
            break
        assert outcome == Outcome.INTERRUPTED and asked == stops
    assert stops > 8
    folders = [one.trial_folder(trial.id) for one in (execution, undisturbed)]
    one, other = (read_records(folder) for folder in folders)
    assert one.equals(other)
    assert len({(folder / layout.WRONG).read_bytes() for folder in folders}) == 1
