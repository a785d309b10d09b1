"""The record of every trial in MLflow; the only module that imports mlflow.

Owns how the ledger becomes runs and how runs are read back: a run a trial, found by its `trial_id` tag; the full curve
as a Parquet artifact, sealed by row count and digest; a thinned view of it as metrics, for browsing; evaluations,
which come later, as an artifact that follows the ledger's. Only whoever holds the store's lock writes runs of trials;
what MLflow cannot take now is still in the ledger, and shown later. Beside them a profile's MLflow experiment has a
description, views, and one run that holds the report: who passes them knows what they say. Does not know how trials
are run, nor which experiments there are.
"""

import colorsys
import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # what waits is not lost, so waiting long is no use
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from study.execution import Execution
from study.spec import PROTOCOL, SCHEMA, InputError, Trial
from study.store import layout
from study.store.account import RESULTS, Account, Outcome, read_account
from study.store.atomic import is_local
from study.store.atomic import read as read_file
from study.store.heartbeat import version
from study.store.layout import Store, is_store
from study.store.records import (
    RECALIBRATED,
    Run,
    is_evaluated,
    read_evaluations,
    read_records,
    table_digest,
    verified,
    verified_evaluations,
    verified_layers,
)

STUDY = "degradation-study"
VERSION = f"schema {SCHEMA}, protocol {PROTOCOL}"  # of the ids that this code makes and reads
POINTS = 150  # of a series in the MLflow UI: it asks for 320 at most, and its server takes as long as there are points
LOOK_SECONDS = 2.0  # between looks at what trials have said
OUTAGE_SECONDS = 10.0  # between attempts while MLflow is out of reach
# Files of a trial that its run shows.
ATTACHED = (layout.SPEC, layout.PATCH, layout.TRACE, layout.RECORDS, layout.LAYERS)
EVALUATED = "evaluations_sha256"  # tag: of the evaluations that the run shows
PICTURED = "mlflow.curve"  # tag: the file with the picture of the run's curve; MLflow's UI lists no tag of this prefix
NOTE = "mlflow.note.content"  # tag: the description, in Markdown, of a run or an experiment
KIND = {"mlflow.experimentKind": "custom_model_development"}  # or the UI opens a page on language models
VIEW = "mlflow.sharedViewState."  # tags of an experiment: its saved views, by their keys
# Fields that follow from others, or say how closely a trial is looked at. They are in spec.json and in the tag `spec`;
# parameters are what is worth a column.
UNCOMPARED = (
    *("model.stem", "model.stride", "recipe.patience", "recipe.record_every", "recipe.evaluate_every"),
    *(f"data.{name}" for name in ("channels", "size", "classes", "padding", "flip", "scales", "colour", "digest")),
    *(f"detection.{name}" for name in ("anchors", "longest", "proposals", "regions")),
)
STATUS = {
    Outcome.RUNNING: "RUNNING",
    Outcome.FINISHED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.INTERRUPTED: "KILLED",
}
TESTED = ("test_error_pct", "map_50")  # of the last record
MEND = "delete what is wrong in MLflow (make ui); the next launch shows the trial's folder again, or trains it"
log = logging.getLogger(__name__)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # an outage is told once, not at every attempt
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it would print what it raises, too


def uri_of(execution: Execution) -> str:
    """The tracking address: the given one, or the database inside the storage."""
    return execution.tracking_uri or f"sqlite:///{Store(execution.storage.resolve()).database}"


def create_store(execution: Execution) -> None:
    """Make the storage folder and its database, once, before trials write to it. Existing ones are checked only.

    Raises `InputError` where storage or MLflow cannot be written. May be killed at any instant and called again.
    """
    storage = execution.storage
    if not execution.tracking_uri and not is_local(storage):
        raise InputError(f"storage {storage} cannot hold a database; name an MLflow server: --tracking-uri http://...")
    layout.create(storage)
    if not execution.tracking_uri:
        _create_database(storage)
    try:
        client(execution).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None


def _create_database(storage: Path) -> None:
    """MLflow's database, made under another name: one that a kill left half made could never be opened."""
    Store(storage).artifacts.mkdir(exist_ok=True)
    database = Store(storage).database
    if database.exists():
        return
    half_made = storage.resolve() / f".mlflow.db.{os.getpid()}"
    half_made.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{half_made}").delete_experiment("0")  # MLflow's own 'Default': nothing is ever in it
    with contextlib.closing(sqlite3.connect(half_made)) as opened:
        opened.execute("PRAGMA journal_mode=WAL")  # persistent: readers no longer wait for writers
    with contextlib.suppress(FileExistsError):  # another process was first
        os.link(half_made, database)
    half_made.unlink()


def client(execution: Execution) -> MlflowClient:
    """A client of the study's store; raises `InputError` where it cannot be opened."""
    try:
        return MlflowClient(uri_of(execution))
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"tracking store {uri_of(execution)} cannot be opened: {reason}") from None


def _experiment(mlflow: MlflowClient, execution: Execution, profile: str) -> str:
    name = f"{STUDY}: {profile}"
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    served = execution.tracking_uri.startswith("http")  # a server knows where its artifacts are; a database does not
    place = None if served else Store(execution.storage.resolve()).artifacts.as_uri()
    try:
        return mlflow.create_experiment(
            name, artifact_location=place, tags={"study": STUDY, "profile": profile, **KIND}
        )
    except MlflowException:  # another process was first
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


class Mirror:
    """Makes the runs of these trials show what the ledger holds. Everything may be repeated: nothing is logged twice.

    An outage of MLflow is a warning; what was missed follows when it is back.
    """

    def __init__(self, execution: Execution, trials: Iterable[Trial]) -> None:
        """Find the trials' runs. Raises `InputError` where MLflow cannot be reached at all."""
        self.execution, self.mlflow = execution, client(execution)
        self.trials = {trial.id: trial for trial in trials}
        try:
            self.runs = self._one_each(_search(self.mlflow, list(self.trials)))
        except (MlflowException, OSError) as error:
            raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None
        self.shown: dict[str, Any] = {}  # the version of what a trial's run shows
        self.logged: dict[str, int] = {}  # the last iteration among its metrics
        self.behind: set[str] = set()
        self.outage = ""

    def results(self) -> set[str]:
        """Ids of the trials whose runs have a result."""
        return {id for id, run in self.runs.items() if _has_result(run)}

    def update(self) -> bool:
        """Show what is new in the ledger; whether MLflow now has it all."""
        for trial in list(self.trials.values()):
            folder = self.execution.trial_folder(trial.id)
            new = [version(folder / name) for name in (layout.ACCOUNT, layout.RECORDS, layout.EVALUATIONS)]
            if new[0] is None or self.shown.get(trial.id) == new:
                continue
            self.behind.add(trial.id)
            try:
                self._show(trial, folder)
            except (MlflowException, OSError, sqlite3.Error) as error:
                if not self.outage:
                    log.warning("tracking is out of reach (%s); training goes on", _first_line(error))
                self.outage = _first_line(error)
                return False
            if self.outage:
                log.warning("tracking is back; what it missed follows")
                self.outage = ""
            self.shown[trial.id] = new
            self.behind.discard(trial.id)
        return not self.behind

    def _show(self, trial: Trial, folder: Path) -> None:
        account = read_account(folder)
        if account.outcome == Outcome.MISSING:
            return
        sealed, run = account.has_result, self.runs.get(trial.id)
        shown = run.data.tags if run and run.info.status == "FINISHED" else {}
        if sealed and _is_result(shown):
            if shown["records_sha256"] != account.tags["records_sha256"]:
                log.warning("MLflow has another result of trial %s, and keeps it; %s has this one", trial.id, folder)
            else:
                self._evaluations(trial, folder)
            return
        if run is None:
            self.runs[trial.id] = run = self._create(trial, account)
        if not run.data.params:
            self.mlflow.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in _flat(trial)])
        run_id, known = run.info.run_id, run.data.tags
        records = read_records(folder).to_pylist()
        self._metrics(trial, run, records)
        finals = _finals(trial, account, records) if sealed else {}
        if sealed:
            # At step 0 the UI draws bars, not a curve of one point.
            metrics = [Metric(name, value, run.info.start_time, 0) for name, value in finals.items()]
            self.mlflow.log_batch(run_id, metrics=metrics)
            self._attach(run_id, folder, ATTACHED)
        tags = {**_trial_tags(trial), **account.tags, "reason": account.reason}
        tags |= {NOTE: _note(trial, account, finals)} if sealed else {}
        self._tag(run_id, {key: value for key, value in tags.items() if known.get(key, "") != value})
        if account.outcome != Outcome.RUNNING:
            self._tag(run_id, {"outcome": account.outcome})  # a result only once everything else is there
            took = 1_000 * float(account.tags.get("seconds", "nan"))  # of a trial from elsewhere, now says nothing
            ended = run.info.start_time + round(took) if sealed and math.isfinite(took) else None
            self.mlflow.set_terminated(run_id, STATUS[account.outcome], ended)
        elif known.get("outcome") != Outcome.RUNNING or run.info.status != "RUNNING":
            self._tag(run_id, {"outcome": Outcome.RUNNING})
            self.mlflow.update_run(run_id, status="RUNNING")
        self.runs[trial.id] = self.mlflow.get_run(run_id)
        if sealed:
            self._evaluations(trial, folder)

    def _evaluations(self, trial: Trial, folder: Path) -> None:
        """Show the evaluations, if they are others than the run's, which names none while they are replaced."""
        table, run = read_evaluations(folder), self.runs[trial.id]
        run_id, known = run.info.run_id, run.data.tags.get(EVALUATED, "")
        if table is None or known == table_digest(table):
            return
        if known:
            self._tag(run_id, {EVALUATED: ""})
        self._attach(run_id, folder, [layout.EVALUATIONS])
        self._tag(run_id, {EVALUATED: table_digest(table)})
        self.runs[trial.id] = self.mlflow.get_run(run_id)

    def _attach(self, run_id: str, folder: Path, names: Iterable[str]) -> None:
        with tempfile.TemporaryDirectory() as copies:
            for name in names:
                if (content := read_file(folder / name)) is not None:
                    (Path(copies) / name).write_bytes(content)
            self.mlflow.log_artifacts(run_id, copies)

    def _create(self, trial: Trial, account: Account) -> Any:
        """The trial's one run. Where an answer was lost, the server has it already, and MLflow's client asked again."""
        there = list(_search(self.mlflow, [trial.id])) if self.outage else []
        if not there:
            identity = {
                "study": STUDY,
                "trial_id": trial.id,
                "outcome": Outcome.RUNNING.value,
                "spec": json.dumps(trial.to_dict()),
            }
            identity["mlflow.runColor"] = _colour(trial)
            place, name = _experiment(self.mlflow, self.execution, account.tags["profile"]), _name(trial, account.tags)
            self.mlflow.create_run(place, account.started, run_name=name, tags=identity)
            there = list(_search(self.mlflow, [trial.id]))
        return self._one_each(there)[trial.id]

    def _one_each(self, runs: Iterable[Any]) -> dict[str, Any]:
        """The run of each trial. Of several, all but one are deleted, except any with results: they are the user's."""
        one: dict[str, Any] = {}
        for run in sorted(runs, key=lambda run: not _has_result(run)):
            id = run.data.tags["trial_id"]
            if one.setdefault(id, run) is not run and not _has_result(run):
                self.mlflow.delete_run(run.info.run_id)
        return one

    def _metrics(self, trial: Trial, run: Any, records: list[dict[str, Any]]) -> None:
        """Add what is new in `records` to the browsable metrics: thinned, finite, stamped by iteration."""
        recipe, run_id = trial.recipe, run.info.run_id
        last = self.logged.get(trial.id)
        if last is None:
            last = max((int(metric.step) for metric in run.data._metric_objs), default=0)
        stride = math.ceil(recipe.iterations / recipe.record_every / POINTS)
        metrics = [
            Metric(name, value, run.info.start_time + record["iteration"], record["iteration"])
            for index, record in enumerate(records)
            if record["iteration"] > last and (index % stride == 0 or record is records[-1] or is_evaluated(record))
            for name, value in record.items()
            if name != "iteration" and value is not None and math.isfinite(value)
        ]
        if metrics:
            self.mlflow.log_batch(run_id, metrics=metrics)
        self.logged[trial.id] = max([last, *(metric.step for metric in metrics)])

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        if tags:
            self.mlflow.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


@contextmanager
def mirroring(mirror: Mirror, patience: float = 30.0) -> Iterator[None]:
    """Keep MLflow showing the ledger while the block runs, and bring it up to date at the end.

    Waits at most `patience` seconds for a server that is out of reach then, and says what it still misses.
    """
    over = threading.Event()

    def keep() -> None:
        while not over.wait(OUTAGE_SECONDS if mirror.outage else LOOK_SECONDS):
            mirror.update()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        until = time.monotonic() + patience
        while not mirror.update() and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        if mirror.behind:
            log.error(
                "MLflow lacks %d trials (%s); they are in the storage, and the same command shows them when it is back",
                len(mirror.behind),
                mirror.outage,
            )


def publish(execution: Execution, trials: Sequence[Trial]) -> None:
    """Make the runs of these trials show the ledger; for whoever holds the store's lock. Raises `InputError`."""
    mirror = Mirror(execution, trials)
    if not mirror.update():
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {mirror.outage}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def read(execution: Execution, trials: Iterable[Trial], records: bool = True) -> list[Run]:
    """The logged run of each of these trials that has one; of a result the records too, unless `records` is false.

    What cannot be used has the outcome 'unusable' and the reason among its tags: several runs of one trial, a run with
    the id of a trial and another specification, files that are missing or not what was sealed. Raises `InputError`
    where MLflow is out of reach.
    """
    return list(each(execution, trials, records))


def each(execution: Execution, trials: Iterable[Trial], records: bool = True) -> Iterator[Run]:
    """What `read` returns, one by one: the curves of a large study need not be in memory together."""
    if not execution.tracking_uri and not is_store(execution.storage):
        return
    mlflow, wanted = client(execution), {trial.id: trial for trial in trials}
    found: dict[str, list[Any]] = {}
    try:
        for run in _search(mlflow, list(wanted)):
            found.setdefault(run.data.tags["trial_id"], []).append(run)
        for id, runs in found.items():
            yield _read(mlflow, execution, wanted[id], runs, records)
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None


def _read(mlflow: MlflowClient, execution: Execution, trial: Trial, found: list[Any], records: bool) -> Run:
    tags, run_id = dict(found[0].data.tags), " and ".join(sorted(run.info.run_id for run in found))
    outcome = tags.get("outcome", "")
    table = layers = evaluations = None
    try:
        if len(found) > 1:
            raise InputError(f"runs {run_id} are of one trial, and neither is used")
        if not _specifies(tags, trial):
            raise InputError(f"run {run_id} has another specification than the trial of its id")
        if outcome not in STATUS:
            raise InputError(f"run {run_id} has the outcome {outcome!r}, which is none of {', '.join(STATUS)}")
        if records and Outcome(outcome).is_result:
            table = _table(layout.RECORDS, verified, mlflow, run_id, tags, execution)
            if "layers_sha256" in tags:
                layers = _table(layout.LAYERS, verified_layers, mlflow, run_id, tags, execution)
            if tags.get(EVALUATED):
                evaluations = _table(layout.EVALUATIONS, verified_evaluations, mlflow, run_id, tags, execution)
    except InputError as error:
        return Run(run_id, trial, Outcome.UNUSABLE, tags | {"reason": f"{error}; {MEND}"}, None)
    for name in (EVALUATED, PICTURED):
        tags.pop(name, None)  # they are about this copy, not about the trial
    return Run(run_id, trial, Outcome(outcome), tags, table, layers, evaluations)


def _specifies(tags: Mapping[str, str], trial: Trial) -> bool:
    try:
        return json.loads(tags["spec"]) == json.loads(json.dumps(trial.to_dict()))
    except (KeyError, ValueError):
        return False


def foreign(execution: Execution, profile: str, trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Ids of the profile's runs that are of another schema or protocol than this code's, by these; reads no records.

    A run of these trials is never among them. Raises `InputError` where MLflow is out of reach.
    """
    if not execution.tracking_uri and not is_store(execution.storage):
        return {}
    planned = {trial.id for trial in trials}
    found: dict[str, list[str]] = {}
    try:
        for run in _search(client(execution), None, f"tags.profile = '{profile}'"):
            version, id = _version(run.data.tags), run.data.tags.get("trial_id", run.info.run_id)
            if version != VERSION and id not in planned:
                found.setdefault(version, []).append(id)
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None
    return {version: sorted(found[version]) for version in sorted(found)}


def _version(tags: Mapping[str, str]) -> str:
    """Schema and protocol of a run. Those that do not say are this code's if it gives their specification their id."""
    if {"schema", "protocol"} <= set(tags):
        return f"schema {tags['schema']}, protocol {tags['protocol']}"
    try:
        ours = Trial.from_dict(json.loads(tags["spec"])).id == tags["trial_id"]
    except (KeyError, TypeError, ValueError):
        ours = False
    return VERSION if ours else "a schema or protocol before these were recorded"


@dataclass(frozen=True)
class View:
    """A saved view of a profile's runs in MLflow's UI: a name in its menu, an address, and what it opens with."""

    key: str  # in the address: ?viewStateShareKey=...
    name: str
    state: Mapping[str, Any]  # as the UI keeps it: filter, order, columns, groups, charts
    charts: bool  # whether the address opens charts rather than the table


def profiles(execution: Execution) -> dict[str, str]:
    """Id of the MLflow experiment of each profile that has runs. Raises `InputError` where MLflow is out of reach."""
    try:
        found = client(execution).search_experiments(filter_string=f"tags.study = '{STUDY}'")
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None
    return {each.tags["profile"]: each.experiment_id for each in found if "profile" in each.tags}


def describe(execution: Execution, experiment: str, note: str, views: Iterable[View]) -> None:
    """Give a profile's MLflow experiment (its id) this description, in Markdown, and these views.

    A description that somebody wrote there stays. Raises `InputError` where MLflow cannot be written.
    """
    mlflow = client(execution)
    try:
        found = mlflow.get_experiment(experiment)
        tags = dict(KIND)
        for view in views:
            envelope = {"name": view.name, "createdAt": found.creation_time, "updatedAt": found.creation_time}
            tags[VIEW + view.key] = json.dumps(envelope | {"state": json.dumps(view.state)})
        written = _sha(found.tags.get(NOTE, ""))
        if NOTE not in found.tags or written == found.tags.get("note_sha256"):
            tags |= {NOTE: note, "note_sha256": _sha(note)}
        for name, value in tags.items():
            if found.tags.get(name) != value:
                mlflow.set_experiment_tag(experiment, name, value)
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} cannot be written: {_first_line(error)}") from None


def unpictured(execution: Execution, ids: Iterable[str]) -> dict[str, str]:
    """The runs, by trial, of those of these trials that have a result and no picture of its curve.

    Raises `InputError` where MLflow is out of reach, or would keep a picture elsewhere than in the store.
    """
    if not execution.tracking_uri and not is_store(execution.storage):
        return {}
    try:
        runs = list(_search(client(execution), list(ids)))
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} is out of reach: {_first_line(error)}") from None
    results = [run for run in runs if _has_result(run) and PICTURED not in run.data.tags]
    for run in results:
        _check_place(execution, run)
    return {run.data.tags["trial_id"]: run.info.run_id for run in results}


def picture(execution: Execution, pictures: Iterable[tuple[str, bytes]]) -> None:
    """Attach pictures of curves, PNG, to the runs of these ids. Raises `InputError` where MLflow cannot be written."""
    mlflow = client(execution)
    try:
        for run_id, png in pictures:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "curve.png").write_bytes(png)
                mlflow.log_artifact(run_id, str(Path(folder) / "curve.png"))
            mlflow.set_tag(run_id, PICTURED, "curve.png")
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} cannot be written: {_first_line(error)}") from None


def report(
    execution: Execution, profile: str, folder: Path, names: Sequence[str], numbers: Mapping[str, float], note: str
) -> None:
    """Make the profile's run 'Report' hold these files of the folder, numbers and description; there is one such run.

    It replaces what the run held before, and does nothing where it holds the same already, or where the profile has no
    runs. The run has no tag `profile`, by which runs of trials are found. Raises `InputError` as `picture`.
    """
    if not execution.tracking_uri and not is_store(execution.storage):
        return
    mlflow = client(execution)
    try:
        experiment = mlflow.get_experiment_by_name(f"{STUDY}: {profile}")
        if experiment is None:
            return
        content = [(name, _sha((folder / name).read_bytes())) for name in sorted(names)]
        sealed = _sha(json.dumps([content, dict(numbers), note]))
        place = experiment.experiment_id
        found = list(mlflow.search_runs([place], "tags.kind = 'report'"))
        for other in found[1:]:
            mlflow.delete_run(other.info.run_id)
        tags = {"study": STUDY, "kind": "report"}
        run = found[0] if found else mlflow.create_run(place, run_name="Report", tags=tags)
        if run.data.tags.get("report_sha256") == sealed:
            return
        run_id = run.info.run_id
        _check_place(execution, run)
        held = get_artifact_repository(run.info.artifact_uri, uri_of(execution))
        held.delete_artifacts()  # what this report no longer has, too
        with tempfile.TemporaryDirectory() as copies:
            for name in names:
                (Path(copies) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, Path(copies) / name)
            mlflow.log_artifacts(run_id, copies)
        now = round(1_000 * time.time())
        tags = {NOTE: note, "report_sha256": sealed}
        metrics = [Metric(name, value, now, 0) for name, value in numbers.items()]
        mlflow.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        mlflow.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        raise InputError(f"tracking {uri_of(execution)} cannot be written: {_first_line(error)}") from None


def _check_place(execution: Execution, run: Any) -> None:
    """Refuse to write to the store that this one is a copy of: the database still names the old place."""
    if not execution.tracking_uri and not run.info.artifact_uri.startswith(execution.storage.resolve().as_uri()):
        raise InputError(
            f"store {execution.storage} was moved, and its MLflow keeps artifacts in {run.info.artifact_uri};"
            " move it back, or export it and import it into a new store"
        )


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _table(
    file: str,
    verified: Callable[[pa.Table, dict[str, str], str], pa.Table],
    mlflow: MlflowClient,
    run_id: str,
    tags: dict[str, str],
    execution: Execution,
) -> pa.Table:
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = pq.read_table(_artifact(file, mlflow, run_id, execution, folder))
    except (OSError, MlflowException, pa.ArrowException) as error:
        mlflow.get_run(run_id)  # raises if not the file is at fault but MLflow is out of reach
        raise InputError(f"{file} of run {run_id} cannot be read ({_first_line(error)})") from None
    return verified(table, tags, f"run {run_id}")


def _artifact(name: str, mlflow: MlflowClient, run_id: str, execution: Execution, folder: str) -> str:
    """Path of a run's file, also of a store that was moved, whose database still names the old place."""
    here = Store(execution.storage).artifacts / run_id / "artifacts" / name
    there = not execution.tracking_uri and here.exists()
    return str(here) if there else mlflow.download_artifacts(run_id, name, folder)


def _search(mlflow: MlflowClient, ids: list[str] | None, condition: str = "") -> Iterator[Any]:
    """Runs of the study in every profile's experiment; of the given trials, if ids are given."""
    experiments = [e.experiment_id for e in mlflow.search_experiments(filter_string=f"tags.study = '{STUDY}'")]
    if not experiments:
        return
    if ids is not None and len(ids) == 1:
        condition = f"tags.trial_id = '{ids[0]}'"
    token = None
    while True:
        page = mlflow.search_runs(experiments, condition, max_results=1000, page_token=token)
        yield from (run for run in page if ids is None or run.data.tags.get("trial_id") in ids)
        token = page.token
        if not token:
            return


def _has_result(run: Any) -> bool:
    """Whether a run of MLflow has the tag of a result."""
    return _is_result(run.data.tags)


def _is_result(tags: Mapping[str, str]) -> bool:
    return tags.get("outcome") in RESULTS


def _flat(trial: Trial) -> Iterator[tuple[str, Any]]:
    for part, values in asdict(trial).items():
        if isinstance(values, dict):
            names = ((f"{part}.{key}", value) for key, value in values.items())
            yield from ((name, value) for name, value in names if name not in UNCOMPARED)
        else:
            yield part, values


def _name(trial: Trial, tags: Mapping[str, str]) -> str:
    """What a person calls the run: `plain-56 · seed 2 · digits · plain-vs-residual`. Not always one run's alone."""
    first = tags.get("experiments", "").partition(",")[0]
    return " · ".join([trial.title, f"seed {trial.seed}", trial.data.label, *([first] if first else [])])


def _colour(trial: Trial) -> str:
    """Of the run's curves in charts: plain nets orange, residual ones blue, violet, green by option; deep ones dark."""
    hues = {"none": 22, "A": 208, "B": 275, "C": 150, "A-average": 190}
    hue = 40 if trial.model.family == "vgg" else hues[trial.model.shortcut]
    depth = min(math.log2(trial.model.depth / 16) / 4, 1.0)  # 16 layers to 256, and more
    rgb = colorsys.hls_to_rgb(hue / 360, 0.72 - 0.42 * depth, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _finals(trial: Trial, account: Account, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a column shows of a result: seconds and, if it finished, the errors that tables print, as they print them.

    The training error is the mean of the running one over the last tenth of the iterations.
    """
    tags = account.tags
    found = {name: round(float(tags[name]), 2) for name in ("seconds", *RECALIBRATED) if name in tags}
    if account.outcome != Outcome.FINISHED:
        return found
    tenth = [record for record in records if record["iteration"] > 0.9 * trial.recipe.iterations]
    last = records[-1] if records else {}
    running = [record["train_error_pct"] for record in tenth if record.get("train_error_pct") is not None]
    if running:
        found["final_train_error_pct"] = round(sum(running) / len(running), 2)
    return found | {f"final_{name}": round(last[name], 2) for name in TESTED if last.get(name) is not None}


def _note(trial: Trial, account: Account, finals: Mapping[str, float]) -> str:
    """The description of a result's run, in Markdown."""
    tags = account.tags
    outcome = (
        f"diverged at iteration {tags.get('diverged_at', '?')}" if account.outcome == Outcome.DIVERGED else "finished"
    )
    lines = [f"**{trial.title}** on {trial.data.label}, seed {trial.seed}: {outcome}."]
    named = {"training error": "final_train_error_pct", "test error": "final_test_error_pct"}
    lines += [f"- {what} at the end: {finals[name]:.2f} %" for what, name in named.items() if name in finals]
    lines += [f"- mAP at the end: {finals['final_map_50']:.2f}"] if "final_map_50" in finals else []
    lines += [f"- trained for: {tags.get('experiments') or 'nothing in particular'}"]
    lines += [f"- departs from the paper in {tags['deviations']}"] if tags.get("deviations", "none") != "none" else []
    where = ", ".join(f"{what} {tags[what]}" for what in ("python", "torch", "machine", "device") if what in tags)
    lines += [f"- code {tags.get('git_commit', 'unknown')[:12]} ({tags.get('git_patch', 'unknown')}); {where}"]
    lines += [f"- images {tags['data_digest'][:12]} (SHA-256)"] if "data_digest" in tags else []
    again = f'make degradation-study PROFILE={tags["profile"]} EXPERIMENTS="{tags.get("experiments", "")}"'
    lines += ["", f"Again, in a new store: `{again.replace(', ', ' ')} STORE=again`. The trial is `{trial.id}`."]
    return "\n".join([lines[0], "", *lines[1:]])


def _trial_tags(trial: Trial) -> dict[str, str]:
    return {
        "condition": trial.condition,
        "net": trial.title,
        "family": trial.model.family,
        "depth": str(trial.model.depth),
        "shortcut": trial.model.shortcut,
        "data": trial.data.name,
        "seed": str(trial.seed),
        "schema": str(SCHEMA),
        "protocol": str(PROTOCOL),
    }


assert set(STATUS.values()) <= set(RunStatus._STRING_TO_STATUS)
