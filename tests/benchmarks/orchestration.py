"""What fanning out costs: 40 short trials on Ray beside their bare training, the launcher's own appetite, and records.

Two studies of ResNet-20 on the digits, of 20 and of 40 seeds, run on all cores. What the longer one takes beyond the
shorter, less the training of its further trials, is what a further trial costs. A 64,000-iteration trial's records are
written as workers and launcher write them: at every checkpoint, at the end, and to MLflow.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import psutil

from experiments import planned
from experiments.profiles import PAPER, QUICK
from experiments.recipes import minutes
from study.execution import Execution
from study.limits import cores
from study.run.launch import launch
from study.spec import Trial
from study.store.account import Account, Outcome, read_account, write_account
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import Mirror
from study.store.records import COLUMNS, read_records, seal_result, verified

ROOT = Path(__file__).parents[2]


def trials(count: int) -> list[Trial]:
    model = QUICK.model("residual", 20)
    short = replace(minutes(model), iterations=200, drops=(160,), record_every=10, evaluate_every=100)
    return [Trial(model=model, data=QUICK.data, recipe=short, seed=seed) for seed in range(count)]


class Appetite:
    """CPU seconds and peak memory of this process and of the one that runs Ray Tune, not of Ray or the trials."""

    def __init__(self) -> None:
        self.peak, self.cpu, self.over = 0, dict[int, float](), threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.over.wait(2.0):
            with suppress(psutil.Error):  # a process may end while it is looked at
                ours = [psutil.Process()]
                ours += [child for child in ours[0].children() if "multiprocessing" in " ".join(child.cmdline())]
                self.cpu |= {process.pid: sum(process.cpu_times()[:2]) for process in ours}
                self.peak = max(self.peak, sum(process.memory_full_info().pss for process in ours))


def study(count: int, folder: Path) -> dict[str, Any]:
    execution = Execution(storage=folder / f"store-{count}", data_root=folder)
    wanted, appetite = trials(count), Appetite()
    cpu_before, started, began = sum(psutil.Process().cpu_times()[:2]), time.perf_counter(), []
    launch(
        wanted, execution, {t.id: {"profile": "bench"} for t in wanted}, lambda *_: began.append(time.perf_counter())
    )
    ended = time.perf_counter()
    appetite.over.set()
    appetite.thread.join()
    training = sum(float(run.tags["seconds"]) for run in reader.read(execution, wanted, False))
    slots = execution.trials_at_once
    return {
        "study": f"{count} trials of ResNet-20, 200 iterations, {slots} at a time",
        "makespan (s)": ended - started,
        "training / slots (s)": training / slots,
        "allowed (s)": 1.1 * training / slots + 10,
        "launcher MiB": appetite.peak / 2**20,
        "launcher CPU (s)": sum(appetite.cpu.values()) - cpu_before,
    }


def records(folder: Path) -> dict[str, Any]:
    """64,000 records of five series."""
    execution = Execution(storage=folder / "records", data_root=folder)
    (short,) = trials(1)
    recipe = replace(short.recipe, iterations=64_000, drops=(32_000, 48_000), record_every=1, evaluate_every=1_000)
    trial = replace(short, recipe=recipe)
    empty = dict.fromkeys(COLUMNS.names)
    rows = [
        empty | {"iteration": i, "learning_rate": 0.1, "train_loss": 1 / i, "train_error_pct": 100 / i}
        | ({"test_loss": 2 / i, "test_error_pct": 200 / i} if i % 1_000 == 0 else {})
        for i in range(1, 64_001)
    ]  # fmt: skip
    client.create_store(execution)
    mirror, where = Mirror(execution, [trial]), execution.trial_folder(trial.id)
    account = Account(outcome=Outcome.RUNNING, started=0, tags={"profile": "bench"})
    write_account(where, account)
    started = time.perf_counter()
    seal_result(where, Outcome.FINISHED, rows, account)
    sealed = time.perf_counter()
    assert mirror.update()
    size = sum(path.stat().st_size for path in execution.storage.rglob("records.parquet"))
    points = verified(read_records(where), read_account(where).tags, trial.id).num_rows
    return {
        "study": f"{points:,} records of five series",
        "sealing (s)": sealed - started,
        "MLflow (s)": time.perf_counter() - sealed,
        "MB": size / 1e6,
    }


def commands(folder: Path) -> list[dict[str, Any]]:
    """`plan` and `status` of a little more than a thousand trials, all of which have an account."""
    execution = Execution(storage=folder / "thousand", data_root=folder)
    client.create_store(execution)
    seeds = 28
    thousand = planned(PAPER.with_seeds(seeds))
    for trial in thousand:
        account = Account(outcome=Outcome.INTERRUPTED, reason="planted", started=0)
        write_account(execution.trial_folder(trial.id), account)
    rows = []
    for name in ("plan", "status"):
        arguments = ["--profile", "paper", "--seeds", str(seeds), "--storage", str(execution.storage), "--json"]
        started = time.perf_counter()
        run = [sys.executable, "-m", "experiments", name, *arguments]
        said = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert len(json.loads(said)["trials"]) == len(thousand)
        rows.append({"study": f"{name} of {len(thousand):,} trials", "makespan (s)": time.perf_counter() - started})
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [study(20, folder), study(40, folder)]
        few, many = rows
        more = (many["makespan (s)"] - few["makespan (s)"]) * cores()
        training = (many["training / slots (s)"] - few["training / slots (s)"]) * cores()
        many["a further trial costs (s)"] = (more - training) / 20
        many["further CPU (% of a core)"] = (
            100 * (many["launcher CPU (s)"] - few["launcher CPU (s)"]) / (many["makespan (s)"] - few["makespan (s)"])
        )
        rows += [records(folder), *commands(folder)]
    common.write("orchestration", "Ray Tune on this machine, sqlite tracking", rows)
