"""The training loop: a generator that makes one update an item, for classifiers, cohorts of them, and detectors.

Owns when a record is due and when training ends. Batches and augmentation are functions of (seed, iteration), so there
is no loader or generator state to save; the learning rate also depends on where a warm-up ended and where plateaus
were, which the state keeps (`learning_rate.py`). The host reads tensors only here: at records, and every CHECK_EVERY
updates. Does not know where records and checkpoints go.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from study.spec import Trial
from study.tasks.task import Evaluator, Record
from study.training.capture import replayed
from study.training.cohort import Cohort
from study.training.distributed import ALONE, Group
from study.training.learning_rate import learning_rate, reached_plateau
from study.training.state import TrainState
from study.training.step import Step, Subject

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
    evaluator = evaluator or state.task.Evaluator(trial, state, data)
    updates = Updates([trial], state, [data], group)
    if record := _record_if_due(trial, state, evaluator, group.first):
        yield record
    while group.goes_on(not _at_end(trial, state)):
        updates.make_one()
        yield _record_if_due(trial, state, evaluator, group.first)


def train_cohort(
    trials: Sequence[Trial], cohort: Cohort, data: Sequence[Any], evaluators: Sequence[Evaluator]
) -> Iterator[None]:
    """The same with the trials of a cohort, each of its own iteration; one item an update of all.

    Ends when the first of them is at its last iteration, or diverged: what is left is another cohort.
    """
    members = list(zip(trials, cohort.members, evaluators, strict=True))
    updates = Updates(trials, cohort, data)
    for member in members:
        _record_if_due(*member, evaluates=True)
    while not any(_at_end(trial, state) for trial, state, _ in members):
        updates.make_one()
        for member in members:
            _record_if_due(*member, evaluates=True)
        yield


class Updates:
    """The updates of a trial or a cohort, one by one: on a GPU captured at the first and then replayed."""

    def __init__(self, trials: Sequence[Trial], state: Subject, data: Sequence[Any], group: Group = ALONE) -> None:
        self.state = state
        self.step = Step(trials, state, data, group)
        self.run: Callable[[], None] | None = None

    def make_one(self) -> None:
        self.step.prepare()
        if self.run is None:
            self.run = replayed(self.step) if self.state.members[0].captures else self.step
        self.run()
        for member in self.state.members:
            member.iteration += 1
            member.window_batches += 1


def _at_end(trial: Trial, state: TrainState) -> bool:
    return state.iteration >= trial.recipe.iterations or _seen_to_diverge(trial, state)


def is_over(trial: Trial, state: TrainState) -> bool:
    """Whether there is nothing left to train or to record."""
    return _at_end(trial, state) and _is_recorded(state)


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
