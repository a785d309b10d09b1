"""What tests of the store share: records, accounts and results that no training made."""

from collections.abc import Callable
from typing import Any

from study.execution import Execution
from study.spec import Trial
from study.store import ledger
from study.store.mlflow import client, reader
from study.store.mlflow.mirror import publish
from study.tasks.task import Record

Small = Callable[..., Trial]
TAGS = {"profile": "test", "experiments": "none"}


def record(iteration: int, test: float | None = None) -> Record:
    values = dict.fromkeys(ledger.COLUMNS.names, None) | {"test_error_pct": test}
    return values | {"iteration": iteration, "learning_rate": 0.1, "train_loss": 1 / iteration, "train_error_pct": 50.0}


def history(store: Execution, run_id: str, key: str = "train_loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.connect(store).get_metric_history(run_id, key)]


def said(outcome: str = "running", **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "reason": "", "started": 1_700_000_000_000, "tags": dict(TAGS)} | more


def shown(store: Execution, trial: Trial) -> Any:
    """The trial's run in MLflow, after showing what its ledger holds."""
    publish(store, [trial])
    (run,) = reader.read(store, [trial], records=False)
    return client.connect(store).get_run(run.run_id)


def seal(store: Execution, trial: Trial, records: list[Record], outcome: str = "finished", **tags: str) -> None:
    ledger.seal(store.trial_folder(trial.id), outcome, records, said(tags=TAGS | tags))


def evaluation(protocol: str, value: float, **more: Any) -> dict[str, Any]:
    of = {"split": "validation", "protocol": protocol, "measure": "top1_error_pct", "nets": ""}
    return of | {"value": value, "images": 1_000} | more
