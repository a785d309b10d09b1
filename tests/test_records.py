"""A folder of a trial holds only results that can be such."""

import hashlib
import json
import math

import pyarrow as pa
import pytest
from stored import Small, evaluation, record, seal

from study.execution import Execution
from study.spec import InputError
from study.store.account import Account, read_account
from study.store.records import COLUMNS, add_evaluations, parquet, read_evaluations, read_table, table_digest


def test_an_evaluation_is_of_a_finished_trial_and_a_number(store: Execution, small: Small) -> None:
    folder = store.trial_folder(small().id)
    with pytest.raises(InputError, match="is not finished; only finished trials are evaluated"):
        add_evaluations(folder, [evaluation("10-crop", 28.0)])
    seal(store, small(), [record(4), record(8)])
    for wrong, says in (
        (evaluation("10-crop", float("nan")), "top1_error_pct of .* is nan; an evaluation needs a number"),
        (evaluation("10-crop", 28.0, crops=10), "an evaluation has other columns than split, .*: crops"),
    ):
        with pytest.raises(InputError, match=says):
            add_evaluations(folder, [wrong])
    assert read_evaluations(folder) is None


def test_a_curve_whose_iterations_fall_is_never_sealed(store: Execution, small: Small) -> None:
    with pytest.raises(InputError, match="iterations that do not rise"):
        seal(store, small(), [record(8), record(4)])
    assert read_account(store.trial_folder(small().id)) == Account()


def test_the_digest_is_that_of_the_rows_as_json():
    odd = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-5, 1e22, 1 / 3, None, 100.0]
    for count in (0, 1, len(odd)):
        columns = [pa.array(range(count), pa.int64()), *[pa.array(odd[:count], pa.float64())] * 9]
        table = pa.table(columns, schema=COLUMNS)
        for each in (table, pa.concat_tables([table, table])):
            assert table_digest(each) == hashlib.sha256(json.dumps(each.to_pylist()).encode()).hexdigest()


def test_a_table_with_a_damaged_page_is_an_error_of_arrow() -> None:
    content = parquet(pa.table({"iteration": [1, 2]}))
    damaged = content.replace(b"iteration", b"iteratio\xb4"), content[:8] + b"\xff" * 8 + content[16:]
    for one in damaged:
        with pytest.raises(pa.ArrowException):
            read_table(one)
