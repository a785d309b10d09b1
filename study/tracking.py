"""The record of every trial in MLflow; the only module that imports mlflow.

Owns how a trial is found, written and read back: a run a trial, found by its `trial_id` tag; the full curve as a
Parquet artifact, sealed by row count and digest; a thinned view of it as metrics, for browsing. Does not know how
trials are run.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from study import provenance
from study.spec import Execution, InputError, Trial

STORE_VERSION = 1  # of the storage folder's layout
STUDY = "degradation-study"
POINTS = 300  # of a series in the MLflow UI, which itself draws 320
RESULTS = ("finished", "diverged")  # outcomes that are never run again
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
COLUMNS = pa.schema(
    [("iteration", pa.int64())]
    + [
        (name, pa.float64())
        for name in (
            "learning_rate",
            "train_loss",
            "train_error_pct",
            "clean_train_loss",
            "clean_train_error_pct",
            "validation_loss",
            "validation_error_pct",
            "test_loss",
            "test_error_pct",
        )
    ]
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A trial as it was logged. `records` has the columns of `COLUMNS`; None unless the trial has a result."""

    run_id: str
    trial: Trial
    outcome: str  # 'running', 'finished', 'diverged', 'failed' or 'interrupted'
    tags: dict[str, str]
    records: pa.Table | None


def uri_of(execution: Execution) -> str:
    """The tracking address: the given one, or the database inside the storage."""
    return execution.tracking_uri or f"sqlite:///{execution.storage.resolve() / 'mlflow.db'}"


def check_store(storage: Path) -> bool:
    """Whether a store is there. Raises `InputError` if it is another version's, or no store at all."""
    marker = storage / "store.json"
    if not marker.exists():
        if storage.exists() and (not storage.is_dir() or any(storage.iterdir())):
            raise InputError(f"{storage} is not a store (it has no store.json); choose an empty or a new folder")
        return False
    try:
        found = json.loads(marker.read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{marker} cannot be read; restore it, or choose another folder") from None
    if found != STORE_VERSION:
        raise InputError(
            f"store {storage} has version {found}, this code reads version {STORE_VERSION};"
            " use the code that wrote it, or choose another folder"
        )
    return True


def create_store(execution: Execution) -> None:
    """Make the storage folder and its database, once, before trials write to it. Existing ones are checked only."""
    storage = execution.storage
    if not check_store(storage):
        try:
            (storage / "trials").mkdir(parents=True, exist_ok=True)
            (storage / "artifacts").mkdir(exist_ok=True)
            (storage / "store.json").write_text(json.dumps({"version": STORE_VERSION}) + "\n")
        except OSError as error:
            raise InputError(f"store {storage} cannot be written ({error.strerror}); choose another folder") from None
    if not os.access(storage, os.W_OK):
        raise InputError(f"store {storage} cannot be written; change its permissions or choose another folder")
    if not execution.tracking_uri:
        with contextlib.closing(sqlite3.connect(storage / "mlflow.db")) as database:
            database.execute("PRAGMA journal_mode=WAL")  # persistent: readers no longer wait for writers
    client(execution).search_experiments(max_results=1)


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
    place = None if served else (execution.storage.resolve() / "artifacts").as_uri()
    try:
        return mlflow.create_experiment(name, artifact_location=place, tags={"study": STUDY, "profile": profile})
    except MlflowException:  # another process was first
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


class OpenRun:
    """The run of one trial, being written. Every method may be repeated: nothing is ever logged twice."""

    def __init__(self, execution: Execution, trial: Trial, tags: dict[str, str]) -> None:
        """Find the trial's run by its id, or create it, and mark it running."""
        self.trial = trial
        self.mlflow = client(execution)
        found = list(_search(self.mlflow, [trial.id]))
        if found:
            run = found[0]
            self.run_id, self.started = run.info.run_id, run.info.start_time
            self.logged = max((int(m.step) for m in run.data._metric_objs), default=0)
        else:
            identity = {"study": STUDY, "trial_id": trial.id, "outcome": "running", "spec": json.dumps(trial.to_dict())}
            run = self.mlflow.create_run(
                _experiment(self.mlflow, execution, tags["profile"]), run_name=trial.id, tags=identity
            )
            self.run_id, self.started, self.logged = run.info.run_id, run.info.start_time, 0
        where = {"storage": str(execution.storage.resolve())}
        self._tag({**_trial_tags(trial), **provenance.tags(), **where, **tags})
        parameters = [Param(key, str(value)) for key, value in _flat(trial)]
        self.mlflow.log_batch(self.run_id, params=parameters)
        self._end("running")
        artifacts = {"spec.json": json.dumps(trial.to_dict(), indent=2)}
        if provenance.patch():
            artifacts["uncommitted.patch"] = provenance.patch()
        for name, text in artifacts.items():
            self.mlflow.log_text(self.run_id, text, name)

    def log(self, records: list[dict[str, Any]]) -> None:
        """Add what is new in `records` to the browsable metrics: thinned, finite, stamped by iteration.

        A tracking outage is no reason to stop training: it is a warning, and the rest follows with the next call.
        """
        recipe = self.trial.recipe
        stride = math.ceil(recipe.iterations / recipe.record_every / POINTS)
        metrics = [
            Metric(name, value, self.started + record["iteration"], record["iteration"])
            for index, record in enumerate(records)
            if record["iteration"] > self.logged
            and (index % stride == 0 or record is records[-1] or record["test_error_pct"] is not None)
            for name, value in record.items()
            if name != "iteration" and value is not None and math.isfinite(value)
        ]
        try:
            self.mlflow.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            log.warning("tracking is out of reach (%s); training goes on", str(error).splitlines()[0])
        else:
            self.logged = max([self.logged, *(metric.step for metric in metrics)])

    def attach(self, path: Path) -> None:
        """Add a file that no result depends on; an outage is a warning."""
        try:
            self.mlflow.log_artifact(self.run_id, str(path))
        except (MlflowException, OSError) as error:
            log.warning("tracking is out of reach (%s); %s stays where it is", str(error).splitlines()[0], path)

    def finish(self, outcome: str, records: list[dict[str, Any]], tags: dict[str, str]) -> None:
        """Seal the run: the full curve, its row count and digest, then the outcome. Raises on an outage."""
        table = pa.Table.from_pylist(records, schema=COLUMNS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.parquet"
            pq.write_table(table, path)
            self.mlflow.log_artifact(self.run_id, str(path))
        self.log(records)
        self._tag({"records": str(table.num_rows), "records_sha256": digest(table), **tags, "outcome": outcome})
        self._end(outcome)

    def stop(self, outcome: str, reason: str) -> None:
        """Mark the run failed or interrupted."""
        self._tag({"outcome": outcome, "reason": reason[:5000]})
        self._end(outcome)

    def _tag(self, tags: dict[str, str]) -> None:
        self.mlflow.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def _end(self, outcome: str) -> None:
        if outcome == "running":
            self.mlflow.update_run(self.run_id, status="RUNNING")
            self._tag({"outcome": outcome})
        else:
            self.mlflow.set_terminated(self.run_id, STATUS[outcome])


def read(execution: Execution, trials: Iterable[Trial], records: bool = True) -> list[Run]:
    """The logged runs of these trials; of those with a result, the records too, unless `records` is false.

    Raises `InputError` for a curve that is not what was sealed, and for two runs of one trial.
    """
    if not execution.tracking_uri and not check_store(execution.storage):
        return []
    mlflow, wanted = client(execution), {trial.id: trial for trial in trials}
    runs: dict[str, Run] = {}
    for found in _search(mlflow, list(wanted)):
        tags, run_id = dict(found.data.tags), found.info.run_id
        trial = wanted[tags["trial_id"]]
        if trial.id in runs:
            raise InputError(f"trial {trial.id} has two runs, {runs[trial.id].run_id} and {run_id}; delete one")
        if json.loads(tags["spec"]) != json.loads(json.dumps(trial.to_dict())):
            raise InputError(f"run {run_id} has the id {trial.id} but another specification; delete it, or this store")
        outcome = tags["outcome"]
        table = _records(mlflow, run_id, tags) if records and outcome in RESULTS else None
        runs[trial.id] = Run(run_id=run_id, trial=trial, outcome=outcome, tags=tags, records=table)
    return list(runs.values())


def close_stale(execution: Execution, reason: str) -> list[str]:
    """Mark every run of this store that is still running as interrupted; for a launcher that holds the store's lock.

    A tracking server may serve other stores, too: theirs are left alone.
    """
    mlflow, here = client(execution), str(execution.storage.resolve())
    running = _search(mlflow, None, "attributes.status = 'RUNNING'")
    stale = [run for run in running if run.data.tags.get("storage", here) == here]
    for run in stale:
        tags = [RunTag("outcome", "interrupted"), RunTag("reason", reason)]
        mlflow.log_batch(run.info.run_id, tags=tags)
        mlflow.set_terminated(run.info.run_id, STATUS["interrupted"])
    return [run.data.tags["trial_id"] for run in stale]


def fail(execution: Execution, trial: Trial, reason: str) -> None:
    """Mark the run of a trial whose process is gone as failed."""
    mlflow = client(execution)
    for run in _search(mlflow, [trial.id]):
        mlflow.log_batch(run.info.run_id, tags=[RunTag("outcome", "failed"), RunTag("reason", reason[:5000])])
        mlflow.set_terminated(run.info.run_id, STATUS["failed"])


def digest(table: pa.Table) -> str:
    """SHA-256 of the values, independent of how Parquet happened to store them."""
    return hashlib.sha256(json.dumps(table.to_pylist()).encode()).hexdigest()


def _records(mlflow: MlflowClient, run_id: str, tags: dict[str, str]) -> pa.Table:
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = pq.read_table(mlflow.download_artifacts(run_id, "records.parquet", folder))
    except (OSError, MlflowException, pa.ArrowException) as error:
        raise InputError(f"the curve of run {run_id} ({tags['trial_id']}) cannot be read: {error}") from None
    if str(table.num_rows) != tags["records"] or digest(table) != tags["records_sha256"]:
        raise InputError(f"the curve of run {run_id} ({tags['trial_id']}) was altered after it was sealed")
    return table


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


def _flat(trial: Trial) -> Iterator[tuple[str, Any]]:
    for part, values in asdict(trial).items():
        if isinstance(values, dict):
            yield from ((f"{part}.{key}", value) for key, value in values.items())
        else:
            yield part, values


def _trial_tags(trial: Trial) -> dict[str, str]:
    return {
        "condition": trial.condition,
        "net": trial.model.title,
        "family": trial.model.family,
        "depth": str(trial.model.depth),
        "shortcut": trial.model.shortcut,
        "data": trial.data.name,
        "seed": str(trial.seed),
    }


assert set(STATUS.values()) <= set(RunStatus._STRING_TO_STATUS)
