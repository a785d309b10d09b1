"""What records, checkpoints, heartbeats and tracking take of a trial's time, by timing each call of real trials.

A long trial (ResNet-56, width 16, 32x32, with checkpoints every 30 s) and one of the quick profile, in this process.
Evaluations are measurements that the recipe asks for, not overhead; opening and sealing the run are counted.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common

from experiments.profiles import QUICK
from experiments.recipes import minutes
from study.execution import Execution
from study.run import attempt, worker
from study.spec import Trial
from study.store import heartbeat, records
from study.store.mlflow import client, mirror
from study.training import loop
from study.training.state import TrainState

CALLS = (
    ("records", loop, "_due"),
    ("checkpoints", TrainState, "save"),
    ("records", records, "write_records"),
    ("heartbeat", heartbeat, "write"),
    ("opening and sealing", attempt.Attempt, "__init__"),
    ("opening and sealing", attempt.Attempt, "seal"),
    ("MLflow, in the launcher", mirror.Mirror, "update"),
)


def timed(function: Callable[..., Any], seconds: Counter[str], part: str) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[part] += time.perf_counter() - started

    return call


def shares(name: str, trial: Trial, execution: Execution, seconds: Counter[str]) -> dict[str, Any]:
    seconds.clear()
    started = time.perf_counter()
    worker.run_trial(trial, execution, {"profile": "bench"})
    total = time.perf_counter() - started
    mirror.Mirror(execution, [trial]).update()
    percent = {f"{part} %": 100 * seconds[part] / total for part in dict.fromkeys(part for part, *_ in CALLS)}
    first_three = sum(percent[f"{part} %"] for part in ("records", "checkpoints", "heartbeat"))
    return {"trial": name, "seconds": total, **percent, "records + checkpoints + heartbeat %": first_three}


def main() -> None:
    seconds: Counter[str] = Counter()
    for part, owner, name in CALLS:
        setattr(owner, name, timed(getattr(owner, name), seconds, part))
    long = common.trial(56, "fp32")
    long = replace(long, recipe=replace(long.recipe, iterations=90, drops=(), record_every=10, evaluate_every=90))
    model = QUICK.model("residual", 20)
    quick = Trial(model=model, data=QUICK.data, recipe=minutes(model), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(storage=Path(folder) / "store", data_root=Path(folder), local=True)
        client.create_store(execution)
        worker.run_trial(replace(quick, seed=1), execution, {"profile": "bench"})  # imports and first connections
        rows = [
            shares("ResNet-56, width 16, 32x32, batch 128, 90 iterations", long, execution, seconds),
            shares("ResNet-20 of the quick profile", quick, execution, seconds),
        ]
    common.write("overhead", "one process, one thread, alone; sqlite tracking; checkpoints every 30 s", rows)
