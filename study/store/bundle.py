"""Results in one portable file, `NAME.zip`: its format, its checks, and how several sites' bundles become one.

manifest.json           format, schema and protocol; each trial with its tags and seal; SHA-256 of the other members
runs.parquet            a row a trial, for readers that do not have this code
curves.parquet          a row a record, with its trial's id
layers.parquet          a row a layer, at the start and at the end of training, with its trial's id
evaluations.parquet     a row an evaluation beyond the curves, with its trial's id
weights/ID.checkpoint   the last state of the trials chosen

Knows neither torch nor MLflow, so that results can be read where these are not installed.
"""

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from study.spec import PROTOCOL, SCHEMA, Data, InputError, Trial
from study.store import records
from study.store.account import Outcome
from study.store.records import Run, joined_evaluations

FORMAT = 1  # raise when readers of the format before cannot read the new one
MANIFEST, RUNS, CURVES, LAYERS = "manifest.json", "runs.parquet", "curves.parquet", "layers.parquet"
EVALUATIONS = "evaluations.parquet"
ID = ("id", pa.string())
SEALS = {"records": "records", "sha256": "records_sha256"}  # the manifest's names of two tags
WHERE = (  # tags that tell one run of a trial from another
    *("machine", "device", "processes", "threads", "segments", "compiled", "deterministic", "data_digest"),
    *("python", "torch", "torchvision", "ray", "mlflow", "numpy", "git_commit", "git_patch"),
)
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
        root = zipfile.Path(self.path)
        return {run.trial.id: root / name for run in self.runs if (name := _member(run)) in self.manifest["members"]}


@dataclass(frozen=True)
class Conflict:
    """Two results of one trial that should be equal and are not."""

    id: str
    kept: str  # where the result is that stands
    dropped: str  # where the other one is
    what: str  # differs
    where: dict[str, tuple[str, str]]  # tags of hardware and versions that differ: of the kept, of the dropped

    def __str__(self) -> str:
        tags = "; ".join(f"{name} {ours!r} and {theirs!r}" for name, (ours, theirs) in self.where.items())
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
    manifest = {
        **{"format": FORMAT, "schema": SCHEMA, "protocol": PROTOCOL, "code": code},
        **{"when": datetime.now(UTC).isoformat(timespec="seconds"), "profile": profile},
        **{"scope": asdict(scope or Scope()), "resolved": list(resolved), "trials": [_entry(run) for run in runs]},
    }
    members: dict[str, bytes | Weights] = {
        RUNS: _parquet(pa.Table.from_pylist(_rows(runs))),
        CURVES: _parquet(_curves_of(runs)),
        LAYERS: _parquet(_layers_of(runs)),
        EVALUATIONS: _parquet(_evaluations_of(runs)),
        **{_member(run): weights[run.trial.id] for run in runs if run.trial.id in weights},
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                manifest["members"] = {name: _add(archive, name, content) for name, content in members.items()}
                _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"bundle {path} cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
        raise InputError(f"there is no bundle {path}; `python -m experiments export {path}` writes one") from None
    except OSError as error:
        raise InputError(f"bundle {path} cannot be read ({error.strerror or error}); {AGAIN}") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path} is not a zip file, or not the whole of one; {AGAIN}") from None
    except _MALFORMED as error:
        raise InputError(f"{path}: {MANIFEST} is not as this code writes it ({error!r}); {AGAIN}") from None


def merge(bundles: Sequence[Bundle]) -> tuple[list[Run], list[Conflict]]:
    """One run a trial, by id. A result beats none; of results that are equal, or in conflict, the first one stands.

    Equal results may have been evaluated in different ways: the run that stands has the evaluations of all.
    """
    chosen: dict[str, tuple[Bundle, Run]] = {}
    conflicts = []
    for bundle in bundles:
        for run in bundle.runs:
            first, ours = chosen.setdefault(run.trial.id, (bundle, run))
            if ours.records is None and run.records is not None:
                chosen[run.trial.id] = bundle, run
            elif run.records is not None and not equal(ours, run):
                conflicts.append(conflict(ours, run, str(first.path), str(bundle.path)))
            elif run.evaluations is not None:
                chosen[run.trial.id] = (
                    first,
                    replace(ours, evaluations=joined_evaluations(ours.evaluations, run.evaluations)),
                )
    return [chosen[id][1] for id in sorted(chosen)], sorted(conflicts, key=lambda found: found.id)


def equal(ours: Run, theirs: Run) -> bool:
    """Whether two results of a trial are the same: outcome, every value of every record, evaluations that both have."""
    results = [(run.outcome, run.tags["records_sha256"]) for run in (ours, theirs)]
    return results[0] == results[1] and _evaluated_alike(ours, theirs)


def _evaluated_alike(ours: Run, theirs: Run) -> bool:
    return joined_evaluations(ours.evaluations, theirs.evaluations) == joined_evaluations(
        theirs.evaluations, ours.evaluations
    )


def conflict(ours: Run, theirs: Run, kept: str, dropped: str) -> Conflict:
    """What differs between two results of a trial, and between the machines that they are from."""
    what = [] if ours.outcome == theirs.outcome else [f"outcome ({ours.outcome}, {theirs.outcome})"]
    rows, others = _by_iteration(ours), _by_iteration(theirs)
    iterations = sorted(rows.keys() | others.keys())
    differing = [iteration for iteration in iterations if rows.get(iteration) != others.get(iteration)]
    if differing:
        what.append(f"{len(differing)} of {len(iterations)} records, the first at iteration {differing[0]}")
    if not _evaluated_alike(ours, theirs):
        what.append("evaluations")
    tags = {name: (ours.tags.get(name, "unknown"), theirs.tags.get(name, "unknown")) for name in WHERE}
    where = {name: pair for name, pair in tags.items() if pair[0] != pair[1]}
    return Conflict(ours.trial.id, kept, dropped, " and ".join(what), where)


def _by_iteration(run: Run) -> dict[int, str]:
    """Records as text, in which a NaN equals a NaN."""
    assert run.records is not None
    return {record["iteration"]: json.dumps(record) for record in run.records.to_pylist()}


def _member(run: Run) -> str:
    return f"weights/{run.trial.id}.checkpoint"


def _entry(run: Run) -> dict[str, Any]:
    """What the manifest says of a run."""
    return {
        **{"id": run.trial.id, "spec": run.trial.to_dict(), "run_id": run.run_id, "outcome": run.outcome.value},
        **{name: run.tags.get(tag) for name, tag in SEALS.items()},
        "tags": {name: run.tags[name] for name in sorted(run.tags) if name not in SEALS.values()},
    }


def _rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The rows of `runs.parquet`."""
    return [
        {
            **{
                "id": run.trial.id,
                "condition": run.trial.condition,
                "run_id": run.run_id,
                "outcome": run.outcome.value,
            },
            **{name: getattr(run.trial.model, name) for name in ("family", "block", "depth", "shortcut", "width")},
            **{"data": run.trial.data.name, "iterations": run.trial.recipe.iterations, "seed": run.trial.seed},
            **{"spec": json.dumps(run.trial.to_dict()), "tags": json.dumps(run.tags, sort_keys=True)},
        }
        for run in runs
    ]


def _curves_of(runs: Iterable[Run]) -> pa.Table:
    """`curves.parquet`: where there are detectors, their columns follow those of classifiers."""
    tables = [_curve(run) for run in runs if run.records is not None]
    return pa.concat_tables([pa.schema([ID, *records.COLUMNS]).empty_table(), *tables], promote_options="default")


def _curve(run: Run) -> pa.Table:
    """The rows of `curves.parquet` that are one run's."""
    assert run.records is not None and run.outcome.is_result
    if not run.records.schema.equals(records.columns(run.trial)):
        raise InputError(
            f"the curve of {run.trial.id} has other columns than this code writes; export it with the code that wrote"
            f" it (commit {run.tags.get('git_commit', 'unknown')})"
        )
    return _with_id(records.verified(run.records, run.tags, run.trial.id), run)


def _layers_of(runs: Iterable[Run]) -> pa.Table:
    """`layers.parquet`."""
    tables = [
        _with_id(records.verified_layers(run.layers, run.tags, run.trial.id), run)
        for run in runs
        if run.layers is not None
    ]
    return pa.concat_tables([pa.schema([ID, *records.LAYERS]).empty_table(), *tables])


def _evaluations_of(runs: Iterable[Run]) -> pa.Table:
    """`evaluations.parquet`."""
    tables = [_with_id(run.evaluations, run) for run in runs if run.evaluations is not None]
    return pa.concat_tables([pa.schema([ID, *records.EVALUATIONS]).empty_table(), *tables])


def _with_id(table: pa.Table, run: Run) -> pa.Table:
    return table.add_column(0, ID[0], pa.array([run.trial.id] * table.num_rows, ID[1]))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Weights) -> str:
    """Add a member, piece by piece because weights are large. Returns its SHA-256."""
    info, sha = zipfile.ZipInfo(name), hashlib.sha256()  # without a date: equal content is an equal member
    if name == MANIFEST:
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
    manifest = _manifest(archive, path)
    for name, digest in manifest["members"].items():
        _check(archive, name, digest, path)
    runs, curves = (pq.read_table(io.BytesIO(archive.read(name))) for name in (RUNS, CURVES))
    layers, evaluations = _layers_of([]), _evaluations_of([])  # a bundle from before there were any
    if LAYERS in manifest["members"]:
        layers = pq.read_table(io.BytesIO(archive.read(LAYERS)))
    if EVALUATIONS in manifest["members"]:
        evaluations = pq.read_table(io.BytesIO(archive.read(EVALUATIONS)))
    scope = manifest["scope"]
    found = Bundle(
        path=path,
        profile=manifest["profile"],
        scope=Scope(**scope | {"data": Data.from_dict(scope["data"]) if scope["data"] else None}),
        runs=[_run(entry, curves, layers, evaluations, path) for entry in manifest["trials"]],
        manifest=manifest,
    )
    if runs.to_pylist() != _rows(found.runs):
        raise InputError(f"{path}: {RUNS} and {MANIFEST} say different things of the trials; {AGAIN}")
    return found


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The manifest, if this code can tell what it says."""
    if MANIFEST not in archive.namelist():
        raise InputError(f"{path} has no {MANIFEST}: it is no bundle; `python -m experiments export` writes bundles")
    try:
        manifest = json.loads(archive.read(MANIFEST))
    except (*_DAMAGE, ValueError):
        raise InputError(f"{path}: {MANIFEST} is damaged; {AGAIN}") from None
    if manifest["format"] > FORMAT:
        raise InputError(f"{path} has format {manifest['format']}, this code reads up to {FORMAT}; update this code")
    ids = manifest["schema"], manifest["protocol"]
    if ids != (SCHEMA, PROTOCOL):
        raise InputError(
            f"{path} has ids of schema {ids[0]} and protocol {ids[1]}, this code of schema {SCHEMA} and protocol"
            f" {PROTOCOL}; read it with the code that wrote it (commit {manifest['code']})"
        )
    return manifest


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


def _run(entry: dict[str, Any], curves: pa.Table, layers: pa.Table, evaluations: pa.Table, path: Path) -> Run:
    """A run as it was exported. Raises `InputError` for another specification than its id's, and altered tables."""
    try:
        trial = Trial.from_dict(entry["spec"])
    except InputError as error:
        raise InputError(f"{path}: the specification of {entry['id']} is wrong ({error}); {AGAIN}") from None
    if trial.id != entry["id"]:
        raise InputError(f"{path}: the specification of {entry['id']} gives the id {trial.id}; {AGAIN}")
    if Path(trial.id).name != trial.id:  # importing would write outside the store
        raise InputError(f"{path}: the id {trial.id} cannot be the name of a folder; {AGAIN}")
    tags, curve, its_layers, tested = dict(entry["tags"]), None, None, None
    outcome = Outcome(entry["outcome"])
    if outcome.is_result:
        tags |= {tag: entry[name] for name, tag in SEALS.items()}
        its_columns = [name for name in records.columns(trial).names if name in curves.column_names]
        curve, tested = _rows_of(trial, curves).select(its_columns), _rows_of(trial, evaluations)
        try:
            records.verified(curve, tags, trial.id)
            if "layers_sha256" in tags:
                its_layers = _rows_of(trial, layers)
                records.verified_layers(its_layers, tags, trial.id)
        except InputError as error:
            raise InputError(f"{path}: {error}; {AGAIN}") from None
    return Run(entry["run_id"], trial, outcome, tags, curve, its_layers, tested or None)


def _rows_of(trial: Trial, table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["id"], trial.id)).drop_columns(["id"])
