"""The training loop of a detector: RPN and regions together, end to end.

Owns what an iteration does. As `study/training.py`, whose state it works on: images, flips and the draws of anchors,
regions and dropout are functions of (seed, iteration), so that a state restored from a checkpoint continues bit for bit
on a CPU. The paper alternates between RPN and Fast R-CNN (four steps); this is the approximate joint training of Faster
R-CNN's authors' later code, whose result they call close to it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from study.detection.data import Scenes
from study.detection.spec import DetectionTrial
from study.evaluation import autocast
from study.ledger import LOSSES
from study.seeds import generator
from study.training import CHECK_EVERY, Record, TrainState, learning_rate, set_learning_rate

THEIRS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")  # torchvision's names of LOSSES
Test = Callable[[], dict[str, float]]


def train(trial: DetectionTrial, state: TrainState, scenes: Scenes, test: Test) -> Iterator[Record | None]:
    """Train from where `state` stands to the last iteration, or to divergence; one item an update.

    Yields records as `study.training.train` does. `test` gives the average precisions of the net as it stands, by
    measure; the first record, before any update, says what the net does untrained.
    """
    recipe = trial.recipe
    if not state.records:
        state.records.append(_record(state, None, test()))
        yield state.records[-1]
    diverged = state.diverged_at is not None
    while state.iteration < recipe.iterations and not diverged:
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
        last = state.iteration == recipe.iterations
        checked = last or state.iteration % CHECK_EVERY == 0 or state.iteration < CHECK_EVERY
        diverged = checked and state.diverged_at is not None
        record = None
        if last or diverged or state.iteration % recipe.record_every == 0:
            tested = not diverged and (last or state.iteration % recipe.evaluate_every == 0)
            record = _record(state, rate, test() if tested else {}, diverged)
            state.records.append(record)
        yield record


def _record(state: TrainState, rate: float | None, tested: dict[str, float], diverged: bool = False) -> Record:
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
