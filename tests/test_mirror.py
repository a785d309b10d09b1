"""Runs are found by trial, written once however often they are written, and sealed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dying import Killed
from mlflow.entities import RunStatus
from stored import Small, account, evaluation, history, record, seal, shown

from commands.accounts import as_account
from study.execution import Execution
from study.store.account import Outcome, write_account
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import POINTS, Mirror, mirroring, publish
from study.store.mlflow.tags import STATUS
from study.store.records import EVALUATIONS, add_evaluations, keep_records, read_evaluations


def test_a_finished_run_reads_back_exactly(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5)]
    seal(store, trial, records, seconds="1.5")
    there = shown(store, trial)
    (found,) = reader.read(store, [trial, small(seed=1)])
    assert found.records is not None and found.records.to_pylist() == records
    assert (found.trial, found.outcome, found.tags["seconds"]) == (trial, "finished", "1.5")
    assert there.info.status == "FINISHED" and there.data.tags["trial_id"] == trial.id
    assert there.data.params["model.depth"] == "8" and there.data.params["seed"] == "0"
    assert {"study", "condition", "family", "depth", "shortcut", "seed", "data", "profile"} <= set(there.data.tags)
    assert history(store, found.run_id, "test_error_pct") == [(8, 12.5)]


def test_showing_the_ledger_again_and_again_doubles_nothing(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5), record(12)]
    folder = store.trial_folder(trial.id)
    write_account(folder, account())
    keep_records(folder, records[:2])
    run_id = shown(store, trial).info.run_id
    assert shown(store, trial).info.status == "RUNNING"
    assert history(store, run_id) == [(4, 0.25), (8, 0.125)]
    seal(store, trial, records)
    for _ in range(2):  # each by a mirror of its own, as after a kill
        assert shown(store, trial).info.run_id == run_id
    assert history(store, run_id) == [(4, 0.25), (8, 0.125), (12, 1 / 12)]
    assert len(reader.read(store, [trial])) == 1


def test_a_long_curve_is_thinned_for_browsing_but_whole_in_its_artifact(store: Execution, small: Small) -> None:
    trial = small(iterations=4_000, drops=(), record_every=4, evaluate_every=400)
    seal(store, trial, [record(i, 5.0 if i % 400 == 0 else None) for i in range(4, 4_001, 4)])
    run_id = shown(store, trial).info.run_id
    points = history(store, run_id)
    assert len(points) <= POINTS + 10 and points[-1][0] == 4_000
    assert len(history(store, run_id, "test_error_pct")) == 10
    (found,) = reader.read(store, [trial])
    assert found.records is not None and found.records.num_rows == 1_000


def test_evaluations_come_after_the_result_grow_and_are_replaced(store: Execution, small: Small) -> None:
    trial = small()
    folder = store.trial_folder(trial.id)
    seal(store, trial, [record(4), record(8)])
    publish(store, [trial])
    (before,) = reader.read(store, [trial])
    assert before.evaluations is None
    for rows, expected in (
        ([evaluation("centre crop", 30.0)], [("centre crop", 30.0)]),
        ([evaluation("10-crop", 28.0)], [("10-crop", 28.0), ("centre crop", 30.0)]),
        ([evaluation("10-crop", 27.5)], [("10-crop", 27.5), ("centre crop", 30.0)]),
    ):
        add_evaluations(folder, rows)
        publish(store, [trial])
        (found,) = reader.read(store, [trial])
        assert found.evaluations is not None and found.evaluations.schema.equals(EVALUATIONS)
        assert [(row["protocol"], row["value"]) for row in found.evaluations.to_pylist()] == expected
        assert (found.run_id, found.tags, found.records) == (before.run_id, before.tags, before.records)
    ensemble = evaluation("10-crop", 25.0, nets=f"{trial.id},{small(seed=1).id}")
    add_evaluations(folder, [ensemble])
    assert len(read_evaluations(folder) or []) == 3  # of an ensemble is another evaluation


def test_evaluations_are_shown_whole_or_not_at_all_and_altered_ones_are_refused(
    store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the file and the tag that names it: the run has none, until the next launch shows them."""
    trial = small()
    folder = store.trial_folder(trial.id)
    seal(store, trial, [record(4), record(8)])
    add_evaluations(folder, [evaluation("10-crop", 28.0)])
    publish(store, [trial])
    add_evaluations(folder, [evaluation("10-crop", 27.0)])
    mirror = Mirror(store, [trial])
    attach = client.attach

    def killed(*arguments: Any) -> None:
        attach(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(client, "attach", killed)
        mirror.update()
    (found,) = reader.read(store, [trial])
    assert found.evaluations is None
    publish(store, [trial])
    (found,) = reader.read(store, [trial])
    assert found.evaluations is not None and found.evaluations["value"].to_pylist() == [27.0]
    (path,) = (store.storage / "artifacts").rglob("evaluations.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    (found,) = reader.read(store, [trial])
    assert found.outcome == Outcome.UNUSABLE and found.evaluations is None
    assert f"the evaluations of run {found.run_id} " in found.tags["reason"]


def test_a_diverged_run_is_finished_and_its_missing_numbers_are_not_points(store: Execution, small: Small) -> None:
    trial = small()
    seal(store, small(seed=1), [], Outcome.DIVERGED, diverged_at="1")
    assert shown(store, small(seed=1)).data.tags["outcome"] == "diverged"
    seal(store, trial, [record(2) | {"train_loss": None}], Outcome.DIVERGED, diverged_at="2")
    there = shown(store, trial)
    assert there.data.tags["outcome"] == "diverged" and there.info.status == "FINISHED"
    assert "diverged at iteration 2" in there.data.tags["mlflow.note.content"]
    assert not any(name.startswith("final") for name in there.data.metrics)  # a net that diverged has no error
    assert history(store, there.info.run_id) == []


@pytest.mark.parametrize(("outcome", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_stopped_run_is_not_left_running_and_goes_on_in_the_same_run(
    store: Execution, small: Small, outcome: str, status: str
) -> None:
    folder = store.trial_folder(small().id)
    write_account(folder, replace(account(Outcome(outcome), reason="because"), cause="OSError"))
    there = shown(store, small())
    assert there.data.tags["cause"] == "OSError"
    assert (there.info.status, there.data.tags["reason"]) == (status, "because")
    (found,) = reader.read(store, [small()])
    assert found.outcome == outcome and found.records is None
    assert as_account(found).cause == "OSError"
    write_account(folder, account())
    again = shown(store, small())
    assert (again.info.run_id, again.info.status, again.data.tags["outcome"]) == (found.run_id, "RUNNING", "running")
    assert again.data.tags["cause"] == ""


def test_a_run_is_sealed_before_it_counts(store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between any two writes leaves a run without a result, never one whose curve is not there."""
    seal(store, small(), [record(4), record(8)])
    mirror = Mirror(store, [small()])
    calls: list[str] = []

    def dying(name: str, real: Callable[..., Any], deadline: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == deadline:
                raise Killed
            return real(*arguments, **options)

        return call

    writes, attach = ("create_run", "log_batch", "set_terminated"), client.attach
    for deadline in range(1, 20):
        calls.clear()
        mirror = Mirror(store, [small()])
        for name in writes:
            setattr(mirror.mlflow, name, dying(name, getattr(mirror.mlflow, name), deadline))
        monkeypatch.setattr(client, "attach", dying("attach", attach, deadline))
        try:
            mirror.update()
            break
        except Killed:
            for run in reader.read(store, [small()]):
                assert run.outcome == "running" or run.records is not None  # an unusable one has none
    else:
        raise AssertionError("it never came to its end")
    assert deadline > 4
    (found,) = reader.read(store, [small()])
    assert found.records is not None and found.records.num_rows == 2
    assert client.connect(store).get_run(found.run_id).info.status == "FINISHED"


def test_another_stores_result_is_kept_and_the_difference_is_named(
    store: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial, first, second = small(), [record(4, 1.0)], [record(4, 2.0)]
    seal(store, trial, first)
    before = shown(store, trial)
    other = replace(store, storage=tmp_path / "other", tracking_uri=client.tracking_address(store))
    seal(other, trial, second)
    after = shown(other, trial)
    assert (after.info.run_id, after.data.tags) == (before.info.run_id, before.data.tags)
    (found,) = reader.read(store, [trial])
    assert found.records is not None and found.records.to_pylist() == first
    assert f"another result of trial {trial.id}" in caplog.text


def test_what_an_outage_kept_back_follows(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = Mirror(store, [small()])
    reachable, mirror.mlflow = mirror.mlflow, client.connect(replace(store, tracking_uri="http://127.0.0.1:9"))
    seal(store, small(), [record(4), record(8)])
    assert not mirror.update() and mirror.behind == {small().id}
    assert not mirror.update()
    assert caplog.text.count("out of reach") == 1  # once an outage, not once a look
    mirror.mlflow = reachable
    assert mirror.update() and "tracking is back" in caplog.text
    (found,) = reader.read(store, [small()])
    assert found.records is not None and found.records.num_rows == 2


def test_nothing_is_kept_of_a_result_that_was_shown(store: Execution, small: Small) -> None:
    """Of thousands of trials, a run in memory, and three files to look at every two seconds, would be too many."""
    done, waits = small(), small(seed=1)
    mirror = Mirror(store, [done, waits])
    seal(store, done, [record(4), record(8)])
    write_account(store.trial_folder(waits.id), account())
    assert mirror.update() and mirror.results() == {done.id}
    for of_trials in (mirror.waiting, mirror.runs, mirror.shown, mirror.logged):
        assert set(of_trials) == {waits.id}
    again = Mirror(store, [done, waits])
    assert again.results() == {done.id} and again.update() and again.results() == {done.id}
    assert set(again.runs) == {waits.id}


def test_an_outage_that_outlasts_the_launch_is_named(
    store: Execution, small: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = Mirror(store, [small()])
    mirror.mlflow = client.connect(replace(store, tracking_uri="http://127.0.0.1:9"))
    with mirroring(mirror, patience=0.0):
        seal(store, small(), [record(4), record(8)])
    assert "MLflow lacks 1 trials" in caplog.text and "the same command shows them" in caplog.text


def test_every_outcome_has_a_status_that_mlflow_knows() -> None:
    assert set(STATUS) == {"running", "finished", "diverged", "failed", "interrupted"}
    for status in STATUS.values():
        RunStatus.from_string(status)  # raises for any other
