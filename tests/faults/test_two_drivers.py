"""Two who would drive one study: launches on one store, orphans of a dead launch, and a worker that is only frozen."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from common import (
    Results,
    Study,
    complete_and_equal,
    execution_of,
    go_on,
    seconds_until_it_goes_on,
    stop,
    wait_for,
    wait_until_training,
    worker_of,
)

from study.execution import Execution
from study.run import attempt
from study.run.worker import run_trial
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Outcome, read_account, write_account
from study.store.heartbeat import Launch, Leash, Progress

Start = Callable[..., Study]
Small = Callable[..., Trial]


@pytest.mark.slow
def test_of_two_launches_at_once_one_is_refused_in_one_line_and_the_other_is_undisturbed(
    tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    both = [start(tmp_path / "store", tmp_path / f"log-{name}") for name in "ab"]
    refused = wait_for(lambda: next((one for one in both if one.process.poll() is not None), None), "a refusal")
    (said,) = refused.ends(code=2).splitlines()
    assert said.startswith("error: store ") and "in use by another launch" in said
    (other,) = (one for one in both if one is not refused)
    execution = execution_of(tmp_path / "store")
    wait_until_training(execution)
    start(tmp_path / "store", tmp_path / "log-c").ends(code=2)  # nor while it trains
    other.ends()
    assert complete_and_equal(execution, undisturbed)
    assert all(one.leave_nothing() for one in both)


@pytest.mark.slow
def test_orphans_that_wake_up_while_the_next_launch_trains_change_nothing(
    tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    execution = execution_of(tmp_path / "store")
    first = start(tmp_path / "store", tmp_path / "log-1")
    orphans = [worker_of(execution, trial) for trial in wait_until_training(execution, trials=2, least=20)]
    for orphan in orphans:
        stop(orphan)  # so that it cannot see the others die
    first.kill_all(but=orphans)
    second = start(tmp_path / "store", tmp_path / "log-2")
    wait_until_training(execution, trials=2, least=30)
    for orphan in orphans:
        go_on(orphan)
    second.ends()
    assert complete_and_equal(execution, undisturbed)
    assert first.leave_nothing() and second.leave_nothing()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_within_30_seconds(tmp_path: Path, start: Start, undisturbed: Results) -> None:
    execution = execution_of(tmp_path / "store")
    study = start(tmp_path / "store", tmp_path / "log")
    trial = wait_until_training(execution, trials=2, least=30)[0]
    killed = worker_of(execution, trial)
    psutil.Process(killed).kill()
    seconds = seconds_until_it_goes_on(execution, trial, killed)
    print(f"from kill -9 of a worker to its trial's next heartbeat: {seconds:.1f} s")
    assert seconds < 30
    study.ends()
    assert complete_and_equal(execution, undisturbed)
    assert study.leave_nothing()


@pytest.mark.slow
def test_a_frozen_worker_is_known_by_its_silence_and_its_trial_goes_on_in_another_process(
    tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    execution = execution_of(tmp_path / "store")
    study = start(tmp_path / "store", tmp_path / "log", entry="tests/faults/impatient.py")
    trial = wait_until_training(execution, trials=2, least=30)[0]
    frozen = worker_of(execution, trial)
    stop(frozen)
    seconds = seconds_until_it_goes_on(execution, trial, frozen)
    print(f"from freezing a worker, with 8 s of patience, to its trial's next heartbeat: {seconds:.1f} s")
    assert not psutil.pid_exists(frozen)
    assert f"silent: {trial.id}; the process is killed" in study.ends()
    assert complete_and_equal(execution, undisturbed)
    assert study.leave_nothing()


@pytest.fixture
def launched(store: Execution, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """A launch that workers belong to, without a launcher."""
    monkeypatch.setattr(attempt, "HEARTBEAT_SECONDS", 0.05)
    launched = replace(store, launch="first")
    Launch(launched).begin()
    return launched


def in_a_thread(trial: Trial, execution: Execution) -> tuple[threading.Thread, list[str]]:
    """The trial, once it trains, and how it ends."""
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(run_trial(trial, execution, {"profile": "test"})))
    thread.start()
    folder = execution.trial_folder(trial.id)
    wait_for(lambda: (heartbeat.read(folder) or Progress()).iteration > 0, "it trains")
    return thread, outcomes


def test_an_orphan_stops_when_another_launch_begins_and_says_nothing_more(launched: Execution, small: Small) -> None:
    trial = small(iterations=100_000)
    thread, outcomes = in_a_thread(trial, launched)
    before = read_account(launched.trial_folder(trial.id))
    Launch(replace(launched, launch="second")).begin()
    thread.join(60)
    assert outcomes == ["interrupted"]
    assert read_account(launched.trial_folder(trial.id)) == before  # the second launch's worker may have written it
    assert not list((launched.trial_folder(trial.id) / "checkpoints").glob("*"))


def test_an_orphan_stops_when_its_launcher_falls_silent(
    launched: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_SECONDS", 0.5)
    trial = small(iterations=100_000)
    thread, outcomes = in_a_thread(trial, launched)
    thread.join(60)
    assert outcomes == ["interrupted"]
    assert read_account(launched.trial_folder(trial.id)).outcome == "running"  # for the next launcher to correct


def test_a_worker_that_is_asked_to_stop_saves_and_says_so(launched: Execution, small: Small) -> None:
    trial = small(iterations=100_000)
    thread, outcomes = in_a_thread(trial, launched)
    Launch(launched).end()
    thread.join(60)
    assert outcomes == ["interrupted"]
    assert read_account(launched.trial_folder(trial.id)).outcome == "interrupted"
    assert list((launched.trial_folder(trial.id) / "checkpoints").glob("*.checkpoint"))


def test_a_leash_goes_by_beats_not_by_how_old_they_look(launched: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leash, launch = Leash(launched), Launch(launched)
    for _ in range(3):
        now += 0.9 * heartbeat.SILENCE_SECONDS
        launch.beat()
        assert leash.pulled() is None
    now += 0.9 * heartbeat.SILENCE_SECONDS
    assert leash.pulled() is None
    now += 0.2 * heartbeat.SILENCE_SECONDS
    assert leash.pulled() == "replaced"
    launch.end()
    assert leash.pulled() == "ended"


def test_a_worker_that_another_has_replaced_does_not_unsay_its_result(launched: Execution, small: Small) -> None:
    trial = small(iterations=100_000)
    folder = launched.trial_folder(trial.id)
    thread, outcomes = in_a_thread(trial, launched)  # cut off from the cluster, which started the trial elsewhere
    other = replace(read_account(folder), outcome=Outcome.FINISHED, reason="", pid=1, host="elsewhere")
    write_account(folder, other)
    Launch(launched).end()
    thread.join(60)
    assert outcomes == ["finished"]  # as the other made it
    assert read_account(folder) == other
