"""Runs are found by trial, written once however often they are written, and sealed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from study import ledger, tracking
from study.spec import Execution, InputError, Trial
from study.training import Record
from study.worker import run_trial

Small = Callable[..., Trial]
TAGS = {"profile": "test", "experiments": "none"}


def record(iteration: int, test: float | None = None) -> Record:
    values = dict.fromkeys(ledger.COLUMNS.names, None) | {"test_error_pct": test}
    return values | {"iteration": iteration, "learning_rate": 0.1, "train_loss": 1 / iteration, "train_error_pct": 50.0}


def history(store: Execution, run_id: str, key: str = "train_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracking.client(store).get_metric_history(run_id, key)]


def said(outcome: str = "running", **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "reason": "", "started": 1_700_000_000_000, "tags": dict(TAGS)} | more


def shown(store: Execution, trial: Trial) -> Any:
    """The trial's run in MLflow, after showing what its ledger holds."""
    tracking.publish(store, [trial])
    (run,) = tracking.read(store, [trial], records=False)
    return tracking.client(store).get_run(run.run_id)


def seal(store: Execution, trial: Trial, records: list[Record], outcome: str = "finished", **tags: str) -> None:
    ledger.seal(store.trial_folder(trial.id), outcome, records, said(tags=TAGS | tags))


def test_a_finished_run_reads_back_exactly(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5)]
    seal(store, trial, records, seconds="1.5")
    there = shown(store, trial)
    (found,) = tracking.read(store, [trial, small(seed=1)])
    assert found.records is not None and found.records.to_pylist() == records
    assert (found.trial, found.outcome, found.tags["seconds"]) == (trial, "finished", "1.5")
    assert there.info.status == "FINISHED" and there.info.run_name == trial.id
    assert there.data.params["model.depth"] == "8" and there.data.params["seed"] == "0"
    assert {"study", "condition", "family", "depth", "shortcut", "seed", "data", "profile"} <= set(there.data.tags)
    assert history(store, found.run_id, "test_error_pct") == [(8, 12.5)]


def test_showing_the_ledger_again_and_again_doubles_nothing(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5), record(12)]
    folder = store.trial_folder(trial.id)
    ledger.say(folder, said())
    ledger.write_records(folder, records[:2])
    run_id = shown(store, trial).info.run_id
    assert shown(store, trial).info.status == "RUNNING"
    assert history(store, run_id) == [(4, 0.25), (8, 0.125)]
    seal(store, trial, records)
    for _ in range(2):  # each by a mirror of its own, as after a kill
        assert shown(store, trial).info.run_id == run_id
    assert history(store, run_id) == [(4, 0.25), (8, 0.125), (12, 1 / 12)]
    assert len(tracking.read(store, [trial])) == 1


def test_a_long_curve_is_thinned_for_browsing_but_whole_in_its_artifact(store: Execution, small: Small) -> None:
    trial = small(iterations=4_000, drops=(), record_every=4, evaluate_every=400)
    seal(store, trial, [record(i, 5.0 if i % 400 == 0 else None) for i in range(4, 4_001, 4)])
    run_id = shown(store, trial).info.run_id
    points = history(store, run_id)
    assert len(points) <= tracking.POINTS + 10 and points[-1][0] == 4_000
    assert len(history(store, run_id, "test_error_pct")) == 10
    (found,) = tracking.read(store, [trial])
    assert found.records is not None and found.records.num_rows == 1_000


def test_a_diverged_run_is_finished_and_its_missing_numbers_are_not_points(store: Execution, small: Small) -> None:
    trial = small()
    seal(store, trial, [record(2) | {"train_loss": None}], "diverged", diverged_at="2")
    there = shown(store, trial)
    assert there.data.tags["outcome"] == "diverged" and there.info.status == "FINISHED"
    assert history(store, there.info.run_id) == []


@pytest.mark.parametrize(("outcome", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_stopped_run_is_not_left_running_and_goes_on_in_the_same_run(
    store: Execution, small: Small, outcome: str, status: str
) -> None:
    folder = store.trial_folder(small().id)
    ledger.say(folder, said(outcome, reason="because"))
    there = shown(store, small())
    assert (there.info.status, there.data.tags["reason"]) == (status, "because")
    (found,) = tracking.read(store, [small()])
    assert found.outcome == outcome and found.records is None
    ledger.say(folder, said())
    again = shown(store, small())
    assert (again.info.run_id, again.info.status, again.data.tags["outcome"]) == (found.run_id, "RUNNING", "running")


def test_a_run_is_sealed_before_it_counts(store: Execution, small: Small) -> None:
    """A kill between any two writes leaves a run without a result, never one whose curve is not there."""
    seal(store, small(), [record(4), record(8)])
    mirror = tracking.Mirror(store, [small()])
    calls: list[str] = []

    class Killed(BaseException):
        pass

    def dying(name: str, real: Callable[..., Any], deadline: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == deadline:
                raise Killed
            return real(*arguments, **options)

        return call

    writes = ("create_run", "log_batch", "log_artifacts", "set_terminated")
    for deadline in range(1, 20):
        calls.clear()
        mirror = tracking.Mirror(store, [small()])
        for name in writes:
            setattr(mirror.mlflow, name, dying(name, getattr(mirror.mlflow, name), deadline))
        try:
            mirror.update()
            break
        except Killed:
            for run in tracking.read(store, [small()]):  # raises for a result whose curve is not what was sealed
                assert run.outcome == "running" or run.records is not None
    else:
        raise AssertionError("it never came to its end")
    assert deadline > 4
    (found,) = tracking.read(store, [small()])
    assert found.records is not None and found.records.num_rows == 2
    assert tracking.client(store).get_run(found.run_id).info.status == "FINISHED"


def test_a_curve_whose_iterations_fall_is_never_sealed(store: Execution, small: Small) -> None:
    with pytest.raises(InputError, match="iterations that do not rise"):
        seal(store, small(), [record(8), record(4)])
    assert ledger.account(store.trial_folder(small().id)) == {}


def test_a_moved_store_reads_as_before(store: Execution, small: Small) -> None:
    seal(store, small(), [record(4), record(8)])
    tracking.publish(store, [small()])
    moved = replace(store, storage=store.storage.rename(store.storage.parent / "elsewhere"))
    (found,) = tracking.read(moved, [small()])
    assert found.records is not None and found.records.num_rows == 2


def test_a_lost_database_is_made_again_from_the_ledger(store: Execution, small: Small) -> None:
    seal(store, small(), [record(4), record(8)])
    tracking.publish(store, [small()])
    for path in store.storage.glob("mlflow.db*"):
        path.rename(path.with_suffix(".lost"))
    again = replace(store, storage=store.storage.rename(store.storage.parent / "again"))  # MLflow caches by path
    tracking.create_store(again)
    assert tracking.read(again, [small()]) == []
    tracking.publish(again, [small()])
    (found,) = tracking.read(again, [small()])
    assert found.records is not None and found.records.num_rows == 2


def test_a_curve_altered_after_sealing_is_refused(store: Execution, small: Small) -> None:
    seal(store, small(), [record(4), record(8)])
    tracking.publish(store, [small()])
    (path,) = (store.storage / "artifacts").rglob("records.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(InputError, match="altered after it was sealed"):
        tracking.read(store, [small()])
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        tracking.read(store, [small()])


def test_another_stores_result_is_kept_and_the_difference_is_named(
    store: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial, first, second = small(), [record(4, 1.0)], [record(4, 2.0)]
    seal(store, trial, first)
    before = shown(store, trial)
    other = replace(store, storage=tmp_path / "other", tracking_uri=tracking.uri_of(store))
    seal(other, trial, second)
    after = shown(other, trial)
    assert (after.info.run_id, after.data.tags) == (before.info.run_id, before.data.tags)
    (found,) = tracking.read(store, [trial])
    assert found.records is not None and found.records.to_pylist() == first
    assert f"another result of trial {trial.id}" in caplog.text


def test_two_runs_of_one_trial_are_refused_not_averaged(store: Execution, small: Small) -> None:
    seal(store, small(), [record(4), record(8)])
    there, client = shown(store, small()), tracking.client(store)
    tags = {"study": tracking.STUDY, "trial_id": small().id, "outcome": "running", "spec": there.data.tags["spec"]}
    client.create_run(there.info.experiment_id, tags=tags)
    with pytest.raises(InputError, match="has two runs"):
        tracking.read(store, [small()])


def test_what_an_outage_kept_back_follows(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = tracking.Mirror(store, [small()])
    reachable, mirror.mlflow = mirror.mlflow, tracking.client(replace(store, tracking_uri="http://127.0.0.1:9"))
    seal(store, small(), [record(4), record(8)])
    assert not mirror.update() and mirror.behind == {small().id}
    assert not mirror.update()
    assert caplog.text.count("out of reach") == 1  # once an outage, not once a look
    mirror.mlflow = reachable
    assert mirror.update() and "tracking is back" in caplog.text
    (found,) = tracking.read(store, [small()])
    assert found.records is not None and found.records.num_rows == 2


def test_an_outage_that_outlasts_the_launch_is_named(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = tracking.Mirror(store, [small()])
    mirror.mlflow = tracking.client(replace(store, tracking_uri="http://127.0.0.1:9"))
    with tracking.mirroring(mirror, patience=0.0):
        seal(store, small(), [record(4), record(8)])
    assert "MLflow lacks 1 trials" in caplog.text and "the same command shows them" in caplog.text


def test_a_server_that_is_not_there_is_refused(store: Execution) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="127.0.0.1:9 is out of reach"):
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracking.create_store(replace(store, tracking_uri="http://127.0.0.1:9"))


def test_a_worker_seals_the_numbers_that_training_gave(store: Execution, small: Small) -> None:
    trial = small()
    assert run_trial(trial, store, TAGS) == "finished"
    tracking.publish(store, [trial])
    (found,) = tracking.read(store, [trial])
    assert found.records is not None and found.records.num_rows == 6
    assert found.tags["device"] == "cpu" and float(found.tags["seconds"]) > 0 and len(found.tags["data_digest"]) == 64
    assert {"git_commit", "torch", "machine"} <= set(found.tags)
    folder = store.trial_folder(trial.id)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000000024.checkpoint"]


def test_a_worker_records_divergence_and_failure(store: Execution, small: Small) -> None:
    diverging = small("plain", learning_rate=1e12)
    assert run_trial(diverging, store, TAGS) == "diverged"
    missing = replace(small(), data=replace(small().data, name="cifar10", channels=3, size=32))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="cifar10"):
        patch.setenv("STUDY_OFFLINE", "1")
        run_trial(missing, store, TAGS)
    tracking.publish(store, [diverging, missing])
    outcomes = {run.trial.data.name: run.outcome for run in tracking.read(store, [diverging, missing])}
    assert outcomes == {"digits": "diverged", "cifar10": "failed"}


def test_a_store_of_another_version_or_another_folder_is_refused(execution: Execution, tmp_path: Path) -> None:
    tracking.create_store(execution)
    (execution.storage / "store.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="has version 99, this code reads version 1"):
        tracking.create_store(execution)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(InputError, match="is not a store"):
        tracking.create_store(replace(execution, storage=tmp_path / "thesis"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a store"):
        tracking.create_store(replace(execution, storage=tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        tracking.create_store(replace(execution, storage=Path("/proc/store")))
