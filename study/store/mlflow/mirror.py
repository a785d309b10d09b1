"""Writes what the store's folders hold into MLflow: one run a trial, found by its tag `trial_id`.

The full curve is a Parquet artifact, sealed by row count and digest; its metrics are a thinned view for browsing;
evaluations, which come later, are another artifact. Only whoever holds the store's lock writes runs of trials. Every
write may be repeated, and nothing is logged twice. Does not know how trials are run.
"""

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities import Run as MlflowRun

from study.execution import Execution
from study.periodic import every
from study.spec import InputError, Trial
from study.store import atomic, layout
from study.store.account import RESULTS, Account, Outcome, read_account
from study.store.heartbeat import version
from study.store.mlflow import client, decoration
from study.store.mlflow.tags import EVALUATED, NOTE, STATUS, STUDY, parameters, trial_tags
from study.store.records import is_evaluated, read_evaluations, read_records, records_so_far, table_digest

POINTS = 150  # of a series; the UI requests at most 320, and the server's response time grows with the number stored
POLL_SECONDS = 2.0  # between looks at the trials' folders
OUTAGE_SECONDS = 10.0  # between attempts while MLflow is out of reach
SERVER_PATIENCE_SECONDS = 30.0  # to wait, at the end of a launch, for a server that is out of reach
# Files of a trial that its run shows.
ATTACHED = (layout.SPEC, layout.PATCH, layout.TRACE, layout.RECORDS, layout.LAYERS, layout.WRONG)
log = logging.getLogger(__name__)


class Mirror:
    """Makes the runs of these trials show what the store holds.

    An outage of MLflow is a warning; what was missed follows when it is back.
    """

    def __init__(self, execution: Execution, trials: Iterable[Trial]) -> None:
        """Find the trials' runs. Raises `InputError` where MLflow cannot be used at all."""
        client.settle(execution)
        self.execution, self.mlflow = execution, client.connect(execution)
        self.waiting = {trial.id: trial for trial in trials}  # without those whose results MLflow has
        with client.reaching(execution):
            for deleted in client.deleted(self.mlflow, self.waiting):
                client.restore(self.mlflow, deleted)
            self.runs = self._one_per_trial(client.search(self.mlflow, self.waiting))
        self.done = {trial_id for trial_id, run in self.runs.items() if _has_result(run)}
        self.shown: dict[str, list[Any]] = {}  # versions of the files that a trial's run shows
        self.logged: dict[str, int] = {}  # the last iteration among its metrics
        self.behind: set[str] = set()
        self.outage = ""

    def results(self) -> set[str]:
        """Ids of the trials whose runs have a result."""
        return set(self.done)

    def update(self) -> bool:
        """Show what is new in the store; whether MLflow now has it all.

        A result that was shown is not looked at again, and nothing of it is kept: a study may have thousands.
        """
        for trial in list(self.waiting.values()):
            folder = self.execution.trial_folder(trial.id)
            if not (account := version(folder / layout.ACCOUNT)):
                continue
            now = [account, *(version(folder / name) for name in (layout.RECORDS, layout.EVALUATIONS))]
            if self.shown.get(trial.id) == now:
                continue
            self.behind.add(trial.id)
            try:
                sealed = self._show(trial, folder)
            except client.OUTAGES as error:
                if not self.outage:
                    log.warning(
                        "tracking is out of reach (%s); training goes on", client.problem(self.execution, error)
                    )
                self.outage = client.problem(self.execution, error)
                return False
            if self.outage:
                log.warning("tracking is back; what it missed follows")
                self.outage = ""
            self.shown[trial.id] = now
            self.behind.discard(trial.id)
            if sealed:
                self.done.add(trial.id)
                for of_trials in (self.waiting, self.runs, self.shown, self.logged):
                    of_trials.pop(trial.id, None)
        return not self.behind

    def _show(self, trial: Trial, folder: Path) -> bool:
        """Show the trial; whether it has a result."""
        account = read_account(folder)
        if account.outcome == Outcome.MISSING:
            return False
        sealed, run = account.has_result, self.runs.get(trial.id)
        if sealed and run and run.info.status == "FINISHED" and _has_result(run):
            if run.data.tags["records_sha256"] != account.tags["records_sha256"]:
                log.warning("MLflow has another result of trial %s, and keeps it; %s has this one", trial.id, folder)
            else:
                self._show_evaluations(trial, folder)
            return True
        if run is None:
            self.runs[trial.id] = run = self._create(trial, account)
        run_id, known = run.info.run_id, run.data.tags
        if not run.data.params:
            self.mlflow.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters(trial)])
        records = (read_records if sealed else records_so_far)(folder).to_pylist()
        self._log_curve(trial, run, records)
        tags = {**trial_tags(trial), **account.tags, "reason": account.reason, "cause": account.cause}
        if sealed:
            finals = decoration.finals(trial, account, records)
            # At step 0 the UI draws bars, not a curve of one point.
            metrics = [Metric(name, value, run.info.start_time, 0) for name, value in finals.items()]
            self.mlflow.log_batch(run_id, metrics=metrics)
            self._attach(run, folder, ATTACHED)
            tags[NOTE] = decoration.trial_note(trial, account, finals)
        client.tag(self.mlflow, run_id, {key: value for key, value in tags.items() if known.get(key, "") != value})
        self._show_outcome(run, account)
        self.runs[trial.id] = self.mlflow.get_run(run_id)
        if sealed:
            self._show_evaluations(trial, folder)
        return sealed

    def _show_outcome(self, run: MlflowRun, account: Account) -> None:
        """The outcome comes last: a run has a result only once everything else is there."""
        outcome, run_id = account.outcome, run.info.run_id
        if outcome != Outcome.RUNNING:
            client.tag(self.mlflow, run_id, {"outcome": outcome})
            took = 1_000 * account.cohort * float(account.tags.get("seconds", "nan"))
            # The clock does not tell when a result that was made elsewhere ended.
            known = outcome.is_result and math.isfinite(took)
            self.mlflow.set_terminated(run_id, STATUS[outcome], run.info.start_time + round(took) if known else None)
        elif run.data.tags.get("outcome") != Outcome.RUNNING or run.info.status != "RUNNING":
            client.tag(self.mlflow, run_id, {"outcome": Outcome.RUNNING})
            self.mlflow.update_run(run_id, status="RUNNING")

    def _show_evaluations(self, trial: Trial, folder: Path) -> None:
        """Show the evaluations if the run has others; while they are replaced its tag names none."""
        table, run = read_evaluations(folder), self.runs[trial.id]
        run_id, known = run.info.run_id, run.data.tags.get(EVALUATED, "")
        if table is None or known == table_digest(table):
            return
        if known:
            client.tag(self.mlflow, run_id, {EVALUATED: ""})
        self._attach(run, folder, [layout.EVALUATIONS])
        client.tag(self.mlflow, run_id, {EVALUATED: table_digest(table)})
        self.runs[trial.id] = self.mlflow.get_run(run_id)

    def _attach(self, run: MlflowRun, folder: Path, names: Iterable[str]) -> None:
        contents = {name: atomic.read(folder / name) for name in names}
        client.attach(self.execution, run, {name: data for name, data in contents.items() if data is not None})

    def _create(self, trial: Trial, account: Account) -> MlflowRun:
        """The trial's one run. After a lost answer the server may have made it: MLflow's client repeats requests."""
        existing = list(client.search(self.mlflow, [trial.id])) if self.outage else []
        if not existing:
            tags = {
                "study": STUDY,
                "trial_id": trial.id,
                "outcome": Outcome.RUNNING.value,
                "spec": json.dumps(trial.to_dict()),
                "mlflow.runColor": decoration.colour(trial),
            }
            experiment = client.experiment(self.mlflow, self.execution, account.tags["profile"])
            name = decoration.run_name(trial, account.tags)
            self.mlflow.create_run(experiment, account.started, run_name=name, tags=tags)
            existing = list(client.search(self.mlflow, [trial.id]))
        return self._one_per_trial(existing)[trial.id]

    def _one_per_trial(self, runs: Iterable[MlflowRun]) -> dict[str, MlflowRun]:
        """The run of each trial. Of several, those without a result are deleted; results are the user's to delete."""
        kept: dict[str, MlflowRun] = {}
        for run in sorted(runs, key=lambda run: not _has_result(run)):
            if kept.setdefault(run.data.tags["trial_id"], run) is not run and not _has_result(run):
                self.mlflow.delete_run(run.info.run_id)
        return kept

    def _log_curve(self, trial: Trial, run: MlflowRun, records: Sequence[Mapping[str, Any]]) -> None:
        """Add what is new in `records` to the metrics: thinned, finite, stamped by iteration."""
        recipe, last = trial.recipe, self.logged.get(trial.id)
        if last is None:
            last = _last_step(self.mlflow, run)
        stride = math.ceil(recipe.iterations / recipe.record_every / POINTS)
        metrics = [
            Metric(name, value, run.info.start_time + record["iteration"], record["iteration"])
            for index, record in enumerate(records)
            if record["iteration"] > last and (index % stride == 0 or record is records[-1] or is_evaluated(record))
            for name, value in record.items()
            if name != "iteration" and value is not None and math.isfinite(value)
        ]
        if metrics:
            self.mlflow.log_batch(run.info.run_id, metrics=metrics)
        self.logged[trial.id] = max([last, *(metric.step for metric in metrics)])


@contextmanager
def mirroring(mirror: Mirror, patience: float = SERVER_PATIENCE_SECONDS) -> Iterator[None]:
    """Keep MLflow showing the store while the block runs, and bring it up to date at the end.

    Waits at most `patience` seconds for a server that is out of reach then, and logs what it still lacks.
    """
    try:
        with every(lambda: OUTAGE_SECONDS if mirror.outage else POLL_SECONDS, mirror.update):
            yield
    finally:
        until = time.monotonic() + patience
        while not mirror.update() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        if mirror.behind:
            log.error(
                "MLflow lacks %d trials (%s); they are in the storage, and the same command shows them when it is back",
                len(mirror.behind),
                mirror.outage,
            )


def publish(execution: Execution, trials: Sequence[Trial]) -> None:
    """Make the runs of these trials show the store; for whoever holds the store's lock. Raises `InputError`."""
    mirror = Mirror(execution, trials)
    if not mirror.update():
        raise InputError(f"tracking {client.tracking_address(execution)} is out of reach: {mirror.outage}")


def _has_result(run: MlflowRun) -> bool:
    return run.data.tags.get("outcome") in RESULTS


def _last_step(mlflow: MlflowClient, run: MlflowRun) -> int:
    """The last iteration among the run's metrics: every record has a learning rate, and it is logged first."""
    if "learning_rate" not in run.data.metrics:
        return 0
    return max(metric.step for metric in mlflow.get_metric_history(run.info.run_id, "learning_rate"))
