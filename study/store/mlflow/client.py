"""The store's MLflow: its address, its database, its experiments and runs, and where artifacts lie.

The artifacts of a store's own database are always in that store, `artifacts/<run>/artifacts`, whatever path the
database records: MLflow records absolute paths, which name the old place once a store was copied, moved or renamed.
Nothing here follows such a path to write. `settle` corrects the records, for MLflow's own UI.
"""

import contextlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from study.execution import Execution
from study.spec import InputError
from study.store import atomic, layout
from study.store.layout import Store
from study.store.mlflow.tags import KIND, STUDY

OUTAGES = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)  # what MLflow raises where it cannot be used
SQLITE_SECONDS = 20.0  # to wait for another process that writes to the database, as MLflow does
log = logging.getLogger(__name__)


def address(database: Path) -> str:
    """The address of a SQLite database for MLflow and SQLAlchemy, which would read `?` and `%` in a path as syntax."""
    path = str(database.resolve())
    # MLflow makes the folder of what it takes for the path: with every slash quoted too, that is the current one.
    return f"sqlite:///{quote(path, safe='') if set(path) & {'%', '?'} else path}"


def tracking_address(execution: Execution) -> str:
    """The given tracking address, or that of the database inside the storage."""
    return execution.tracking_uri or address(Store(execution.storage).database)


def first_line(error: BaseException) -> str:
    """An error in at most 200 characters of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def reaching(execution: Execution, failure: str = "is out of reach") -> Iterator[None]:
    """Turn an outage of MLflow within the block into an `InputError` that names the tracking address."""
    try:
        yield
    except OUTAGES as error:
        raise InputError(f"tracking {tracking_address(execution)} {failure}: {first_line(error)}") from None


def create_store(execution: Execution) -> None:
    """Make the storage folder and its database, once, before trials write to it; settle existing ones.

    Raises `InputError` where storage or MLflow cannot be written. May be killed at any instant and called again.
    """
    storage = execution.storage
    if not execution.tracking_uri and not atomic.is_local(storage):
        raise InputError(f"storage {storage} cannot hold a database; name an MLflow server: --tracking-uri http://...")
    layout.create(storage)
    if not execution.tracking_uri:
        _create_database(storage)
        settle(execution)
    mlflow = connect(execution)
    with reaching(execution):
        mlflow.search_experiments(max_results=1)


def _create_database(storage: Path) -> None:
    """MLflow's database, made under another name: one that a kill left half made could never be opened."""
    Store(storage).artifacts.mkdir(exist_ok=True)
    database = Store(storage).database
    if database.exists():
        return
    half_made = storage / f".mlflow.db.{os.getpid()}"
    half_made.unlink(missing_ok=True)
    MlflowClient(address(half_made)).delete_experiment("0")  # MLflow's own 'Default': nothing is ever in it
    with contextlib.closing(sqlite3.connect(half_made)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # persistent: readers no longer wait for writers
    with contextlib.suppress(FileExistsError):  # another process was first
        os.link(half_made, database)
    half_made.unlink()


def connect(execution: Execution) -> MlflowClient:
    """A client of the study's MLflow; raises `InputError` where it cannot be opened."""
    try:
        return MlflowClient(tracking_address(execution))
    except (*OUTAGES, ImportError) as error:
        reason = first_line(error)
        raise InputError(f"tracking store {tracking_address(execution)} cannot be opened: {reason}") from None


def has_runs(execution: Execution) -> bool:
    """Whether there is an MLflow to ask. Raises `InputError` for a storage that is no store, or another version's."""
    if execution.tracking_uri:
        return True
    return layout.is_store(execution.storage) and (Store(execution.storage).database).exists()


def settle(execution: Execution) -> None:
    """Correct the places that the store's own database records, after the store was copied, moved or renamed.

    For whoever is about to write. Repeatable and safe beside other processes: the correction is one transaction.
    Artifacts that older versions of this code wrote into the old place are copied into this store; the old place is
    only read. Raises `InputError` where the database cannot be written.
    """
    database = Store(execution.storage).database
    if execution.tracking_uri or not database.exists():
        return
    place = _artifacts(execution).as_uri()
    study = f"experiment_id IN (SELECT experiment_id FROM experiment_tags WHERE key = 'study' AND value = '{STUDY}')"
    experiments = f"{study} AND artifact_location LIKE 'file:%' AND artifact_location != :place"
    runs = f"{study} AND artifact_uri LIKE 'file:%' AND artifact_uri != :place || '/' || run_uuid || '/artifacts'"
    values = {"place": place}
    with (
        reaching(execution, "cannot be written"),
        contextlib.closing(sqlite3.connect(database, timeout=SQLITE_SECONDS)) as connection,
    ):
        moved = connection.execute(f"SELECT run_uuid, artifact_uri FROM runs WHERE {runs}", values).fetchall()
        if not moved and not connection.execute(f"SELECT 1 FROM experiments WHERE {experiments}", values).fetchone():
            return
        for run_id, uri in moved:
            _bring(Path(url2pathname(urlsplit(uri).path)), _artifacts(execution) / run_id / "artifacts")
        with connection:
            connection.execute(f"UPDATE experiments SET artifact_location = :place WHERE {experiments}", values)
            here = ":place || '/' || run_uuid || '/artifacts'"
            connection.execute(f"UPDATE runs SET artifact_uri = {here} WHERE {runs}", values)


def _bring(old: Path, new: Path) -> None:
    """Copy the files that only the old folder has, where that can be read."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in sorted(old.rglob("*")):
            copy = new / path.relative_to(old)
            if path.is_file() and not copy.exists():
                atomic.write(copy, path.read_bytes())


def _artifacts(execution: Execution) -> Path:
    return execution.storage.resolve() / "artifacts"


def experiment(mlflow: MlflowClient, execution: Execution, profile: str) -> str:
    """Id of the profile's MLflow experiment, which is made if it is not there."""
    name = f"{STUDY}: {profile}"
    existing = mlflow.get_experiment_by_name(name)
    if existing is not None:
        return existing.experiment_id
    served = execution.tracking_uri.startswith("http")  # a server knows where its artifacts are; a database does not
    place = None if served else _artifacts(execution).as_uri()
    try:
        return mlflow.create_experiment(
            name, artifact_location=place, tags={"study": STUDY, "profile": profile, **KIND}
        )
    except MlflowException:  # another process was first
        existing = mlflow.get_experiment_by_name(name)
        if existing is None:
            raise
        return existing.experiment_id


def search(mlflow: MlflowClient, ids: Iterable[str] | None, condition: str = "") -> Iterator[MlflowRun]:
    """Runs of the study in every profile's experiment; of the given trials, if ids are given."""
    experiments = [e.experiment_id for e in mlflow.search_experiments(filter_string=f"tags.study = '{STUDY}'")]
    if not experiments:
        return
    wanted = None if ids is None else set(ids)
    if wanted is not None and len(wanted) == 1:
        condition = f"tags.trial_id = '{next(iter(wanted))}'"
    token = None
    while True:
        page = mlflow.search_runs(experiments, condition, max_results=1000, page_token=token)
        yield from (run for run in page if wanted is None or run.data.tags.get("trial_id") in wanted)
        token = page.token
        if not token:
            return


def tag(mlflow: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request; none where there are none."""
    if tags:
        mlflow.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def artifacts(execution: Execution, run: MlflowRun) -> ArtifactRepository:
    """Where the run's files are written: the store itself for the runs of its own database."""
    uri = run.info.artifact_uri
    if not execution.tracking_uri and uri.startswith("file:"):
        uri = (_artifacts(execution) / run.info.run_id / "artifacts").as_uri()
    return get_artifact_repository(uri, tracking_address(execution))


def attach(execution: Execution, run: MlflowRun, files: Mapping[str, bytes]) -> None:
    """Add these files, by their paths in the run, or replace them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        artifacts(execution, run).log_artifacts(folder)


def fetch(execution: Execution, run: MlflowRun, name: str) -> bytes:
    """A file of the run. Read from the recorded place if the store lacks it, as until `settle` has copied it here."""
    if not execution.tracking_uri:
        here: Path = _artifacts(execution) / run.info.run_id / "artifacts" / name
        if here.exists():
            return here.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        repository = get_artifact_repository(run.info.artifact_uri, tracking_address(execution))
        return Path(repository.download_artifacts(name, folder)).read_bytes()
