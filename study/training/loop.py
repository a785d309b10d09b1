"""The training loop: a generator that makes one update an item, for classifiers and detectors.

Owns when a record is due, when a threshold warm-up ends and when training ends. Batches and augmentation are functions
of (seed, iteration), so there is no loader or generator state to save; the learning rate also depends on where a
warm-up ended and where plateaus were, which the state keeps (`learning_rate.py`). The host looks at tensors
only here: at records, every CHECK_EVERY updates, and for the length of a threshold warm-up. Does not know where records
and checkpoints go.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from study.spec import Recipe, Trial
from study.tasks.task import Evaluator, Record
from study.training.distributed import ALONE, Group
from study.training.learning_rate import WARMUP_ERROR_PCT, WARMUP_WINDOW, learning_rate, reached_plateau
from study.training.state import TrainState
from study.training.step import Step

CHECK_EVERY = 10  # iterations between checks whether the loss is finite: a check waits for the device


def train(
    trial: Trial, state: TrainState, data: Any, group: Group = ALONE, evaluator: Evaluator | None = None
) -> Iterator[Record | None]:
    """Train from where `state` stands to the last iteration, or to divergence; one item an update.

    Yields the record where one is due, else None, so that the caller can save the state between any two updates.
    Records are also appended to `state.records` before they are yielded. A task may have a record before the first
    update. `data` is what the trial's task has loaded; `evaluator` tests the net for records, by default the task's
    own. If it raises `Stopped`, the state can be saved; after a resume the missing record is made first.

    Of a group, every process does this with its part of each batch, and has the same state between updates. Only the
    first one evaluates; the others continue, or end, when it does.
    """
    recipe = trial.recipe
    evaluator = evaluator or state.task.Evaluator(trial, state, data)
    step = Step(trial, state, data, group)
    if record := _record_if_due(trial, state, evaluator, group.first):
        yield record
    while group.goes_on(state.iteration < recipe.iterations and not _seen_to_diverge(trial, state)):
        step.prepare(learning_rate(recipe, state.iteration, state.warmed_at, state.plateaus))
        summed = step()
        state.iteration += 1
        state.window_batches += 1
        if state.warmed_at is None:
            _watch_warm_up(recipe, state, summed)
        yield _record_if_due(trial, state, evaluator, group.first)


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


def _record_if_due(trial: Trial, state: TrainState, evaluator: Evaluator, evaluates: bool) -> Record | None:
    """The record that is due after so many updates and has not been made; it is appended to the state's."""
    recipe, last = trial.recipe, state.iteration == trial.recipe.iterations
    if _is_recorded(state) or not (state.iteration or state.task.RECORDS_UNTRAINED):
        return None
    diverged = _seen_to_diverge(trial, state)
    if not (last or diverged or state.iteration % recipe.record_every == 0):
        return None
    evaluates_now = evaluates and not diverged and (last or state.iteration % recipe.evaluate_every == 0)
    evaluated = evaluator.record(last) if evaluates_now else {}  # first, as it may raise `Stopped`
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


def _watch_warm_up(recipe: Recipe, state: TrainState, summed: Tensor) -> None:
    """End a threshold warm-up where the net learns, or at its limit. Waits for the device, at every update."""
    wrong = summed[state.task.SUMMED.index("wrong")].item()
    state.recent = [*state.recent, 100 * wrong / recipe.batch][-WARMUP_WINDOW:]
    error = sum(state.recent) / len(state.recent)
    learned = len(state.recent) == WARMUP_WINDOW and error < WARMUP_ERROR_PCT
    if learned or state.iteration >= recipe.warmup_iterations:
        state.warmed_at = state.iteration
