"""The one command, as a newcomer runs it: trials on Ray, runs in MLflow, results on disk; then again.

With one experiment and no lectures in the fast suite, and with all of the smoke profile in the slow one.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from experiments import planned, shortcut_options
from experiments.profiles import SMOKE
from study.execution import Execution
from study.spec import Trial
from study.store.mlflow import client, reader

ROOT = Path(__file__).parents[1]
NO_LECTURES = "ARGS=--no-lectures"  # which take most of the time of a rendering
pytestmark = pytest.mark.usefixtures("study")


def make(target: str, folder: Path, experiments: str, *variables: str) -> subprocess.CompletedProcess[str]:
    where = [f"STORE={folder / 'store'}", f"RESULTS={folder / 'results'}", f"EXPERIMENTS={experiments}"]
    command = ["make", "--no-print-directory", target, "PROFILE=smoke", *where, *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module", params=[shortcut_options.NAME, pytest.param("", marks=pytest.mark.slow)])
def experiments(request: pytest.FixtureRequest) -> str:
    """What EXPERIMENTS= names; '' is all of them."""
    return str(request.param)


@pytest.fixture(scope="module")
def trials(experiments: str) -> list[Trial]:
    return list(planned(SMOKE, experiments.split()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, experiments: str) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder: Path, experiments: str) -> subprocess.CompletedProcess[str]:
    done = make("degradation-study", folder, experiments, *([NO_LECTURES] if experiments else []))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_it_ends_with_verdicts_table_pictures_ui_and_the_papers_cost_in_this_order(
    study: subprocess.CompletedProcess[str], trials: list[Trial]
) -> None:
    places = [study.stdout.index(text) for text in ("Verdicts", "Table 6", "Pictures", "make ui", "PROFILE=paper")]
    assert places == sorted(places)
    assert f"{len(trials)} of {len(trials)} trials have a result" in study.stdout
    assert "Traceback" not in study.stderr


def test_everything_the_contract_names_is_there(folder: Path, experiments: str) -> None:
    results = folder / "results" / "smoke"
    for name in ("claims.json", "runs.parquet", "curves.parquet", "manifest.json", "index.html"):
        assert (results / name).stat().st_size > 0
    for name in ("figure_1", "figure_6", "error_against_depth"):
        assert all((results / "figures" / f"{name}.{kind}").exists() for kind in ("svg", "pdf", "png"))
    assert all((results / "tables" / f"table_6.{kind}").exists() for kind in ("md", "csv", "tex"))
    assert experiments or list((results / "notebooks").glob("*.html"))
    claims = json.loads((results / "claims.json").read_text())
    assert len(claims) == 74
    assert set(claims[0]) >= {"id", "section", "statement", "verdict", "effect", "interval", "n", "runs", "reason"}


def test_every_trial_is_one_finished_run(folder: Path, trials: list[Trial]) -> None:
    execution = Execution(storage=folder / "store", data_root=folder)
    runs = reader.read(execution, trials)
    assert {run.trial for run in runs} == set(trials)
    titles = {run.trial.title for run in runs}
    assert {run.trial.title for run in runs if run.outcome == "diverged"} == titles & {"plain-1202"}
    assert {run.outcome for run in runs} <= {"finished", "diverged"}
    mlflow = client.connect(execution)
    statuses = {mlflow.get_run(run.run_id).info.status for run in runs}
    assert statuses == {"FINISHED"}


def test_the_same_command_again_trains_nothing(folder: Path, experiments: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "store" / "trials").rglob("*")}
    assert make("degradation-study", folder, experiments, NO_LECTURES).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "store" / "trials").rglob("*")} == before


def test_deleted_results_come_back_from_the_logged_runs(folder: Path, experiments: str) -> None:
    results = folder / "results" / "smoke"
    before = {path.name: path.read_bytes() for path in results.glob("figures/*.svg")}
    frame = pd.read_parquet(results / "runs.parquet")
    shutil.rmtree(folder / "results")
    assert make("figures", folder, experiments, NO_LECTURES).returncode == 0
    assert {path.name: path.read_bytes() for path in results.glob("figures/*.svg")} == before
    pd.testing.assert_frame_equal(pd.read_parquet(results / "runs.parquet"), frame)


def test_status_shows_what_more_seeds_would_add(folder: Path, experiments: str) -> None:
    done = make("status", folder, experiments, "SEEDS=3")
    assert done.returncode == 0 and "missing" in done.stdout


def test_make_alone_prints_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert all(target in done.stdout for target in ("degradation-study", "test", "ui", "figures", "plan", "status"))
