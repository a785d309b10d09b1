"""What a trial says of itself, in its folder of the storage: its account and its curve. Knows neither torch nor MLflow.

`run.json`, the account, says how far the trial came and how it is run; `records.parquet` is its curve. A trial has a
result once its account names the curve's row count and digest: it is sealed, and nobody writes to it again. MLflow
shows what the ledger holds (`study/tracking.py`), now or later.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from study import storage
from study.spec import InputError, Trial

RESULTS = ("finished", "diverged")  # outcomes that are never run again
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


@dataclass(frozen=True)
class Run:
    """A trial as it was logged. `records` has the columns of `COLUMNS`; None unless the trial has a result."""

    run_id: str
    trial: Trial
    outcome: str  # 'running', 'finished', 'diverged', 'failed' or 'interrupted'
    tags: dict[str, str]
    records: pa.Table | None


def account(folder: Path) -> dict[str, Any]:
    """What the trial last said: 'outcome', 'reason', 'started' (ms), 'tags' and counts; {} if nothing yet."""
    content = storage.read(folder / "run.json")
    try:
        return json.loads(content) if content else {}
    except ValueError:
        return {}


def say(folder: Path, said: dict[str, Any]) -> None:
    """Replace the trial's account."""
    storage.write(folder / "run.json", json.dumps(said, indent=1).encode())


def seal(folder: Path, outcome: str, records: list[dict[str, Any]] | pa.Table, said: dict[str, Any]) -> dict[str, Any]:
    """Write the whole curve, then the account that makes the outcome a result. Returns the account."""
    assert outcome in RESULTS
    table = write_records(folder, records)
    seals = {"records": str(table.num_rows), "records_sha256": digest(table)}
    said = {**said, "outcome": outcome, "reason": "", "tags": {**said["tags"], **seals}}
    verified(table, said["tags"], folder.name)
    say(folder, said)
    return said


def write_records(folder: Path, records: list[dict[str, Any]] | pa.Table) -> pa.Table:
    """Replace the trial's curve by these records."""
    table = records if isinstance(records, pa.Table) else pa.Table.from_pylist(records, schema=COLUMNS)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write(folder / "records.parquet", buffer.getvalue())
    return table


def read_records(folder: Path) -> pa.Table:
    """The curve so far, not verified; empty if there is none."""
    content = storage.read(folder / "records.parquet")
    return COLUMNS.empty_table() if content is None else pq.read_table(io.BytesIO(content))


def digest(table: pa.Table) -> str:
    """SHA-256 of the values, independent of how Parquet happened to store them."""
    return hashlib.sha256(json.dumps(table.to_pylist()).encode()).hexdigest()


def verified(table: pa.Table, tags: dict[str, str], name: str) -> pa.Table:
    """The curve, if it is what was sealed. Raises `InputError` for other rows, other values or iterations that fall."""
    if str(table.num_rows) != tags.get("records") or digest(table) != tags.get("records_sha256"):
        raise InputError(f"the curve of {name} was altered after it was sealed")
    iterations = table["iteration"].to_pylist()
    if any(after <= before for before, after in zip(iterations, iterations[1:], strict=False)):
        raise InputError(f"the curve of {name} has iterations that do not rise; delete it and run the trial again")
    return table
