"""Starts other than what is drawn: layers pass their input on, and a net that is killed starts the same again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import Killed, dying_at, elsewhere
from torch import Tensor, nn

from experiments import planned
from experiments.profiles import SMOKE
from study.data.arrays import load
from study.execution import Execution
from study.nets import resnet, starts
from study.run import starting_weights, worker
from study.spec import DIRAC, GROWN, PASS_THROUGH, InputError, Trial
from study.store.account import Outcome, read_account
from study.store.records import read_layers, read_records
from study.training.checkpoints import load_newest

Small = Callable[..., Trial]
CPU = torch.device("cpu")


def starting(trial: Trial, start: str, **fields: Any) -> Trial:
    return replace(trial, recipe=replace(trial.recipe, start=start, **fields))


def plain(small: Small, depth: int = 20) -> Trial:
    trial = small()
    return replace(trial, model=replace(trial.model, family="plain", shortcut="none", depth=depth))


def run(trial: Trial, execution: Execution) -> Outcome:
    return worker.run_trial(trial, execution, {})


def from_each_start(small: Small) -> dict[str, list[Trial]]:
    """What is trained for a net from each start: the net that it is grown from comes before a grown one."""
    shallow = plain(small, 8)
    return {
        DIRAC: [starting(shallow, DIRAC, start_noise=0.1)],
        PASS_THROUGH: [starting(shallow, PASS_THROUGH, start_noise=0.1)],
        GROWN: [shallow, starting(plain(small, 14), GROWN, grown_from=shallow.condition)],
    }


def ended(trial: Trial, execution: Execution) -> tuple[dict[str, str], dict[str, Tensor], list[dict[str, Any]]]:
    """What a trial was sealed with, its final weights, and what its layers do at its start and end."""
    folder = execution.trial_folder(trial.id)
    seals = {name: tag for name, tag in read_account(folder).tags.items() if name.endswith("_sha256")}
    saved, layers = load_newest(folder / "checkpoints"), read_layers(folder)
    assert saved is not None and layers is not None and seals
    return seals, saved["net"], layers.to_pylist()


@pytest.mark.parametrize("checkpoint", [1, 2, 13])
@pytest.mark.parametrize("start", [DIRAC, PASS_THROUGH, GROWN])
def test_a_trial_from_each_start_that_is_killed_ends_with_the_same_bits(
    small: Small, store: Execution, start: str, checkpoint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first checkpoint, which takes the start again, and after it, when nothing may take it again."""
    *before, trial = from_each_start(small)[start]
    killed = elsewhere(store, "killed")
    for execution in (store, killed):
        assert all(run(source, execution) is Outcome.FINISHED for source in before)
    assert run(trial, store) is Outcome.FINISHED

    with monkeypatch.context() as patched:
        dying_at(checkpoint, patched)
        with pytest.raises(Killed):
            run(trial, replace(killed, checkpoint_seconds=0.0))
    assert run(trial, killed) is Outcome.FINISHED
    (seals, net, layers), (same_seals, same_net, same_layers) = (ended(trial, one) for one in (store, killed))
    assert seals == same_seals and layers == same_layers
    assert all(torch.equal(tensor, same_net[name]) for name, tensor in net.items())
    assert (starting_weights.SEAL in seals) == (start == GROWN)


@pytest.mark.parametrize("start", [DIRAC, PASS_THROUGH, GROWN])
def test_members_of_a_cohort_begin_at_their_own_starts_and_are_their_trials_alone_to_rounding(
    small: Small, store: Execution, start: str
) -> None:
    """What they are grown from is trained alone: of sources that differ by rounding, trained nets differ by more."""
    *before, trial = from_each_start(small)[start]
    cohort, single = [replace(trial, seed=seed) for seed in range(2)], elsewhere(store, "single")
    for execution in (store, single):
        for source in before:
            assert all(run(replace(source, seed=one.seed), execution) is Outcome.FINISHED for one in cohort)
    assert worker.run_cohort(cohort, store, {one.id: {} for one in cohort}) == [Outcome.FINISHED] * 2
    assert all(run(one, single) is Outcome.FINISHED for one in cohort)
    for one in cohort:
        rows = [read_records(execution.trial_folder(one.id)).to_pandas() for execution in (store, single)]
        assert (rows[0] - rows[1])[["train_loss", "test_loss"]].abs().max().max() < 1e-3
        together, alone = (ended(one, execution)[2] for execution in (store, single))
        begun = [[row["response_std"] for row in layers if row["iteration"] == 0] for layers in (together, alone)]
        assert begun[0] and begun[0] == pytest.approx(begun[1], rel=1e-4)


def test_pass_through_is_set_from_the_same_training_images_for_every_seed_and_from_nothing_else(
    small: Small, store: Execution
) -> None:
    def taken(trial: Trial, data: Any) -> dict[str, Tensor]:
        net = resnet.build(trial)
        assert starting_weights.take(net, trial, store, CPU, data) == ""
        return net.state_dict()

    trial = starting(plain(small, 8), PASS_THROUGH, start_noise=0.1)
    data = load(trial.data, Path())
    untested = replace(data, test_images=data.test_images.flip(0) // 2, test_labels=data.test_labels.flip(0))
    other = replace(data, train_images=data.train_images.flip(2))
    state = taken(trial, data)
    for same in (taken(trial, data), taken(trial, untested)):
        assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())
    differs = {name for name, tensor in taken(trial, other).items() if not torch.equal(tensor, state[name])}
    assert differs and not any("conv" in name for name in differs)  # BatchNorm alone is set from images
    images, labels = starting_weights._images(trial, data)
    again, _ = starting_weights._images(replace(trial, seed=1), data.for_seed(1))
    assert len(images) == len(labels) == starting_weights.IMAGES and torch.equal(images, again)
    known = {image.numpy().tobytes() for image in data._normalised(data.train_images)}
    assert all(image.numpy().tobytes() in known for image in images)


def test_scale_and_shift_behind_square_convolutions_are_deviation_and_mean_of_their_input(small: Small) -> None:
    trial = starting(plain(small, 14), PASS_THROUGH, start_noise=0.3)
    net = resnet.build(trial).eval()
    images, _ = next(load(trial.data, Path()).mixed(512, 512))
    starts.pass_through(net, images)
    inputs: dict[nn.Module, Tensor] = {}
    for norm in (module for module in net.modules() if isinstance(module, resnet.BatchNorm)):
        norm.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0].detach()}))
    net(images)
    undone = {norm for _, norm in resnet.way_through(net)}
    assert len(undone) == 10 and len(inputs) == 13  # the stem, and where the width doubles, are as they were
    for norm, x in inputs.items():
        assert isinstance(norm, resnet.BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
        if norm in undone:
            torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)
        else:
            assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_a_grown_net_of_another_loss_than_its_sources_fails_in_one_line(
    small: Small, store: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow, grown = from_each_start(small)[GROWN]
    assert run(shallow, store) is Outcome.FINISHED
    with monkeypatch.context() as patched:  # added layers that are not the identity, as a mistake would make them
        patched.setattr(starts, "as_identity", lambda conv, noise: resnet.as_identity(conv, 1.0))
        with pytest.raises(InputError) as refused:
            run(grown, store)
    said = str(refused.value)
    assert "\n" not in said and said.startswith(f"{grown.id} starts at loss ") and said.endswith("equal to 0.0001")
    account = read_account(store.trial_folder(grown.id))
    assert account.outcome is Outcome.FAILED
    assert run(grown, store) is Outcome.FINISHED  # once it is mended


def test_the_loss_of_a_grown_net_is_its_sources_on_images_that_it_was_not_set_from(
    small: Small, store: Execution
) -> None:
    shallow, grown = from_each_start(small)[GROWN]
    assert run(shallow, store) is Outcome.FINISHED
    data, saved = load(grown.data, Path()), load_newest(store.trial_folder(shallow.id) / "checkpoints")
    assert saved is not None
    deep, source = resnet.build(grown), resnet.build(shallow)
    source.load_state_dict(saved["net"])
    starting_weights.take(deep, grown, store, CPU, data)
    ((images, _),) = data.clean("test", 500)
    torch.testing.assert_close(deep.eval()(images), source.eval()(images), rtol=1e-4, atol=1e-4)


def test_smokes_starts_are_a_few_iterations_of_each_start() -> None:
    trials: Sequence[Trial] = list(planned(SMOKE, ["starts", "starts-grid"]))
    assert {trial.recipe.start for trial in trials} == {"he", DIRAC, PASS_THROUGH, GROWN}
    assert len(trials) <= 10 and max(trial.recipe.iterations for trial in trials) <= 6


def test_without_noise_each_layer_passes_on_the_images_it_was_set_from(small: Small) -> None:
    trial = starting(plain(small), PASS_THROUGH)
    images, _ = next(load(trial.data, Path()).mixed(32, 32))
    for training in (True, False):
        net = resnet.build(trial)
        starts.pass_through(net, images)
        net.train(training)
        x = net.begin(images)
        y = net.stages[0](x)
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)
        assert x.std() > 0.1


def test_a_trial_from_another_start_ends_the_same_again_and_is_measured_at_its_true_start(
    small: Small, store: Execution
) -> None:
    trial = starting(plain(small), PASS_THROUGH, start_noise=0.1)
    again = replace(store, storage=store.storage.with_name("again"))
    for execution in (store, again):
        assert run(trial, execution) is Outcome.FINISHED
    folders = [execution.trial_folder(trial.id) for execution in (store, again)]
    first, second = map(read_records, folders)
    assert len(first) and first.equals(second)
    layers, same = map(read_layers, folders)
    assert layers is not None and same is not None and layers.equals(same)
    begun = [row["response_std"] for row in layers.to_pylist() if row["iteration"] == 0]
    assert max(abs(std - 1) for std in begun) > 0.05  # He's start has 1 behind every BatchNorm


def test_a_grown_net_starts_at_the_loss_of_the_net_it_is_grown_from(small: Small, store: Execution) -> None:
    shallow = plain(small)
    grown = starting(plain(small, 32), GROWN, grown_from=shallow.condition)
    assert grown.needs == (shallow.id,)
    with pytest.raises(InputError, match="cannot start from plain20.*neither its result nor its weights"):
        starting_weights.check([grown], store)
    wider = replace(grown, model=replace(grown.model, width=2 * grown.model.width))
    with pytest.raises(InputError, match="cannot be grown from plain20.*choose a shallower net with its width"):
        starting_weights.check([shallow, wider], store)
    starting_weights.check([shallow, grown], store)
    assert [run(trial, store) for trial in (shallow, grown)] == [Outcome.FINISHED] * 2


def test_a_start_that_has_nothing_to_act_on_is_refused(small: Small) -> None:
    with pytest.raises(InputError, match="has no square convolution on its way through"):
        starting(small(), DIRAC)
    with pytest.raises(InputError, match="'grown' needs one"):
        starting(plain(small), GROWN)
    with pytest.raises(InputError, match="is added to no start 'he'; choose 0"):
        starting(plain(small), "he", start_noise=0.1)
