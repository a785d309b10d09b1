"""Deaths of a worker at a chosen moment, and a second store beside the first to compare what is left."""

from dataclasses import replace

import pytest

from study.execution import Execution
from study.run.attempt import Attempt
from study.training.state import TrainState


class Killed(BaseException):
    """What no code expects: nothing is written after it, as after kill -9."""


def dying_at(checkpoint: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die before that checkpoint of any trial, once."""
    count, real = 0, Attempt.checkpoint

    def counted(attempt: Attempt, state: TrainState) -> None:
        nonlocal count
        count += 1
        if count == checkpoint:
            raise Killed
        real(attempt, state)

    monkeypatch.setattr(Attempt, "checkpoint", counted)


def elsewhere(execution: Execution, name: str) -> Execution:
    """The same with a store of that name beside its own."""
    return replace(execution, storage=execution.storage.with_name(name))
