"""A disk that is full in the middle of a study: trials wait for room, and nothing is lost."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import Results, Study, complete_and_equal, execution_of, wait_for, wait_until_training

from study.execution import Execution
from study.spec import Trial
from study.store import heartbeat
from study.store.account import read_account
from study.store.mlflow import reader
from study.training.checkpoints import newest_iteration

pytestmark = pytest.mark.slow
Start = Callable[..., Study]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, which holds checkpoints and MLflow's database."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount`")
    if mounted.returncode:
        pytest.skip(f"a small file system takes the right to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> bool:
    """Take what room there is, to the last byte."""
    for size in (2**20, 4096, 1):
        with (disk / "ballast").open("ab", buffering=0) as ballast:
            try:
                while ballast.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return True


def full_while_training(disk: Path, start: Start, log: Path) -> tuple[Study, Execution, list[Trial]]:
    """A study whose trials wait for room on the full disk, and say by their heartbeats that they live."""
    study, execution = start(disk / "store", log), execution_of(disk / "store")
    trials = wait_until_training(execution, trials=2, least=30)
    wait_for(lambda: fill(disk) and "is full: trials wait until there is room" in study.output(), "it says so")
    folders = [execution.trial_folder(trial.id) for trial in trials]
    reached = [newest_iteration(folder / "checkpoints") for folder in folders]
    for _ in range(5):
        beats = [heartbeat.version(folder / "progress.json") for folder in folders]
        for folder, beat in zip(folders, beats, strict=True):
            wait_for(lambda folder=folder, beat=beat: heartbeat.version(folder / "progress.json") != beat, "it beats")
    fill(disk)
    assert [newest_iteration(folder / "checkpoints") for folder in folders] == reached
    assert [read_account(folder).outcome for folder in folders] == ["running", "running"]
    assert study.process.poll() is None
    return study, execution, trials


def test_a_full_disk_is_waited_out(disk: Path, tmp_path: Path, start: Start, undisturbed: Results) -> None:
    study, execution, _ = full_while_training(disk, start, tmp_path / "log")
    (disk / "ballast").unlink()
    said = study.ends()
    assert "has room again; trials go on" in said and "Traceback" not in said
    assert complete_and_equal(execution, undisturbed)
    assert study.leave_nothing()


def test_a_study_that_is_stopped_on_a_full_disk_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    study, execution, trials = full_while_training(disk, start, tmp_path / "log")
    os.kill(study.process.pid, signal.SIGTERM)
    wait_for(lambda: fill(disk) and study.process.poll() is not None, "it ends")
    said = study.ends(code=130)
    assert said.splitlines()[-1] == "interrupted; the same command continues where this one stopped"
    assert "Traceback" not in said
    assert study.leave_nothing()
    fill(disk)
    (refused,) = start(disk / "store", tmp_path / "log-refused").ends(code=2).splitlines()
    assert refused.startswith("error: ") and str(disk / "store") in refused
    (disk / "ballast").unlink()
    assert all(newest_iteration(execution.trial_folder(trial.id) / "checkpoints") for trial in trials)
    start(disk / "store", tmp_path / "log-again").ends()
    assert complete_and_equal(execution, undisturbed)
    assert {run.outcome for run in reader.read(execution, trials)} == {"finished"}
