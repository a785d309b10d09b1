"""The store and its MLflow: made once, found again, and never written to anywhere but where the store is now."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run, RunData, RunInfo
from stored import TAGS, Small, account, evaluation, record, seal

from study.execution import Execution
from study.run.launch import launch
from study.spec import InputError, Trial
from study.store import atomic
from study.store.account import Outcome, read_account, write_account
from study.store.layout import create
from study.store.mlflow import client, configure, decoration, reader
from study.store.mlflow.mirror import publish
from study.store.records import add_evaluations

ROOT = Path(__file__).parents[1]
PROXIES = [form for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for form in (name, name.upper())]


def test_a_lost_database_is_made_again_from_the_ledger(store: Execution, small: Small) -> None:
    seal(store, small(), [record(4), record(8)])
    publish(store, [small()])
    for path in store.storage.glob("mlflow.db*"):
        path.rename(path.with_suffix(".lost"))
    again = replace(store, storage=store.storage.rename(store.storage.parent / "again"))  # MLflow caches by path
    client.create_store(again)
    assert reader.read(again, [small()]) == []
    publish(again, [small()])
    (found,) = reader.read(again, [small()])
    assert found.records is not None and found.records.num_rows == 2


def test_a_server_that_is_not_there_is_refused(store: Execution) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="127.0.0.1:9 is out of reach"):
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        client.create_store(replace(store, tracking_uri="http://127.0.0.1:9"))


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_breaks_the_tracker_is_named(store: Execution, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in PROXIES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv(name, "http://user:secret@127.0.0.1:9")
    elsewhere = replace(store, tracking_uri="http://tracker.invalid:5000")
    with pytest.raises(InputError) as refused:
        client.create_store(elsewhere)
    assert f"the proxy of {name.lower()}, which no_proxy=tracker.invalid goes around" in str(refused.value)
    monkeypatch.setenv("no_proxy", "tracker.invalid")
    with pytest.raises(InputError) as refused:
        client.create_store(elsewhere)
    assert "proxy" not in str(refused.value)
    assert "proxy" not in client.problem(store, OSError("of a database"))


@pytest.mark.parametrize(
    ("theirs", "then"),
    [
        ({}, None),
        ({"http_proxy": "http://proxy:3128"}, "localhost,127.0.0.1,::1"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".cern.ch, head"}, ".cern.ch,head,localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "*"}, "*"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "a,127.0.0.1", "NO_PROXY": "b"}, "a,127.0.0.1,localhost,::1"),
    ],
)
def test_what_is_on_this_machine_is_never_asked_for_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, theirs: dict[str, str], then: str | None
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # also in a process that such a one started
        configure()
        assert (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")) == (then, then)


def test_a_store_of_another_version_or_another_folder_is_refused(execution: Execution, tmp_path: Path) -> None:
    client.create_store(execution)
    (execution.storage / "store.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="has version 99, this code reads version 1"):
        client.create_store(execution)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(InputError, match="is not a store"):
        client.create_store(replace(execution, storage=tmp_path / "thesis"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a store"):
        client.create_store(replace(execution, storage=tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        client.create_store(replace(execution, storage=Path("/proc/store")))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the store, but for SQLite's index of its log, which readers share."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def recorded(store: Execution) -> set[str]:
    """The places that MLflow's database names."""
    with contextlib.closing(sqlite3.connect(store.storage / "mlflow.db")) as connection:
        places = "SELECT artifact_location FROM experiments WHERE experiment_id != 0"  # MLflow's own, deleted
        rows = connection.execute(f"SELECT artifact_uri FROM runs UNION {places}")
        return {uri.removesuffix("/artifacts") for (uri,) in rows}


def all_below(store: Execution) -> bool:
    return all(uri.startswith(store.storage.resolve().as_uri()) for uri in recorded(store))


@pytest.fixture
def first(store: Execution, small: Small, tmp_path: Path) -> Execution:
    """A store with one result, its picture, and a report."""
    (tmp_path / "index.html").write_text("first")
    write_all(store, small(), tmp_path)
    return store


def write_all(store: Execution, trial: Trial, results: Path) -> None:
    """Everything that the study writes to MLflow."""
    seal(store, trial, [record(4), record(8)])
    add_evaluations(store.trial_folder(trial.id), [evaluation("10-crop", 28.0)])
    publish(store, [trial])
    decoration.picture(store, [(run_id, b"PNG") for run_id in decoration.unpictured(store, [trial.id]).values()])
    decoration.report(store, "test", results, ["index.html"], {}, "")
    (experiment,) = reader.profiles(store).values()
    decoration.describe(store, experiment, f"with {trial.id}", [])


def complete(store: Execution, *trials: Trial) -> bool:
    """Whether the store alone has everything of these trials."""
    runs = reader.read(store, trials)
    for run in runs:
        assert run.records is not None and run.evaluations is not None, run.tags.get("reason")
        folder = store.storage / "artifacts" / run.run_id / "artifacts"
        assert {"records.parquet", "evaluations.parquet", "curve.png"} <= {path.name for path in folder.iterdir()}
    return {run.trial for run in runs} == set(trials) and all_below(store)


def test_a_copied_store_never_writes_to_the_one_it_is_a_copy_of(first: Execution, small: Small, tmp_path: Path) -> None:
    copy = replace(first, storage=Path(shutil.copytree(first.storage, tmp_path / "copy")))
    before = contents(first.storage)
    (tmp_path / "index.html").write_text("second")
    write_all(copy, small(seed=1), tmp_path)
    assert contents(first.storage) == before
    assert complete(copy, small(), small(seed=1)) and all_below(first)
    launch([small(seed=2)], copy, {small(seed=2).id: TAGS}, lambda *_: None)
    assert contents(first.storage) == before
    assert len(reader.read(copy, [small(seed=seed) for seed in range(3)])) == 3


def test_trials_copied_from_another_store_are_shown_by_the_next_launch_and_not_trained_again(
    first: Execution, small: Small, tmp_path: Path
) -> None:
    other = replace(first, storage=tmp_path / "other")
    trials = [small(), small(seed=1), small(seed=2)]
    client.create_store(other)
    write_all(other, trials[1], tmp_path)
    seal(other, trials[2], [record(4), record(8)], cohort="1")
    write_account(other.trial_folder(small(seed=3).id), account(Outcome.RUNNING))  # copied while it ran
    before, found = contents(other.storage), {run.trial: run for run in reader.read(first, trials)}
    shutil.copytree(other.storage / "trials", first.storage / "trials", dirs_exist_ok=True)
    launch(trials, first, {trial.id: TAGS for trial in trials}, lambda todo, _: pytest.fail(f"trains {todo}"))
    merged = {run.trial: run for run in reader.read(first, trials)}
    assert set(merged) == set(trials) and {run.outcome for run in merged.values()} == {"finished"}
    assert merged[small()] == found[small()]
    theirs = next(run for run in reader.read(other, trials))
    assert merged[trials[1]].records == theirs.records and merged[trials[1]].evaluations == theirs.evaluations
    assert read_account(first.trial_folder(small(seed=3).id)).outcome == Outcome.INTERRUPTED
    assert contents(other.storage) == before and all_below(first)


def test_a_moved_store_is_read_without_writing_and_its_old_place_is_never_made_again(
    first: Execution, small: Small, tmp_path: Path
) -> None:
    moved = replace(first, storage=first.storage.rename(tmp_path / "elsewhere"))
    before = contents(moved.storage)
    (run,) = reader.read(moved, [small()])
    assert run.records is not None and run.evaluations is not None
    assert contents(moved.storage) == before and not all_below(moved)
    (tmp_path / "index.html").write_text("second")
    write_all(moved, small(seed=1), tmp_path)
    assert complete(moved, small(), small(seed=1))
    assert not first.storage.exists()


def test_what_older_code_wrote_into_the_old_place_is_read_there_and_then_copied_from_there(
    first: Execution, small: Small, tmp_path: Path
) -> None:
    copy = replace(first, storage=Path(shutil.copytree(first.storage, tmp_path / "copy")))
    write_all(copy, small(seed=1), tmp_path)
    (run,) = reader.read(copy, [small(seed=1)])
    artifacts = [store.storage / "artifacts" / run.run_id for store in (copy, first)]
    shutil.move(*artifacts)
    with contextlib.closing(sqlite3.connect(copy.storage / "mlflow.db")) as connection, connection:
        uri = (artifacts[1] / "artifacts").as_uri()
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (uri, run.run_id))
    before = contents(copy.storage)
    (found,) = reader.read(copy, [small(seed=1)])
    assert found.records is not None and contents(copy.storage) == before
    old = contents(first.storage)
    client.settle(copy)
    assert contents(first.storage) == old
    shutil.rmtree(first.storage)
    assert complete(copy, small(), small(seed=1))


NAMES = (
    "what?x=%41#1 \u00fc",
    "%41",
    "a#b",
    "a b",
    "it's",
    '"',
    "a\nb\t",
    "$HOME `x` & ; |",
    "?",
    "\U0001f600",
    "-x",
    "e\u0301",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_store_may_have_any_name(name: str, store: Execution, small: Small, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    odd = replace(store, storage=store.storage.rename(tmp_path / "odd" / name))
    client.create_store(odd)
    seal(odd, small(), [record(4), record(8)])
    publish(odd, [small()])
    (run,) = reader.read(odd, [small()])
    assert run.records is not None and all_below(odd)
    assert [path.name for path in (tmp_path / "odd").iterdir()] == [name]


def test_a_database_is_made_where_its_name_is_odd(execution: Execution, tmp_path: Path) -> None:
    odd = replace(execution, storage=tmp_path / "odd" / NAMES[0])
    client.create_store(odd)
    assert (odd.storage / "mlflow.db").exists() and len(list((tmp_path / "odd").iterdir())) == 1


def test_names_that_are_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="is no UTF-8; choose another"):
        atomic.place(os.fsdecode(b"store\xff"))


@contextlib.contextmanager
def read_only(root: Path) -> Iterator[None]:
    """The folder as one to whom nothing of it belongs has it: files can be read, and nothing written."""
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: permissions do not bind root
    try:
        yield
    finally:
        os.seteuid(user)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_store_on_a_read_only_place_is_read_and_only_read(first: Execution, small: Small) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the folders of pytest are closed to others
        there = replace(first, storage=Path(shutil.copytree(first.storage, Path(folder) / "store")))
        with contextlib.closing(sqlite3.connect(there.storage / "mlflow.db")) as connection, connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("UPDATE tags SET value = 'yes' WHERE key = 'experiments'")
            connection.commit()
            log = (there.storage / "mlflow.db-wal").read_bytes()  # as a killed writer leaves it
            main = (there.storage / "mlflow.db").read_bytes()
        (there.storage / "mlflow.db").write_bytes(main)
        (there.storage / "mlflow.db-wal").write_bytes(log)
        before = contents(there.storage)
        with read_only(there.storage):
            (run,) = reader.read(there, [small()])
            assert run.records is not None and run.evaluations is not None and run.tags["experiments"] == "yes"
            assert reader.profiles(there) and reader.foreign(there, "test", []) == {}
            assert decoration.unpictured(there, [small().id]) == {}
            with pytest.raises(InputError, match="is read-only"):
                decoration.report(there, "test", Path(), [], {}, "")
            with pytest.raises(InputError, match="cannot be written"):
                client.create_store(there)
            copy = client.readable(there.storage / "mlflow.db")
            assert client.rebase(copy, there.storage) and client.rebase(copy, there.storage) == []
        assert contents(there.storage) == before


def test_an_experiment_that_was_deleted_is_named_and_comes_back_with_the_next_launch(
    first: Execution, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    (experiment,) = reader.profiles(first).values()
    reader.check_experiments(first, [small()])
    client.connect(first).delete_experiment(experiment)
    assert reader.read(first, [small()]) == []
    with pytest.raises(InputError, match="'degradation-study: test' .* with runs of 1 of these trials, has been delet"):
        reader.check_experiments(first, [small(), small(seed=1)])
    reader.check_experiments(first, [small(seed=1)])
    launch([small()], first, {small().id: TAGS}, lambda *_: None)
    assert complete(first, small()) and "it is restored" in caplog.text


def test_a_store_without_a_database_has_no_runs_and_gets_none_by_reading(execution: Execution, small: Small) -> None:
    create(execution.storage)
    assert reader.read(execution, [small()]) == [] and reader.profiles(execution) == {}
    assert not (execution.storage / "mlflow.db").exists()


def test_a_file_that_is_no_database_is_refused_in_one_line(store: Execution, small: Small) -> None:
    (store.storage / "mlflow.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(InputError, match="mlflow.db"):
        reader.read(store, [small()])
    with pytest.raises(InputError, match="mlflow.db cannot be written: file is not a database"):
        publish(store, [small()])


def command(module: str, *words: str | Path) -> str:
    """What the command line prints; it must end with 0."""
    line = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def members(bundle: Path) -> dict[str, bytes]:
    """What a bundle holds, without its manifest, which names the time of writing."""
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


@pytest.mark.slow
def test_commands_in_a_copied_and_in_a_moved_store_leave_the_old_place_alone(tmp_path: Path) -> None:
    first, copy, moved = (tmp_path / name for name in ("first", "copy", "moved"))
    study = ("--profile", "smoke", "--experiments")
    command("experiments", "run", *study, "plain-vs-residual", "--local", "--storage", first)
    shutil.copytree(first, copy)
    before = contents(first)
    both = (*study, "plain-vs-residual shortcut-options")
    command("experiments", "run", *both, "--local", "--storage", copy)
    command("experiments", "export", tmp_path / "bundle.zip", *both, "--storage", copy)
    command("analysis", "figures", *both, "--storage", copy, "--results", tmp_path / "results")
    assert contents(first) == before
    copy.rename(moved)
    before = contents(moved)
    output = command("experiments", "export", tmp_path / "again.zip", *both, "--storage", moved)
    assert contents(moved) == before and "unusable" not in output
    assert members(tmp_path / "again.zip") == members(tmp_path / "bundle.zip")
    command("experiments", "run", *study, "learning-rate", "--local", "--storage", moved)
    command("analysis", "figures", *both, "--storage", moved, "--results", tmp_path / "results")
    assert not copy.exists()
    assert all_below(Execution(storage=moved, data_root=tmp_path))


def test_a_database_that_names_other_places_lets_nothing_of_them_into_the_store(
    first: Execution, small: Small, tmp_path: Path
) -> None:
    """A store may be somebody else's, and be shared again: what it names must be the folder of the same run."""
    private = tmp_path / "home" / ".ssh"
    private.mkdir(parents=True)
    (private / "id").write_text("private")
    write_all(first, small(seed=1), tmp_path)
    (run,) = reader.read(first, [small(seed=1)])
    disguised = tmp_path / "theirs" / "artifacts" / run.run_id
    disguised.mkdir(parents=True)
    linked = tmp_path / "their links" / "artifacts" / run.run_id / "artifacts"
    linked.mkdir(parents=True)
    (linked / "id").symlink_to(private / "id")
    (disguised / "artifacts").symlink_to(private)
    for place in (private, disguised / "artifacts", linked):
        with contextlib.closing(sqlite3.connect(first.storage / "mlflow.db")) as connection, connection:
            connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (place.as_uri(), run.run_id))
        client.settle(first)
        assert not list(first.storage.rglob("id"))


@pytest.mark.parametrize("uri", ["elsewhere", "./x/artifacts", "s3://bucket/x"])
def test_a_stores_own_runs_have_their_files_in_the_store_whatever_its_database_names(
    first: Execution, small: Small, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_all(first, small(seed=1), tmp_path)
    (run,) = reader.read(first, [small(seed=1)])
    with contextlib.closing(sqlite3.connect(first.storage / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (uri,))
    before = sorted(tmp_path.rglob("*"))
    client.attach(first, client.connect(first).get_run(run.run_id), {"note.txt": b"here"})
    assert set(tmp_path.rglob("*")) - set(before) == {first.storage / "artifacts" / run.run_id / "artifacts/note.txt"}


def test_a_run_whose_id_would_lead_elsewhere_is_refused(first: Execution, tmp_path: Path) -> None:
    run = Run(  # as a database of others may have it
        RunInfo("../../x", "1", "me", "FINISHED", 0, None, "active", artifact_uri="file:///x"), RunData([], [], [])
    )
    with pytest.raises(InputError, match="ids are 32 hexadecimal digits"):
        client.attach(first, run, {"note.txt": b"here"})
    assert not (tmp_path / "x").exists()
