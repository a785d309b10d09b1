"""The training loop: one readable generator of records, for classifiers and detectors.

Owns the learning rate, when a record is due and when training ends. Batches, augmentation and learning rate are pure
functions of (seed, iteration), so there is no loader, scheduler or generator state to save. The host looks at tensors
only here: at records, every CHECK_EVERY updates, and for the length of a threshold warm-up. Does not know where
records and checkpoints go.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from study.spec import Recipe, Trial
from study.tasks.task import Evaluator, Record
from study.training.distributed import ALONE, Group
from study.training.state import TrainState
from study.training.step import Step

WARMUP_WINDOW = 50  # batches over which the running training error that ends a warm-up is taken
WARMUP_ERROR_PCT = 80.0  # Sec. 4.2
CHECK_EVERY = 10  # iterations between checks whether the loss is finite: a check waits for the device


def learning_rate(recipe: Recipe, iteration: int, warmed_at: int | None, plateaus: Sequence[int] = ()) -> float:
    """Learning rate of the update after `iteration` updates.

    `warmed_at`: the first update after warm-up, if known. `plateaus`: where schedule 'plateau' has dropped the rate.
    """
    if warmed_at is None or iteration < warmed_at:
        return recipe.warmup_learning_rate
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * iteration / recipe.iterations)) / 2
    divisor: int = 10 ** sum(iteration >= drop for drop in (*recipe.drops, *plateaus))
    return recipe.learning_rate / divisor


def train(
    trial: Trial, state: TrainState, data: Any, group: Group = ALONE, evaluator: Evaluator | None = None
) -> Iterator[Record | None]:
    """Train from where `state` stands to the last iteration, or to divergence; one item an update.

    Yields the record where one is due, else None, so that the caller can save the state between any two updates.
    Records are also appended to `state.records` before they are yielded. A task may have a record before the first
    update. `data` is what the trial's task has loaded; `evaluator` tests the net for records, by default the task's
    own. Where that raises `Stopped`, the state can be saved: the record is then the first that training from there
    makes. Of a group, every process does this with its part of each batch, and has the same state between updates; but
    only the first one evaluates, and the others go on, or end, when it does.
    """
    recipe = trial.recipe
    evaluator = evaluator or state.task.Evaluator(trial, state, data)
    step = Step(trial, state, data, group)
    if record := _due(trial, state, evaluator, group.first):
        yield record
    while group.goes_on(state.iteration < recipe.iterations and not _seen_to_diverge(trial, state)):
        step.prepare(learning_rate(recipe, state.iteration, state.warmed_at, state.plateaus))
        summed = step()
        state.iteration += 1
        state.window_batches += 1
        if state.warmed_at is None:
            _watch_warm_up(recipe, state, summed)
        yield _due(trial, state, evaluator, group.first)


def is_over(trial: Trial, state: TrainState) -> bool:
    """Whether there is nothing left to train or to record."""
    last = state.iteration == trial.recipe.iterations
    return (last or _seen_to_diverge(trial, state)) and _is_recorded(state)


def _seen_to_diverge(trial: Trial, state: TrainState) -> bool:
    """Whether the loss was not finite, at an iteration where that is checked: the same ones after every resume."""
    checked = state.iteration < CHECK_EVERY or state.iteration % CHECK_EVERY == 0
    return (checked or state.iteration == trial.recipe.iterations) and state.diverged_at is not None


def _is_recorded(state: TrainState) -> bool:
    return bool(state.records) and state.records[-1]["iteration"] == state.iteration


def _due(trial: Trial, state: TrainState, evaluator: Evaluator, evaluates: bool) -> Record | None:
    """The record that is due after so many updates and has not been made; it is appended to the state's."""
    recipe, last = trial.recipe, state.iteration == trial.recipe.iterations
    if _is_recorded(state) or not (state.iteration or state.task.RECORDS_UNTRAINED):
        return None
    diverged = _seen_to_diverge(trial, state)
    if not (last or diverged or state.iteration % recipe.record_every == 0):
        return None
    due = evaluates and not diverged and (last or state.iteration % recipe.evaluate_every == 0)
    evaluated = evaluator.record(last) if due else {}  # first, as it may raise `Stopped`
    record: Record = {**dict.fromkeys(state.task.COLUMNS.names), "iteration": state.iteration}
    if state.iteration:
        record["learning_rate"] = learning_rate(recipe, state.iteration - 1, state.warmed_at, state.plateaus)
    means = state.means()
    if means is not None and not diverged:
        record |= state.task.trained(trial, means)
    state.records.append(record | evaluated)
    if recipe.schedule == "plateau" and not diverged and reached_plateau(recipe, state.records, state.plateaus):
        state.plateaus.append(state.iteration)
    return state.records[-1]


def reached_plateau(recipe: Recipe, records: Sequence[Record], plateaus: Sequence[int]) -> bool:
    """Whether `patience` records came without a new least running training error since that, and since the last drop.

    The paper drops the rate 'when the error plateaus' (Sec. 3.4), and does not say which, nor how it is seen.
    """
    least = min(records, key=lambda record: record["train_error_pct"])
    since = max([least["iteration"], *plateaus])
    waited = sum(1 for record in records if record["iteration"] > since)
    return waited >= recipe.patience


def _watch_warm_up(recipe: Recipe, state: TrainState, summed: Tensor) -> None:
    """End a threshold warm-up where the net learns, or at its limit. Waits for the device, at every update."""
    wrong = summed[state.task.SUMMED.index("wrong")].item()
    state.recent = [*state.recent, 100 * wrong / recipe.batch][-WARMUP_WINDOW:]
    error = sum(state.recent) / len(state.recent)
    learned = len(state.recent) == WARMUP_WINDOW and error < WARMUP_ERROR_PCT
    if learned or state.iteration >= recipe.warmup_iterations:
        state.warmed_at = state.iteration
