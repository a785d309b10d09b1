"""Runs are found by trial, written once however often they are written, and sealed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from study import tracking
from study.spec import Execution, InputError, Trial
from study.training import Record
from study.worker import run_trial

Small = Callable[..., Trial]
TAGS = {"profile": "test", "experiments": "none"}


def record(iteration: int, test: float | None = None) -> Record:
    values = dict.fromkeys(tracking.COLUMNS.names, None) | {"test_error_pct": test}
    return values | {"iteration": iteration, "learning_rate": 0.1, "train_loss": 1 / iteration, "train_error_pct": 50.0}


def history(store: Execution, run_id: str, key: str = "train_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracking.client(store).get_metric_history(run_id, key)]


def test_a_finished_run_reads_back_exactly(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5)]
    run = tracking.OpenRun(store, trial, TAGS)
    run.finish("finished", records, {"seconds": "1.5"})
    (found,) = tracking.read(store, [trial, small(seed=1)])
    assert found.records is not None and found.records.to_pylist() == records
    assert (found.trial, found.outcome, found.tags["seconds"]) == (trial, "finished", "1.5")
    there = tracking.client(store).get_run(run.run_id)
    assert there.info.status == "FINISHED" and there.info.run_name == trial.id
    assert there.data.params["model.depth"] == "8" and there.data.params["seed"] == "0"
    assert {"study", "condition", "family", "depth", "shortcut", "seed", "data", "git_commit", "torch"} <= set(
        there.data.tags
    )
    assert history(store, run.run_id, "test_error_pct") == [(8, 12.5)]


def test_opening_logging_and_finishing_twice_doubles_nothing(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5), record(12)]
    first = tracking.OpenRun(store, trial, TAGS)
    first.log(records[:2])
    second = tracking.OpenRun(store, trial, TAGS)  # as after a kill
    assert second.run_id == first.run_id and second.logged == 8
    second.log(records)
    second.log(records)
    second.finish("finished", records, {})
    second.finish("finished", records, {})
    assert history(store, first.run_id) == [(4, 0.25), (8, 0.125), (12, 1 / 12)]
    assert len(tracking.read(store, [trial])) == 1


def test_a_long_curve_is_thinned_for_browsing_but_whole_in_its_artifact(store: Execution, small: Small) -> None:
    trial = small(iterations=4_000, drops=(), record_every=4, evaluate_every=400)
    records = [record(i, 5.0 if i % 400 == 0 else None) for i in range(4, 4_001, 4)]
    run = tracking.OpenRun(store, trial, TAGS)
    run.finish("finished", records, {})
    points = history(store, run.run_id)
    assert len(points) <= tracking.POINTS + 10 and points[-1][0] == 4_000
    assert len(history(store, run.run_id, "test_error_pct")) == 10
    (found,) = tracking.read(store, [trial])
    assert found.records is not None and found.records.num_rows == 1_000


def test_a_diverged_run_is_finished_and_its_missing_numbers_are_not_points(store: Execution, small: Small) -> None:
    trial = small()
    run = tracking.OpenRun(store, trial, TAGS)
    run.finish("diverged", [record(2) | {"train_loss": None}], {"diverged_at": "2"})
    (found,) = tracking.read(store, [trial])
    assert found.outcome == "diverged" and tracking.client(store).get_run(run.run_id).info.status == "FINISHED"
    assert history(store, run.run_id) == []


@pytest.mark.parametrize(("outcome", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_stopped_run_is_not_left_running(store: Execution, small: Small, outcome: str, status: str) -> None:
    run = tracking.OpenRun(store, small(), TAGS)
    run.stop(outcome, "because")
    assert tracking.client(store).get_run(run.run_id).info.status == status
    (found,) = tracking.read(store, [small()])
    assert found.outcome == outcome and found.records is None
    assert tracking.OpenRun(store, small(), TAGS).run_id == run.run_id  # it goes on in the same run


def test_runs_of_a_killed_launcher_are_closed(store: Execution, small: Small) -> None:
    run = tracking.OpenRun(store, small(), TAGS)
    assert tracking.close_stale(store, "test") == [small().id]
    assert tracking.client(store).get_run(run.run_id).info.status == "KILLED"
    assert tracking.close_stale(store, "test") == []


def test_running_runs_of_another_store_on_the_same_server_are_left_alone(store: Execution, small: Small) -> None:
    uri = tracking.uri_of(store)
    other = replace(store, storage=store.storage.parent / "other", tracking_uri=uri)
    run = tracking.OpenRun(other, small(), TAGS)
    assert tracking.close_stale(store, "test") == []
    there = tracking.client(store).get_run(run.run_id)
    assert there.info.status == "RUNNING"
    assert there.info.artifact_uri.startswith((store.storage.parent / "other" / "artifacts").as_uri())


def test_a_curve_altered_after_sealing_is_refused(store: Execution, small: Small) -> None:
    run = tracking.OpenRun(store, small(), TAGS)
    run.finish("finished", [record(4), record(8)], {})
    (path,) = store.storage.rglob("records.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(InputError, match="altered after it was sealed"):
        tracking.read(store, [small()])
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        tracking.read(store, [small()])


def test_two_runs_of_one_trial_are_refused_not_averaged(store: Execution, small: Small) -> None:
    run = tracking.OpenRun(store, small(), TAGS)
    client = tracking.client(store)
    there = client.get_run(run.run_id)
    tags = {"study": tracking.STUDY, "trial_id": small().id, "outcome": "running", "spec": there.data.tags["spec"]}
    client.create_run(there.info.experiment_id, tags=tags)
    with pytest.raises(InputError, match="has two runs"):
        tracking.read(store, [small()])


def test_training_goes_on_when_the_tracker_is_out_of_reach(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracking.OpenRun(store, small(), TAGS)
    reachable, run.mlflow = run.mlflow, tracking.client(replace(store, tracking_uri="http://127.0.0.1:9"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        run.log([record(4)])
    assert "out of reach" in caplog.text and run.logged == 0
    run.mlflow = reachable
    run.log([record(4), record(8)])
    assert [step for step, _ in history(store, run.run_id)] == [4, 8]


def test_a_worker_seals_the_numbers_that_training_gave(store: Execution, small: Small) -> None:
    trial = small()
    assert run_trial(trial, store, TAGS) == "finished"
    (found,) = tracking.read(store, [trial])
    assert found.records is not None and found.records.num_rows == 6
    assert found.tags["device"] == "cpu" and float(found.tags["seconds"]) > 0 and len(found.tags["data_digest"]) == 64
    folder = store.trial_folder(trial.id)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000000024.checkpoint"]


def test_a_worker_records_divergence_and_failure(store: Execution, small: Small) -> None:
    assert run_trial(small("plain", learning_rate=1e12), store, TAGS) == "diverged"
    missing = replace(small(), data=replace(small().data, name="cifar10", channels=3, size=32))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="cifar10"):
        patch.setenv("STUDY_OFFLINE", "1")
        run_trial(missing, store, TAGS)
    outcomes = {
        run.trial.data.name: run.outcome for run in tracking.read(store, [small("plain", learning_rate=1e12), missing])
    }
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
