"""The store's MLflow: its address, its database, its experiments and runs, and where artifacts lie.

The artifacts of a store's own database are always in that store, `artifacts/<run>/artifacts`, whatever path the
database records: MLflow records absolute paths, which name the old place once a store was copied, moved or renamed.
Nothing here follows such a path to write. `settle` corrects the records, for MLflow's own UI.

A database that cannot be written is read from a temporary copy: SQLite writes beside a database even to read it.
"""

import atexit
import contextlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass, url2pathname

from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Experiment, RunTag, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from study.execution import Execution
from study.printable import printable
from study.spec import InputError
from study.store import atomic, heartbeat, layout
from study.store.layout import Store
from study.store.mlflow.tags import KIND, STUDY

# What MLflow raises where it cannot be used; alembic, of a database of another version, or with tables missing.
OUTAGES = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError)
PLAIN = re.compile(r"[\w /.,+=@~-]*")  # a path that is its own address
HTTP = ("http", "https")
PAGE = 100  # runs that are asked for at a time: MLflow takes more than 100 kB of memory for each
SQLITE_SECONDS = 20.0  # to wait for another process that writes to the database, as MLflow does
REFUSALS = {  # what a server that is reached may answer, and what its user can do
    "Invalid Host header": "it does not answer to this name; `mlflow server --allowed-hosts NAME,NAME:*` allows names",
    "error code 401": "it asks for a user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or name them in"
    " ~/.mlflow/credentials",
    "error code 403": "this user may not do that; the server's administrator can allow it",
}
log = logging.getLogger(__name__)


def address(database: Path) -> str:
    """The address of a SQLite database for MLflow and SQLAlchemy, which would read `?` and `%` in a path as syntax."""
    path = str(database.resolve())
    # MLflow makes the folder of what it takes for the path: with every slash quoted too, that is the current one.
    return f"sqlite:///{path if PLAIN.fullmatch(path) else quote(path, safe='')}"


def tracking_address(execution: Execution) -> str:
    """The given tracking address, or that of the database inside the storage."""
    return execution.tracking_uri or address(Store(execution.storage).database)


def first_line(error: BaseException) -> str:
    """An error in at most 200 characters of one line, without passwords; what a refusal means, for its user."""
    for sign, meaning in REFUSALS.items():
        if isinstance(error, MlflowException) and sign in str(error):
            return meaning
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:200]


def problem(execution: Execution, error: BaseException) -> str:
    """What the error says, and which proxy the server was asked through, if any."""
    to = urlsplit(execution.tracking_uri)
    proxies = {} if proxy_bypass(to.hostname or "") else getproxies()
    name = next((name for name in (to.scheme, "all") if name in proxies), "") if to.scheme in HTTP else ""
    through = f"; it was asked through the proxy of {name}_proxy, which no_proxy={to.hostname} goes around"
    return first_line(error) + (through if name else "")


@contextmanager
def reaching(execution: Execution, failure: str = "is out of reach") -> Iterator[None]:
    """Turn an outage of MLflow within the block into an `InputError` that names the tracking address."""
    try:
        yield
    except OUTAGES as error:
        raise InputError(f"tracking {tracking_address(execution)} {failure}: {problem(execution, error)}") from None


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
    """A client of the study's MLflow; raises `InputError` where it cannot be opened.

    Of a database that cannot be written it is a client of a copy, for readers; writers call `settle` first.
    """
    try:
        if execution.tracking_uri:
            return MlflowClient(execution.tracking_uri)
        return MlflowClient(address(readable(Store(execution.storage).database)))
    except (*OUTAGES, ImportError) as error:
        reason = first_line(error)
        raise InputError(f"tracking store {tracking_address(execution)} cannot be opened: {reason}") from None


def is_writable(database: Path) -> bool:
    """Whether the database, and files beside it, can be written by this process; also where there is none yet."""
    mine = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    return not database.exists() or all(os.access(path, os.W_OK, **mine) for path in (database, database.parent))


_copies: dict[tuple[object, ...], Path] = {}  # by database and versions of its files; MLflow keeps each open


def readable(database: Path) -> Path:
    """The database if it can be written, else a copy of what it holds now, which lasts as long as this process."""
    if is_writable(database):
        return database
    log_of = database.with_name(f"{database.name}-wal")
    while True:
        before = (database.resolve(), *map(heartbeat.version, (database, log_of)))
        if before in _copies:
            return _copies[before]
        folder = Path(tempfile.mkdtemp(prefix="study-mlflow-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        copy = folder / database.name
        for path in (database, log_of):
            if path.exists():
                shutil.copyfile(path, folder / path.name)
        if before[1:] == tuple(map(heartbeat.version, (database, log_of))):  # else it changed meanwhile
            _copies[before] = copy
            return copy


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
    if not is_writable(database):
        raise InputError(f"store {execution.storage} is read-only: its MLflow stays as it is")
    with reaching(execution, "cannot be written"):
        for run_id, uri in rebase(database, execution.storage, commit=False):
            _bring(Path(url2pathname(urlsplit(uri).path)), _files(execution, run_id))
        rebase(database, execution.storage)


def rebase(database: Path, storage: Path, commit: bool = True) -> list[tuple[str, str]]:
    """Make the database name this storage as the place of its artifacts; runs that it named elsewhere, and where.

    Without `commit` nothing is written. One transaction. Raises `sqlite3.Error`.
    """
    values = {"place": (storage.resolve() / "artifacts").as_uri()}
    study = f"experiment_id IN (SELECT experiment_id FROM experiment_tags WHERE key = 'study' AND value = '{STUDY}')"
    experiments = f"{study} AND artifact_location LIKE 'file:%' AND artifact_location != :place"
    here = ":place || '/' || run_uuid || '/artifacts'"
    runs = f"{study} AND artifact_uri LIKE 'file:%' AND artifact_uri != {here}"
    with contextlib.closing(sqlite3.connect(database, timeout=SQLITE_SECONDS)) as connection:
        moved = connection.execute(f"SELECT run_uuid, artifact_uri FROM runs WHERE {runs}", values).fetchall()
        stale = connection.execute(f"SELECT 1 FROM experiments WHERE {experiments}", values).fetchone()
        if commit and (moved or stale):
            with connection:
                connection.execute(f"UPDATE experiments SET artifact_location = :place WHERE {experiments}", values)
                connection.execute(f"UPDATE runs SET artifact_uri = {here} WHERE {runs}", values)
    return moved


def _bring(old: Path, new: Path) -> None:
    """Copy the files that only the old folder has, where that can be read, and is the folder of the same run.

    A database may be anybody's: no other place that it names is read, nor one that a link leads to.
    """
    if old.resolve().parts[-3:] != new.parts[-3:]:
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in sorted(old.rglob("*")):
            copy = new / path.relative_to(old)
            if path.is_file() and not path.is_symlink() and not copy.exists():
                atomic.write(copy, path.read_bytes())


def _artifacts(execution: Execution) -> Path:
    return execution.storage.resolve() / "artifacts"


def _files(execution: Execution, run_id: str) -> Path:
    """The folder of the run's files in the store. Raises `InputError` for an id that would lead elsewhere."""
    if not re.fullmatch("[0-9a-f]{32}", run_id):  # the database may be anybody's
        raise InputError(f"the database of {execution.storage} has a run {run_id!r}; ids are 32 hexadecimal digits")
    return _artifacts(execution) / run_id / "artifacts"


def experiment(mlflow: MlflowClient, execution: Execution, profile: str) -> str:
    """Id of the profile's MLflow experiment, which is made if it is not there, and restored if it was deleted."""
    name = f"{STUDY}: {profile}"
    existing = mlflow.get_experiment_by_name(name)
    if existing is None:
        served = execution.tracking_uri.startswith(
            "http"
        )  # a server knows where its artifacts are; a database does not
        place = None if served else _artifacts(execution).as_uri()
        tags = {"study": STUDY, "profile": profile, **KIND}
        try:
            return mlflow.create_experiment(name, artifact_location=place, tags=tags)
        except MlflowException:  # another process was first
            existing = mlflow.get_experiment_by_name(name)
            if existing is None:
                raise
    if existing.lifecycle_stage == LifecycleStage.DELETED:
        restore(mlflow, existing)
    return existing.experiment_id


def restore(mlflow: MlflowClient, deleted: Experiment) -> None:
    """Bring a deleted experiment back with its runs: MLflow lets nobody make another one of its name."""
    log.warning("the MLflow experiment %r had been deleted; it is restored", deleted.name)
    mlflow.restore_experiment(deleted.experiment_id)


def deleted(mlflow: MlflowClient, ids: Iterable[str]) -> dict[Experiment, int]:
    """The study's experiments that were deleted in MLflow, with how many of these trials have a run there."""
    wanted, experiments = set(ids), _experiments(mlflow, ViewType.DELETED_ONLY)
    counts = {one: len(set(_trials(mlflow, one)) & wanted) for one in experiments}
    return {one: count for one, count in counts.items() if count}


def search(mlflow: MlflowClient, ids: Iterable[str] | None, condition: str = "") -> Iterator[MlflowRun]:
    """Runs of the study in every profile's experiment; of the given trials, if ids are given."""
    wanted = None if ids is None else set(ids)
    if wanted is not None and len(wanted) == 1:
        condition = f"tags.trial_id = '{next(iter(wanted))}'"
    runs = _pages(mlflow, _experiments(mlflow, ViewType.ACTIVE_ONLY), condition, ViewType.ACTIVE_ONLY)
    yield from (run for run in runs if wanted is None or run.data.tags.get("trial_id") in wanted)


def _experiments(mlflow: MlflowClient, which: int) -> list[Experiment]:
    return list(mlflow.search_experiments(which, filter_string=f"tags.study = '{STUDY}'"))


def _trials(mlflow: MlflowClient, one: Experiment) -> Iterator[str]:
    """The ids of the trials that have a run there, deleted or not."""
    yield from (run.data.tags.get("trial_id", "") for run in _pages(mlflow, [one], "", ViewType.ALL))


def _pages(mlflow: MlflowClient, experiments: Sequence[Experiment], condition: str, which: int) -> Iterator[MlflowRun]:
    token = None
    while experiments:
        names = [one.experiment_id for one in experiments]
        page = mlflow.search_runs(names, condition, which, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def tag(mlflow: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request; none where there are none."""
    if tags:
        mlflow.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def artifacts(execution: Execution, run: MlflowRun) -> ArtifactRepository:
    """Where the run's files are written: the store itself for the runs of its own database."""
    own = "" if execution.tracking_uri else _files(execution, run.info.run_id).as_uri()
    return get_artifact_repository(own or run.info.artifact_uri, tracking_address(execution))


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
        here = _files(execution, run.info.run_id) / name
        if here.exists():
            return here.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        repository = get_artifact_repository(run.info.artifact_uri, tracking_address(execution))
        return Path(repository.download_artifacts(name, folder)).read_bytes()
