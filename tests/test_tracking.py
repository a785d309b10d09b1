"""Runs are found by trial, written once however often they are written, and sealed."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.profiles import DIGITS
from experiments.recipes import minutes
from study.execution import Execution
from study.run.worker import run_trial
from study.spec import InputError, Model, Trial
from study.store.account import Account, Outcome, read_account, write_account
from study.store.mlflow import tracking
from study.store.records import (
    COLUMNS,
    EVALUATIONS,
    add_evaluations,
    read_evaluations,
    seal_result,
    table_digest,
    write_records,
)
from study.training.loop import Record

Small = Callable[..., Trial]
TAGS = {"profile": "test", "experiments": "none"}


def record(iteration: int, test: float | None = None) -> Record:
    values = dict.fromkeys(COLUMNS.names, None) | {"test_error_pct": test}
    return values | {"iteration": iteration, "learning_rate": 0.1, "train_loss": 1 / iteration, "train_error_pct": 50.0}


def history(store: Execution, run_id: str, key: str = "train_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracking.client(store).get_metric_history(run_id, key)]


def said(outcome: str = "running", **more: Any) -> Account:
    return Account(**{"outcome": Outcome(outcome), "started": 1_700_000_000_000, "tags": dict(TAGS)} | more)


def shown(store: Execution, trial: Trial) -> Any:
    """The trial's run in MLflow, after showing what its folder holds."""
    tracking.publish(store, [trial])
    (run,) = tracking.read(store, [trial], records=False)
    return tracking.client(store).get_run(run.run_id)


def seal(store: Execution, trial: Trial, records: list[Record], outcome: str = "finished", **tags: str) -> None:
    seal_result(store.trial_folder(trial.id), Outcome(outcome), records, said(tags=TAGS | tags))


def test_a_finished_run_reads_back_exactly(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5)]
    seal(store, trial, records, seconds="1.5")
    there = shown(store, trial)
    (found,) = tracking.read(store, [trial, small(seed=1)])
    assert found.records is not None and found.records.to_pylist() == records
    assert (found.trial, found.outcome, found.tags["seconds"]) == (trial, "finished", "1.5")
    assert there.info.status == "FINISHED" and there.data.tags["trial_id"] == trial.id
    assert there.data.params["model.depth"] == "8" and there.data.params["seed"] == "0"
    assert {"study", "condition", "family", "depth", "shortcut", "seed", "data", "profile"} <= set(there.data.tags)
    assert history(store, found.run_id, "test_error_pct") == [(8, 12.5)]


def test_a_run_has_a_name_columns_and_a_description_for_people(store: Execution, small: Small) -> None:
    trial = small("plain", seed=2)
    records = [record(i) | {"train_error_pct": float(i)} for i in range(4, 21, 4)]
    records += [record(22, 50.25) | {"train_error_pct": 30.0}, record(24, 12.3456) | {"train_error_pct": 31.0}]
    told = {"experiments": "plain-vs-residual, controls", "deviations": "width: 4 (paper: 16)", "git_commit": "0" * 40}
    seal(store, trial, records, seconds="61.256", data_digest="abc", **told)
    there = shown(store, trial)
    assert there.info.run_name == "plain-8 · seed 2 · digits · plain-vs-residual"
    assert there.info.end_time - there.info.start_time == 61_256
    finals = {name: there.data.metrics[name] for name in ("final_train_error_pct", "final_test_error_pct", "seconds")}
    assert finals == {"final_train_error_pct": 30.5, "final_test_error_pct": 12.35, "seconds": 61.26}
    assert history(store, there.info.run_id, "final_test_error_pct") == [(0, 12.35)]  # of one step: a bar
    note = there.data.tags["mlflow.note.content"]
    for text in ("plain-8", "30.50 %", "12.35 %", "plain-vs-residual, controls", "width: 4", "000000000000", trial.id):
        assert text in note
    assert 'make degradation-study PROFILE=test EXPERIMENTS="plain-vs-residual controls" STORE=again' in note
    assert not {"data.channels", "recipe.record_every"} & set(there.data.params)
    assert {"recipe.learning_rate", "model.shortcut", "data.labels"} <= set(there.data.params)


def test_families_options_and_depths_have_colours_of_their_own() -> None:
    nets = [("plain", 20, "none"), ("plain", 110, "none"), *(("residual", 20, option) for option in "ABC")]
    models = [Model.cifar(family=family, depth=depth, shortcut=option, width=4) for family, depth, option in nets]
    colours = [tracking._colour(Trial(model=model, data=DIGITS, recipe=minutes(model), seed=0)) for model in models]
    assert len(set(colours)) == len(nets) and all(len(colour) == 7 and colour[0] == "#" for colour in colours)


def test_showing_the_ledger_again_and_again_doubles_nothing(store: Execution, small: Small) -> None:
    trial, records = small(), [record(4), record(8, 12.5), record(12)]
    folder = store.trial_folder(trial.id)
    write_account(folder, said())
    write_records(folder, records[:2])
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


def evaluation(protocol: str, value: float, **more: Any) -> dict[str, Any]:
    of = {"split": "validation", "protocol": protocol, "measure": "top1_error_pct", "nets": ""}
    return of | {"value": value, "images": 1_000} | more


def test_evaluations_come_after_the_result_grow_and_are_replaced(store: Execution, small: Small) -> None:
    trial, mirror = small(), tracking.Mirror(store, [small()])
    folder = store.trial_folder(trial.id)
    seal(store, trial, [record(4), record(8)])
    assert mirror.update()
    (before,) = tracking.read(store, [trial])
    assert before.evaluations is None
    for rows, expected in (
        ([evaluation("centre crop", 30.0)], [("centre crop", 30.0)]),
        ([evaluation("10-crop", 28.0)], [("10-crop", 28.0), ("centre crop", 30.0)]),
        ([evaluation("10-crop", 27.5)], [("10-crop", 27.5), ("centre crop", 30.0)]),
    ):
        add_evaluations(folder, rows)
        for of in (mirror, tracking.Mirror(store, [trial])):  # this launch's, and the next one's
            assert of.update()
            (found,) = tracking.read(store, [trial])
            assert found.evaluations is not None and found.evaluations.schema.equals(EVALUATIONS)
            assert [(row["protocol"], row["value"]) for row in found.evaluations.to_pylist()] == expected
            assert (found.run_id, found.tags, found.records) == (before.run_id, before.tags, before.records)
    ensemble = evaluation("10-crop", 25.0, nets=f"{trial.id},{small(seed=1).id}")
    add_evaluations(folder, [ensemble])
    assert len(read_evaluations(folder) or []) == 3  # of an ensemble is another evaluation


def test_an_evaluation_is_of_a_finished_trial_and_a_number(store: Execution, small: Small) -> None:
    folder = store.trial_folder(small().id)
    with pytest.raises(InputError, match="is not finished; only finished trials are evaluated"):
        add_evaluations(folder, [evaluation("10-crop", 28.0)])
    seal(store, small(), [record(4), record(8)])
    for wrong, says in (
        (evaluation("10-crop", float("nan")), "top1_error_pct of .* is nan; an evaluation needs a number"),
        (evaluation("10-crop", 28.0, crops=10), "an evaluation has other columns than split, .*: crops"),
    ):
        with pytest.raises(InputError, match=says):
            add_evaluations(folder, [wrong])
    assert read_evaluations(folder) is None


def test_evaluations_are_shown_whole_or_not_at_all_and_altered_ones_are_refused(
    store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the file and the tag that names it: the run has none, until the next launch shows them."""
    trial = small()
    folder = store.trial_folder(trial.id)
    seal(store, trial, [record(4), record(8)])
    add_evaluations(folder, [evaluation("10-crop", 28.0)])
    tracking.publish(store, [trial])
    add_evaluations(folder, [evaluation("10-crop", 27.0)])
    mirror = tracking.Mirror(store, [trial])
    attach = mirror.mlflow.log_artifacts

    def killed(*arguments: Any) -> None:
        attach(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror.mlflow, "log_artifacts", killed)
    with pytest.raises(KeyboardInterrupt):
        mirror.update()
    (found,) = tracking.read(store, [trial])
    assert found.evaluations is None
    tracking.publish(store, [trial])
    (found,) = tracking.read(store, [trial])
    assert found.evaluations is not None and found.evaluations["value"].to_pylist() == [27.0]
    (path,) = (store.storage / "artifacts").rglob("evaluations.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    (found,) = tracking.read(store, [trial])
    assert found.outcome == Outcome.UNUSABLE and found.evaluations is None
    assert f"the evaluations of run {found.run_id} " in found.tags["reason"]


def test_a_diverged_run_is_finished_and_its_missing_numbers_are_not_points(store: Execution, small: Small) -> None:
    trial = small()
    seal(store, small(seed=1), [], "diverged", diverged_at="1")
    assert shown(store, small(seed=1)).data.tags["outcome"] == "diverged"
    seal(store, trial, [record(2) | {"train_loss": None}], "diverged", diverged_at="2")
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
    write_account(folder, said(outcome, reason="because"))
    there = shown(store, small())
    assert (there.info.status, there.data.tags["reason"]) == (status, "because")
    (found,) = tracking.read(store, [small()])
    assert found.outcome == outcome and found.records is None
    write_account(folder, said())
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
            for run in tracking.read(store, [small()]):
                assert run.outcome == "running" or run.records is not None  # an unusable one has none
    else:
        raise AssertionError("it never came to its end")
    assert deadline > 4
    (found,) = tracking.read(store, [small()])
    assert found.records is not None and found.records.num_rows == 2
    assert tracking.client(store).get_run(found.run_id).info.status == "FINISHED"


def test_a_curve_whose_iterations_fall_is_never_sealed(store: Execution, small: Small) -> None:
    with pytest.raises(InputError, match="iterations that do not rise"):
        seal(store, small(), [record(8), record(4)])
    assert read_account(store.trial_folder(small().id)) == Account()


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


def unusable(store: Execution, trial: Trial) -> str:
    """The reason why the trial's run cannot be used, beside one of another trial that can."""
    other = replace(trial, seed=trial.seed + 1)
    runs = {run.trial: run for run in tracking.read(store, [trial, other])}
    assert runs[other].outcome == "finished" and runs[other].records is not None
    assert (runs[trial].outcome, runs[trial].records, runs[trial].layers) == ("unusable", None, None)
    return runs[trial].tags["reason"]


@pytest.fixture
def two(store: Execution, small: Small) -> tuple[Trial, Any]:
    """A finished trial with its run, and another one beside it."""
    for trial in (small(), small(seed=1)):
        seal(store, trial, [record(4), record(8)])
        run = shown(store, trial)
    (run,) = tracking.read(store, [small()], records=False)
    return small(), tracking.client(store).get_run(run.run_id)


def test_a_curve_that_is_not_what_was_sealed_is_unusable_and_the_others_are_read(
    store: Execution, two: tuple[Trial, Any]
) -> None:
    trial, run = two
    path = store.storage / "artifacts" / run.info.run_id / "artifacts" / "records.parquet"
    whole = pq.read_table(path)
    for altered in (whole.slice(0, 1), whole.set_column(2, "train_loss", [[0.5, 0.5]]), whole.slice(0, 0)):
        pq.write_table(altered, path)
        assert f"the curve of run {run.info.run_id} was altered after it was sealed; delete" in unusable(store, trial)
    path.write_bytes(path.read_bytes()[:100])
    assert f"records.parquet of run {run.info.run_id} cannot be read" in unusable(store, trial)
    path.unlink()
    assert f"records.parquet of run {run.info.run_id} cannot be read" in unusable(store, trial)
    pq.write_table(whole, path)
    tracking.client(store).delete_tag(run.info.run_id, "records_sha256")
    assert "was never sealed" in unusable(store, trial)


def test_two_runs_of_one_trial_are_both_named_and_neither_is_used(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    again = tracking.client(store).create_run(run.info.experiment_id, tags=tags)
    reason = unusable(store, trial)
    assert run.info.run_id in reason and again.info.run_id in reason


@pytest.mark.parametrize("spec", ["{}", "no JSON", json.dumps({"seed": 7})])
def test_a_run_of_another_specification_is_unusable(store: Execution, two: tuple[Trial, Any], spec: str) -> None:
    trial, run = two
    tracking.client(store).set_tag(run.info.run_id, "spec", spec)
    assert "has another specification" in unusable(store, trial)


def test_what_is_unusable_is_mended_by_deleting_its_run(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    tracking.client(store).set_tag(run.info.run_id, "spec", "{}")
    assert tracking.Mirror(store, [trial]).results() == {trial.id}  # a result is never trained again unasked
    tracking.client(store).delete_run(run.info.run_id)
    tracking.publish(store, [trial])
    (found,) = tracking.read(store, [trial])
    assert (found.outcome, found.records is not None) == ("finished", True)


def test_runs_of_other_versions_are_named_by_version(store: Execution, two: tuple[Trial, Any], small: Small) -> None:
    trial, run = two
    assert tracking.foreign(store, "test", [trial]) == {}  # what was not asked for is not of another version
    tags = {"study": tracking.STUDY, "outcome": "finished", "profile": "test"}
    old = {"trial_id": "resnet8A-digits-0123456789-s0", "spec": json.dumps({"seed": 0})}
    same_fields = {"trial_id": "resnet8A-digits-9876543210-s0", "spec": run.data.tags["spec"]}
    said = {"trial_id": "resnet8A-digits-aaaaaaaaaa-s0", "spec": "{}", "schema": "1", "protocol": "1"}
    unsaid = {"trial_id": small(seed=2).id, "spec": json.dumps(small(seed=2).to_dict())}  # of this version
    elsewhere = {**old, "profile": "other"}
    for its in (old, same_fields, said, unsaid, elsewhere):
        tracking.client(store).create_run(run.info.experiment_id, tags=tags | its)
    assert tracking.foreign(store, "test", [trial]) == {
        "a schema or protocol before these were recorded": [old["trial_id"], same_fields["trial_id"]],
        "schema 1, protocol 1": [said["trial_id"]],
    }
    assert tracking.foreign(replace(store, storage=store.storage / "none"), "test", [trial]) == {}


def test_a_picture_is_attached_once_and_is_no_part_of_the_trial(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    (before,) = tracking.read(store, [trial])
    assert tracking.unpictured(store, [trial.id, "no trial"]) == {trial.id: run.info.run_id}
    tracking.picture(store, [(run.info.run_id, b"PNG")])
    assert tracking.unpictured(store, [trial.id]) == {}
    assert [each.path for each in tracking.client(store).list_artifacts(run.info.run_id)].count("curve.png") == 1
    (after,) = tracking.read(store, [trial])
    assert (after.outcome, after.tags, after.records) == (before.outcome, before.tags, before.records)


def reports(store: Execution) -> list[Any]:
    mlflow = tracking.client(store)
    places = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    return list(mlflow.search_runs(places, "tags.kind = 'report'"))


def test_there_is_one_report_and_it_replaces_what_it_held(
    store: Execution, two: tuple[Trial, Any], tmp_path: Path
) -> None:
    (tmp_path / "tables").mkdir()
    for name in ("index.html", "tables/old.md", "tables/new.md"):
        (tmp_path / name).write_text(name)
    for names, supported in ((["index.html", "tables/old.md"], 1.0), (["index.html", "tables/new.md"], 2.0)):
        for _ in range(2):
            tracking.report(store, "test", tmp_path, names, {"claims supported": supported}, "what it says")
        (run,) = reports(store)
        held = store.storage / "artifacts" / run.info.run_id / "artifacts"
        assert sorted(str(path.relative_to(held)) for path in held.rglob("*") if path.is_file()) == names
        assert (run.info.run_name, run.info.status) == ("Report", "FINISHED")
        assert run.data.metrics == {"claims supported": supported}
        assert run.data.tags["mlflow.note.content"] == "what it says"
        assert len(tracking.client(store).get_metric_history(run.info.run_id, "claims supported")) == supported
    assert tracking.foreign(store, "test", [two[0]]) == {}  # nobody takes it for a trial
    assert {found.trial for found in tracking.read(store, [two[0]])} == {two[0]}
    tracking.report(store, "unheard of", tmp_path, ["index.html"], {}, "of a profile without runs")
    assert len(reports(store)) == 1


def test_a_copied_store_never_writes_to_the_one_it_is_a_copy_of(
    store: Execution, two: tuple[Trial, Any], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("")
    tracking.report(store, "test", tmp_path, ["index.html"], {}, "")
    copy = replace(store, storage=Path(shutil.copytree(store.storage, tmp_path / "copy")))
    with pytest.raises(InputError, match="was moved, and its MLflow keeps artifacts in .*; move it back, or export"):
        tracking.unpictured(copy, [two[0].id])
    with pytest.raises(InputError, match="was moved"):
        tracking.report(copy, "test", tmp_path, ["index.html"], {}, "other")


def test_a_description_is_kept_up_to_date_unless_somebody_wrote_another(
    store: Execution, two: tuple[Trial, Any]
) -> None:
    mlflow, view = tracking.client(store), tracking.View("all", "All trials", {"searchFilter": ""}, charts=False)
    ((profile, place),) = tracking.profiles(store).items()
    for said in ("first", "second"):
        tracking.describe(store, place, said, [view])
        tags = mlflow.get_experiment(place).tags
        assert (profile, tags["mlflow.note.content"]) == ("test", said)
    assert json.loads(json.loads(tags["mlflow.sharedViewState.all"])["state"]) == {"searchFilter": ""}
    mlflow.set_experiment_tag(place, "mlflow.note.content", "my own")
    tracking.describe(store, place, "third", [view])
    assert mlflow.get_experiment(place).tags["mlflow.note.content"] == "my own"


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


def test_the_digest_is_that_of_the_rows_as_json():
    odd = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-5, 1e22, 1 / 3, None, 100.0]
    for count in (0, 1, len(odd)):
        columns = [pa.array(range(count), pa.int64()), *[pa.array(odd[:count], pa.float64())] * 9]
        table = pa.table(columns, schema=COLUMNS)
        for each in (table, pa.concat_tables([table, table])):
            assert table_digest(each) == hashlib.sha256(json.dumps(each.to_pylist()).encode()).hexdigest()
