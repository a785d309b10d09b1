"""Launching: Ray and the plain loop give the same study, and no death of a process loses or doubles anything."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console
from tiny import PROFILE, TINY

from commands.options import Costs, Selection
from commands.train import run_missing
from experiments import planned
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run import attempt, worker
from study.run.launch import launch
from study.spec import InputError, Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, read_account, write_account
from study.store.heartbeat import Progress
from study.store.mlflow import client, reader
from study.store.records import seal_result
from study.training.state import TrainState

ROOT = Path(__file__).parents[1]
Small = Callable[..., Trial]
STUDY = ("--profile", PROFILE, "--experiments", "learning-rate", "--checkpoint-seconds", "0.5")


def start(storage: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests" / "tiny.py"), "run", *STUDY, "--storage", str(storage), *more]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def trials() -> list[Trial]:
    return list(planned(TINY, ["learning-rate"]))


def execution_of(storage: Path) -> Execution:
    return Execution(storage=storage, data_root=storage)


def tags(trials: list[Trial]) -> dict[str, dict[str, str]]:
    return {trial.id: {"profile": "test"} for trial in trials}


def wait_until_training(storage: Path, least: int) -> Trial:
    """The first trial that has passed iteration `least` and has not ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for trial in trials():
            said = heartbeat.read(storage / "trials" / trial.id)
            if said is not None and said.iteration > least and said.outcome is None:
                return trial
        time.sleep(0.1)
    raise AssertionError("no trial began to train")


def family(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The launcher's processes besides itself: Ray's, and the workers."""
    return psutil.Process(run.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end by themselves: Ray's agents look for their parent only now and then."""
    return not psutil.wait_procs(processes, timeout=120)[1]


def numbers(storage: Path) -> Mapping[str, Any]:
    """Outcome, every record and what the layers do, of every trial, as logged."""
    runs = reader.read(execution_of(storage), trials())
    return {run.trial.id: (run.outcome, *(t and t.to_pylist() for t in (run.records, run.layers))) for run in runs}


def complete_and_undoubled(storage: Path) -> bool:
    """One run a trial, none running, one metric point an iteration."""
    mlflow = client.connect(execution_of(storage))
    everywhere = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()])
    assert sorted(run.data.tags["trial_id"] for run in everywhere) == sorted(trial.id for trial in trials())
    assert {run.info.status for run in everywhere} == {"FINISHED"}
    for run in everywhere:
        steps = [point.step for point in mlflow.get_metric_history(run.info.run_id, "train_loss")]
        assert len(steps) == len(set(steps)) == int(run.data.tags["records"])
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    storage = tmp_path_factory.mktemp("undisturbed") / "store"
    done = start(storage, "--local")
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0, output
    assert "2 of 2 trials have a result" in output
    assert complete_and_undoubled(storage)
    return numbers(storage)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "store"


def finish(storage: Path, undisturbed: Mapping[str, Any], *more: str) -> None:
    done = start(storage, *more)
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0, output
    assert complete_and_undoubled(storage)
    assert numbers(storage) == undisturbed


@pytest.mark.slow
def test_ray_ends_a_plain_loop_that_was_killed_with_the_plain_loops_numbers(
    storage: Path, undisturbed: Mapping[str, Any]
) -> None:
    run = start(storage, "--local")
    wait_until_training(storage, 60)
    run.kill()
    run.wait()
    states = {read_account(storage / "trials" / trial.id).outcome for trial in trials()}
    assert "running" in states  # nobody was left to say otherwise; the next launch does
    finish(storage, undisturbed)


@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_stopped_launch_exits_130_with_no_run_left_running_and_resumes(
    storage: Path, undisturbed: Mapping[str, Any], stop: signal.Signals
) -> None:
    run = start(storage)
    wait_until_training(storage, 60)
    others = family(run)
    run.send_signal(stop)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "the same command continues" in output and "Traceback" not in output
    assert len(others) >= 4 and gone(others)
    runs = reader.read(execution_of(storage), trials())
    assert "interrupted" in {found.outcome for found in runs}
    assert "running" not in {found.outcome for found in runs}
    finish(storage, undisturbed, "--local")  # whichever engine goes on


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_every_process_and_resumes(storage: Path, undisturbed: Mapping[str, Any]) -> None:
    run = start(storage)
    wait_until_training(storage, 60)
    os.killpg(run.pid, signal.SIGINT)  # a terminal signals the whole process group
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    finish(storage, undisturbed)


@pytest.mark.slow
def test_a_killed_launcher_leaves_nothing_behind_and_the_next_finishes(
    storage: Path, undisturbed: Mapping[str, Any]
) -> None:
    run = start(storage)
    wait_until_training(storage, 60)
    others = family(run)
    run.kill()
    run.wait()
    finish(storage, undisturbed)  # at once, while orphans may still be there
    assert len(others) >= 4 and gone(others)


@pytest.mark.slow
def test_a_killed_worker_is_retried_in_the_same_launch(storage: Path, undisturbed: Mapping[str, Any]) -> None:
    run = start(storage)
    wait_until_training(storage, 60)
    workers = [
        child for child in family(run) if "ImplicitFunc.train" in " ".join(child.cmdline())
    ]  # Ray's name for them
    assert len(workers) == 2
    workers[0].kill()
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert complete_and_undoubled(storage)
    assert numbers(storage) == undisturbed


@pytest.mark.slow
def test_a_poison_trial_on_ray_fails_after_its_retries_and_the_rest_finishes(
    storage: Path, undisturbed: Mapping[str, Any]
) -> None:
    bad, good = trials()
    client.create_store(execution_of(storage))
    (storage / "trials" / bad.id).mkdir(parents=True)
    (storage / "trials" / bad.id / "spec.json").write_text("another trial's")
    run = start(storage)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1, output
    assert f"no result: {bad.id}" in output and "holds another specification" in output
    assert numbers(storage)[good.id] == undisturbed[good.id]


@pytest.mark.slow
def test_processes_that_all_die_before_they_begin_end_the_launch_with_the_cause(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # Ray's monitor then kills every worker
    run = start(storage)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: 6 processes of trials died before they could begin") and "low on memory" in last
    assert f"the ends of Ray's logs are in {storage / 'ray.log'}" in last and "--local" in last
    assert (storage / "ray.log").stat().st_size and not list(storage.glob("trials/*/run.json"))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_time_only(storage: Path, undisturbed: Mapping[str, Any]) -> None:
    run = start(storage, "--local")
    trial = wait_until_training(storage, 100)
    run.kill()
    run.wait()
    newest = max((storage / "trials" / trial.id / "checkpoints").glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-50])
    finish(storage, undisturbed, "--local")
    assert newest.with_suffix(".damaged").exists()


def test_what_has_a_result_is_not_run_again(store: Execution, small: Small) -> None:
    first, second, started = small(), small(seed=1), []
    for these in ([first], [first, second], [first, second]):
        launch(these, store, tags(these), lambda todo, _: started.append(todo))
    assert started == [[first], [second]]


def test_a_result_that_mlflow_lost_is_shown_again_and_not_run_again(store: Execution, small: Small) -> None:
    trial, started = small(), []
    launch([trial], store, tags([trial]), lambda todo, _: started.append(todo))
    (run,) = reader.read(store, [trial])
    client.connect(store).delete_run(run.run_id)
    launch([trial], store, tags([trial]), lambda todo, _: started.append(todo))
    (again,) = reader.read(store, [trial])
    assert started == [[trial]] and again.run_id != run.run_id
    assert again.records is not None and again.records.equals(run.records)


def test_a_trial_that_fails_is_retried_then_left_while_the_rest_goes_on(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = small(iterations=32), small()  # the longer one is first
    real = worker.train

    def poisoned(trial: Trial, *rest: Any) -> Any:
        if trial == bad:
            raise RuntimeError("poison")
        return real(trial, *rest)

    monkeypatch.setattr(worker, "train", poisoned)
    launch([bad, good], store, tags([bad, good]), lambda *_: None)
    outcomes = {run.trial: (run.outcome, run.tags.get("reason", "")) for run in reader.read(store, [good, bad])}
    assert outcomes == {good: ("finished", ""), bad: ("failed", "RuntimeError: poison")}
    assert caplog.text.count("failed (attempt") == store.retries + 1
    assert read_account(store.trial_folder(bad.id)).cause == "RuntimeError"
    monkeypatch.undo()
    launch([bad, good], store, tags([bad, good]), lambda *_: None)  # a new launch has new retries
    assert {run.outcome for run in reader.read(store, [good, bad])} == {"finished"}


def test_what_trying_again_cannot_mend_is_not_retried(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = small(), small(iterations=32)
    folder = store.trial_folder(bad.id)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("another trial's")
    launch([bad, good], store, tags([bad, good]), lambda *_: None)
    assert [(run.trial, run.outcome) for run in reader.read(store, [good, bad])] == [(good, "finished")]
    assert caplog.text.count("holds another specification") == 1
    assert (folder / "spec.json").read_text() == "another trial's" and not (folder / "run.json").exists()


def test_a_trial_whose_process_dies_again_and_again_at_one_point_is_left(store: Execution, small: Small) -> None:
    trial, execution = small(), replace(store, launch="this")
    heartbeat.Launch(execution).begin()
    folder, outcomes = store.trial_folder(trial.id), []
    while "failed" not in outcomes:
        outcomes.append(worker.run_trial(trial, replace(execution, checkpoint_seconds=1e9), {"profile": "test"}))
        said = read_account(folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if outcomes[-1] != "failed":  # as a kill -9 leaves it
            write_account(folder, replace(said, outcome=Outcome.RUNNING))
    assert len(outcomes) == store.retries + attempt.DEATHS + 2
    assert "its process died" in said.reason and "after iteration 0" in said.reason
    assert said.cause == "process died"
    heartbeat.Launch(replace(execution, launch="next")).begin()
    assert worker.run_trial(trial, replace(store, launch="next"), {"profile": "test"}) == "finished"


def test_a_process_that_lost_its_trial_changes_nothing_of_the_others_result(store: Execution, small: Small) -> None:
    """As where Ray takes a node for dead that only was cut off: two processes train one trial for a while."""
    trial, folder = small(), store.trial_folder(small().id)

    def contents() -> dict[Path, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "progress.json"]
        return {path: path.read_bytes() for path in files}

    with attempt.Attempt(trial, store, {"profile": "test"}) as lost:
        assert worker.run_trial(trial, store, {"profile": "test"}) == "finished"
        before = {
            path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "progress.json"
        }
        state = TrainState(trial, torch.device("cpu"))
        lost.checkpoint(state)
        assert lost.stopping and lost.seal(Outcome.DIVERGED, state, 1.0, {}, None) == "finished"
        assert lost.end(Outcome.FAILED, "lost") == "finished"
    assert contents() == before


def test_the_seconds_of_earlier_attempts_count_from_the_first_beat_on(store: Execution, small: Small) -> None:
    folder = store.trial_folder(small().id)
    heartbeat.write(folder, Progress(iteration=7, train_error_pct=50.0, seconds=12.5, seconds_left=1.0))
    with attempt.Attempt(small(), store, {}) as begun:
        assert heartbeat.read(folder) == Progress("", 7, 50.0, 12.5, seconds_left=None)
        assert begun.seconds_before == 12.5


def test_preemption_does_not_eat_the_retries(store: Execution, small: Small) -> None:
    trial, execution = small(), replace(store, launch="this", retries=0)
    heartbeat.Launch(execution).begin()
    folder = store.trial_folder(trial.id)
    for iteration in range(10):  # each life comes a little further
        worker.run_trial(trial, execution, {"profile": "test"})
        write_account(folder, replace(read_account(folder), outcome=Outcome.RUNNING))
        (newest,) = (folder / "checkpoints").glob("*.checkpoint")
        newest.rename(newest.with_name(f"{iteration:09d}.checkpoint"))
    assert worker.run_trial(trial, execution, {"profile": "test"}) == "finished"
    assert read_account(folder).failures == 0


def test_a_second_launch_on_one_store_is_refused(store: Execution, small: Small) -> None:
    def meanwhile(todo: list[Trial], execution: Execution) -> None:
        with pytest.raises(InputError, match="in use by another launch"):
            launch([small()], store, tags([small()]), lambda *_: None)

    launch([small()], store, tags([small()]), meanwhile)


def test_longest_trials_start_first(store: Execution, small: Small) -> None:
    short, long = small(iterations=8, drops=()), small(iterations=24)
    order: list[Trial] = []
    launch([short, long], replace(store, retries=0), tags([short, long]), lambda todo, _: order.extend(todo))
    assert order == [long, short]


def test_memory_that_ran_out_under_ray_is_told_at_the_end(
    execution: Execution, small: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning of the worker is in a log of Ray's, in a folder that is deleted."""
    trial, other = small(), small(seed=1)
    selected = Selection(SMOKE, {trial: ["test"], other: ["test"]}, execution)

    def trains(*_: object) -> None:
        for one, tags in ((trial, {"out_of_memory": "out of memory in 1 segments: it takes 3 GiB"}), (other, {})):
            account = Account(started=0, tags={"seconds": "1.00", "profile": "smoke", **tags})
            seal_result(execution.trial_folder(one.id), Outcome.DIVERGED, [], account)

    monkeypatch.setattr("study.run.launch.launch", trains)
    console = Console(file=io.StringIO(), width=40)
    assert run_missing(selected, Costs(), False, console) == 0
    told = f"{trial.id} has a result, but ran out of memory in 1 segments: it takes 3 GiB\n"
    assert isinstance(console.file, io.StringIO) and told in console.file.getvalue()
    assert other.id not in console.file.getvalue()
