"""Predicted against actual seconds and memory of the quick profile's trials, from the runs that are logged.

Seconds are predicted for each trial from the others (leave one out), as `plan` does for what is still to run; memory
by arithmetic alone. Needs a store in which the quick profile ran: `make degradation-study` first.
"""

import os
import statistics
import sys
from pathlib import Path

import common

from experiments import planned
from experiments.profiles import QUICK
from study import cost
from study.execution import Execution
from study.store.layout import is_store
from study.store.mlflow import reader


def main() -> None:
    store = Path(os.environ.get("STORE", "store"))
    execution = Execution(storage=store, data_root=store)
    runs = [
        run
        for run in (reader.read(execution, list(planned(QUICK, [])), False) if is_store(store) else [])
        if run.outcome == "finished"
    ]
    if len(runs) < 2:
        print(f"predictions: skipped, {store} holds no finished quick study", file=sys.stderr)
        return
    took = [(run.trial, float(run.tags["seconds"])) for run in runs]
    seconds, memory = [], []
    for index, (trial, actual) in enumerate(took):
        factor = cost.calibration(took[:index] + took[index + 1 :])
        seconds.append(100 * (factor * cost.predicted_seconds(trial) / actual - 1))
        memory.append(100 * (cost.predicted_bytes(trial) / 2**20 / float(runs[index].tags["memory_mib"]) - 1))
    rows = [
        {
            "what": what,
            "trials": len(errors),
            "median error %": statistics.median(map(abs, errors)),
            "worst below %": min(errors),
            "worst above %": max(errors),
            f"within {limit} %": f"{sum(abs(e) <= limit for e in errors)} of {len(errors)}",
        }
        for what, errors, limit in (("seconds", seconds, 25), ("memory", memory, 15))
    ]
    common.write("predictions", "quick profile, predicted minus actual", rows)
