"""Kill processes of a small study at random, again and again, and hold its numbers against an undisturbed study's.

`python tests/faults/kills.py --kills 200 --seed 0` starts the real command line on Ray with a real MLflow server, and
kills (-9) workers, the process that runs Ray Tune, raylets, Ray's control service, the launcher and the MLflow server.
Whatever dies for good is started again, as a user or a service manager would; each time a study completes, a new one
begins. The seed fixes which kind is killed and after how long, not which instruction it was at.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from study.store.account import read_account

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import PROFILE, TINY

from experiments import planned
from study.execution import Execution
from study.spec import Trial
from study.store import heartbeat
from study.store.mlflow import client, reader
from study.training.checkpoints import load_newest

ROOT = Path(__file__).parents[2]
KINDS = ("worker", "worker", "fan", "raylet", "gcs", "launcher", "server")
STARTING_PCT = 30  # kills that may hit a study that is still starting; the others wait until it trains
STUDY_SECONDS = 3600  # a small study that takes longer hangs


def trials(seeds: int) -> list[Trial]:
    return list(planned(TINY.with_seeds(seeds), ["learning-rate"]))


def weights_of(execution: Execution, trial: Trial) -> Any:
    state = load_newest(execution.trial_folder(trial.id) / "checkpoints")
    assert state is not None, f"{trial.id} has no final weights"
    return state["net"]


class Service:
    """An MLflow server on loopback, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )

    def wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.3)
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        """It and its children, as a machine that goes down."""
        assert self.process
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait()
        self.process = None


class Study:
    """One small study, launched as often as it takes."""

    def __init__(self, folder: Path, uri: str, seeds: int) -> None:
        self.storage, self.uri, self.seeds = folder, uri, seeds
        self.execution = Execution(storage=folder, data_root=ROOT / "data", tracking_uri=uri)
        self.launcher: subprocess.Popen[str] | None = None
        self.launches = 0

    def start(self) -> None:
        arguments = ["run", "--profile", PROFILE, "--experiments", "learning-rate", "--seeds", str(self.seeds)]
        arguments += ["--checkpoint-seconds", "0.5", "--storage", str(self.storage), "--tracking-uri", self.uri]
        self.log = self.storage.with_suffix(".log")
        out = self.log.open("a")
        self.begun = self.log.stat().st_size  # where the log of this launch begins
        self.launcher = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "tiny.py"), *arguments],
            **{"cwd": ROOT, "stdout": out, "stderr": out, "text": True, "start_new_session": True},
        )
        self.launches += 1

    def ended(self) -> bool:
        return self.launcher is None or self.launcher.poll() is not None

    def complete(self) -> bool:
        return self.launcher is not None and self.launcher.poll() == 0

    def lacking(self) -> bool:
        """Whether the launch ended while MLflow was out of reach: the same command then shows what it lacks."""
        return "MLflow lacks" in self.log.read_text()[self.begun :]

    def training(self) -> bool:
        running = [self.execution.trial_folder(trial.id) for trial in trials(self.seeds)]
        said = [(read_account(folder).outcome, heartbeat.read(folder)) for folder in running]
        return any(outcome == "running" and now is not None and now.iteration > 0 for outcome, now in said)

    def victim(self, kind: str) -> psutil.Process | None:
        if self.ended():
            return None
        assert self.launcher
        if kind == "launcher":
            return psutil.Process(self.launcher.pid)
        names = {"worker": "ImplicitFunc", "fan": "--multiprocessing-fork", "raylet": "/raylet ", "gcs": "gcs_server"}
        found = []
        for child in psutil.Process(self.launcher.pid).children(recursive=True):
            try:
                if names[kind] in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found[0] if found else None

    def verify(self, undisturbed: dict[str, Any]) -> None:
        """Every trial finished, with the undisturbed records and final weights; one run each, no point doubled."""
        planned_trials = trials(self.seeds)
        runs = {run.trial.id: run for run in reader.read(self.execution, planned_trials)}
        assert set(runs) == {trial.id for trial in planned_trials}, f"lost: {self.storage}"
        for trial in planned_trials:
            run, (outcome, records, layers, weights) = runs[trial.id], undisturbed[trial.id]
            assert run.outcome == outcome and run.records is not None, (trial.id, run.outcome)
            assert run.records.equals(records), f"{trial.id} has other records"
            assert run.layers is not None and run.layers.equals(layers), f"{trial.id} has other layers"
            ours = weights_of(self.execution, trial)
            assert all(torch.equal(ours[name], weights[name]) for name in weights), f"{trial.id} has other weights"
        mlflow = client.connect(self.execution)
        experiments = [e.experiment_id for e in mlflow.search_experiments()]
        here = [
            run for run in mlflow.search_runs(experiments) if run.data.tags["storage"] == str(self.storage.absolute())
        ]
        assert sorted(run.data.tags["trial_id"] for run in here) == sorted(runs), "doubled runs"
        assert {run.info.status for run in here} == {"FINISHED"}
        for run in here:
            steps = [point.step for point in mlflow.get_metric_history(run.info.run_id, "train_loss")]
            assert len(steps) == len(set(steps)) == int(run.data.tags["records"]), "lost or doubled points"


def undisturbed_study(folder: Path, seeds: int) -> dict[str, Any]:
    """Outcome, records and final weights of every trial, from the plain loop."""
    storage = folder / "undisturbed"
    arguments = ["run", "--profile", PROFILE, "--experiments", "learning-rate", "--seeds", str(seeds), "--local"]
    command = [sys.executable, str(ROOT / "tests" / "tiny.py"), *arguments, "--storage", str(storage)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    execution = Execution(storage=storage, data_root=ROOT / "data")
    return {
        run.trial.id: (run.outcome, run.records, run.layers, weights_of(execution, run.trial))
        for run in reader.read(execution, trials(seeds))
    }


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    server = Service(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        if server.process:
            server.kill()


def _torment_one(
    study: Study, server: Service, kills: int, chance: random.Random, counts: Counter[str], number: int
) -> None:
    """Kill while there are kills left, until the study is complete."""
    until, revive = time.monotonic() + STUDY_SECONDS, 0.0
    try:
        study.start()
        while not study.complete():
            assert time.monotonic() < until, f"hangs; see {study.log}"
            if study.ended():
                if server.process is None:  # a launch needs a server to begin
                    server.start()
                    server.wait()
                study.start()
            if server.process is None and time.monotonic() > revive:
                server.start()
            if counts["kills"] >= kills:
                time.sleep(0.2)
                continue
            kind, pause = chance.choice(KINDS), chance.uniform(0.2, 3.0)
            starting = chance.randrange(100) < STARTING_PCT
            wait_until = time.monotonic() + 60
            while not starting and not study.training() and not study.ended() and time.monotonic() < wait_until:
                if server.process is None and time.monotonic() > revive:
                    server.start()
                time.sleep(0.1)
            time.sleep(pause)
            if kind == "server" and server.process:
                server.kill()
                revive = time.monotonic() + chance.uniform(0, 6)
            elif kind != "server" and (victim := study.victim(kind)):
                victim.send_signal(signal.SIGKILL)
            else:
                continue
            counts.update((kind, "kills"))
            print(f"{counts['kills']:4} study {number}, launch {study.launches}: killed {kind}", flush=True)
        if server.process is None:
            server.start()
        server.wait()
        while study.lacking():
            study.start()
            assert study.launcher and study.launcher.wait(STUDY_SECONDS) == 0
    finally:
        if study.launcher and study.launcher.poll() is None:
            study.launcher.kill()


def torment(folder: Path, kills: int, seed: int, seeds: int = 3) -> Counter[str]:
    """Kill `kills` processes; returns how many of each kind, and how many studies and launches there were.

    Raises `AssertionError` for anything lost, doubled or different.
    """
    chance, counts = random.Random(seed), Counter[str]()
    undisturbed = undisturbed_study(folder, seeds)
    number = 0
    while counts["kills"] < kills or number == 0:
        number += 1
        storage = folder / f"study-{number}"
        storage.with_suffix(".server").mkdir()
        with service(storage.with_suffix(".server")) as server:  # of its own: a server knows a trial by its id
            study = Study(storage, server.uri, seeds)
            _torment_one(study, server, kills, chance, counts, number)
            study.verify(undisturbed)
        counts.update(studies=1, launches=study.launches)
        print(f"     study {number} is complete and equal after {study.launches} launches", flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        counted = torment(Path(temporary), options.kills, options.seed)
    print(f"{counted['kills']} kills in {(time.monotonic() - began) / 60:.0f} min: {dict(counted)}")
    print("every trial finished with the undisturbed records and final weights; nothing lost, doubled or left RUNNING")
