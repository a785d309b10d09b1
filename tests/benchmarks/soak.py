"""A long run: thousands of trials of six updates each, and whether anything grows with them. SOAK=3000 says how many.

The real command line trains them, while the MLflow UI and the watch page are open and asked for now and then. Sampled:
memory that each process has filled itself (not the code of libraries, of which others have a part), its open files and
threads, and how many trials have a result. After a warm-up of a fifth of the time, straight lines are fitted; their
intervals (95 %) are those of the means of twenty stretches of time, which no second's ups and downs make narrower.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import common
import numpy as np
import psutil
import short
from scipy import stats

from commands.ports import free_port
from experiments import learning_rate, planned
from study.execution import Execution
from study.limits import cores
from study.store.account import has_result
from study.store.layout import Store

ROOT = Path(__file__).parents[2]
TRIALS = int(os.environ.get("SOAK", "3000"))
SAMPLES = 400  # of the whole run, at least; no more often than every two seconds
WARM = 0.2  # of the time, which no line is fitted to
STRETCHES = 20
LOOKING_ON = ("MLflow server", "watch page")
PROFILE = f"{Path(__file__).parent / 'short.py'}:SHORT"
SELECT = ["--profile", PROFILE, "--experiments", learning_rate.NAME]
ROLES = {  # by a part of the command line; the first that fits
    "gcs_server": "Ray's control service",
    "/raylet/raylet": "raylet",
    "ray::RuntimeEnvAgent": "Ray's environment agent",
    "ray::DashboardAgent": "Ray's node agent",
    "log_monitor": "Ray's log monitor",
    "_private/monitor": "Ray's autoscaler",
    "dashboard/dashboard": "Ray's dashboard head",
    "ray::IDLE": "idle worker",
    "ray::": "worker",
    "resource_tracker": "resource tracker",
    "spawn_main": "Ray's driver",
}
Sample = dict[str, Any]


class Line(NamedTuple):
    """A straight line's rise per hour, and half the width of its interval."""

    slope: float
    half: float


def line(hours: Sequence[float], values: Sequence[float]) -> Line:
    """The slope of the means of consecutive stretches."""
    parts = min(STRETCHES, len(hours))
    if parts < 3:
        return Line(math.nan, math.nan)
    x, y = (np.array([part.mean() for part in np.array_split(np.array(one), parts)]) for one in (hours, values))
    fitted = stats.linregress(x, y)
    return Line(fitted.slope, fitted.stderr * stats.t.ppf(0.975, parts - 2))


def role(process: psutil.Process, launcher: int) -> str:
    """What a process of the launch is there for."""
    if process.pid == launcher:
        return "launcher"
    words = " ".join(process.cmdline())
    return next((name for part, name in ROLES.items() if part in words), words[:40] or process.name())


def sample_of(process: psutil.Process) -> dict[str, float]:
    kept = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    with process.oneshot():
        return {
            "own": int(kept.partition("Anonymous:")[2].split()[0]) / 1e3,
            "rss": process.memory_info().rss / 1e6,
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "cpu": sum(process.cpu_times()[:2]),
        }


def size(folder: Path) -> float:
    """MB that the folder's files take."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total / 1e6


def look(roots: dict[str, int], started: float) -> Sample:
    """Every process of the launch and of those that look on, by role and process id."""
    processes = {}
    for name, pid in roots.items():
        with suppress(psutil.Error):
            first = psutil.Process(pid)
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.Error, OSError):
                    what = role(process, pid) if name == "launcher" else name
                    if name == "watch page" and process is not first:
                        what = "rendering"  # a new process each time
                    processes[f"{what} {process.pid}"] = sample_of(process)
    return {"hours": (time.perf_counter() - started) / 3600, "processes": processes}


@contextmanager
def looking_on(store: Path, count: int, ports: dict[str, int], log: Path) -> Iterator[dict[str, int]]:
    """The MLflow UI and the watch page, as somebody would keep them open."""
    select = [*SELECT, "--seeds", str(count)]
    commands = dict(zip(LOOKING_ON, (["ui"], ["watch", *select]), strict=True))
    running = {}
    try:
        for name, words in commands.items():
            words = [sys.executable, "-m", "dashboards", *words, "--storage", str(store), "--port", str(ports[name])]
            with log.open("ab") as out:
                running[name] = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        yield {name: process.pid for name, process in running.items()}
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(ports: dict[str, int]) -> None:
    """What an open page asks for."""
    for name, path in {"MLflow server": "/health", "watch page": "/status.json"}.items():
        with suppress(OSError), urlopen(f"http://127.0.0.1:{ports[name]}{path}", timeout=10) as answer:
            answer.read()


def soak(folder: Path, count: int = TRIALS, onlookers: bool = True) -> list[Sample]:
    """Train so many trials; what was seen meanwhile. Samples are kept in `folder/samples.jsonl`, too."""
    store, log = folder / "store", folder / "launch.log"
    words = [sys.executable, "-m", "experiments", "run", *SELECT, "--seeds", str(count), "--storage", str(store)]
    samples: list[Sample] = []
    execution = Execution(storage=store, data_root=folder)
    todo = [trial.id for trial in planned(short.SHORT.with_seeds(count), [learning_rate.NAME])]
    first = free_port(5600)
    ports = {"MLflow server": first, "watch page": free_port(first + 1)}
    started = time.perf_counter()
    with log.open("ab") as out:
        launcher = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    pids, stack = {"launcher": launcher.pid}, None
    rest, asked = 2.0, time.perf_counter()
    try:
        while launcher.poll() is None:
            time.sleep(rest)
            if onlookers and stack is None and Store(store).database.exists():
                stack = looking_on(store, count, ports, folder / "onlookers.log")
                pids |= stack.__enter__()
            sample = look(pids, started)
            todo = [id for id in todo if not has_result(execution.trial_folder(id))]
            sample["trials"] = count - len(todo)
            sample["database"] = sum(size_of(path) for path in store.glob("mlflow.db*")) / 1e6
            samples.append(sample)
            with (folder / "samples.jsonl").open("a") as file:
                file.write(json.dumps(sample) + "\n")
            if len(samples) == 30 and sample["trials"]:  # the pace is known
                rest = max(rest, 3600 * sample["hours"] * count / sample["trials"] / SAMPLES)
            if time.perf_counter() - asked > 20:
                ask(ports)
                asked = time.perf_counter()
    finally:
        if launcher.poll() is None:
            launcher.send_signal(signal.SIGINT)
            launcher.wait(120)
        if stack:
            stack.__exit__(None, None, None)
    if launcher.returncode:
        raise RuntimeError(f"the launch ended with {launcher.returncode}: {log.read_text()[-2000:]}")
    return samples


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def table(samples: list[Sample]) -> list[dict[str, Any]]:
    """A row a process that lived through most of the run."""
    warm = [one for one in samples if one["hours"] >= WARM * samples[-1]["hours"]]
    warm = [one for one in warm if one["trials"] < samples[-1]["trials"]] or warm  # without the end of the launch
    names = {name: sum(name in one["processes"] for one in warm) for one in warm for name in one["processes"]}
    rows, an_hour = [], line([one["hours"] for one in warm], [one["trials"] for one in warm]).slope
    for name in sorted(name for name, times in names.items() if times > 0.5 * len(warm)):
        there = [one for one in warm if name in one["processes"]]
        hours = [one["hours"] for one in there]
        series = {key: [one["processes"][name][key] for one in there] for key in there[0]["processes"][name]}
        slope, files = line(hours, series["own"]), line(hours, series["files"])
        rows.append(
            {
                "process": name.rpartition(" ")[0],
                "own memory, warm (MB)": series["own"][0],
                "at the end": series["own"][-1],
                "MB an hour": f"{slope.slope:+.2f} ± {slope.half:.2f}",
                "kB a trial": f"{1e3 * slope.slope / an_hour:+.2f}",
                "files": f"{series['files'][0]:.0f} to {max(series['files']):.0f} ({files.slope:+.1f} an hour)",
                "threads": f"{series['threads'][0]:.0f} to {max(series['threads']):.0f}",
                "CPU (% of a core)": 100 * (series["cpu"][-1] - series["cpu"][0]) / (hours[-1] - hours[0]) / 3600,
            }
        )
    return rows


def by_parts(samples: list[Sample], value: Callable[[Sample], float], parts: int = 5) -> list[float]:
    """How much `value` rose a trial, in each part of the trials."""
    trials = np.array([one["trials"] for one in samples])
    edges = np.linspace(trials[trials > 0].min(), trials.max(), parts + 1)
    at = np.interp(edges, trials, [value(one) for one in samples])
    return [float(rise / many) for rise, many in zip(np.diff(at), np.diff(edges), strict=True)]


def seconds(sample: Sample) -> float:
    return 3600 * float(sample["hours"])


def processor_seconds(sample: Sample) -> float:
    """Of the launch, without those who look on."""
    others = (*LOOKING_ON, "rendering")
    return sum(one["cpu"] for name, one in sample["processes"].items() if not name.startswith(others))


def a_trial(samples: list[Sample], store: Path) -> list[dict[str, Any]]:
    """What a trial took and left, in fifths of all trials; on disk, over all of them."""
    count = samples[-1]["trials"]
    rows = [
        {"process": "a trial, s", "by fifths": _list(by_parts(samples, seconds))},
        {"process": "a trial, s of a core", "by fifths": _list(by_parts(samples, processor_seconds))},
        {
            "process": "a trial, kB of mlflow.db",
            "by fifths": _list(by_parts(samples, lambda one: 1e3 * one["database"])),
        },
    ]
    for what in ("trials", "artifacts"):
        rows.append({"process": f"a trial, kB of {what}/", "by fifths": f"{1e3 * size(store / what) / count:.1f}"})
    return rows


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("SOAK_FOLDER", temporary))
        samples = soak(folder)
        rows = [*table(samples), *a_trial(samples, folder / "store")]
    common.write("soak", f"{samples[-1]['trials']:,} trials of six updates, on {cores()} cores", rows)
