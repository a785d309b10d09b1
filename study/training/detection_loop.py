"""The training loop of a detector: RPN and regions together, end to end.

Owns what an iteration does. As `study/training/loop.py`, whose state it works on: images, flips and the draws of
anchors, regions and dropout are functions of (seed, iteration), so that a state restored from a checkpoint continues
bit for bit on a CPU. The paper alternates between RPN and Fast R-CNN (four steps); this is the approximate joint
training of Faster R-CNN's authors' later code, whose result they call close to it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from study.data.scenes import Scenes
from study.seeds import generator
from study.spec import DetectionTrial
from study.store.ledger import LOSSES
from study.nets.evaluation import autocast
from study.training.loop import CHECK_EVERY, Record, TrainState, learning_rate, set_learning_rate

THEIRS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")  # torchvision's names of LOSSES
Test = Callable[[], dict[str, float]]


def train(trial: DetectionTrial, state: TrainState, scenes: Scenes, test: Test) -> Iterator[Record | None]:
    """Train from where `state` stands to the last iteration, or to divergence; one item an update.

    Yields records as `study.training.loop.train` does. `test` gives the average precisions of the net as it stands, by
    measure; the first record, before any update, says what the net does untrained. Where `test` raises, the state can
    be saved: the record is then the first thing that training from there makes.
    """
    recipe = trial.recipe
    if record := _due(trial, state, test):
        yield record
    while state.iteration < recipe.iterations and not _diverged(trial, state):
        images, targets = zip(*scenes.batch(trial.seed, state.iteration, recipe.batch), strict=True)
        rate = learning_rate(recipe, state.iteration, state.warmed_at)
        set_learning_rate(state.optimizer, rate, recipe.momentum_rule)

        state.net.train()
        with _drawing(trial.seed, state.iteration, state.device), autocast(state.device, recipe.precision):
            found = state.net(list(images), list(targets))
        losses = torch.stack([found[name].float() for name in THEIRS])
        loss = losses.sum()
        state.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        state.optimizer.step()
        state.iteration += 1

        state.window += losses.detach().double()
        state.window_batches += 1
        bad = ~torch.isfinite(loss.detach()) & (state.first_bad < 0)
        state.first_bad = torch.where(bad, state.iteration, state.first_bad)
        yield _due(trial, state, test)


def _diverged(trial: DetectionTrial, state: TrainState) -> bool:
    """Whether the loss was seen not to be finite, where one looks."""
    looks = state.iteration in (*range(CHECK_EVERY), trial.recipe.iterations) or state.iteration % CHECK_EVERY == 0
    return looks and state.diverged_at is not None


def _due(trial: DetectionTrial, state: TrainState, test: Test) -> Record | None:
    """The record that is due after so many updates and is not there, now appended."""
    recipe, diverged = trial.recipe, _diverged(trial, state)
    last = state.iteration == recipe.iterations
    there = bool(state.records) and state.records[-1]["iteration"] == state.iteration
    if there or not (last or diverged or state.iteration % recipe.record_every == 0):
        return None
    rate = learning_rate(recipe, state.iteration - 1, state.warmed_at) if state.iteration else None
    tested = not diverged and (last or state.iteration % recipe.evaluate_every == 0)
    state.records.append(_record(state, rate, test() if tested else {}, diverged))
    return state.records[-1]


def _record(state: TrainState, rate: float | None, tested: dict[str, float], diverged: bool) -> Record:
    """One row of measurements; losses are means since the last record, None where the net diverged."""
    record: Record = {"iteration": state.iteration, "learning_rate": rate}
    none = diverged or not state.window_batches
    means: list[Any] = [None] * len(LOSSES) if none else (state.window / state.window_batches).tolist()
    state.window = torch.zeros_like(state.window)
    state.window_batches = 0
    precisions = {"map_50": tested.get("map_50", tested.get("map")), "map_50_95": tested.get("map_50_95")}
    return record | {"train_loss": None if none else sum(means)} | dict(zip(LOSSES, means, strict=True)) | precisions


@contextmanager
def _drawing(seed: int, iteration: int, device: torch.device) -> Iterator[None]:
    """Within, PyTorch's own generator, from which torchvision and dropout draw, is a function of (seed, iteration)."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(generator(seed, "regions", iteration).initial_seed())
        yield
