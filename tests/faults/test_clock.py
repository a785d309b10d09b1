"""Clocks that jump: nobody is taken for dead, and no number, iteration or order of points changes."""

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.execution import Execution
from study.run import attempt
from study.run.launch import launch
from study.spec import Trial
from study.store import heartbeat
from study.store.account import read_account
from study.store.heartbeat import Launch, Leash, Progress
from study.store.mlflow import client, mirror, reader
from study.training.checkpoints import load_newest

Small = Callable[..., Trial]
YEAR = 365 * 86400.0


def tags(*trials: Trial) -> dict[str, dict[str, str]]:
    return {trial.id: {"profile": "test"} for trial in trials}


def numbers(execution: Execution, trial: Trial) -> tuple[Any, dict[str, torch.Tensor]]:
    (run,) = reader.read(execution, [trial])
    state = load_newest(execution.trial_folder(trial.id) / "checkpoints")
    assert run.records is not None and state is not None and run.outcome == "finished"
    return run.records.to_pylist(), state["net"]


def points(execution: Execution, trial: Trial) -> list[Any]:
    """The run's metric points, as MLflow orders them in time."""
    mlflow = client.connect(execution)
    (run,) = reader.read(execution, [trial])
    return sorted(mlflow.get_metric_history(run.run_id, "train_loss"), key=lambda point: point.timestamp)


@contextmanager
def jumping(monkeypatch: pytest.MonkeyPatch, execution: Execution) -> Iterator[None]:
    """A wall clock that is a year ahead, then a year behind, each time it is read, also for the files of the study."""
    real, jump, over = time.time, itertools.cycle((YEAR, 0.0, -YEAR)), threading.Event()
    monkeypatch.setattr(time, "time", lambda: real() + next(jump))

    def touch() -> None:
        while not over.wait(0.01):
            for path in (execution.storage / "launch.json", *execution.storage.glob("trials/*/progress.json")):
                then = real() + next(jump)
                try:
                    os.utime(path, (then, then))
                except FileNotFoundError:
                    continue

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        monkeypatch.setattr(time, "time", real)


def test_a_clock_that_jumps_by_years_during_a_trial_changes_nothing(
    store: Execution, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = small(iterations=80)
    undisturbed = replace(store, storage=shutil.copytree(store.storage, tmp_path / "undisturbed"))
    launch([trial], undisturbed, tags(trial), lambda *_: None)
    monkeypatch.setattr(attempt, "HEARTBEAT_SECONDS", 0.02)  # so that it looks at its launch often
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    often = replace(store, checkpoint_seconds=0)
    with jumping(monkeypatch, store):
        launch([trial], often, tags(trial), lambda *_: None)
    (records, weights), (theirs, their_weights) = numbers(store, trial), numbers(undisturbed, trial)
    assert records == theirs
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)
    steps = [point.step for point in points(store, trial)]
    assert steps == sorted(set(steps)) == [record["iteration"] for record in records]
    assert read_account(store.trial_folder(trial.id)).failures == 0


def test_a_trial_that_goes_on_a_year_earlier_keeps_its_points_in_order(
    store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, real = small(iterations=160), time.time
    monkeypatch.setattr(attempt, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.1)
    often, folder = replace(store, checkpoint_seconds=0), store.trial_folder(trial.id)

    def stop_midway(*_: object) -> None:
        def wait() -> None:
            until = time.monotonic() + 60
            while (heartbeat.read(folder) or Progress()).iteration < 60 and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(os.getpid(), 15)

        threading.Thread(target=wait).start()

    monkeypatch.setattr(time, "time", lambda: real() + YEAR)
    with pytest.raises(KeyboardInterrupt):
        launch([trial], often, tags(trial), stop_midway)
    assert 0 < len(points(store, trial)) < 40
    monkeypatch.setattr(time, "time", lambda: real() - YEAR)
    launch([trial], often, tags(trial), lambda *_: None)
    records, _ = numbers(store, trial)
    steps = [point.step for point in points(store, trial)]
    assert steps == sorted(set(steps)) == [record["iteration"] for record in records]


@pytest.mark.parametrize("years", [-30, -1, 1, 30])
def test_beats_from_another_year_are_beats(store: Execution, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    launched = replace(store, launch="this")
    Launch(launched).begin()
    now, wall = time.monotonic(), time.time() + years * YEAR
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leash = Leash(launched)
    for beat in range(5):
        os.utime(launched.storage / "launch.json", (wall - beat, wall - beat))  # of a host whose clock runs backwards
        now += 0.9 * heartbeat.SILENCE_SECONDS
        assert leash.pulled() is None
    now += 1.1 * heartbeat.SILENCE_SECONDS  # however late in the future the last one says it was
    assert leash.pulled() == "replaced"
