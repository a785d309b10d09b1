"""Bundles of format 1, as they were written until a bundle held the folders of its trials. Reads them only.

manifest.json           each trial with its specification, tags and seal; SHA-256 of the other members
curves.parquet          a row a record, with its trial's id
layers.parquet          a row a layer, with its trial's id; not in the oldest
evaluations.parquet     a row an evaluation, with its trial's id; not in the oldest
weights/ID.checkpoint   the last state of the trials chosen
"""

import zipfile
from typing import Any

import pyarrow.compute as pc

from study.spec import Trial
from study.store.account import Outcome, sound
from study.store.layout import EVALUATIONS, LAYERS, RECORDS
from study.store.records import Run, assembled, columns, parquet, read_table

TABLES = {RECORDS: "curves.parquet", LAYERS: "layers.parquet", EVALUATIONS: "evaluations.parquet"}  # by file of a trial


class Contents:
    """The runs of a bundle, one by one; every table is read once."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, str]) -> None:
        self.tables = {
            file: read_table(archive.read(name)) for file, name in TABLES.items() if name in members or file == RECORDS
        }

    def run(self, entry: dict[str, Any], trial: Trial) -> Run:
        """Raises `InputError` for a curve, or layers, that were altered."""
        seals = {"records": entry["records"], "records_sha256": entry["sha256"]}
        outcome = Outcome(entry["outcome"])
        tags = sound(entry["tags"]) | (seals if outcome.is_result else {})
        return assembled(entry["run_id"], trial, outcome, tags, lambda file: self._content(trial, file), trial.id)

    def _content(self, trial: Trial, file: str) -> bytes | None:
        """What the file of the trial's folder would hold."""
        table = self.tables.get(file)
        if table is None:
            return None
        rows = table.filter(pc.equal(table["id"], trial.id)).drop_columns(["id"])
        if file == RECORDS:  # beside those of detectors, curves of classifiers have these columns, too
            rows = rows.select([name for name in columns(trial).names if name in table.column_names])
        return parquet(rows) if rows.num_rows or file == RECORDS else None


def weights_member(trial: Trial) -> str:
    return f"weights/{trial.id}.checkpoint"
