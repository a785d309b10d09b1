"""Results travel: a bundle is whole or refused, renders alone, and two sites' results never overwrite each other."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from analysis import report
from analysis.runs import Frames, load
from commands import share
from experiments import most_seeds, planned
from experiments.profiles import QUICK, SMOKE, Profile
from study.execution import Execution
from study.run.launch import only_launcher
from study.run.worker import run_trial
from study.spec import InputError, Trial
from study.store import bundle, layout, provenance
from study.store.account import RESULTS, Account, Outcome, read_account, write_account
from study.store.mlflow import client, mirror, reader
from study.store.records import (
    COLUMNS,
    EVALUATIONS,
    LAYERS,
    Run,
    Wrong,
    columns,
    read_records,
    seal_result,
    table_digest,
)
from study.training.state import TrainState

ROOT = Path(__file__).parents[1]
HOURS = {"machine": "Linux x86_64, 2 x Laptop", "device": "cpu", "torch": "2.14.1", "seconds": "9.5"}
Command = Callable[..., tuple[int, str, str]]


def table(trial: Trial, records: pa.Table) -> pa.Table:
    """These records with every column of a curve."""
    nothing, schema = pa.nulls(records.num_rows, pa.float64()), columns(trial)
    filled = {name: records[name] if name in records.column_names else nothing for name in schema.names}
    return pa.table(filled, schema=schema)


def sealed(run: Run, records: pa.Table, **tags: str) -> Run:
    seal = {"records": str(records.num_rows), "records_sha256": table_digest(records)}
    return replace(run, records=records, tags=run.tags | tags | seal)


def outcome_of(trial: Trial) -> str:
    """One trial of every kind."""
    if trial.model.title == "plain-1202":
        return "diverged"
    if trial.seed == 1 and trial.data.labels == "true":
        return {"plain-20": "missing", "plain-56": "failed"}.get(trial.model.title, "finished")
    return "finished"


def study(profile: Profile = SMOKE, **how: Any) -> list[Run]:
    """Planted runs as a store would give them, in the order of their ids."""
    found = []
    for plant in planted.planted(profile, **({"outcomes": outcome_of} | how)):
        run = Run(plant.run_id, plant.trial, plant.outcome, plant.tags | HOURS | {"profile": profile.name}, None)
        seals = {}
        if plant.layers is not None:
            wrong = Wrong.of(np.arange(360) % 7 == plant.trial.seed)
            run = replace(run, layers=plant.layers, wrong=wrong)
            seals = {"layers_sha256": table_digest(plant.layers), "test_wrong": "360"}
            seals["test_wrong_sha256"] = hashlib.sha256(wrong.bits).hexdigest()
        if plant.outcome in RESULTS:
            run = sealed(run, table(plant.trial, plant.records), **seals)
        found.append(run)
    return sorted(found, key=lambda run: run.trial.id)


def other(run: Run, since: int, **tags: str) -> Run:
    """The same trial, run elsewhere, with other losses from iteration `since` on."""
    assert run.records is not None
    rows = [row | {"train_loss": row["train_loss"] + (row["iteration"] >= since)} for row in run.records.to_pylist()]
    return sealed(run, pa.Table.from_pylist(rows, schema=columns(run.trial)), **tags)


def one_result(found: list[Run]) -> Run:
    return next(run for run in found if run.outcome == "finished" and run.trial.data == SMOKE.data)


def resealed(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None], checksums: bool = True) -> Path:
    """Change manifest and members of a bundle, and, as an attacker would, the checksums too."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop(bundle.MANIFEST))
    change(manifest, members)
    if checksums:
        manifest["members"] = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, bundle.MANIFEST: json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "there.zip", study(), "smoke")
    return tmp_path / "there.zip"


# The file


def test_a_bundle_gives_back_every_run_to_the_last_bit(tmp_path: Path) -> None:
    runs, weights = study(), tmp_path / "000000006.checkpoint"
    weights.write_bytes(os.urandom(3 * 2**20))
    scope = bundle.Scope("plain-vs-residual", 2, SMOKE.data)
    path, chosen = tmp_path / "new" / "folder" / "all.zip", one_result(runs).trial.id
    bundle.write(path, reversed(runs), "smoke", {chosen: weights}, scope=scope, code="abc")
    found = bundle.read(path)
    assert (found.profile, found.scope, found.runs) == ("smoke", scope, runs)
    assert {run.outcome for run in found.runs} == {"finished", "diverged", "failed"}
    assert list(found.weights) == [chosen] and found.weights[chosen].read_bytes() == weights.read_bytes()
    assert [name for name in os.listdir(path.parent)] == ["all.zip"]


def test_nan_infinity_and_nothing_are_three_different_values(tmp_path: Path) -> None:
    run = next(run for run in study() if run.outcome == "diverged")
    rows = [{"iteration": 1, "train_loss": float("nan")}, {"iteration": 2, "train_loss": float("inf")}]
    run = sealed(run, pa.Table.from_pylist([*rows, {"iteration": 3}], schema=COLUMNS))
    bundle.write(tmp_path / "a.zip", [run], "smoke")
    (found,) = bundle.read(tmp_path / "a.zip").runs
    assert found.records is not None
    assert repr(found.records["train_loss"].to_pylist()) == "[nan, inf, None]"


def test_equal_runs_make_equal_members_in_whatever_order_they_come(tmp_path: Path) -> None:
    members = []
    for name, runs in (("a.zip", study()), ("b.zip", study()[::-1])):
        bundle.write(tmp_path / name, runs, "smoke")
        members.append(bundle.read(tmp_path / name).manifest["members"])
    assert members[0] == members[1]
    folders = {name.split("/")[1] for name in members[0]}
    assert folders == {run.trial.id for run in study()} and all(name.startswith("trials/") for name in members[0])


def test_a_bundle_holds_the_files_that_a_store_has(filled: Execution, there: Path) -> None:
    folder = filled.trial_folder(one_result(study()).trial.id)
    with zipfile.ZipFile(there) as archive:
        for path in (layout.TrialFolder(folder).records, layout.TrialFolder(folder).layers):
            assert archive.read(f"trials/{folder.name}/{path.name}") == path.read_bytes()


def test_a_bundle_can_be_read_with_pandas_alone(there: Path) -> None:
    with zipfile.ZipFile(there) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert [entry["id"] for entry in manifest["trials"]] == [run.trial.id for run in study()]
        for run in study():
            folder = f"trials/{run.trial.id}"
            assert json.loads(archive.read(f"{folder}/spec.json")) == json.loads(json.dumps(run.trial.to_dict()))
            assert json.loads(archive.read(f"{folder}/run.json"))["outcome"] == run.outcome
            if run.records is not None:
                curve = pd.read_parquet(io.BytesIO(archive.read(f"{folder}/records.parquet")))
                assert list(curve["iteration"]) == run.records["iteration"].to_pylist()


def test_a_write_that_dies_leaves_the_old_bundle(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bundle.write(there, study()[:1], "smoke")
    assert there.read_bytes() == before and os.listdir(there.parent) == [there.name]


def test_a_place_that_cannot_be_written_is_named(there: Path) -> None:
    with pytest.raises(InputError, match="b.zip cannot be written .*; choose another place"):
        bundle.write(there / "b.zip", study(), "smoke")
    with pytest.raises(InputError, match="cannot be written .*; choose another place"):
        bundle.write(there.parent, study(), "smoke")
    with pytest.raises(InputError, match="cannot be written"):
        run = one_result(study())
        bundle.write(there, [run], "smoke", {run.trial.id: there.parent / "gone.checkpoint"})
    assert os.listdir(there.parent) == [there.name]


def test_a_curve_that_was_altered_or_has_other_columns_is_not_exported(tmp_path: Path) -> None:
    run = one_result(study())
    assert run.records is not None
    altered = replace(run, records=other(run, since=0).records)
    with pytest.raises(InputError, match=f"the curve of {run.trial.id} was altered"):
        bundle.write(tmp_path / "a.zip", [altered], "smoke")
    with pytest.raises(InputError, match="other columns than this code writes; export it with .* \\(commit 0000"):
        bundle.write(tmp_path / "a.zip", [replace(run, records=run.records.drop_columns(["test_loss"]))], "smoke")
    assert run.layers is not None
    shorter = replace(run, layers=run.layers.slice(1))
    with pytest.raises(InputError, match=f"the layers of {run.trial.id} were altered"):
        bundle.write(tmp_path / "a.zip", [shorter], "smoke")
    assert not os.listdir(tmp_path)


def test_a_bundle_from_before_layers_were_measured_is_read(tmp_path: Path) -> None:
    run = of_older_code(one_result(study()))
    tags = {name: value for name, value in run.tags.items() if name != "layers_sha256"}
    run = replace(run, tags=tags, layers=None)
    assert bundle.read(of_format_1(tmp_path / "old.zip", [run], lacking="layers.parquet")).runs == [run]


def of_older_code(run: Run) -> Run:
    """The run as it was recorded before wrong test images were kept."""
    tags = {name: value for name, value in run.tags.items() if not name.startswith("test_wrong")}
    return replace(run, tags=tags, wrong=None)


def of_format_1(path: Path, runs: list[Run], weights: dict[str, bytes] | None = None, lacking: str = "") -> Path:
    """The bundle as it was written before bundles held the folders of trials."""

    def joined(tables: list[tuple[Run, pa.Table]], schema: pa.Schema) -> bytes:
        empty = pa.schema([("id", pa.string()), *schema]).empty_table()
        rows = [table.add_column(0, "id", pa.array([run.trial.id] * table.num_rows)) for run, table in tables]
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables([empty, *rows], promote_options="default"), buffer)
        return buffer.getvalue()

    seals = ("records", "records_sha256")
    entries = [
        {
            "id": run.trial.id,
            "spec": run.trial.to_dict(),
            "run_id": run.run_id,
            "outcome": run.outcome,
            "records": run.tags.get("records"),
            "sha256": run.tags.get("records_sha256"),
            "tags": {name: run.tags[name] for name in sorted(run.tags) if name not in seals},
        }
        for run in runs
    ]
    members = {
        "curves.parquet": joined([(run, run.records) for run in runs if run.records is not None], COLUMNS),
        "layers.parquet": joined([(run, run.layers) for run in runs if run.layers is not None], LAYERS),
        "evaluations.parquet": joined([(run, run.evaluations) for run in runs if run.evaluations], EVALUATIONS),
        **{f"weights/{id}.checkpoint": content for id, content in (weights or {}).items()},
    }
    members.pop(lacking, None)
    manifest = {
        "format": 1,
        "schema": 3,
        "protocol": 1,
        "code": "abc",
        "when": "2026-11-27T12:00:00+00:00",
        "profile": "smoke",
        "scope": {"experiments": "", "seeds": None, "data": None},
        "resolved": [],
        "trials": entries,
        "members": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return path


def test_a_bundle_of_format_1_gives_back_every_run_and_its_weights(tmp_path: Path) -> None:
    runs = [of_older_code(run) for run in study()]
    runs = [evaluated(run, mirrored=3.0) if run == one_result(runs) else run for run in runs]
    chosen = one_result(runs).trial.id
    found = bundle.read(of_format_1(tmp_path / "old.zip", runs, {chosen: b"weights"}))
    assert found.runs == runs and found.weights[chosen].read_bytes() == b"weights" and len(found.weights) == 1
    assert bundle.merge([found]) == (runs, [])


def test_a_bundle_of_format_1_is_imported(store: Execution, tmp_path: Path, command: Command) -> None:
    run = of_older_code(one_result(study()))
    path = of_format_1(tmp_path / "old.zip", [run], {run.trial.id: b"weights"})
    assert command("import", path, "--storage", store.storage)[0] == 0
    (shown,) = reader.read(store, [run.trial])
    assert shown.records == run.records and shown.layers == run.layers
    assert layout.TrialFolder(store.trial_folder(run.trial.id)).checkpoint(6).read_bytes() == b"weights"


def evaluated(run: Run, **values: float) -> Run:
    """The run with evaluations: a top-1 error by protocol."""
    rows = [
        {"split": "test", "protocol": how, "measure": "top1_error_pct", "nets": "", "value": value, "images": 360}
        for how, value in sorted(values.items())
    ]
    return replace(run, evaluations=pa.Table.from_pylist(rows, schema=EVALUATIONS))


def test_evaluations_travel_and_bundles_from_before_there_were_any_are_read(tmp_path: Path) -> None:
    runs = study()
    runs = [evaluated(run, mirrored=3.0) if run == one_result(runs) else run for run in runs]
    bundle.write(tmp_path / "new.zip", runs, "smoke")
    assert bundle.read(tmp_path / "new.zip").runs == runs
    older = [of_older_code(run) for run in study()]
    assert bundle.read(of_format_1(tmp_path / "old.zip", older, lacking="evaluations.parquet")).runs == older


def test_equal_results_evaluated_in_different_ways_have_the_evaluations_of_both(tmp_path: Path) -> None:
    run = one_result(study())
    ours, theirs = evaluated(run, mirrored=3.0), evaluated(run, mirrored=3.0, shifted=4.0)
    sites = []
    for name, each in (("plain", run), ("ours", ours), ("theirs", theirs), ("other", evaluated(run, mirrored=3.5))):
        bundle.write(tmp_path / f"{name}.zip", [each], "smoke")
        sites.append(bundle.read(tmp_path / f"{name}.zip"))
    plain, one, two, other = sites
    for order in ((plain, one, two), (two, one, plain), (one, plain, two)):
        assert bundle.merge(order) == ([theirs], [])
    (found,) = bundle.merge([one, other])[1]
    assert found.what == "evaluations"


def test_an_import_adds_evaluations_that_the_store_lacks_and_overwrites_none(
    store: Execution, tmp_path: Path, command: Command
) -> None:
    run, path = one_result(study()), tmp_path / "there.zip"
    for here, expected, code in (
        (run, None, 0),
        (evaluated(run, mirrored=3.0), [3.0], 0),
        (evaluated(run, mirrored=3.0, shifted=4.0), [3.0, 4.0], 0),
        (run, [3.0, 4.0], 0),
        (evaluated(run, mirrored=3.5), [3.0, 4.0], 1),
    ):
        bundle.write(path, [here], "smoke")
        found, said, _ = command("import", path, "--storage", store.storage, "--json")
        assert found == code and len(json.loads(said)["conflicts"]) == code
        (shown,) = reader.read(store, [run.trial])
        values = None if shown.evaluations is None else shown.evaluations["value"].to_pylist()
        assert values == expected
    bundle.write(path, [run], "smoke")
    assert command("export", "--profile", "smoke", "--storage", store.storage, path)[0] == 0
    (again,) = bundle.read(path).runs
    assert again.evaluations is not None and again.evaluations["value"].to_pylist() == [3.0, 4.0]
    assert "evaluations_sha256" not in again.tags


def of(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    return lambda manifest, members: manifest.update({name: value})


def specification(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def apply(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        name = f"trials/{manifest['trials'][0]['id']}/spec.json"
        spec = json.loads(members[name])
        change(spec)
        members[name] = json.dumps(spec).encode()

    return apply


def curve(change: Callable[[pa.Table], pa.Table]) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def apply(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        buffer, name = io.BytesIO(), f"trials/{one_result(study()).trial.id}/records.parquet"
        pq.write_table(change(pq.read_table(io.BytesIO(members[name]))), buffer)
        members[name] = buffer.getvalue()

    return apply


def tagged(name: str, value: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def apply(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        file = f"trials/{one_result(study()).trial.id}/run.json"
        account = json.loads(members[file])
        account["tags"][name] = value
        members[file] = json.dumps(account).encode()

    return apply


def without(name: str) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    return lambda _, members: members.pop(f"trials/{one_result(study()).trial.id}/{name}")


def elsewhere(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    """An id that climbs out of the store."""
    manifest["trials"][0]["id"] = "folder:x/../../.."


AGAIN = "copy it again, or export it again where its trials were run"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (of("format", 3), "has format 3, this code reads up to 2; update this code"),
        (of("schema", 1), "has ids of schema 1 and protocol 1, this code of schema 3 .* read it with the code that"),
        (of("trials", 7), f"manifest.json is not as this code writes it .*; {AGAIN}"),
        (lambda manifest, _: manifest["trials"][0].update(run_id=[1]), "is not as this code writes it .a value is of"),
        (of("format", "one"), f"manifest.json is not as this code writes it .*; {AGAIN}"),
        (
            lambda manifest, _: manifest.pop("profile"),
            f"is not as this code writes it \\(it has no 'profile'\\); {AGAIN}",
        ),
        (without("spec.json"), f"the specification of .* is wrong .*; {AGAIN}"),
        (without("run.json"), f"the account of .* cannot be read; {AGAIN}"),
        (without("records.parquet"), f"the curve of .* was altered after it was sealed; {AGAIN}"),
        (without("layers.parquet"), f"the layers of .* were altered after they were sealed; {AGAIN}"),
        (without("test_wrong.bits"), f"the wrong test images of .* were altered after they were sealed; {AGAIN}"),
        (tagged("test_wrong", "many"), f"the wrong test images of .* were altered after they were sealed; {AGAIN}"),
        (specification(lambda spec: spec.update(seed=77)), f"gives the id .*-s77; {AGAIN}"),
        (specification(lambda spec: spec["model"].update(skip=1)), f"is wrong .*skip\\); {AGAIN}"),
        (specification(lambda spec: spec["model"].update(depth=21)), f"is wrong .*depth .*21 .*; {AGAIN}"),
        (elsewhere, f"cannot be the name of a folder; {AGAIN}"),
        (curve(lambda table: table.slice(1)), f"the curve of .* was altered after it was sealed; {AGAIN}"),
        (curve(lambda table: table.take(list(range(len(table)))[::-1])), f"curve of .* was altered .*; {AGAIN}"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(there: Path, change: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        bundle.read(resealed(there, change))
    assert "there.zip" in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_member_is_named(there: Path) -> None:
    folder = f"trials/{one_result(study()).trial.id}"
    for name in (f"{folder}/run.json", f"{folder}/records.parquet"):
        bundle.write(there, study(), "smoke")
        resealed(there, lambda _, members, name=name: members.update({name: members[name][:-1]}), checksums=False)
        with pytest.raises(InputError, match=f"there.zip: {name} is damaged or missing .*; {AGAIN}"):
            bundle.read(there)
        resealed(there, lambda _, members, name=name: members.pop(name), checksums=False)
        with pytest.raises(InputError, match=f"there.zip: {name} is damaged or missing .*; {AGAIN}"):
            bundle.read(there)


def test_any_flipped_byte_is_found_or_changes_nothing(there: Path) -> None:
    whole, runs = there.read_bytes(), study()
    for position in range(0, len(whole), len(whole) // 200):
        there.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            assert bundle.read(there).runs == runs
        except InputError as error:
            assert "there.zip" in str(error)


def test_what_is_no_bundle_is_refused_in_words(there: Path, tmp_path: Path) -> None:
    whole = there.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        there.write_bytes(content)
        with pytest.raises(InputError, match=f"there.zip is not a zip file, or not the whole of one; {AGAIN}"):
            bundle.read(there)
    with zipfile.ZipFile(there, "w") as archive:
        archive.writestr("photo.jpg", b"")
    with pytest.raises(InputError, match="has no manifest.json: it is no bundle; `python -m experiments export`"):
        bundle.read(there)
    with zipfile.ZipFile(there, "w") as archive:
        archive.writestr("manifest.json", b"{")
    with pytest.raises(InputError, match=f"manifest.json is damaged; {AGAIN}"):
        bundle.read(there)
    with pytest.raises(InputError, match="there is no bundle .*none.zip; `python -m experiments export"):
        bundle.read(tmp_path / "none.zip")
    with pytest.raises(InputError, match="cannot be read .*directory"):
        bundle.read(tmp_path)


# Merging


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Path]:
    """Write a site's bundle."""

    def make(name: str, runs: list[Run], profile: str = "smoke", **more: Any) -> Path:
        path = tmp_path / name / "results.zip"
        bundle.write(path, runs, profile, **more)
        return path

    return make


def test_merging_is_by_trial_and_a_result_beats_none(site: Callable[..., Path]) -> None:
    runs = study()
    retried = study(outcomes=lambda trial: "finished" if trial.model.title == "plain-56" else "missing")
    bundles = [bundle.read(site(str(i), some)) for i, some in enumerate((runs[:12], runs[8:], retried))]
    for order in (bundles, bundles[::-1]):
        merged, conflicts = bundle.merge(order)
        assert [run.trial.id for run in merged] == [run.trial.id for run in runs] and not conflicts
        assert {run.outcome for run in merged} == {"finished", "diverged"}


def test_a_bundle_merged_with_itself_is_itself(site: Callable[..., Path]) -> None:
    one = bundle.read(site("a", study()))
    assert bundle.merge([one, one]) == (one.runs, [])


def test_a_conflict_says_how_many_records_differ_since_when_and_on_which_machines(site: Callable[..., Path]) -> None:
    runs = study()
    run = one_result(runs)
    paths = [site("a", runs), site("b", [other(run, since=4, machine="Linux aarch64, 64 x Server", torch="2.15.0")])]
    merged, (conflict,) = bundle.merge([bundle.read(path) for path in paths])
    assert merged == runs
    assert str(conflict) == (
        f"{run.trial.id}: {paths[0]} and {paths[1]} differ in 2 of 3 records, the first at iteration 4;"
        " machine 'Linux x86_64, 2 x Laptop' and 'Linux aarch64, 64 x Server'; torch '2.14.1' and '2.15.0'"
    )


def test_other_outcomes_are_a_conflict_too_and_so_are_missing_records(site: Callable[..., Path]) -> None:
    run = one_result(study())
    assert run.records is not None
    bundles = [bundle.read(site("a", [run])), bundle.read(site("b", [replace(run, outcome=Outcome.DIVERGED)]))]
    assert bundle.merge(bundles)[1][0].what == "outcome (finished, diverged)"
    bundles[1] = bundle.read(site("b", [sealed(run, run.records.slice(0, 1))]))
    (conflict,) = bundle.merge(bundles)[1]
    assert conflict.what == "2 of 3 records, the first at iteration 4"
    assert str(conflict).endswith("; hardware and versions agree")


def test_conflicts_stop_a_merge_unless_a_bundle_is_preferred(site: Callable[..., Path], command: Command) -> None:
    runs = study()
    run, out = one_result(runs), site("a", []).parent / "merged.zip"
    states = [out.with_name(name) for name in ("a.checkpoint", "b.checkpoint")]
    for state in states:
        state.write_bytes(state.name.encode())
    a = site("a", runs, weights={run.trial.id: states[0]})
    b = site("b", [other(run, since=4)], weights={run.trial.id: states[1]})
    code, said, _ = command("merge", a, b, "--output", out)
    assert code == 1 and not out.exists()
    assert said.splitlines()[0].startswith(f"conflict: {run.trial.id}: {a} and {b} differ in 2 of 3 records")
    assert said.splitlines()[1] == "no bundle: 1 conflicts"

    code, said, _ = command("merge", a, b, "--output", out, "--prefer", b)
    assert code == 0 and said.startswith(f"resolved: {run.trial.id}: {b} and {a} differ in")
    merged = bundle.read(out)
    assert {r.trial.id: r for r in merged.runs} == {r.trial.id: r for r in runs} | {run.trial.id: other(run, since=4)}
    assert merged.weights[run.trial.id].read_bytes() == b"b.checkpoint"
    (resolved,) = merged.manifest["resolved"]
    assert (resolved["id"], resolved["kept"], resolved["dropped"]) == (run.trial.id, str(b), str(a))

    code, said, _ = command("merge", out, b, "--output", out, "--json")  # in place; what was decided stays on record
    assert code == 0 and json.loads(said)["resolved"] == [] and json.loads(said)["runs"] == len(runs)
    assert bundle.read(out).manifest["resolved"] == [resolved]


def test_a_preferred_bundle_settles_only_its_own_conflicts(site: Callable[..., Path], command: Command) -> None:
    run, *others = study()
    paths = [site("a", others), site("b", [run]), site("c", [other(run, since=1)])]
    code, said, _ = command("merge", *paths, "--output", paths[0].with_name("out.zip"), "--prefer", paths[0], "--json")
    assert code == 1 and json.loads(said)["bundle"] is None
    assert [conflict["id"] for conflict in json.loads(said)["conflicts"]] == [run.trial.id]


@pytest.mark.parametrize(
    ("scopes", "merged"),
    [
        ([("", None), ("", None)], ("", None)),
        ([("depth-scaling", None), ("bottlenecks depth-scaling", None)], ("depth-scaling bottlenecks", None)),
        ([("depth-scaling", None), ("", None)], ("", None)),
        ([("", 5), ("", None)], ("", 5)),
        ([("", 1), ("", None)], ("", most_seeds(SMOKE))),
        ([("", 3), ("", 4)], ("", 4)),
    ],
)
def test_a_merged_bundle_is_about_what_all_were_about(
    scopes: list[Any], merged: Any, site: Callable[..., Path], command: Command
) -> None:
    paths = [site(str(i), study(), scope=bundle.Scope(*scope, SMOKE.data)) for i, scope in enumerate(scopes)]
    assert command("merge", *paths, "--output", paths[0])[0] == 0
    assert bundle.read(paths[0]).scope == bundle.Scope(*merged, SMOKE.data)


def test_bad_input_of_a_merge_is_one_line_and_exit_code_2(site: Callable[..., Path], command: Command) -> None:
    a, b = site("a", study()), site("b", study(QUICK), profile="quick")
    for arguments, says in (
        ((a, b), f"{a} is of profile smoke and {b} of quick, or of other data; a bundle has one profile on one data"),
        ((a,), f"merge takes two bundles or more, not {a} alone"),
        ((a, a, "--prefer", b), f"prefer '{b}' is unknown; choose one of {a}"),
        ((a, a.with_name("none.zip")), "there is no bundle"),
    ):
        code, said, error = command("merge", *arguments, "--output", a.with_name("out.zip"))
        assert (code, said) == (2, "") and says in error and error.startswith("error: ") and error.count("\n") == 1
    assert not a.with_name("out.zip").exists()


# Rendering

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "ray", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}, as where it is not installed")
sys.meta_path.insert(0, Blocked())
"""


def test_what_renders_a_bundle_is_imported_where_torch_ray_and_mlflow_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for module in ("commands.render", "commands.share", "analysis.report"):
        command = [sys.executable, "-c", f"import {module}"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("profile", "lectures"), [(SMOKE, False), (QUICK, True)], ids=["smoke", "quick"])
@pytest.mark.slow
def test_a_bundle_renders_everything_where_torch_ray_and_mlflow_cannot_be_imported(
    profile: Profile, lectures: bool, tmp_path: Path
) -> None:
    runs, name = study(profile), f"{profile.name}.zip"
    bundle.write(tmp_path / name, runs, profile.name, code="abc")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKED)  # the notebooks' kernel starts with it, too
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}

    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert "No module named 'torch'" in python("-c", "import torch").stderr
    bundled = "--bundle", tmp_path / name, "--results", tmp_path / "there"
    done = python("-m", "analysis", "report", *bundled, "--lectures" if lectures else "--no-lectures")
    assert done.returncode == 0, done.stderr
    assert "Verdicts on the paper's 74 claims" in done.stdout and "python -m experiments import" in done.stdout

    here, there = (tmp_path / place / profile.name for place in ("here", "there"))
    report.write(load(planned(profile), runs), profile, here, lecture=False)
    files = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    bundled_files = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    executed = {f"notebooks/{source.stem}.html" for source in report.NOTEBOOKS.glob("*.ipynb")}
    assert bundled_files - files == (executed if lectures else set()) and files <= bundled_files
    for file in files - {"index.html", "manifest.json"}:  # these two say from where
        assert (here / file).read_bytes() == (there / file).read_bytes(), file
    facts = json.loads((there / "manifest.json").read_text())["provenance"]
    assert (facts["bundle"], facts["bundle_written_by"]) == (name, "abc")


def test_versions_of_packages_that_are_not_installed_say_so() -> None:
    assert provenance._version("numpy") != "not installed" == provenance._version("no-such-package")


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[Frames, Profile]]]:
    """What would be rendered, without the seconds that it takes."""
    found: list[tuple[Frames, Profile]] = []
    monkeypatch.chdir(tmp_path)  # results of this folder are nobody's
    monkeypatch.setattr(report, "write", lambda frames, profile, *_: found.append((frames, profile)))
    yield found


def test_a_bundle_brings_its_profile_and_what_it_lacks_is_missing(
    there: Path, command: Command, rendered: list[Any]
) -> None:
    code, said, _ = command("figures", "--bundle", there, entry="analysis")
    ((frames, profile),) = rendered
    assert code == 0 and said.startswith("rendered results/smoke/index.html") and profile == SMOKE
    assert list(frames.finals["id"]) == [trial.id for trial in planned(SMOKE)]
    outcomes = frames.finals["outcome"].value_counts()
    assert (outcomes["failed"], outcomes["missing"], outcomes["diverged"]) == (1, 1, 1)


def test_a_bundle_of_other_data_more_seeds_and_some_experiments_brings_these_too(
    there: Path, command: Command, rendered: list[Any]
) -> None:
    profile = SMOKE.with_data(replace(QUICK.data, name="folder:mine", classes=3, held_out=7, digest="d")).with_seeds(3)
    scope = bundle.Scope("shortcut-options", 3, profile.data)
    meant = planned(profile, ["shortcut-options"])
    bundle.write(there, [run for run in study(profile) if run.trial in meant], "smoke", scope=scope)
    code, said, _ = command("figures", "--bundle", there, entry="analysis")
    frames, shown = rendered.pop()
    assert code == 0 and shown == profile and list(frames.finals["id"]) == [trial.id for trial in meant]

    command("figures", "--bundle", there, "--seeds", "1", "--experiments", "", entry="analysis")
    frames, shown = rendered.pop()
    main = frames.finals[frames.finals["experiments"] != "controls"]
    assert set(main["seed"]) == {0} and shown == profile.with_seeds(1)

    code, said, _ = command("figures", "--bundle", there, "--held-out", "5", entry="analysis")
    frames, _ = rendered.pop()
    assert set(frames.finals["outcome"]) == {"missing"}
    results = sum(run.records is not None for run in bundle.read(there).runs)
    assert said.startswith(f"{results} results of {there} are not shown: their trials are not selected")


def test_rendering_what_is_no_bundle_is_one_line_and_exit_code_2(tmp_path: Path, command: Command) -> None:
    for name in ("report", "figures", "notebooks"):
        code, said, error = command(name, "--bundle", tmp_path / "none.zip", entry="analysis")
        assert (code, said) == (2, "") and "there is no bundle" in error and error.count("\n") == 1


# Stores


@pytest.fixture
def filled(store: Execution) -> Execution:
    """A store in which the planted study was run."""
    fill(store, study())
    return store


def fill(store: Execution, found: list[Run]) -> None:
    results = [run for run in found if run.records is not None]
    for run in results:
        assert run.records is not None
        account = Account(started=1_700_000_000_000, tags={**run.tags, "storage": str(store.storage)})
        seal_result(store.trial_folder(run.trial.id), run.outcome, run.records, account, run.layers, wrong=run.wrong)
    mirror.publish(store, [run.trial for run in results])


def contents(found: bundle.Bundle) -> dict[str, Any]:
    """What must survive a trip through another store."""
    mine = ("imported_from", "imported_run")
    return {
        run.trial.id: (run.outcome, run.records, {name: run.tags[name] for name in run.tags if name not in mine})
        for run in found.runs
    }


def test_an_export_leaves_a_damaged_run_out_and_names_it(filled: Execution, tmp_path: Path, command: Command) -> None:
    hit = one_result(reader.read(filled, [run.trial for run in study()]))
    (filled.storage / "artifacts" / hit.run_id / "artifacts" / "records.parquet").unlink()
    code, said, _ = command("export", "--profile", "smoke", "--storage", filled.storage, tmp_path / "a.zip")
    assert code == 0 and f"unusable: {hit.trial.id}: records.parquet of run {hit.run_id} cannot be read" in said
    assert hit.trial not in {run.trial for run in bundle.read(tmp_path / "a.zip").runs}


def test_what_is_exported_imported_and_exported_again_is_equal(
    filled: Execution, tmp_path: Path, command: Command
) -> None:
    runs = [run for run in study() if run.records is not None]
    chosen = one_result(runs).trial.id
    checkpoint = filled.trial_folder(chosen) / "checkpoints" / "000000006.checkpoint"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    first, there, second = tmp_path / "first.zip", tmp_path / "elsewhere", tmp_path / "second.zip"
    options = "--profile", "smoke", "--weights", "all"
    code, said, _ = command("export", *options, "--storage", filled.storage, first)
    records = sum(run.records.num_rows for run in runs if run.records is not None)
    assert (code, said) == (0, f"{first}: {len(runs)} runs, {records} records, 1 weights, 2 missing\n")

    code, said, _ = command("import", first, "--storage", there)
    counts = f"{len(runs)} imported, 0 equal, 0 without result, 1 weights, 0 evaluated, 0 conflicts"
    assert (code, said) == (0, f"{first}: {counts}\n")
    command("export", *options, "--storage", there, second)
    before, after = bundle.read(first), bundle.read(second)
    assert contents(before) == contents(after) and before.scope == after.scope
    assert after.weights[chosen].read_bytes() == b"weights"
    assert {run.tags["imported_from"] for run in after.runs} == {"first.zip"}
    assert {run.tags["started"] for run in after.runs} == {"1700000000000"}
    origins = {run.trial.id: run.run_id for run in before.runs}
    assert {run.trial.id: run.tags["imported_run"] for run in after.runs} == origins

    code, said, _ = command("import", second, "--storage", filled.storage, "--json")
    said = json.loads(said)
    assert code == 0 and said["imported"] == said["conflicts"] == [] and len(said["equal"]) == len(runs)


def test_nothing_of_the_place_where_it_was_run_is_in_a_bundle(
    filled: Execution, tmp_path: Path, command: Command
) -> None:
    command("export", "--profile", "smoke", "--storage", filled.storage, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for name in archive.namelist():
            assert str(tmp_path).encode() not in archive.read(name) and b"mlflow.user" not in archive.read(name)


def test_an_imported_trial_is_done_its_weights_are_whole_and_mlflow_shows_it(
    store: Execution, tmp_path: Path, command: Command
) -> None:
    trial = next(iter(planned(SMOKE)))
    assert run_trial(trial, store, {"profile": "smoke"}) == "finished"
    mirror.publish(store, [trial])
    out, there = tmp_path / "a.zip", replace(store, storage=tmp_path / "elsewhere")
    assert command("export", "--profile", "smoke", "--storage", store.storage, "--weights", trial.id, out)[0] == 0
    assert command("import", out, "--storage", there.storage)[0] == 0
    state = TrainState.restore_or_create(trial, there.trial_folder(trial.id) / "checkpoints", torch.device("cpu"))
    assert state.iteration == trial.recipe.iterations
    before = read_account(there.trial_folder(trial.id))
    assert run_trial(trial, there, {"profile": "smoke"}) == "finished"  # and did not train again:
    assert read_account(there.trial_folder(trial.id)) == before
    (here,), (found,) = (reader.read(each, [trial]) for each in (store, there))
    assert found.records == here.records and found.tags["storage"] == str(there.storage)
    shown = client.connect(there).get_run(found.run_id)
    assert shown.info.status == "FINISHED" and shown.data.metrics["train_loss"] > 0
    assert shown.info.start_time == client.connect(store).get_run(here.run_id).info.start_time


def test_a_result_that_differs_is_reported_and_never_overwritten(
    filled: Execution, site: Callable[..., Path], command: Command
) -> None:
    mine = one_result(study())
    path = site("b", [other(run, since=6) if run.trial == mine.trial else run for run in study()])
    code, said, _ = command("import", path, "--storage", filled.storage)
    first, last = said.splitlines()
    assert code == 1
    assert first.startswith(f"conflict: {mine.trial.id}: store {filled.storage} and {path} differ in 1 of 3 records")
    assert last.endswith(f"0 imported, {len(study()) - 2} equal, 1 without result, 0 weights, 0 evaluated, 1 conflicts")
    (kept,) = reader.read(filled, [mine.trial])
    assert kept.records == mine.records
    assert read_records(filled.trial_folder(mine.trial.id)) == mine.records


def test_an_import_that_was_killed_is_finished_by_the_next(
    store: Execution, there: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "publish", die)
        assert command("import", there, "--storage", store.storage)[0] == 130
    trials = list(planned(SMOKE))
    assert reader.read(store, trials) == []
    assert command("import", there, "--storage", store.storage)[0] == 0
    assert {run.trial.id for run in reader.read(store, trials)} == {r.trial.id for r in study() if r.records}


def test_an_import_replaces_an_unfinished_attempt_and_what_is_left_of_it_is_not_exported(
    store: Execution, there: Path, command: Command
) -> None:
    run = one_result(study())
    folder = store.trial_folder(run.trial.id)
    account = Account(outcome=Outcome.INTERRUPTED, reason="killed", started=1, tags={"profile": "smoke"})
    write_account(folder, account)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "000000003.checkpoint").write_bytes(b"unfinished")
    (folder / "uncommitted.patch").write_bytes(b"of other code")
    mirror.publish(store, [run.trial])
    assert command("import", there, "--storage", store.storage)[0] == 0
    (found,) = reader.read(store, [run.trial])
    assert (found.outcome, found.records, found.tags["reason"]) == ("finished", run.records, "")
    artifacts = {file.path for file in client.connect(store).list_artifacts(found.run_id)}
    assert artifacts == {"spec.json", "records.parquet", "layers.parquet", "test_wrong.bits"}
    options = "--profile", "smoke", "--storage", store.storage
    code, said, _ = command("export", *options, "--weights", "all", "--json", there)
    assert code == 0 and json.loads(said)["weights"] == 0
    code, _, error = command("export", *options, "--weights", run.trial.id, there)
    assert code == 2 and f"the weights of {run.trial.id} are not in" in error and "choose none, all, or other" in error


def test_weights_that_a_store_lacks_are_added_to_an_equal_result(
    filled: Execution, site: Callable[..., Path], tmp_path: Path, command: Command
) -> None:
    run = one_result(study())
    (tmp_path / "state").write_bytes(b"weights")
    path = site("a", [run], weights={run.trial.id: tmp_path / "state"})
    for added in (1, 0):
        _, said, _ = command("import", path, "--storage", filled.storage, "--json")
        assert (json.loads(said)["equal"], json.loads(said)["weights"]) == ([run.trial.id], added)


def test_bad_input_of_export_and_import_is_one_line_and_exit_code_2(
    filled: Execution, there: Path, tmp_path: Path, command: Command
) -> None:
    storage, new = ("--storage", filled.storage), tmp_path / "new"
    run = next(run for run in study() if run.records is None)
    spec = new / "trials" / one_result(study()).trial.id / "spec.json"
    spec.parent.mkdir(parents=True)
    spec.write_text("{}")
    (new / "store.json").write_text('{"version": 1}')
    for arguments, says in (
        (
            ("export", "--profile", "quick", *storage, new / "a.zip"),
            "none of the 117 selected trials has a result in .*run them: make degradation-study PROFILE=quick",
        ),
        (
            ("export", "--profile", "smoke", *storage, "--weights", run.trial.id, new / "a.zip"),
            f"weights '{run.trial.id}' belong to no selected trial that has a result; choose none, all, or ids",
        ),
        (("export", "--profile", "smoke", *storage), "Missing argument 'OUT'"),
        (("import", tmp_path / "none.zip", *storage), "there is no bundle"),
        (("import", there, "--storage", tmp_path), "is not a store"),
        (("import", there, "--storage", new), "spec.json holds another specification than .*; move .* away"),
    ):
        code, said, error = command(*arguments)
        assert (code, said, error.count("\n")) == (2, "", 1) and pd.Series(error).str.contains(says).all(), error
    with only_launcher(filled.storage):
        code, _, error = command("import", there, *storage)
    assert code == 2 and "is in use by another launch" in error


def test_a_store_that_cannot_take_a_file_says_so(
    store: Execution, there: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(share, "seal_result", full)
    code, _, error = command("import", there, "--storage", store.storage)
    assert code == 2 and "cannot be written (No space left on device); then import again" in error
