"""What the fault tests share: the small study as a process, the servers it may need, and what no fault may change.

Owns no claim. Everything listens on loopback; every process that a test starts carries its mark, and only processes
with that mark are ever killed.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests
import torch
from tiny import PROFILE, TINY

from experiments import planned
from study.execution import Execution
from study.spec import Trial
from study.store import atomic, heartbeat
from study.store.account import read_account
from study.store.mlflow import client, reader
from study.training.checkpoints import load_newest

ROOT = Path(__file__).parents[2]
TRIALS = list(planned(TINY, ["learning-rate"]))
MARK = "STUDY_TEST_MARK"  # in the environment of whatever a test starts, and so of all that it starts in turn
ENDS_SECONDS = 300.0  # a small study takes one minute; one that takes longer hangs
T = TypeVar("T")
Results = Mapping[str, tuple[str, Any, dict[str, torch.Tensor]]]


def wait_for(condition: Callable[[], T], what: str, seconds: float = 120.0) -> T:
    """What `condition` returns once that is true."""
    until = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
    return met


class Processes:
    """A process with all that it starts, whoever becomes their parent."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.mark, self.log = secrets.token_hex(8), log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env={**os.environ, **environment, MARK: self.mark},
                **{"stdout": out, "stderr": subprocess.STDOUT, "start_new_session": True},
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> list[psutil.Process]:
        """Those that live, the first one included."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def named(self, *parts: str) -> list[psutil.Process]:
        """Those whose command line has one of these parts."""
        found = []
        for process in self.alive():
            with suppress(psutil.Error):
                if any(part in " ".join(process.cmdline()) for part in parts):
                    found.append(process)
        return found

    def kill(self) -> None:
        """The first process alone, as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def kill_all(self, but: Collection[int] = ()) -> None:
        """Every one of them at once, as a machine that goes down."""
        while alive := [process for process in self.alive() if process.pid not in but]:
            for process in alive:
                with suppress(psutil.Error):
                    process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)
        self.process.wait()

    def leave_nothing(self) -> bool:
        """Whether all of them end by themselves: Ray's agents look for their parent only now and then."""
        wait_for(lambda: not self.alive(), f"{self.log}: the end of its processes")
        return True


class Study(Processes):
    """One launch of the small study by the real command line."""

    def __init__(self, where: str | Path, log: Path, *more: str, entry: str = "tests/tiny.py", **environment: str):
        command = [sys.executable, str(ROOT / entry), "run", "--profile", PROFILE, "--experiments", "learning-rate"]
        command += ["--checkpoint-seconds", "0.5", "--storage", str(where), *more]
        super().__init__(command, log, **environment)

    def ends(self, code: int = 0, seconds: float = ENDS_SECONDS) -> str:
        """What it has said, once it has ended with this exit code."""
        wait_for(lambda: self.process.poll() is not None, f"{self.log}: the end of the launch", seconds)
        assert self.process.returncode == code, self.output()
        return self.output()


def execution_of(where: str | Path, tracking_uri: str = "") -> Execution:
    return Execution(storage=atomic.place(where), data_root=ROOT / "data", tracking_uri=tracking_uri)


def training(execution: Execution, least: int = 60, trials: Sequence[Trial] = TRIALS) -> list[Trial]:
    """The trials that some process trains now, past iteration `least`."""
    found = []
    for trial in trials:
        folder = execution.trial_folder(trial.id)
        account, progress = read_account(folder), heartbeat.read(folder)
        if account.outcome == "running" and progress is not None and progress.launch == account.launch:
            found += [trial] if progress.iteration > least and progress.outcome is None else []
    return found


def wait_until_training(execution: Execution, trials: int = 1, least: int = 60) -> list[Trial]:
    """The first `trials` that train past iteration `least` at the same time."""

    def enough() -> list[Trial]:
        found = training(execution, least)
        return found if len(found) >= trials else []

    return wait_for(enough, f"{trials} of the trials train past iteration {least}")[:trials]


def worker_of(execution: Execution, trial: Trial) -> int:
    """The process that says it runs the trial."""
    return int(read_account(execution.trial_folder(trial.id)).pid)


def seconds_until_it_goes_on(execution: Execution, trial: Trial, before: int) -> float:
    """From now to the trial's first heartbeat by another process than `before`."""
    began, path = time.monotonic(), execution.trial_folder(trial.id) / "progress.json"
    wait_for(lambda: worker_of(execution, trial) != before, f"{trial.id} begins in another process", 180)
    beat = heartbeat.version(path)
    wait_for(lambda: heartbeat.version(path) != beat, f"{trial.id} beats again")
    return time.monotonic() - began


def results(execution: Execution, trials: Sequence[Trial] = TRIALS) -> Results:
    """Outcome, every record and the final weights of every trial."""
    found = {}
    for run in reader.read(execution, trials):
        state = load_newest(execution.trial_folder(run.trial.id) / "checkpoints")
        assert state is not None, f"{run.trial.id} has no final weights"
        tables = [table and table.to_pylist() for table in (run.records, run.layers)]
        found[run.trial.id] = run.outcome, tables, state["net"]
    return found


def complete_and_equal(execution: Execution, undisturbed: Results, trials: Sequence[Trial] = TRIALS) -> bool:
    """Every trial has the undisturbed records and weights bit for bit, in one run that is over, no point doubled."""
    ours = results(execution, trials)
    assert set(ours) == set(undisturbed) == {trial.id for trial in trials}
    for id, (outcome, tables, weights) in undisturbed.items():
        assert ours[id][:2] == (outcome, tables), f"{id} has other records or layers"
        assert set(ours[id][2]) == set(weights)
        assert all(torch.equal(ours[id][2][name], weights[name]) for name in weights), f"{id} has other weights"
        said = read_account(execution.trial_folder(id))
        assert said.outcome == outcome, f"the account of {id} has outcome {said.outcome}"
    mlflow = client.connect(execution)
    runs = mlflow.search_runs([experiment.experiment_id for experiment in mlflow.search_experiments()])
    assert Counter(run.data.tags["trial_id"] for run in runs) == Counter(list(ours)), "lost or doubled runs"
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        points = mlflow.get_metric_history(run.info.run_id, "train_loss")
        steps = [point.step for point in sorted(points, key=lambda point: point.timestamp)]
        assert steps == sorted(set(steps)), "doubled points, or timestamps that do not rise with iterations"
        assert len(steps) == int(run.data.tags["records"]), "lost points"
    return True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MLflowServer:
    """MLflow's server on loopback, which can be killed and started again."""

    def __init__(self, folder: Path, database: str, *options: str, **environment: str) -> None:
        self.folder, self.database, self.port = folder, database, free_port()
        self.options, self.environment = options, environment
        self.uri = f"http://127.0.0.1:{self.port}"
        self.processes: Processes | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self.options]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.processes = Processes(command, self.folder / "mlflow-server.log", **quiet, **self.environment)
        wait_for(self.answers, "the MLflow server answers")

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        if self.processes:
            self.processes.kill_all()
            self.processes = None


@contextmanager
def launching() -> Iterator[Callable[..., Study]]:
    """Starts launches; whatever of them lives at the end of the block is killed."""
    started: list[Study] = []

    def start(*arguments: Any, **more: Any) -> Study:
        started.append(Study(*arguments, **more))
        return started[-1]

    try:
        yield start
    finally:
        for study in started:
            study.kill_all()


def undisturbed_study(folder: Path) -> Results:
    """The numbers of a study that the plain loop ran without any fault."""
    with launching() as start:
        start(folder / "store", folder / "log", "--local").ends()
    execution = execution_of(folder / "store")
    found = results(execution)
    assert {outcome for outcome, *_ in found.values()} == {"finished"}
    assert complete_and_equal(execution, found)
    return found


def stop(pid: int) -> None:
    """Freeze a process, as a machine that swaps or a debugger does."""
    psutil.Process(pid).send_signal(signal.SIGSTOP)


def go_on(pid: int) -> None:
    """Let a frozen process go on, if there still is one."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).send_signal(signal.SIGCONT)
