"""What people see beside the numbers is right, kept up to date, and no part of a trial."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored import Small, history, record, seal, shown

from experiments.profiles import DIGITS
from experiments.recipes import minutes
from study.execution import Execution
from study.spec import Model, Trial
from study.store.mlflow import client, decoration, reader
from study.store.mlflow.tags import View


@pytest.fixture
def two(store: Execution, small: Small) -> tuple[Trial, Any]:
    """A finished trial with its run, and another one beside it."""
    for trial in (small(), small(seed=1)):
        seal(store, trial, [record(4), record(8)])
        run = shown(store, trial)
    (run,) = reader.read(store, [small()], records=False)
    return small(), client.connect(store).get_run(run.run_id)


def test_a_run_has_a_name_columns_and_a_description_for_people(store: Execution, small: Small) -> None:
    trial = small("plain", seed=2)
    records = [record(i) | {"train_error_pct": float(i)} for i in range(4, 21, 4)]
    records += [record(22, 50.25) | {"train_error_pct": 30.0}, record(24, 12.3456) | {"train_error_pct": 31.0}]
    told = {"experiments": "plain-vs-residual, controls", "deviations": "width: 4 (paper: 16)", "git_commit": "0" * 40}
    told["again"] = "make degradation-study DATA=cifar10"
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
    assert "Again, in a new store: `make degradation-study DATA=cifar10`." in note
    assert not {"data.channels", "recipe.record_every"} & set(there.data.params)
    assert {"recipe.learning_rate", "model.shortcut", "data.labels"} <= set(there.data.params)


def test_a_control_with_shuffled_labels_looks_like_no_real_run(store: Execution, small: Small) -> None:
    trial = small("plain")
    control = replace(trial, data=replace(trial.data, labels="shuffled"))
    runs = []
    for one in (trial, control):
        seal(store, one, [record(4), record(8)], experiments="controls")
        runs.append(shown(store, one))
    assert [run.data.tags["data"] for run in runs] == ["digits", "digits, shuffled labels"]
    assert runs[1].info.run_name == "plain-8, shuffled labels · seed 0 · digits-shuffled · controls"


def test_families_options_and_depths_have_colours_of_their_own() -> None:
    nets = [("plain", 20, "none"), ("plain", 110, "none"), *(("residual", 20, option) for option in "ABC")]
    models = [Model.cifar(family=family, depth=depth, shortcut=option, width=4) for family, depth, option in nets]
    colours = [decoration.colour(Trial(model=model, data=DIGITS, recipe=minutes(model), seed=0)) for model in models]
    assert len(set(colours)) == len(nets) and all(len(colour) == 7 and colour[0] == "#" for colour in colours)


def test_a_picture_is_attached_once_and_is_no_part_of_the_trial(store: Execution, two: tuple[Trial, Any]) -> None:
    trial, run = two
    (before,) = reader.read(store, [trial])
    assert decoration.unpictured(store, [trial.id, "no trial"]) == {trial.id: run.info.run_id}
    decoration.picture(store, [(run.info.run_id, b"PNG")])
    assert decoration.unpictured(store, [trial.id]) == {}
    assert [each.path for each in client.connect(store).list_artifacts(run.info.run_id)].count("curve.png") == 1
    (after,) = reader.read(store, [trial])
    assert (after.outcome, after.tags, after.records) == (before.outcome, before.tags, before.records)


def reports(store: Execution) -> list[Any]:
    mlflow = client.connect(store)
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
            decoration.report(store, "test", tmp_path, names, {"claims supported": supported}, "what it says")
        (run,) = reports(store)
        held = store.storage / "artifacts" / run.info.run_id / "artifacts"
        assert sorted(str(path.relative_to(held)) for path in held.rglob("*") if path.is_file()) == names
        assert (run.info.run_name, run.info.status) == ("Report", "FINISHED")
        assert run.data.metrics == {"claims supported": supported}
        assert run.data.tags["mlflow.note.content"] == "what it says"
        assert len(client.connect(store).get_metric_history(run.info.run_id, "claims supported")) == supported
    assert reader.foreign(store, "test", [two[0]]) == {}  # nobody takes it for a trial
    assert {found.trial for found in reader.read(store, [two[0]])} == {two[0]}
    decoration.report(store, "unheard of", tmp_path, ["index.html"], {}, "of a profile without runs")
    assert len(reports(store)) == 1


def test_a_description_is_kept_up_to_date_unless_somebody_wrote_another(
    store: Execution, two: tuple[Trial, Any]
) -> None:
    mlflow, view = client.connect(store), View("all", "All trials", {"searchFilter": ""}, charts=False)
    ((profile, place),) = reader.profiles(store).items()
    for said in ("first", "second"):
        decoration.describe(store, place, said, [view])
        tags = mlflow.get_experiment(place).tags
        assert (profile, tags["mlflow.note.content"]) == ("test", said)
    assert json.loads(json.loads(tags["mlflow.sharedViewState.all"])["state"]) == {"searchFilter": ""}
    mlflow.set_experiment_tag(place, "mlflow.note.content", "my own")
    decoration.describe(store, place, "third", [view])
    assert mlflow.get_experiment(place).tags["mlflow.note.content"] == "my own"
