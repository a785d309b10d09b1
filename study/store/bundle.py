"""Results in one portable file, `NAME.zip`: the folders of its trials as a store has them, and a manifest.

manifest.json       format, schema and protocol; ids of the trials and their runs; SHA-256 of the other members
trials/ID/          spec.json, run.json, records.parquet, layers.parquet, evaluations.parquet, test_wrong.bits
                    (`layout.py`), and checkpoints/ with the last state of the trials chosen

Equal runs make equal members. Bundles of format 1 are read, too (`old_bundles.py`).
Knows neither torch nor MLflow, so that results can be read where these are not installed.
"""

import hashlib
import io
import json
import re
import shlex
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

from study.spec import PROTOCOL, SCHEMA, Data, InputError, Trial
from study.store import atomic, old_bundles, records
from study.store.account import Account, Outcome, encoded, specification
from study.store.layout import Store
from study.store.records import Run, joined_evaluations

FORMAT = 2  # raise when readers of the format before cannot read the new one
MANIFEST = "manifest.json"
WHERE = (  # tags that tell one run of a trial from another
    *("machine", "device", "processes", "threads", "segments", "compiled", "deterministic", "data_digest"),
    *("python", "torch", "torchvision", "ray", "mlflow", "numpy", "git_commit", "git_patch"),
)
MOST_BYTES = 2**26  # of a member but weights, which are not compressed
MOST_GROWTH = 100  # how many times the bytes of a bundle its members may have together
NAME = re.compile(r"[^/\\:]+")  # of a profile, and not FILE.py:VARIABLE, which would be executed
ID = re.compile(r"[A-Za-z0-9_.+-]+")
AGAIN = "copy it again, or export it again where its trials were run"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError)  # that reading a member may raise
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError)  # that trusting a manifest may raise
Weights = Path | zipfile.Path


@dataclass(frozen=True)
class Scope:
    """Which of the profile's trials a bundle is about, whether or not it has their results."""

    experiments: str = ""  # names, separated by spaces; '' is all
    seeds: int | None = None  # None is the profile's
    data: Data | None = None  # None is the profile's


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every member and curve is as it was written."""

    path: Path
    profile: str
    scope: Scope
    runs: list[Run]  # in the order of their ids
    manifest: dict[str, Any]

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """Of the trials, by id, whose last state is in the bundle; nothing is read before they are opened."""
        root, member = zipfile.Path(self.path), _weights if self.manifest["format"] > 1 else _old_weights
        names = {run.trial.id: member(run) for run in self.runs if run.records is not None}
        return {id: root / name for id, name in names.items() if name in self.manifest["members"]}


@dataclass(frozen=True)
class Conflict:
    """Two results of one trial that should be equal and are not."""

    id: str
    kept: str  # where the result is that stands
    dropped: str  # where the other one is
    what: str  # differs
    where: dict[str, tuple[str, str]]  # tags of hardware and versions that differ: of the kept, of the dropped

    def __str__(self) -> str:
        tags = "; ".join(f"{name} {local!r} and {incoming!r}" for name, (local, incoming) in self.where.items())
        tags = tags or "hardware and versions agree"
        return f"{self.id}: {self.kept} and {self.dropped} differ in {self.what}; {tags}"


def write(
    path: Path,
    runs: Iterable[Run],
    profile: str,
    weights: Mapping[str, Weights] | None = None,
    *,
    scope: Scope | None = None,
    code: str = "unknown",
    resolved: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a bundle, whole or not at all. `code` is the commit that writes it, `resolved` what a merge decided.

    Raises `InputError` for a curve that was altered or has other columns, and where the file cannot be written.
    """
    runs, weights = sorted(runs, key=lambda run: run.trial.id), weights or {}
    ids = [run.trial.id for run in runs]
    assert len(set(ids)) == len(ids) and set(weights) <= set(ids)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "code": code,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "profile": profile,
        "scope": asdict(scope or Scope()),
        "resolved": list(resolved),
        "trials": [{"id": run.trial.id, "run_id": run.run_id} for run in runs],
    }
    members: dict[str, bytes | Weights] = {}
    for run in runs:
        members |= _folder(run)
        if run.trial.id in weights:
            members[_weights(run)] = weights[run.trial.id]
    try:
        with atomic.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            manifest["members"] = {name: _add(archive, name, content) for name, content in members.items()}
            _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise InputError(f"bundle {path} cannot be written ({error.strerror or error}); choose another place") from None


def read(path: Path) -> Bundle:
    """The bundle, after checking every member and every curve.

    Raises `InputError` for what is no bundle, was written by newer code or with other ids, or was damaged or altered.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _bundle(archive, path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"there is no bundle {path}; `python -m experiments export {shlex.quote(str(path))}` writes one"
        ) from None
    except OSError as error:
        raise InputError(f"bundle {path} cannot be read ({error.strerror or error}); {AGAIN}") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path} is not a zip file, or not the whole of one; {AGAIN}") from None
    except NotImplementedError as error:  # of a zip archive that is newer than Python's reader, or damaged
        raise InputError(f"{path} cannot be read ({error}); {AGAIN}") from None
    except _MALFORMED as error:
        problem = error if isinstance(error, ValueError) else "a value is of another type"
        problem = f"it has no {error}" if isinstance(error, KeyError) else problem
        raise InputError(f"{path}: {MANIFEST} is not as this code writes it ({problem}); {AGAIN}") from None


def merge(bundles: Sequence[Bundle]) -> tuple[list[Run], list[Conflict]]:
    """One run a trial, by id. A result beats none; of results that are equal, or in conflict, the first one stands.

    Equal results may have been evaluated in different ways: the run that stands has the evaluations of all.
    """
    chosen: dict[str, tuple[Bundle, Run]] = {}
    conflicts = []
    for bundle in bundles:
        for run in bundle.runs:
            first, local = chosen.setdefault(run.trial.id, (bundle, run))
            if local.records is None and run.records is not None:
                chosen[run.trial.id] = bundle, run
            elif run.records is not None and not equal(local, run):
                conflicts.append(conflict(local, run, str(first.path), str(bundle.path)))
            elif run.evaluations is not None:
                chosen[run.trial.id] = (
                    first,
                    replace(local, evaluations=joined_evaluations(local.evaluations, run.evaluations)),
                )
    return [chosen[id][1] for id in sorted(chosen)], sorted(conflicts, key=lambda entry: entry.id)


def equal(local: Run, incoming: Run) -> bool:
    """Whether two results of a trial agree: outcome, every value of every record, evaluations that both have."""
    results = [(run.outcome, run.tags["records_sha256"]) for run in (local, incoming)]
    return results[0] == results[1] and _evaluated_alike(local, incoming)


def _evaluated_alike(local: Run, incoming: Run) -> bool:
    first, second = local.evaluations, incoming.evaluations
    return joined_evaluations(first, second) == joined_evaluations(second, first)


def conflict(local: Run, incoming: Run, kept: str, dropped: str) -> Conflict:
    """The difference between two results of a trial, and between the machines that they are from."""
    what = [] if local.outcome == incoming.outcome else [f"outcome ({local.outcome}, {incoming.outcome})"]
    rows, others = _by_iteration(local), _by_iteration(incoming)
    iterations = sorted(rows.keys() | others.keys())
    differing = [iteration for iteration in iterations if rows.get(iteration) != others.get(iteration)]
    if differing:
        what.append(f"{len(differing)} of {len(iterations)} records, the first at iteration {differing[0]}")
    if not _evaluated_alike(local, incoming):
        what.append("evaluations")
    tags = {name: (local.tags.get(name, "unknown"), incoming.tags.get(name, "unknown")) for name in WHERE}
    where = {name: pair for name, pair in tags.items() if pair[0] != pair[1]}
    return Conflict(local.trial.id, kept, dropped, " and ".join(what), where)


def _by_iteration(run: Run) -> dict[int, str]:
    """Records as text, in which a NaN equals a NaN."""
    assert run.records is not None
    return {record["iteration"]: json.dumps(record) for record in run.records.to_pylist()}


def _folder(run: Run) -> dict[str, bytes]:
    """The files of the run's folder, by their names in the bundle. Raises `InputError` as `write`."""
    files = Store(Path()).trial(run.trial.id)
    tags = {name: run.tags[name] for name in sorted(run.tags)}
    account = Account(outcome=run.outcome, reason=run.tags.get("reason", ""), tags=tags)
    contents = {files.spec: specification(run.trial), files.account: encoded(account)}
    if run.records is not None:
        if not run.records.schema.equals(records.columns(run.trial)):
            raise InputError(
                f"the curve of {run.trial.id} has other columns than this code writes; export it with the code that"
                f" wrote it (commit {run.tags.get('git_commit', 'unknown')})"
            )
        contents[files.records] = records.parquet(records.verified(run.records, run.tags, run.trial.id))
    if run.layers is not None:
        contents[files.layers] = records.parquet(records.verified_layers(run.layers, run.tags, run.trial.id))
    if run.evaluations is not None:
        contents[files.evaluations] = records.parquet(run.evaluations)
    if run.wrong is not None:
        contents[files.wrong] = records.verified_wrong(run.wrong, run.tags, run.trial.id).bits
    return {path.as_posix(): content for path, content in contents.items()}


def _weights(run: Run) -> str:
    assert run.records is not None
    return Store(Path()).trial(run.trial.id).checkpoint(run.records["iteration"][-1].as_py()).as_posix()


def _old_weights(run: Run) -> str:
    return old_bundles.weights_member(run.trial)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Weights) -> str:
    """Add a member, piece by piece because weights are large. Returns its SHA-256."""
    info, sha = zipfile.ZipInfo(name), hashlib.sha256()  # without a date: equal content is an equal member
    if isinstance(content, bytes):
        info.compress_type = zipfile.ZIP_DEFLATED
    source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
    with source, archive.open(info, "w", force_zip64=True) as member:
        for piece in _pieces(source):
            sha.update(piece)
            member.write(piece)
    return sha.hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(2**20), b"")


def _bundle(archive: zipfile.ZipFile, path: Path) -> Bundle:
    _check_sizes(archive, path)
    manifest = _manifest(archive, path)
    if not NAME.fullmatch(manifest["profile"]):  # it will be looked up as if it had been typed
        raise InputError(f"{path}: {manifest['profile']!r} cannot be the name of a profile; {AGAIN}")
    for name, digest in manifest["members"].items():
        _check(archive, name, digest, path)
    scope = manifest["scope"]
    return Bundle(
        path=path,
        profile=manifest["profile"],
        scope=Scope(**scope | {"data": Data.from_dict(scope["data"]) if scope["data"] else None}),
        runs=list(_runs(archive, manifest, path)),
        manifest=manifest,
    )


def _runs(archive: zipfile.ZipFile, manifest: dict[str, Any], path: Path) -> Iterator[Run]:
    """The runs as they were exported. Raises `InputError` for a specification of another id, and altered tables."""
    store, ids = Store(cast(Path, zipfile.Path(archive))), [entry["id"] for entry in manifest["trials"]]
    if len(set(ids)) < len(ids):
        raise InputError(f"{path} has a trial twice; {AGAIN}")
    old = old_bundles.Contents(archive, manifest["members"]) if manifest["format"] == 1 else None
    for entry in manifest["trials"]:
        id = entry["id"]
        if not isinstance(entry["run_id"], str):
            raise TypeError("the id of a run is text")
        if not ID.fullmatch(id):  # importing would write outside the store
            raise InputError(f"{path}: the id {id} cannot be the name of a folder; {AGAIN}")
        try:
            trial = Trial.from_dict(entry["spec"] if old else atomic.decoded(atomic.read(store.trial(id).spec) or b""))
        except ValueError as error:
            raise InputError(f"{path}: the specification of {id} is wrong ({error}); {AGAIN}") from None
        if trial.id != id:
            raise InputError(f"{path}: the specification of {id} gives the id {trial.id}; {AGAIN}")
        try:
            run = old.run(entry, trial) if old else records.run_in(store.trial(id).path, trial, entry["run_id"])
        except InputError as error:
            raise InputError(f"{path}: {error}; {AGAIN}") from None
        if run.outcome == Outcome.MISSING:
            raise InputError(f"{path}: the account of {id} cannot be read; {AGAIN}")
        yield run


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The manifest, if this code can tell what it says."""
    if MANIFEST not in archive.namelist():
        raise InputError(f"{path} has no {MANIFEST}: it is no bundle; `python -m experiments export` writes bundles")
    try:
        manifest: dict[str, Any] = atomic.decoded(archive.read(MANIFEST))
    except (*_DAMAGE, ValueError):
        raise InputError(f"{path}: {MANIFEST} is damaged; {AGAIN}") from None
    if not 1 <= manifest["format"] <= FORMAT:
        raise InputError(f"{path} has format {manifest['format']}, this code reads up to {FORMAT}; update this code")
    ids = manifest["schema"], manifest["protocol"]
    if ids != (SCHEMA, PROTOCOL):
        raise InputError(
            f"{path} has ids of schema {ids[0]} and protocol {ids[1]}, this code of schema {SCHEMA} and protocol"
            f" {PROTOCOL}; read it with the code that wrote it (commit {manifest['code']})"
        )
    return manifest


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise `InputError` for members that grow beyond reason. More than it claims is never read of a member."""
    members = archive.infolist()
    for member in members:
        if member.file_size > MOST_BYTES and member.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{path}: {member.filename} has {member.file_size:,} bytes, more than results have; {AGAIN}"
            )
    together, stored = sum(member.file_size for member in members), path.stat().st_size
    if together > MOST_GROWTH * stored:
        raise InputError(f"{path}, of {stored:,} bytes, would grow to {together:,}: that is no bundle; {AGAIN}")


def _check(archive: zipfile.ZipFile, name: str, digest: str, path: Path) -> None:
    """Raise `InputError` unless the member has this SHA-256."""
    sha = hashlib.sha256()
    try:
        with archive.open(name) as member:
            for piece in _pieces(member):
                sha.update(piece)
    except _DAMAGE:
        sha.update(b"and not even readable")
    if sha.hexdigest() != digest:
        raise InputError(f"{path}: {name} is damaged or missing (its checksum differs); {AGAIN}")
