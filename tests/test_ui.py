"""The MLflow UI shows a study to people: names, views, pictures and the report, on loopback alone."""

import contextlib
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from analysis import runs
from analysis.decision import evaluate
from analysis.verdicts import counted
from commands import mlflow_report, ports, screenshots, ui
from dashboards import views
from experiments import EXPERIMENTS, name_of, plain_vs_residual, planned
from experiments.profiles import PROFILES, QUICK, SMOKE
from study.execution import Execution
from study.spec import InputError, Trial
from study.store import layout
from study.store.account import Account, Outcome
from study.store.mlflow import client, mirror, reader
from study.store.records import COLUMNS, seal_result

ROOT = Path(__file__).parents[1]
TRIALS = [trial for trial, serves in planned(QUICK).items() if "plain-vs-residual" in serves and trial.seed == 0]


def fill(store: Execution, trials: list[Trial] = TRIALS) -> None:
    """Results that nobody trained: plain nets end at their depth in percent, residual ones at 3."""
    for trial in trials:
        records = []
        for iteration in range(12, 361, 12):
            error = min(90.0, trial.model.depth) if trial.model.family == "plain" else 3.0
            values = dict.fromkeys(COLUMNS.names, None) | {"iteration": iteration, "learning_rate": 0.1}
            values |= {"train_loss": error / 40, "train_error_pct": error}
            tested = ("clean_train_error_pct", "test_error_pct") if iteration % 72 == 0 else ()
            records.append(values | dict.fromkeys(tested, error))
        tags = {"profile": "quick", "experiments": "plain-vs-residual", "seconds": "2", "deviations": "none"}
        account = Account(started=1_700_000_000_000, tags=tags)
        seal_result(store.trial_folder(trial.id), Outcome.FINISHED, records, account)
    mirror.publish(store, trials)


def render(store: Execution, folder: Path) -> runs.Frames:
    serves = {trial: ["plain-vs-residual"] for trial in TRIALS}
    frames = runs.load(serves, reader.iterate(store, serves))
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("the study page")
    (folder / "curves.parquet").write_bytes(b"x" * (mlflow_report.LARGEST + 1))
    files = dict.fromkeys(("index.html", "curves.parquet"), "a digest")
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return frames


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_profile_has_a_description_with_its_experiments_and_working_links(profile) -> None:
    note = views.note(profile, "7")
    serving = {name for names in planned(profile).values() for name in names}
    for experiment in EXPERIMENTS:
        assert (f"`{name_of(experiment)}`" in note) == (name_of(experiment) in serving)
    for view in views.views(profile):
        assert f"[{view.name}](/#/experiments/7/runs?" in note and f"viewStateShareKey={view.key}" in note
    assert f"results/{profile.name}/index.html" in note
    held = [note, *(json.dumps(json.dumps(view.state)) for view in views.views(profile))]
    assert max(map(len, held)) < 4_900  # a tag of an experiment holds 5,000 characters


def test_every_filter_and_column_of_the_views_is_one_that_runs_have(store: Execution) -> None:
    fill(store, TRIALS[:2])
    (place,) = reader.profiles(store).values()
    mlflow, found = client.connect(store), {view.key: view for view in views.views(QUICK)}
    count = {key: len(mlflow.search_runs([place], view.state["searchFilter"])) for key, view in found.items()}
    assert count == {"all": 2, "plain-and-residual": 2, "shortcuts": 0, "diverged-and-failed": 0}
    for condition in views.FILTERS.values():
        mlflow.search_runs([place], condition)
    (run, *_) = mlflow.search_runs([place])
    there = {f"tags.`{name}`" for name in run.data.tags} | {f"metrics.`{name}`" for name in run.data.metrics}
    assert set(views.COLUMNS) <= there
    charts = found["plain-and-residual"].state["compareRunCharts"]
    assert {f"metrics.`{chart['metricKey']}`" for chart in charts} <= there


def test_a_rendering_adds_pictures_and_the_report_once(store: Execution, tmp_path: Path) -> None:
    fill(store, TRIALS[:2])
    frames, folder = render(store, tmp_path / "quick"), tmp_path / "quick"
    verdicts = evaluate(frames, QUICK)
    for _ in range(2):
        mlflow_report.show(frames, verdicts, QUICK, store, folder)
    pictures = list((store.storage / "artifacts").rglob("curve.png"))
    assert len(pictures) == 2 and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    (page,) = (store.storage / "artifacts").rglob("index.html")
    assert (page.parent / "manifest.json").exists() and not (page.parent / "curves.parquet").exists()
    mlflow = client.connect(store)
    (place,) = reader.profiles(store).values()
    (run,) = mlflow.search_runs([place], "tags.kind = 'report'")
    assert sum(run.data.metrics.values()) == len(verdicts)
    assert counted(verdicts) in run.data.tags["mlflow.note.content"]
    assert "Too large to be here" in run.data.tags["mlflow.note.content"]


def test_pictures_differ_as_curves_do(store: Execution, tmp_path: Path) -> None:
    fill(store, TRIALS[:2])
    curves = render(store, tmp_path / "quick").curves
    ids = {trial.id: trial.seed for trial in TRIALS[:2]}
    first, second = (png for _, png in mlflow_report.pictures(curves, dict.fromkeys(ids, "a run")))
    again = [png for _, png in mlflow_report.pictures(curves, dict.fromkeys(ids, "a run"))]
    assert first != second and [first, second] == again
    assert max(map(len, again)) < 40_000


def test_a_rendering_outlives_an_outage_of_mlflow(
    store: Execution, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    fill(store, TRIALS[:1])
    frames = render(store, tmp_path / "quick")
    out = replace(store, tracking_uri="http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        mlflow_report.show(frames, evaluate(frames, QUICK), QUICK, out, tmp_path / "quick")
    assert "and not in MLflow: tracking http://127.0.0.1:9 is out of reach" in caplog.text


def test_without_a_store_a_rendering_logs_nothing_and_makes_none(execution: Execution, tmp_path: Path) -> None:
    tmp_path.joinpath("manifest.json").write_text('{"files": {}}')
    frames = runs.load(planned(SMOKE), [])
    mlflow_report.show(frames, [], SMOKE, execution, tmp_path)
    assert not execution.storage.exists() and isinstance(frames.finals, pd.DataFrame)


def test_a_store_whose_runs_are_on_a_server_is_not_served(execution: Execution) -> None:
    layout.create(execution.storage)
    done = CliRunner().invoke(ui.ui_command, ["--storage", str(execution.storage)])
    assert isinstance(done.exception, InputError) and "has no mlflow.db: its runs are on a server" in str(
        done.exception
    )
    assert not (execution.storage / "mlflow.db").exists()


def test_another_port_is_taken_where_one_is_in_use() -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert port < ports.free_port(port) < port + 100


def test_any_free_port_is_a_real_one() -> None:
    port = ports.free_port(0)
    assert 1024 <= port <= 65_535
    with socket.create_server((ports.HOST, port)):
        pass


@pytest.mark.parametrize("port", [-1, 65_536, 10**12])
@pytest.mark.parametrize("name", ["ui", "watch"])
def test_what_is_no_port_is_refused_in_one_line(
    command: Callable[..., tuple[int, str, str]], store: Execution, name: str, port: int
) -> None:
    code, out, err = command(name, "--storage", store.storage, f"--port={port}", entry="dashboards")
    assert code == 2 and not out and err.count("\n") == 1
    assert f"port {port} does not exist; choose one from 1 to 65535, or 0 for any that is free" in err


def test_the_last_ports_are_tried_and_none_beyond() -> None:
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):  # another process has it
            taken.enter_context(socket.create_server((ports.HOST, 65_535)))
        with pytest.raises(InputError, match="ports 65535 to 65535 cannot be had"):
            ports.free_port(65_535)


@contextlib.contextmanager
def serving(store: Execution) -> Iterator[tuple[list[str], psutil.Process]]:
    """`python -m dashboards ui` over the store: what it printed, and its process. Ends it as Ctrl-C does."""
    command = [sys.executable, "-m", "dashboards", "ui", "--storage", str(store.storage), "--port", "5300"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            printed = [process.stdout.readline().strip() for _ in range(1 + len(views.views(QUICK)))]
            server = printed[0].split()[2]
            until = time.monotonic() + 120
            while time.monotonic() < until:
                with contextlib.suppress(OSError), urllib.request.urlopen(server):
                    break
                time.sleep(0.1)
            yield printed, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.mark.slow
def test_the_ui_is_on_loopback_alone_one_process_beside_the_server_and_leaves_nothing(store: Execution) -> None:
    fill(store, TRIALS[:2])
    with serving(store) as (printed, process):
        assert re.fullmatch(r"MLflow UI: http://127\.0\.0\.1:\d+ \(Ctrl-C stops it\)", printed[0])
        (child,) = process.children(recursive=True)
        sockets = [each for one in (process, child) for each in one.net_connections()]
        assert {each.laddr.ip for each in sockets if each.status == "LISTEN"} == {"127.0.0.1"}
        assert {each.raddr.ip for each in sockets if each.raddr} <= {"127.0.0.1"}
    assert not process.is_running() and not child.is_running()
    with pytest.raises(OSError):
        urllib.request.urlopen(printed[0].split()[2], timeout=5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_sees_names_the_runs_chart_both_families_and_the_report(store: Execution, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    fill(store)
    frames = render(store, tmp_path / "quick")
    mlflow_report.show(frames, evaluate(frames, QUICK), QUICK, store, tmp_path / "quick")
    with serving(store) as (printed, _), sync_playwright() as playwright:
        addresses = {line.split(": ")[1].rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in printed[1:]}
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))

        page.goto(addresses["All trials"])
        page.get_by_text("Why do deeper plain nets train worse").first.wait_for()
        for trial in TRIALS:
            page.get_by_text(f"{trial.title} · seed 0 · digits").first.wait_for()
        page.get_by_role("link", name="Report").wait_for()
        for column in ("net", "outcome", "final_train_error_pct", "final_test_error_pct"):
            page.locator(".ag-header-cell").get_by_text(column, exact=True).wait_for()

        page.goto(addresses["Plain against residual"])
        lines = page.locator(".js-plotly-plot .scatterlayer .trace path.js-line")
        lines.nth(2 * len(TRIALS) - 1).wait_for(state="attached")
        shown = {tuple(map(int, re.findall(r"\d+", stroke))) for stroke in strokes(lines)}
        orange, blue = ([rgb for rgb in shown if (rgb[0] > rgb[2]) == warm] for warm in (True, False))
        assert len(orange) == len(blue) == len(plain_vs_residual.depths(QUICK))

        page.goto(addresses["All trials"])
        page.get_by_text("plain-56 · seed 0").first.click()
        page.get_by_text("training error at the end: 56.00 %").wait_for()
        page.get_by_text("Model metrics", exact=True).first.click()
        page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_text("curve.png").first.click()
        page.wait_for_function("[...document.images].some(image => image.naturalWidth === 500)")
        browser.close()
    outside = [url for url in asked if not url.startswith((printed[0].split()[2], "data:", "blob:"))]
    assert not outside


def strokes(lines) -> list[str]:
    return lines.evaluate_all("paths => paths.map(path => path.style.stroke)")


def test_screenshots_without_a_page_or_without_runs_of_the_profile_are_refused(
    store: Execution, tmp_path: Path
) -> None:
    fill(store, TRIALS[:1])
    results = tmp_path / "results"
    for profile, storage, message in (
        ("quick", store.storage, "index.html does not exist; render it first: make degradation-study PROFILE=quick"),
        ("smoke", store.storage, "has runs of quick, and not of smoke; name another --storage"),
        ("smoke", tmp_path / "none", "has runs of no profile, and not of smoke"),
    ):
        words = ["--profile", profile, "--storage", str(storage), "--results", str(results)]
        refused = CliRunner().invoke(screenshots.screenshots_command, words).exception
        assert isinstance(refused, InputError) and message in str(refused)
        (results / "smoke").mkdir(parents=True, exist_ok=True)
        (results / "smoke" / "index.html").write_text("a page")
