"""Every file name in a store: what lies where, and which version of this layout a folder has.

    store.json              the marker of a store, with the version of this layout
    launch.json             the launch that trains into the store; deleting it stops the launch (`heartbeat.py`)
    launch.lock             held by the one launcher
    ray.log                 the ends of Ray's logs, of the last launch that Ray failed
    probes.json             seconds and memory that conditions took when they were measured here
    mlflow.db, artifacts/   the tracking database and the files of its runs, unless a server has them
    trials/ID/              a folder a trial:
        spec.json           what the trial is
        run.json            its account: outcome, reason, tags, counts (`account.py`)
        progress.json       its heartbeat (`heartbeat.py`)
        records_so_far.parquet   its curve while it is trained; never part of a result
        records.parquet     the curve of its result (`records.py`), and so the next three
        layers.parquet
        evaluations.parquet
        test_wrong.bits     which test images its last iterate classifies wrong, eight to a byte
        checkpoints/        states that it can go on from; of a result, the last one
        weights_records_sha256   of a detector: the seal of the trial that its first weights are from
        uncommitted.patch   what the working tree added to its commit
        trace.json          a profile of a few of its updates, if one was asked for
        submission-*        a detector's answers for a test server, where the annotations are secret

Paths are of a local folder or of an object store (`atomic.place`). Does not know what is in the files.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study.spec import InputError
from study.store import atomic

VERSION = 1  # of this layout
SPEC, ACCOUNT, PROGRESS = "spec.json", "run.json", "progress.json"
RECORDS, LAYERS, EVALUATIONS = "records.parquet", "layers.parquet", "evaluations.parquet"
WRONG = "test_wrong.bits"
SO_FAR = "records_so_far.parquet"
PATCH, TRACE = "uncommitted.patch", "trace.json"


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial, named by its id."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / SPEC

    @property
    def account(self) -> Path:
        return self.path / ACCOUNT

    @property
    def progress(self) -> Path:
        return self.path / PROGRESS

    @property
    def records(self) -> Path:
        return self.path / RECORDS

    @property
    def records_so_far(self) -> Path:
        return self.path / SO_FAR

    @property
    def layers(self) -> Path:
        return self.path / LAYERS

    @property
    def evaluations(self) -> Path:
        return self.path / EVALUATIONS

    @property
    def wrong(self) -> Path:
        return self.path / WRONG

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, iteration: int) -> Path:
        """The state after so many updates."""
        return self.checkpoints / f"{iteration:09d}.checkpoint"

    @property
    def has_checkpoint(self) -> bool:
        return any(self.checkpoints.glob("*.checkpoint"))

    @property
    def weights_seal(self) -> Path:
        return self.path / "weights_records_sha256"

    @property
    def patch(self) -> Path:
        return self.path / PATCH

    @property
    def trace(self) -> Path:
        return self.path / TRACE

    def submission(self, protocol: str) -> Path:
        return self.path / f"submission-{protocol.removeprefix('+').replace(' ', '-')}"


@dataclass(frozen=True)
class Store:
    """The folder of a study's results."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "store.json"

    @property
    def launch(self) -> Path:
        return self.root / "launch.json"

    @property
    def lock(self) -> Path:
        return self.root / "launch.lock"

    @property
    def probes(self) -> Path:
        return self.root / "probes.json"

    @property
    def ray_log(self) -> Path:
        return self.root / "ray.log"

    @property
    def database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.trials / trial_id)

    def begun(self) -> Iterator[Path]:
        """The folders of all trials that have an account, planned or not."""
        return (path.parent for path in self.trials.glob(f"*/{ACCOUNT}"))


def is_store(root: Path) -> bool:
    """Whether a store is there. Raises `InputError` if it is another version's, or no store at all."""
    marker = Store(root).marker
    try:
        content = atomic.read(marker)
        if content is None:
            others = root.exists() and (not root.is_dir() or any(path.name[0] != "." for path in root.iterdir()))
            if others:
                raise InputError(f"{root} is not a store (it has no store.json); choose an empty or a new folder")
            return False
        version = atomic.decoded(content)["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{marker} cannot be read; restore it, or choose another folder") from None
    if version != VERSION:
        raise InputError(
            f"store {root} has version {version}, this code reads version {VERSION};"
            " use the code that wrote it, or choose another folder"
        )
    return True


def create(root: Path) -> None:
    """Make the folder a store, unless it is one. Raises `InputError` where it cannot be, or cannot be written."""
    try:
        if not is_store(root):
            atomic.write(Store(root).marker, json.dumps({"version": VERSION}).encode())
        atomic.write(root / ".writable", b"")
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"store {root} cannot be written ({reason}); choose another folder") from None
