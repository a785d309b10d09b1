"""What is read back is what was sealed, or says why it cannot be used."""

import json
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from stored import TAGS, Small, record, seal, shown

from study.execution import Execution
from study.run.worker import run_trial
from study.spec import InputError, Trial
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import Mirror, publish
from study.store.mlflow.tags import STUDY


def unusable(store: Execution, trial: Trial) -> str:
    """The reason why the trial's run cannot be used, beside one of another trial that can."""
    other = replace(trial, seed=trial.seed + 1)
    runs = {run.trial: run for run in reader.read(store, [trial, other])}
    assert runs[other].outcome == "finished" and runs[other].records is not None
    assert (runs[trial].outcome, runs[trial].records, runs[trial].layers) == ("unusable", None, None)
    return runs[trial].tags["reason"]


@pytest.fixture
def two(store: Execution, small: Small) -> tuple[Trial, Any]:
    """A finished trial with its run, and another one beside it."""
    for trial in (small(), small(seed=1)):
        seal(store, trial, [record(4), record(8)])
        run = shown(store, trial)
    (run,) = reader.read(store, [small()], records=False)
    return small(), client.connect(store).get_run(run.run_id)


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
    client.connect(store).delete_tag(run.info.run_id, "records_sha256")
    assert "was never sealed" in unusable(store, trial)


def test_two_runs_of_one_trial_are_both_named_and_neither_is_used(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    again = client.connect(store).create_run(run.info.experiment_id, tags=tags)
    reason = unusable(store, trial)
    assert run.info.run_id in reason and again.info.run_id in reason


@pytest.mark.parametrize("spec", ["{}", "no JSON", json.dumps({"seed": 7})])
def test_a_run_of_another_specification_is_unusable(store: Execution, two: tuple[Trial, Any], spec: str) -> None:
    trial, run = two
    client.connect(store).set_tag(run.info.run_id, "spec", spec)
    assert "has another specification" in unusable(store, trial)


def test_what_is_unusable_is_mended_by_deleting_its_run(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    client.connect(store).set_tag(run.info.run_id, "spec", "{}")
    assert Mirror(store, [trial]).results() == {trial.id}  # a result is never trained again unasked
    client.connect(store).delete_run(run.info.run_id)
    publish(store, [trial])
    (found,) = reader.read(store, [trial])
    assert (found.outcome, found.records is not None) == ("finished", True)


def test_runs_of_other_versions_are_named_by_version(store: Execution, two: tuple[Trial, Any], small: Small) -> None:
    trial, run = two
    assert reader.foreign(store, "test", [trial]) == {}  # what was not asked for is not of another version
    tags = {"study": STUDY, "outcome": "finished", "profile": "test"}
    old = {"trial_id": "resnet8A-digits-0123456789-s0", "spec": json.dumps({"seed": 0})}
    same_fields = {"trial_id": "resnet8A-digits-9876543210-s0", "spec": run.data.tags["spec"]}
    said = {"trial_id": "resnet8A-digits-aaaaaaaaaa-s0", "spec": "{}", "schema": "1", "protocol": "1"}
    unsaid = {"trial_id": small(seed=2).id, "spec": json.dumps(small(seed=2).to_dict())}  # of this version
    elsewhere = {**old, "profile": "other"}
    for its in (old, same_fields, said, unsaid, elsewhere):
        client.connect(store).create_run(run.info.experiment_id, tags=tags | its)
    assert reader.foreign(store, "test", [trial]) == {
        "a schema or protocol before these were recorded": [old["trial_id"], same_fields["trial_id"]],
        "schema 1, protocol 1": [said["trial_id"]],
    }
    assert reader.foreign(replace(store, storage=store.storage / "none"), "test", [trial]) == {}


def test_a_worker_seals_the_numbers_that_training_gave(store: Execution, small: Small) -> None:
    trial = small()
    assert run_trial(trial, store, TAGS) == "finished"
    publish(store, [trial])
    (found,) = reader.read(store, [trial])
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
    publish(store, [diverging, missing])
    outcomes = {run.trial.data.name: run.outcome for run in reader.read(store, [diverging, missing])}
    assert outcomes == {"digits": "diverged", "cifar10": "failed"}
