"""The measurements of a trial in its folder: its curve, its layers, its evaluations and its wrong test images.

A trial has a result once its account (`study/store/account.py`) names the curve's row count and the digests of curve,
layers and wrong test images: it is sealed, and nobody writes to it again. Only the evaluations, by which its net is
tested in other ways (10-crop, multi-scale), may come, and grow, later. Owns these files' columns, seals and checks; all
but the bits of the test images are Parquet. Knows neither torch nor MLflow, which shows what the folders hold
(`study/store/mlflow/`).
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from study.spec import InputError, Trial, detection_of
from study.store import atomic, layout
from study.store.account import Account, Outcome, read_account, write_account
from study.store.layout import TrialFolder


def _curve(*numbers: str) -> pa.Schema:
    return pa.schema([("iteration", pa.int64()), *((name, pa.float64()) for name in numbers)])


# A row of a curve: of a classifier, and of a detector, whose losses are those of its RPN and of its regions.
COLUMNS = _curve(
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
LOSSES = ("objectness_loss", "rpn_box_loss", "classifier_loss", "box_loss")
DETECTED = _curve("learning_rate", "train_loss", *LOSSES, "map_50", "map_50_95")
# What is finite wherever it was measured in a finished net, which has the errors at its last iteration, too. Losses of
# evaluations are not among them: by BatchNorm's running averages a very deep net may overflow while it trains well.
NUMBERS = ("train_loss", "train_error_pct", "clean_train_error_pct", "test_error_pct")
MEND = "delete its folder in the store's trials/ and its run in MLflow (make ui); the next launch trains it again"
LAYERS = pa.schema(
    [("iteration", pa.int64()), ("layer", pa.int64())]
    + [(name, pa.float64()) for name in ("response_std", "gradient_norm", "weight_norm", "branch_over_input")]
)
# Tags of a finished trial: errors of its final net with BatchNorm's statistics averaged anew over so many batches of
# training images, about as many as the moving averages (momentum 0.1) remember.
RECALIBRATED = ("recalibrated_clean_train_error_pct", "recalibrated_test_error_pct")
RECALIBRATION_BATCHES = 20
MOST_BYTES = 2**28  # of a table in memory; the longest curve that is planned has a fifth of it
MOST_FILE_BYTES = 2**26  # of its file
# Of these columns, whose values are in study/tasks/names.py, every evaluation has its own values.
EVALUATION_KEY = ("split", "protocol", "measure", "nets")
EVALUATIONS = pa.schema(
    [(name, pa.string()) for name in EVALUATION_KEY] + [("value", pa.float64()), ("images", pa.int64())]
)


def columns(trial: Trial) -> pa.Schema:
    """What a record of the trial has."""
    return DETECTED if detection_of(trial) else COLUMNS


def is_evaluated(record: Mapping[str, Any]) -> bool:
    """Whether the net was tested at this record."""
    return any(record.get(name) is not None for name in ("test_error_pct", "map_50"))


@dataclass(frozen=True)
class Wrong:
    """Which test images the last iterate classifies wrong, in the order of the test set, eight to a byte.

    The first image is the highest bit of the first byte. The share of 1 is the last record's `test_error_pct`.
    """

    images: int
    bits: bytes

    @classmethod
    def of(cls, flags: NDArray[np.bool_]) -> "Wrong":
        """bool [images]"""
        return cls(len(flags), np.packbits(flags).tobytes())

    def flags(self) -> NDArray[np.bool_]:
        """bool [images]"""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.images).astype(bool)


@dataclass(frozen=True)
class Run:
    """A trial as it was logged.

    `records` has the columns `columns(trial)`; None unless the trial has a result, or its curve so far was requested.
    `layers` has the columns `LAYERS`; None unless the trial finished, and of runs from before layers were measured.
    `evaluations` has the columns `EVALUATIONS`; None where there are none. `wrong` is None unless the trial is a
    classifier and finished, and of runs from before it was kept.
    """

    run_id: str
    trial: Trial
    outcome: Outcome
    tags: dict[str, str]  # of an unusable run, `reason` is what is wrong and what to do
    records: pa.Table | None
    layers: pa.Table | None = None
    evaluations: pa.Table | None = None
    wrong: Wrong | None = None


def seal_result(
    folder: Path,
    outcome: Outcome,
    records: list[dict[str, Any]] | pa.Table,
    account: Account,
    layers: list[dict[str, Any]] | pa.Table | None = None,
    evaluations: Sequence[dict[str, Any]] = (),
    schema: pa.Schema = COLUMNS,
    wrong: Wrong | None = None,
) -> Account:
    """Write all that was measured, then the account that makes the outcome a result. Returns the account."""
    assert outcome.is_result
    table = _write(TrialFolder(folder).records, records, schema)
    seals = {"records": str(table.num_rows), "records_sha256": table_digest(table)}
    if layers is None:
        TrialFolder(folder).layers.unlink(missing_ok=True)
    else:
        seals["layers_sha256"] = table_digest(_write(TrialFolder(folder).layers, layers, LAYERS))
    if wrong is None:
        TrialFolder(folder).wrong.unlink(missing_ok=True)
    else:
        atomic.write(TrialFolder(folder).wrong, wrong.bits)
        seals |= {"test_wrong": str(wrong.images), "test_wrong_sha256": hashlib.sha256(wrong.bits).hexdigest()}
    if evaluations:
        _write(TrialFolder(folder).evaluations, list(evaluations), EVALUATIONS)
    account = replace(account, outcome=outcome, reason="", tags=account.tags | seals)
    verified(table, account.tags, folder.name)
    write_account(folder, account)
    TrialFolder(folder).records_so_far.unlink(missing_ok=True)
    return account


def keep_records(folder: Path, records: list[dict[str, Any]] | pa.Table, schema: pa.Schema = COLUMNS) -> None:
    """Replace the curve so far by these records.

    In a file of its own: a worker that has lost its trial, and does not know it yet, cannot alter what another one has
    sealed meanwhile.
    """
    _write(TrialFolder(folder).records_so_far, records, schema)


def _write(path: Path, rows: Sequence[Mapping[str, Any]] | pa.Table, schema: pa.Schema) -> pa.Table:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema)
    atomic.write(path, parquet(table))
    return table


def parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def read_table(content: bytes) -> pa.Table:
    """The table of a Parquet file, which may be anybody's: nothing in it grows beyond `MOST_BYTES`.

    Raises `pa.ArrowException` for other files. Numbers and texts alone, stored as here: other compressions, and nested
    values, turn a file of kilobytes into gigabytes, and repeating one text does, too.
    """
    try:
        return _table(content)
    except pa.ArrowException:
        raise
    except (OSError, ValueError) as error:  # Parquet's reader, of damaged pages and names
        raise pa.ArrowInvalid((str(error).strip() or "it is damaged").splitlines()[0]) from None


def _table(content: bytes) -> pa.Table:
    if len(content) > MOST_FILE_BYTES:
        raise pa.ArrowInvalid(f"it has {len(content):,} bytes, more than {MOST_FILE_BYTES:,}")
    schema = pq.read_schema(io.BytesIO(content))
    texts = [field.name for field in schema if not pa.types.is_primitive(field.type)]
    if odd := [name for name in texts if not _is_text(schema.field(name).type)]:
        raise pa.ArrowInvalid(f"its column {odd[0]!r} has neither numbers nor texts")
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    chunks = [group.column(column) for group in groups for column in range(group.num_columns)]
    if odd := sorted({chunk.compression for chunk in chunks} - {"SNAPPY", "UNCOMPRESSED"}):
        raise pa.ArrowInvalid(f"it is compressed by {odd[0]}")
    stored = sum(chunk.total_uncompressed_size for chunk in chunks)
    _check_bytes(max(stored, 8 * sum(group.num_rows for group in groups) * len(schema)))
    table = file.read()
    _check_bytes(table.nbytes + sum(_text_bytes(table[name]) for name in texts))
    return table.cast(schema)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Of all texts of a column of dictionaries, before they are written out."""
    parts = [part for part in column.chunks if pa.types.is_dictionary(part.type)]
    return sum(pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0 for part in parts)


def _check_bytes(count: int) -> None:
    if count > MOST_BYTES:
        raise pa.ArrowInvalid(f"it takes {count:,} bytes of memory, more than {MOST_BYTES:,}")


def assembled(
    run_id: str, trial: Trial, outcome: Outcome, tags: dict[str, str], content: Callable[[str], bytes | None], name: str
) -> Run:
    """A run of the files of a trial's folder, wherever these are: `content` returns that of the file so named.

    Raises `InputError`, which names the run `name`, for files that cannot be read or are not what the tags seal.
    """
    if not outcome.is_result:
        return Run(run_id, trial, outcome, tags, None)

    def table(file: str) -> pa.Table | None:
        data = content(file)
        try:
            return None if data is None else read_table(data)
        except pa.ArrowException as error:
            raise InputError(f"{file} of {name} cannot be read ({str(error).splitlines()[0]})") from None

    curve = table(layout.RECORDS)
    curve = verified(columns(trial).empty_table() if curve is None else curve, tags, name)
    layers = table(layout.LAYERS) if "layers_sha256" in tags else None
    if "layers_sha256" in tags:
        layers = verified_layers(LAYERS.empty_table() if layers is None else layers, tags, name)
    evaluations = table(layout.EVALUATIONS)
    if evaluations is not None and tags.get("evaluations_sha256"):
        verified_evaluations(evaluations, tags, name)
    wrong = None
    if "test_wrong_sha256" in tags:
        images = tags.get("test_wrong", "")
        wrong = Wrong(int(images) if images.isdecimal() else -1, content(layout.WRONG) or b"")
        wrong = verified_wrong(wrong, tags, name)
    return Run(run_id, trial, outcome, tags, curve, layers, evaluations, wrong)


def run_in(folder: Path, trial: Trial, run_id: str = "") -> Run:
    """The run that a trial's folder holds, in a store or in a bundle. Raises `InputError` as `assembled`."""
    account = read_account(folder)
    return assembled(run_id, trial, account.outcome, account.tags, lambda file: atomic.read(folder / file), folder.name)


def read_records(folder: Path) -> pa.Table:
    """The curve of a result, not verified; empty if there is none."""
    content = atomic.read(TrialFolder(folder).records)
    return COLUMNS.empty_table() if content is None else read_table(content)


def records_so_far(folder: Path) -> pa.Table:
    """The curve of a trial without a result, as its checkpoints kept it; empty if there is none."""
    content = atomic.read(TrialFolder(folder).records_so_far)
    return read_records(folder) if content is None else read_table(content)  # older code kept it there


def problem_of(folder: Path, trial: Trial, account: Account) -> str:
    """What is wrong with the trial's result in its folder and what to do, in one line; '' if it is sound."""
    try:
        records = verified(read_records(folder), account.tags, f"trials/{folder.name}")
        wrong = flaw_of(trial, account.outcome, records)
    except (InputError, OSError, pa.ArrowException) as error:
        wrong = str(error).splitlines()[0]
    return f"{wrong}; {MEND}" if wrong else ""


def read_layers(folder: Path) -> pa.Table | None:
    """What the layers do, not verified; None if it was not measured."""
    content = atomic.read(TrialFolder(folder).layers)
    return None if content is None else read_table(content)


def add_evaluations(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Add evaluations of a finished trial's net, in place of older ones of the same.

    A row has the `split` ('validation', 'VOC 07 test'), the `protocol` ('centre crop', '10-crop', 'multi-scale'), the
    `measure` ('top1_error_pct', 'map'), its `value`, and over how many `images` it was measured. An ensemble's
    is kept with the first of its nets and names the trials of all, with commas between them, in `nets`.

    Raises `InputError` for a trial that is not finished, other columns, and values that are no numbers.
    """
    if read_account(folder).outcome is not Outcome.FINISHED:
        raise InputError(f"trial {folder.name} is not finished; only finished trials are evaluated")
    rows = [{"nets": "", **row} for row in rows]
    for row in rows:
        if wrong := sorted(set(row) ^ set(EVALUATIONS.names)):
            raise InputError(f"an evaluation has other columns than {', '.join(EVALUATIONS.names)}: {', '.join(wrong)}")
        if not math.isfinite(row["value"]):
            raise InputError(f"{row['measure']} of {folder.name} is {row['value']}; an evaluation needs a number")
    new = pa.Table.from_pylist(rows, schema=EVALUATIONS)
    _write(TrialFolder(folder).evaluations, joined_evaluations(new, read_evaluations(folder)), EVALUATIONS)


def read_evaluations(folder: Path) -> pa.Table | None:
    """How the net was tested beyond its curve; None if it was not."""
    content = atomic.read(TrialFolder(folder).evaluations)
    return None if content is None else read_table(content)


def joined_evaluations(first: pa.Table | None, second: pa.Table | None) -> pa.Table | None:
    """The evaluations of both, in a fixed order; where both have one of the same, that of `first`."""
    tables = [table for table in (second, first) if table is not None]
    rows = {tuple(row[name] for name in EVALUATION_KEY): row for table in tables for row in table.to_pylist()}
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=EVALUATIONS) if tables else None


def table_digest(table: pa.Table) -> str:
    """SHA-256 of the values as `json.dumps(table.to_pylist())`, independent of how Parquet happened to store them.

    Prints each distinct value once and joins the rows in Arrow: long curves are read by the thousand.
    """
    cells: list[Any] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        distinct = column.combine_chunks().dictionary_encode()
        values = distinct.dictionary.to_pylist()
        printed = json.dumps(values, separators=("\n", ": "))[1:-1].split("\n")  # no value's JSON has a line break
        cells += [f"{', ' if cells else '{'}{json.dumps(name)}: "]
        cells += [pc.fill_null(pa.array(printed).take(distinct.indices), "null")]
    rows = pc.binary_join_element_wise(*cells, "}, ", "")
    length = pc.sum(pc.binary_length(rows)).as_py() or 2
    sha = hashlib.sha256(b"[")
    sha.update(memoryview(rows.buffers()[2] or b"")[: length - 2])  # Arrow keeps the rows' text one after another
    sha.update(b"]")
    return sha.hexdigest()


def verified(table: pa.Table, tags: dict[str, str], name: str) -> pa.Table:
    """The curve, if it is what was sealed. Raises `InputError` for other rows, other values or iterations that fall."""
    if "records_sha256" not in tags:
        raise InputError(f"the curve of {name} was never sealed")
    if str(table.num_rows) != tags.get("records") or table_digest(table) != tags["records_sha256"]:
        raise InputError(f"the curve of {name} was altered after it was sealed")
    if not _rise(table):
        raise InputError(f"the curve of {name} has iterations that do not rise")
    return table


def flaw_of(trial: Trial, outcome: Outcome, records: pa.Table | None) -> str:
    """Why these records cannot be those of such a result, in one clause; '' if they can."""
    if records is None:
        return "its records are missing"
    if not _rise(records):
        return "the iterations of its records do not rise"
    if outcome is not Outcome.FINISHED:
        return ""
    *_, last = records.to_pylist() or [{}]
    if last.get("iteration") != trial.recipe.iterations:
        return f"it is finished, but its records do not reach iteration {trial.recipe.iterations}"
    for name in (name for name in NUMBERS if name in records.column_names):
        for iteration, value in zip(records["iteration"].to_pylist(), records[name].to_pylist(), strict=True):
            if value is not None and not math.isfinite(value):
                return f"it is finished, but its {name} is {value} at iteration {iteration}"
    if detection_of(trial):  # whose test annotations may be a server's secret
        return ""
    without = [name for name in NUMBERS if name.endswith("_error_pct") and last.get(name) is None]
    return f"it is finished, but its last record has no {', '.join(without)}" if without else ""


def _rise(table: pa.Table) -> bool:
    iterations = table["iteration"].to_pylist()
    return all(before < after for before, after in zip(iterations, iterations[1:], strict=False))


def verified_layers(table: pa.Table, tags: dict[str, str], name: str) -> pa.Table:
    """The layers, if they are what was sealed, else `InputError`."""
    if table_digest(table) != tags.get("layers_sha256"):
        raise InputError(f"the layers of {name} were altered after they were sealed")
    return table


def verified_wrong(wrong: Wrong, tags: dict[str, str], name: str) -> Wrong:
    """Which test images are wrong, if it is what was sealed, else `InputError`."""
    digest, length = hashlib.sha256(wrong.bits).hexdigest(), math.ceil(wrong.images / 8)
    if (digest, length) != (tags.get("test_wrong_sha256"), len(wrong.bits)):
        raise InputError(f"the wrong test images of {name} were altered after they were sealed")
    return wrong


def verified_evaluations(table: pa.Table, tags: dict[str, str], name: str) -> pa.Table:
    """The evaluations, if they are what MLflow was shown, else `InputError`."""
    if table_digest(table) != tags["evaluations_sha256"]:
        raise InputError(f"the evaluations of {name} were altered after they were logged")
    return table
