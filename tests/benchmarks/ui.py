"""The MLflow UI over a large study: seconds until the server answers, a list of runs is there, and charts are drawn.

The runs are copies, inside MLflow's database, of two whose curves are made up, with as many points as MLflow is shown
of a long curve; half of them are plain. Opened in a headless Chromium, the system's. RUNS="64 1000" chooses how many
runs, POINTS=300 how many points.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
from playwright.sync_api import sync_playwright

from experiments.profiles import QUICK
from study.execution import Execution
from study.spec import Trial
from study.store.account import Account, Outcome
from study.store.mlflow import client, mirror
from study.store.records import COLUMNS, seal_result

ROOT = Path(__file__).parents[2]
RUNS = os.environ.get("RUNS", "64 1000")
POINTS = int(os.environ.get("POINTS", str(mirror.POINTS)))  # of a series
LINKS = 'a[href*="/runs/"]'
LINES = ".js-plotly-plot .scatterlayer .trace"
COPIED = ("tags", "params", "metrics", "latest_metrics")  # tables of MLflow with a row for something of a run


def curve(trial: Trial) -> pa.Table:
    """Records, all of them evaluated, from chance to the net's end."""
    index = np.arange(1, POINTS + 1)
    error = 90 * np.exp(-index / 40) + (50 if trial.model.family == "plain" else 3)
    columns = {"iteration": index * trial.recipe.iterations // POINTS, "learning_rate": np.full(POINTS, 0.1)}
    columns |= {name: error / 40 for name in ("train_loss", "test_loss")}
    columns |= {name: error for name in ("train_error_pct", "clean_train_error_pct", "test_error_pct")}
    return pa.table({name: columns.get(name, pa.nulls(POINTS, pa.float64())) for name in COLUMNS.names})


def make_store(runs: int, execution: Execution) -> None:
    models = [QUICK.model(family, 56) for family in ("plain", "residual")]
    trials = [Trial(model=model, data=QUICK.data, recipe=QUICK.recipe(model), seed=0) for model in models]
    client.create_store(execution)
    for trial in trials:
        tags = {"profile": "quick", "experiments": "plain-vs-residual", "seconds": "1"}
        account = Account(started=0, tags=tags)
        seal_result(execution.trial_folder(trial.id), Outcome.FINISHED, curve(trial).cast(COLUMNS), account)
    mirror.publish(execution, trials)
    with contextlib.closing(sqlite3.connect(execution.storage / "mlflow.db")) as opened, opened:
        ids = [row[0] for row in opened.execute("SELECT run_uuid FROM runs")]
        for table in ("runs", *COPIED):
            names = [row[1] for row in opened.execute(f"PRAGMA table_info({table})")]
            fresh = ", ".join("?" if name == "run_uuid" else name for name in names)
            insert = f"INSERT INTO {table} ({', '.join(names)}) SELECT {fresh} FROM {table} WHERE run_uuid = ?"
            opened.executemany(insert, [(f"{n:032x}", ids[n % 2]) for n in range(runs - len(ids))])


def measured(runs: int, folder: Path) -> dict[str, float]:
    execution = Execution(storage=folder / "store", data_root=folder)
    make_store(runs, execution)
    command = [sys.executable, "-m", "dashboards", "ui", "--storage", str(execution.storage)]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            server = process.stdout.readline().split()[2]
            addresses = [process.stdout.readline().split()[-1] for _ in range(2)]
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(server):
                    break
                time.sleep(0.05)
            answered = time.perf_counter() - started
            listed, drawn = (opened(address, what) for address, what in zip(addresses, (LINKS, LINES), strict=True))
        finally:
            process.send_signal(signal.SIGINT)
    return {"runs": runs, "answered (s)": answered, "list shown (s)": listed, "curves drawn (s)": drawn}


def opened(address: str, what: str) -> float:
    """Seconds from an empty browser to the first of `what` on the page."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        started = time.perf_counter()
        page.goto(address)
        page.locator(what).first.wait_for(state="attached", timeout=120_000)
        took = time.perf_counter() - started
        browser.close()
    return took


def main() -> None:
    rows = []
    for runs in map(int, RUNS.split()):
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(measured(runs, Path(temporary)))
    common.write("ui", f"{POINTS} points a series; the UI loads 100 runs at a time, and draws all of those", rows)
