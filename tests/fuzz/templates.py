"""What inputs begin with: a store with results of every outcome, a bundle of it, and a rendered folder of results.

`folders` is made in milliseconds and its store has no MLflow; `study` was run, exported and rendered by the commands.
"""

import os
import subprocess
import sys
from pathlib import Path

from stored import account, evaluation, record

from experiments import planned
from experiments.profiles import profile
from study.spec import Trial
from study.store import heartbeat, layout
from study.store.account import Outcome, keep_specification, write_account
from study.store.heartbeat import Progress
from study.store.records import Wrong, add_evaluations, keep_records, seal_result

ROOT = Path(__file__).parents[2]
OWN_PROFILE = """\
from dataclasses import replace
from experiments import EXPERIMENTS, learning_rate, name_of, profiles, recipes

TINY = replace(
    profiles.QUICK,
    name="tiny",
    width=4,
    recipe=recipes.seconds,
    untestable={"*": "a few iterations say nothing"},
    scales={name_of(one): None for one in EXPERIMENTS}
    | {learning_rate.NAME: profiles.Nets(nets=(("plain", 20), ("residual", 20)), seeds=2)},
)
"""
TINY = "tiny.py:TINY"
STORE, BUNDLE = "cwd/store", "cwd/bundle.zip"


def tiny_trials(folder: Path) -> list[Trial]:
    """The trials of the profile in the file of a template."""
    return list(planned(profile(f"{folder}/cwd/tiny.py:TINY")))


def folders(folder: Path) -> Path:
    """A store without MLflow, of one trial of every outcome."""
    store = folder / STORE
    store.mkdir(parents=True)
    (folder / "cwd/tiny.py").write_text(OWN_PROFILE)
    layout.create(store)
    finished, diverged, failed, running = tiny_trials(folder)
    rows = [record(at, 50.0) | {"clean_train_error_pct": 40.0} for at in (2, 4, 6)]
    for trial in (finished, diverged, failed, running):
        keep_specification(store / "trials" / trial.id, trial)
    tags = {"profile": "tiny", "seconds": "3.5", "device": "cpu", "data_digest": "0" * 64}
    done = store / "trials" / finished.id
    seal_result(done, Outcome.FINISHED, rows, account(**tags), [], wrong=Wrong(360, bytes(45)))
    add_evaluations(done, [evaluation("centre crop", 3.5)])
    heartbeat.write(done, Progress(iteration=6, seconds=3.5, outcome=Outcome.FINISHED))
    seal_result(store / "trials" / diverged.id, Outcome.DIVERGED, rows[:1], account(**tags, diverged_at="2"))
    write_account(store / "trials" / failed.id, account(Outcome.FAILED, "ValueError: a reason", **tags))
    write_account(store / "trials" / running.id, account(**tags))
    keep_records(store / "trials" / running.id, rows[:2])
    heartbeat.write(store / "trials" / running.id, Progress(iteration=4, seconds=1.0, seconds_left=2.0))
    return folder


def study(folder: Path) -> Path:
    """A store that was trained (a second a trial) and shown in MLflow, its bundle, and its results."""
    (folder / "cwd").mkdir(parents=True)
    (folder / "cwd/tiny.py").write_text(OWN_PROFILE)
    selected = ("--profile", TINY)
    for entry, *words in (
        ("experiments", "run", "--local", "--seeds", "1", *selected),
        ("experiments", "export", "bundle.zip", "--weights", "all", "--seeds", "1", *selected),
        ("analysis", "figures", "--no-lectures", *selected),
    ):
        line = [sys.executable, "-m", entry, *words]
        done = subprocess.run(line, cwd=folder / "cwd", env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode in (0, 1), done.stderr.decode()
    return folder


def warm() -> None:
    """Import all that commands import, so that a fork has it."""
    import importlib
    import pkgutil

    for package in ("commands", "study", "analysis", "experiments", "dashboards"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not module.name.endswith(("__main__", "ray_driver")):
                importlib.import_module(module.name)
