"""Results that are there are not replaced by fewer: a rendering from another store is refused before it writes."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import planted
from stored import account

import commands.render
from analysis import report
from commands.options import Choice, select
from study.execution import Execution
from study.store.account import Account, Outcome, write_account
from study.store.mlflow import client, mirror
from study.store.records import Run, seal_result

Command = Callable[..., Any]
TWO = "plain-vs-residual shortcut-options"


@pytest.fixture(autouse=True)
def manifest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a report only the manifest, which takes no time."""

    def write(
        frames: Any, profile: Any, folder: Path, facts: Any, others: Any, lectures: Any, command: Any
    ) -> list[Any]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(report._manifest(frames, profile, folder, facts, [], command))
        return []

    monkeypatch.setattr(report, "write", write)


def fill(store: Execution, choice: Choice) -> list[Run]:
    """Results that nobody trained, of every trial that is chosen."""
    selected = select(choice, store)
    runs = [run for run in planted(selected.profile) if run.trial in selected.serves]
    for run in runs:
        account = Account(started=1, tags=run.tags | {"profile": "smoke"})
        seal_result(store.trial_folder(run.trial.id), run.outcome, run.records, account)
    mirror.publish(store, [run.trial for run in runs])
    return runs


@pytest.fixture
def good(store: Execution, tmp_path: Path, command: Command) -> Callable[..., Any]:
    """Renders like the command, after a finished report of two experiments."""
    fill(store, Choice(profile="smoke", experiments=TWO))

    def figures(*words: object, storage: Path = store.storage) -> Any:
        given = ("--profile", "smoke", "--experiments", TWO, "--storage", storage, "--results", tmp_path / "results")
        return command("figures", *given, *words, entry="analysis")

    assert figures().code == 0
    return figures


def test_results_are_not_replaced_by_those_of_a_store_that_lacks_them(
    good: Callable[..., Any], empty_store: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "results" / "smoke" / "manifest.json"
    before = manifest.read_bytes()
    server = client.address(empty_store / "mlflow.db")
    for words in (
        {"storage": tmp_path / "mistyped"},
        {"storage": empty_store},
    ):
        done = good(**words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and str(words["storage"]) in done.err
        assert "results that store" in done.err and "does not have" in done.err
    done = good("--tracking-uri", server)
    assert done.code == 2 and server in done.err
    assert manifest.read_bytes() == before
    assert not (tmp_path / "mistyped").exists()
    assert good("--results", tmp_path / "others", storage=empty_store).code == 0  # as the line says


def test_a_report_of_everything_after_a_run_of_a_part_is_rendered(good: Callable[..., Any]) -> None:
    done = good("--experiments", "")
    assert done.code == 0 and "not selected" not in done.out


def test_a_report_of_fewer_experiments_says_what_shows_the_others_again(
    good: Callable[..., Any], tmp_path: Path
) -> None:
    done = good("--experiments", "shortcut-options")
    assert done.code == 0 and "results that" in done.out and "are of trials that are not selected now" in done.out
    line = select(
        Choice(profile="smoke", experiments=TWO), Execution(storage=tmp_path / "store", data_root=Path("data"))
    )
    assert f"{line.command(tmp_path / 'results').make()} shows them again" in done.out


def test_a_report_on_other_data_without_a_result_is_refused(good: Callable[..., Any]) -> None:
    done = good("--held-out", "30")
    assert done.code == 2 and "stays as it is" in done.err


def test_a_deleted_experiment_is_no_empty_report_nor_bundle(
    good: Callable[..., Any], command: Command, store: Execution, tmp_path: Path
) -> None:
    from study.store.mlflow import reader

    (experiment,) = reader.profiles(store).values()
    client.connect(store).delete_experiment(experiment)
    done = good("--results", tmp_path / "new")
    assert done.code == 2 and "has been deleted" in done.err and not (tmp_path / "new").exists()
    given = ("--profile", "smoke", "--experiments", TWO, "--storage", store.storage)
    done = command("export", *given, tmp_path / "study.zip", entry="experiments")
    assert done.code == 2 and "has been deleted" in done.err and not (tmp_path / "study.zip").exists()


def test_results_that_were_copied_into_a_store_are_named_until_a_launch_shows_them(
    good: Callable[..., Any], store: Execution, tmp_path: Path
) -> None:
    selected = select(Choice(profile="smoke", experiments=TWO), store)
    other = tmp_path / "other"
    client.create_store(replace(store, storage=other))
    shutil.copytree(store.storage / "trials", other / "trials")
    done = good("--results", tmp_path / "new", storage=other)
    assert f"{len(selected.trials)} results are in {other} and not in its MLflow" in done.out
    assert re.search(rf"make degradation-study .*STORE={other} .*shows them, and trains none", done.out)


def test_a_trial_that_failed_in_a_study_is_rendered_and_a_failure_not_bad_input(
    good: Callable[..., Any], command: Command, store: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result was deleted, say, and another attempt ran out of memory: an earlier report still has it."""
    mlflow = client.connect(store)
    selected = select(Choice(profile="smoke", experiments=TWO), store)
    lost = next(iter(selected.trials))

    def fails(*_: object) -> int:
        write_account(store.trial_folder(lost.id), account(Outcome.FAILED, reason="out of memory"))
        mirror.publish(store, [lost])
        return 1

    (run,) = client.search(mlflow, [lost.id])
    mlflow.delete_run(run.info.run_id)
    shutil.rmtree(store.trial_folder(lost.id))
    assert good().code == 2  # what trains nothing keeps the report
    monkeypatch.setattr(commands.render, "run_missing", fails)
    given = ("--profile", "smoke", "--experiments", TWO, "--storage", store.storage, "--results", tmp_path / "results")
    done = command("study", *given, entry="analysis")
    assert done.code == 1, done.err
    manifest = json.loads((tmp_path / "results" / "smoke" / "manifest.json").read_text())
    assert lost.id not in manifest["results"] and len(manifest["results"]) == len(selected.trials) - 1


def test_a_damaged_manifest_holds_up_nobody(good: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "results" / "smoke" / "manifest.json").write_text("{")
    assert good().code == 0
