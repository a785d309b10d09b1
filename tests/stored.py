"""What tests of the store share: records, accounts and results that no training made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from study.execution import Execution
from study.spec import Trial
from study.store.account import Account, Outcome
from study.store.layout import TrialFolder
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import publish
from study.store.records import COLUMNS, parquet, seal_result
from study.tasks.task import Record

Small = Callable[..., Trial]
TAGS = {"profile": "test", "experiments": "none"}


def record(iteration: int, test: float | None = None) -> Record:
    values = dict.fromkeys(COLUMNS.names, None) | {"test_error_pct": test}
    return values | {"iteration": iteration, "learning_rate": 0.1, "train_loss": 1 / iteration, "train_error_pct": 50.0}


def history(store: Execution, run_id: str, key: str = "train_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.connect(store).get_metric_history(run_id, key)]


def account(outcome: Outcome = Outcome.RUNNING, reason: str = "", **tags: str) -> Account:
    return Account(outcome=outcome, reason=reason, started=1_700_000_000_000, tags=TAGS | tags)


def shown(store: Execution, trial: Trial) -> Any:
    """The trial's run in MLflow, after showing what its folder holds."""
    publish(store, [trial])
    (run,) = reader.read(store, [trial], records=False)
    return client.connect(store).get_run(run.run_id)


def seal(
    store: Execution, trial: Trial, records: list[Record], outcome: Outcome = Outcome.FINISHED, **tags: str
) -> None:
    seal_result(store.trial_folder(trial.id), outcome, records, account(**tags))


def evaluation(protocol: str, value: float, **more: Any) -> dict[str, Any]:
    of = {"split": "validation", "protocol": protocol, "measure": "top1_error_pct", "nets": ""}
    return of | {"value": value, "images": 1_000} | more


def alter(folder: Path, rows: list[Record]) -> None:
    """Put other records in the place of those that were sealed."""
    TrialFolder(folder).records.write_bytes(parquet(pa.Table.from_pylist(rows, schema=COLUMNS)))
