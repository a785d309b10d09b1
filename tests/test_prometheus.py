"""Prometheus metrics: named and counted as Prometheus wants them, and every panel of the dashboard has data."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from commands.exporter import Exporter, Rising
from commands.onlooker import Onlooker, Tracked
from commands.options import Selection
from experiments.profiles import SMOKE
from study.execution import Execution
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress
from study.store.records import seal_result

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "dashboards" / "prometheus" / "prometheus.yml"
GRAFANA = ROOT / "dashboards" / "grafana"
Small = Callable[..., Trial]


def said(execution: Execution, trial: Trial, outcome: str, iteration: int, **more: object) -> None:
    folder = execution.trial_folder(trial.id)
    write_account(folder, Account(outcome=Outcome(outcome), **more))
    heartbeat.write(folder, Progress(iteration=iteration, train_error_pct=41.7, seconds=3.0, seconds_left=5.0))


def exporter_of(execution: Execution, trials: list[Trial], tracker: Tracked, clock: Callable[[], float]) -> Exporter:
    selected = Selection(SMOKE, {trial: ["test"] for trial in trials}, execution)
    return Exporter(Onlooker(selected, tracker), clock)


def scraped(exporter: Exporter) -> dict[str, float]:
    """Each sample by its name and labels."""
    registry = CollectorRegistry()
    registry.register(exporter)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        name.replace('profile="smoke"', "").replace("{,", "{").replace("{}", ""): float(value) for name, value in pairs
    }


def test_a_study_is_counted_and_only_running_trials_have_series(execution: Execution, small: Small) -> None:
    running, failed, diverged, _ = trials = [small(seed=seed) for seed in range(4)]
    said(execution, running, "running", 12)
    said(execution, failed, "failed", 6, reason="OSError: gone\nline", cause="OSError", failures=3)
    end = Account(outcome=Outcome.DIVERGED, tags={"seconds": "3.00"}, started=0)
    seal_result(execution.trial_folder(diverged.id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], end)
    found = scraped(exporter_of(execution, trials, Tracked(accounts={}), time.monotonic))
    for state in ("running", "failed", "diverged", "missing"):
        assert found[f'degradation_trials{{state="{state}"}}'] == 1
    assert found['degradation_trials{state="finished"}'] == 0  # a state without trials is 0, not absent
    assert found['degradation_failed_trials{reason="OSError"}'] == 1 and found["degradation_failures_total"] == 3
    assert found["degradation_iterations_total"] == 18 and found["degradation_planned_iterations"] == 4 * 24
    assert found["degradation_iterations_per_second"] == 4
    assert found["degradation_predicted_end_seconds"] > 5 and "degradation_predicted_end_low_seconds" not in found
    assert (found["degradation_tracker_up"], found["degradation_tracker_lag_trials"]) == (1, 1)
    of_trials = {name: value for name, value in found.items() if "trial=" in name}
    assert of_trials == {
        f'degradation_trial_progress_ratio{{trial="{running.id}"}}': 0.5,
        f'degradation_trial_train_error_ratio{{trial="{running.id}"}}': 41.7 / 100,
        f'degradation_trial_left_seconds{{trial="{running.id}"}}': 5.0,
    }


def test_what_mlflow_shows_is_no_lag_and_of_an_mlflow_that_never_answered_nothing_is_known(
    execution: Execution, small: Small
) -> None:
    end = Account(outcome=Outcome.DIVERGED, tags={"seconds": "3.00"}, started=0)
    seal_result(execution.trial_folder(small().id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], end)
    for tracker, up, lag in (
        (Tracked({small().id: end}), 1, 0),
        (Tracked({small().id: end}, "out of reach"), 0, 0),
        (Tracked({}), 1, 1),
        (Tracked(None, "out of reach"), 0, None),
        (Tracked(), None, None),
    ):
        found = scraped(exporter_of(execution, [small()], tracker, time.monotonic))
        assert (found.get("degradation_tracker_up"), found.get("degradation_tracker_lag_trials")) == (up, lag)


def test_a_trial_that_goes_back_to_its_checkpoint_makes_no_counter_fall(execution: Execution, small: Small) -> None:
    seconds, totals = [0], []
    exporter = exporter_of(execution, [small()], Tracked(), lambda: seconds[-1])
    for second, iteration in ((0, 10), (1, 16), (10, 16), (20, 8), (30, 14)):  # after one second nothing is read anew
        seconds.append(second)
        said(execution, small(), "running", iteration)
        totals.append(scraped(exporter)["degradation_iterations_total"])
    assert totals == [10, 10, 16, 16, 22]


def test_a_counter_is_the_sum_of_rises() -> None:
    rising = Rising()
    for numbers in ({"a": 2.0}, {"a": 1.0, "b": 5.0}, {"a": 4.0}):
        rising.see(numbers)
    assert rising.total == 2 + 5 + 3


@pytest.mark.parametrize(
    ("option", "says"), [("--host=203.0.113.1", "203.0.113.1:9464 cannot be had"), ("--port=70000", "70000 is not")]
)
def test_bad_input_is_one_line(tmp_path: Path, option: str, says: str) -> None:
    command = [sys.executable, "-m", "dashboards", "metrics", "--storage", str(tmp_path / "none"), option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_metrics_are_told_to_allowed_names_alone(tmp_path: Path) -> None:
    """A web page whose name is made to resolve to this machine reads nothing; Prometheus may call by an address."""
    command = [sys.executable, "-m", "dashboards", "metrics", "--profile", "smoke", "--port", "0"]
    command += ["--storage", str(tmp_path / "none"), "--allowed-hosts", "node-1,node-2"]
    server = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        port = int(server.stdout.readline().split("/")[2].rpartition(":")[2])
        asked = {"evil.example": 403, "127.0.0.1.evil.example": 403, f"node-2:{port}": 200, f"10.1.2.3:{port}": 200}
        for host, code in asked.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/metrics", headers={"Host": host})
            reply = connection.getresponse()
            text = reply.read().decode()
            assert reply.status == code and ("degradation_trials{" if code == 200 else "--allowed-hosts NAME") in text
    finally:
        server.kill()
        server.wait()


def test_names_are_escaped_in_labels(execution: Execution, small: Small) -> None:
    trial = small()
    write_account(execution.trial_folder(trial.id), Account(outcome=Outcome.FAILED, cause='a"} 1\n\\b'))
    exporter = exporter_of(execution, [trial], Tracked(), time.monotonic)
    registry = CollectorRegistry()
    registry.register(exporter)
    lines = generate_latest(registry).decode().splitlines()
    (line,) = (line for line in lines if line.startswith("degradation_failed_trials{"))
    assert line == r'degradation_failed_trials{profile="smoke",reason="a\"} 1\n\\b"} 1.0'


def expressions() -> list[str]:
    """What the panels of the Grafana dashboard ask for, of the quick profile."""
    dashboard = json.loads((GRAFANA / "degradation-study.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [expression.replace("$profile", "quick") for expression in found]


def test_the_provisioning_files_fit_together() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/degradation-study.yaml").read_text())["providers"]
    dashboard = json.loads((GRAFANA / "degradation-study.json").read_text())
    assert source["type"] == "prometheus" and providers[0]["options"]["path"] == "$STUDY_DASHBOARDS"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}
    assert all("$profile" in target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    jobs = {job["job_name"]: job for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    assert jobs["degradation-study"]["static_configs"] == [{"targets": ["127.0.0.1:9464"]}]


def started(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def asked(address: str, path: str, **query: Any) -> Any:
    with urllib.request.urlopen(f"{address}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def awaited(what: Callable[[], Any], seconds: float) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := what():
                return found
        except (OSError, http.client.HTTPException):  # not there yet
            pass
        time.sleep(0.5)
    raise AssertionError("it never came")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prometheus"), reason="there is no Prometheus (Debian: apt install prometheus)")
def test_a_real_prometheus_answers_every_panel_over_a_study_that_runs(tmp_path: Path) -> None:
    of = ("--experiments", "learning-rate", "--seeds", "2", "--storage", str(tmp_path / "store"))  # seconds a trial
    running = [started(sys.executable, "-m", "dashboards", "metrics", *of, "--port", "0")]
    try:
        assert running[0].stdout
        exporter = running[0].stdout.readline().split()[1].removeprefix("http://").removesuffix("/metrics")
        config = yaml.safe_load(PROMETHEUS.read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [exporter]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free()
        where = ("--web.listen-address", f"127.0.0.1:{port}", "--storage.tsdb.path", str(tmp_path / "tsdb"))
        running.append(started("prometheus", "--config.file", str(tmp_path / "prometheus.yml"), *where))
        address = f"http://127.0.0.1:{port}"
        awaited(lambda: asked(address, "/api/v1/query", query="degradation_trials")["result"], 60)
        begun = time.time()
        running.append(started(sys.executable, "-m", "experiments", "run", "--local", *of))
        finished = 'degradation_trials{state="finished"} == 6 and on(profile) degradation_tracker_lag_trials == 0'
        awaited(lambda: asked(address, "/api/v1/query", query=finished)["result"], 240)
        (target,) = (t for t in asked(address, "/api/v1/targets")["activeTargets"] if t["labels"]["job"] != "ray")
        assert target["health"] == "up" and target["lastError"] == ""
        for expression in expressions():
            span = {"start": begun, "end": time.time(), "step": 1}
            found = asked(address, "/api/v1/query_range", query=expression, **span)["result"]
            assert found and all(series["values"] for series in found), expression
        with urllib.request.urlopen(f"http://{exporter}/metrics", timeout=10) as metrics:
            lint = subprocess.run(["promtool", "check", "metrics"], input=metrics.read(), capture_output=True)
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool (Debian: apt install prometheus)")
def test_promtool_accepts_the_configuration() -> None:
    done = subprocess.run(["promtool", "check", "config", str(PROMETHEUS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
