"""Reads the runs of trials back from MLflow, verified against their seals. Writes nothing, nor settles a store."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from study.execution import Execution
from study.printable import printable
from study.spec import THIS_VERSION, InputError, Trial
from study.store import layout
from study.store.account import Outcome, sound
from study.store.mlflow import client
from study.store.mlflow.tags import EVALUATED, PICTURED, STATUS, STUDY
from study.store.records import Run, assembled

MEND = "delete what is wrong in MLflow (make ui); the next launch shows the trial's folder again, or trains it"


def read(execution: Execution, trials: Iterable[Trial], records: bool = True) -> list[Run]:
    """The logged run of every one of these trials that has one; of a result the records too, unless `records` is false.

    What cannot be used has the outcome 'unusable' and the reason among its tags: several runs of one trial, a run with
    the id of a trial and another specification, files that are missing or not what was sealed. Raises `InputError`
    where MLflow is out of reach.
    """
    return list(iterate(execution, trials, records))


def iterate(execution: Execution, trials: Iterable[Trial], records: bool = True) -> Iterator[Run]:
    """What `read` returns, one by one: the curves of a large study need not be in memory together."""
    if not client.has_runs(execution):
        return
    mlflow, wanted = client.connect(execution), {trial.id: trial for trial in trials}
    runs: dict[str, list[MlflowRun]] = {}
    with client.reaching(execution):
        for run in client.search(mlflow, wanted):
            runs.setdefault(run.data.tags["trial_id"], []).append(run)
    for trial_id in list(runs):
        with client.reaching(execution):
            run_read = _read(mlflow, execution, wanted[trial_id], runs.pop(trial_id), records)
        yield run_read


def _read(
    mlflow: MlflowClient, execution: Execution, trial: Trial, candidates: Sequence[MlflowRun], records: bool
) -> Run:
    run, run_id = candidates[0], " and ".join(sorted(run.info.run_id for run in candidates))
    tags = sound({printable(name): printable(value) for name, value in run.data.tags.items()})
    outcome = tags.get("outcome", "")

    def content(file: str) -> bytes | None:
        if file == layout.EVALUATIONS and not tags.get(EVALUATED):
            return None
        try:
            return client.fetch(execution, run, file)
        except (OSError, MlflowException) as error:
            mlflow.get_run(run.info.run_id)  # raises if not the file is at fault but MLflow is out of reach
            raise InputError(f"{file} of run {run_id} cannot be read ({client.first_line(error)})") from None

    try:
        if len(candidates) > 1:
            raise InputError(f"runs {run_id} are of one trial, and neither is used")
        if not _has_specification(tags, trial):
            raise InputError(f"run {run_id} has another specification than the trial of its id")
        if outcome not in STATUS:
            raise InputError(f"run {run_id} has the outcome {outcome!r}, which is none of {', '.join(STATUS)}")
        result = Run(run_id, trial, Outcome(outcome), tags, None)
        if records:
            result = assembled(run_id, trial, result.outcome, tags, content, f"run {run_id}")
    except InputError as error:
        return Run(run_id, trial, Outcome.UNUSABLE, tags | {"reason": f"{error}; {MEND}"}, None)
    for name in (EVALUATED, PICTURED):
        tags.pop(name, None)  # they are about this copy, not about the trial
    return result


def _has_specification(tags: Mapping[str, str], trial: Trial) -> bool:
    try:
        return bool(json.loads(tags["spec"]) == json.loads(json.dumps(trial.to_dict())))
    except (KeyError, ValueError):
        return False


def check_experiments(execution: Execution, trials: Iterable[Trial]) -> None:
    """Raises `InputError` where runs of these trials are in an experiment that was deleted in MLflow."""
    if not client.has_runs(execution):
        return
    mlflow = client.connect(execution)
    with client.reaching(execution):
        deleted = client.deleted(mlflow, (trial.id for trial in trials))
    for one, count in deleted.items():
        raise InputError(
            f"the MLflow experiment {one.name!r} of {client.tracking_address(execution)}, with runs of {count} of these"
            " trials, has been deleted; running the trials again restores it and trains nothing, or so does `mlflow"
            f" experiments restore --experiment-id {one.experiment_id}` with that MLFLOW_TRACKING_URI"
        )


def foreign(execution: Execution, profile: str, trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Ids of the profile's runs that are of another schema or protocol than this code's, by these; reads no records.

    A run of these trials is never among them. Raises `InputError` where MLflow is out of reach.
    """
    if not client.has_runs(execution):
        return {}
    planned = {trial.id for trial in trials}
    by_version: dict[str, list[str]] = {}
    mlflow = client.connect(execution)
    with client.reaching(execution):
        for run in client.search(mlflow, None, f"tags.profile = '{profile}'"):
            version, trial_id = _version(run.data.tags), run.data.tags.get("trial_id", run.info.run_id)
            if version != str(THIS_VERSION) and trial_id not in planned:
                by_version.setdefault(version, []).append(trial_id)
    return {version: sorted(by_version[version]) for version in sorted(by_version)}


def _version(tags: Mapping[str, str]) -> str:
    """Schema and protocol of a run. A run without these tags is this code's if its specification gives its id here."""
    if {"schema", "protocol"} <= set(tags):
        return f"schema {tags['schema']}, protocol {tags['protocol']}"
    try:
        current = Trial.from_dict(json.loads(tags["spec"])).id == tags["trial_id"]
    except (KeyError, TypeError, ValueError):
        current = False
    return str(THIS_VERSION) if current else "a schema or protocol before these were recorded"


def profiles(execution: Execution) -> dict[str, str]:
    """Id of the MLflow experiment of each profile that has runs. Raises `InputError` where MLflow is out of reach."""
    if not client.has_runs(execution):
        return {}
    mlflow = client.connect(execution)
    with client.reaching(execution):
        experiments = mlflow.search_experiments(filter_string=f"tags.study = '{STUDY}'")
    return {e.tags["profile"]: e.experiment_id for e in experiments if "profile" in e.tags}
