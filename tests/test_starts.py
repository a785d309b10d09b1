"""Starts other than what is drawn: layers pass their input on, and a net that is killed starts the same again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.data.arrays import load
from study.execution import Execution
from study.nets import resnet, starts
from study.run import starting_weights, worker
from study.spec import DIRAC, GROWN, PASS_THROUGH, InputError, Trial
from study.store.account import Outcome
from study.store.records import read_layers, read_records

Small = Callable[..., Trial]
CPU = torch.device("cpu")


def starting(trial: Trial, start: str, **fields: Any) -> Trial:
    return replace(trial, recipe=replace(trial.recipe, start=start, **fields))


def plain(small: Small, depth: int = 20) -> Trial:
    trial = small()
    return replace(trial, model=replace(trial.model, family="plain", shortcut="none", depth=depth))


def run(trial: Trial, execution: Execution) -> Outcome:
    return worker.run_trial(trial, execution, {})


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
