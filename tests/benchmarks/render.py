"""Rendering a large study: from a store of runs of 64,000 records to everything under results/, in a fresh process.

The runs are the paper profile's; their curves are made up, a record an iteration of learning rate, training loss
and running error, and test loss and error every 1,000. They lie sealed in the trials' folders and as artifacts of
MLflow's runs, and are read as `make report` reads them: every digest is computed again. MLflow's metrics are left out
of the store, because rendering does not read them. RUNS="111 999" chooses how many runs.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import common
import numpy as np
import psutil
import pyarrow as pa

from experiments import planned
from experiments.profiles import PAPER, Profile
from study.execution import Execution
from study.limits import cores
from study.store import atomic
from study.store.account import Account, Outcome, read_account, write_account
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import Mirror
from study.store.records import COLUMNS, seal_result

ROOT = Path(__file__).parents[2]
RUNS = os.environ.get("RUNS", "111")
RECORDS, EVALUATE_EVERY = 64_000, 1_000
CURVES = 20  # different ones; reading takes as long if several runs have the same


def curve(iterations: int, number: int) -> pa.Table:
    """A noisy curve that ends at the last iteration, whatever the recipe's length."""
    rng = np.random.default_rng(number)
    index = np.arange(1, RECORDS + 1)
    left = np.exp(-index / (0.1 * RECORDS))
    wrong = rng.binomial(128, 0.05 + 0.01 * number + (0.85 - 0.01 * number) * left)
    test = np.where(index % EVALUATE_EVERY == 0, 100 * rng.binomial(10_000, 0.1 + 0.8 * left) / 10_000, np.nan)
    columns = {
        "iteration": np.ceil(index * (iterations / RECORDS)).astype(int),
        "learning_rate": np.repeat([0.1, 0.01, 0.001], [32_000, 16_000, 16_000]),
        "train_loss": wrong / 40 + 0.01 * rng.random(RECORDS),
        "train_error_pct": 100 * wrong / 128,
        "test_loss": 0.03 * test,
        "test_error_pct": test,
    }
    columns |= {name: np.full(RECORDS, np.nan) for name in COLUMNS.names if name not in columns}
    last = columns["clean_train_error_pct"], columns["clean_train_loss"]
    last[0][-1], last[1][-1] = 1.0, 0.03
    return pa.table(
        [pa.array(columns[field.name], field.type, from_pandas=True) for field in COLUMNS],
        schema=COLUMNS,
    )


def profile_of(runs: int) -> Profile:
    return PAPER.with_seeds(max(1, round(runs / len(planned(PAPER.with_seeds(1))))))


def make_store(profile: Profile, execution: Execution) -> None:
    trials, sealed = list(planned(profile)), dict[tuple[int, int], Path]()
    client.create_store(execution)
    for index, trial in enumerate(trials):
        folder, kind = execution.trial_folder(trial.id), (trial.recipe.iterations, index % CURVES)
        if kind not in sealed:
            account = Account(started=0, tags={"profile": "paper", "seconds": "1"})
            seal_result(folder, Outcome.FINISHED, curve(*kind), account)
            sealed[kind] = folder
        else:
            atomic.write(folder / "records.parquet", (sealed[kind] / "records.parquet").read_bytes())
            write_account(folder, read_account(sealed[kind]))
    mirror = Mirror(execution, trials)
    mirror.logged = dict.fromkeys(mirror.trials, sys.maxsize)
    assert mirror.update()


def rendering(runs: int, folder: Path) -> dict[str, Any]:
    """What a process needs that renders the store in `folder`; for that process alone."""
    from analysis import pictures, report
    from analysis.pictures import static
    from analysis.runs import load

    profile = profile_of(runs)
    execution = Execution(storage=folder / "store", data_root=folder)
    serves = planned(profile)
    started = time.perf_counter()
    frames = load(serves, reader.iterate(execution, serves))
    read = time.perf_counter()
    report.write(frames, profile, folder / "results" / "paper", {}, lecture=False)
    written = time.perf_counter()
    report.notebooks(folder / "results" / "paper")
    ended, cpu = time.perf_counter(), sum(os.times()[:4])
    slowest = 0.0
    for name in pictures.FIGURES:
        begun = time.perf_counter()
        static.save(static.draw(pictures.named(name, frames, "paper")), folder / "one", name)
        slowest = max(slowest, time.perf_counter() - begun)
    return {
        "runs": len(serves),
        "records": len(frames.curves),
        "reading (s)": read - started,
        "rendering (s)": written - read,
        "lectures (s)": ended - written,
        "all (s)": ended - started,
        "CPU of all (s)": cpu,
        "slowest figure (s)": slowest,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def peak_mib(pid: int) -> float:
    """The most memory that a process and those it starts have had together, until it ends; looked at twice a second."""
    most = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            now = 0
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):  # it may end while it is looked at
                    now += each.memory_full_info().pss
            most = max(most, now)
            time.sleep(0.5)
    return most / 2**20


def main() -> None:
    rows = []
    for runs in map(int, RUNS.split()):
        with tempfile.TemporaryDirectory() as temporary:
            make_store(profile_of(runs), Execution(storage=Path(temporary) / "store", data_root=Path(temporary)))
            run = [sys.executable, __file__, str(runs), temporary]
            with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE) as process:
                peak = peak_mib(process.pid)
                said = process.communicate()[0]
            if process.returncode:
                raise RuntimeError(f"rendering {runs} runs failed")
            rows.append(json.loads(said) | {"peak with lectures MiB": peak})
        common.write("render", f"{RECORDS:,} records a run; {cores()} cores, as many lectures at a time", rows)


if __name__ == "__main__":
    print(json.dumps(rendering(int(sys.argv[1]), Path(sys.argv[2]))))
