"""Several processes a trial: that they give one process's numbers to rounding, and end together however one ends."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from experiments.profiles import PAPER
from study import cost, ledger, placement, progress, worker
from study.checkpoints import load_newest
from study.data import load
from study.distributed import HERE, Assist, Ended, Meeting, Peers, spawned
from study.launch import launch
from study.placement import Node, Share, schedule, share
from study.spec import Execution, InputError, Trial
from study.training import TrainState, train

Small = Callable[..., Trial]
CPU = torch.device("cpu")
WAYS: list[dict[str, Any]] = [
    {"bn_batch": 8, "warmup": "threshold", "warmup_iterations": 6, "warmup_learning_rate": 0.01, "drops": (9, 11)},
    {"bn_batch": 16, "momentum_rule": "nesterov", "precision": "bf16", "drops": ()},
    {"bn_batch": 8, "schedule": "plateau", "patience": 1, "drops": (), "record_every": 2, "evaluate_every": 4},
]


@pytest.fixture
def dozen(small: Small) -> Small:
    """A trial of 14 updates whose batches of 32 images can be shared."""
    return lambda **recipe: small(**{"bn_batch": 8, "iterations": 14, "drops": (9, 11), "record_every": 4} | recipe)


def run(trial: Trial, execution: Execution, processes: int, peers: Peers = HERE) -> str:
    return worker.run_trial(trial, replace(execution, processes=processes), {"profile": "test"}, peers)


def elsewhere(execution: Execution, name: str) -> Execution:
    return replace(execution, storage=execution.storage.with_name(name))


def end_of(trial: Trial, execution: Execution) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The final state, and the records."""
    state = load_newest(execution.trial_folder(trial.id) / "checkpoints")
    assert state is not None and not children()
    return state, state["records"]


def children() -> list[psutil.Process]:
    """The other processes of a trial that this process runs."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def steps(state: Mapping[str, Any]) -> list[torch.Tensor]:
    """The velocities in the size in which they move the weights."""
    saved = state["optimizer"]
    return [saved["param_groups"][0]["lr"] * each["momentum_buffer"] for each in saved["state"].values()]


def assert_equal_to_rounding(one: Any, other: Any, **tolerance: float) -> None:
    (a, records), (b, others) = one, other
    torch.testing.assert_close(a["net"], b["net"], **tolerance)
    torch.testing.assert_close(steps(a), steps(b), **tolerance)
    torch.testing.assert_close(a["window"], b["window"], **tolerance)
    assert (a["warmed_at"], a["plateaus"], a["recent"]) == (b["warmed_at"], b["plateaus"], b["recent"])
    assert [list(record) for record in records] == [list(record) for record in others]
    values = [[v for r in rows for v in r.values() if v is not None] for rows in (records, others)]
    torch.testing.assert_close(*map(torch.tensor, values), **tolerance)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_two_processes_give_the_numbers_of_one_to_rounding(dozen: Small, execution: Execution, way: Any) -> None:
    trial, two = dozen(**way), elsewhere(execution, "two")
    assert run(trial, execution, 1) == run(trial, two, 2) == "finished"
    rounding = 1e-5 if trial.recipe.precision == "fp32" else 2e-2
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, two), rtol=rounding, atol=rounding)
    said = ledger.account(two.trial_folder(trial.id))["tags"]
    assert said["processes"] == "2"
