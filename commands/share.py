"""`python -m experiments export | import | merge`: results that travel between sites as one file.

Owns what of a run travels, and what a store does with results from elsewhere. The file itself is
`study/store/bundle.py`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from commands.options import JSON, PATH, STORAGE, TRACKING_URI, Selection, selecting
from experiments import most_seeds
from experiments.profiles import profile
from study.execution import Execution
from study.spec import InputError, check_choice
from study.store import atomic, bundle, heartbeat, provenance
from study.store.account import Account, Outcome, has_result, keep_specification, read_account
from study.store.bundle import Bundle, Conflict, Scope, Weights
from study.store.heartbeat import Progress
from study.store.layout import TrialFolder
from study.store.records import (
    MEND,
    Run,
    add_evaluations,
    joined_evaluations,
    read_evaluations,
    run_in,
    seal_result,
)

OWN = ("study", "trial_id", "outcome", "spec", "storage", "reason", "cause")  # tags that a store says of its own runs


@click.command("export")
@selecting()
@click.argument("out", type=PATH)
@click.option("--weights", "chosen", default="none", help="Last states to add: none, all, or ids (default: none).")
@JSON
def export_command(selected: Selection, out: Path, chosen: str, as_json: bool) -> None:
    """Write the selected trials' results to one file, OUT: curves, specifications and, if asked for, weights."""
    from study.store.mlflow import reader  # with mlflow, which `merge` does not need

    execution = selected.execution
    logged = reader.read(execution, selected.trials)
    runs = [_travelling(run, execution) for run in logged if run.outcome.is_result]
    if len(runs) < len(selected.trials):
        reader.check_experiments(execution, selected.trials)
    if not runs:
        raise InputError(
            f"none of the {len(selected.trials)} selected trials has a result in {execution.storage}; run them:"
            f" {selected.command().make()}"
        )
    weights = _chosen_weights(chosen, runs, execution)
    data = selected.profile.scenes or selected.profile.data
    scope = Scope(selected.choice.experiments, selected.choice.seeds, data)
    commit = provenance.tags()["git_commit"]
    bundle.write(out, runs, selected.profile.name, weights, scope=scope, code=commit)
    has = {run.trial.id for run in runs}
    answer = {**_counts(out, runs, weights), "missing": [trial.id for trial in selected.trials if trial.id not in has]}
    unusable = [f"{run.trial.id}: {run.tags['reason']}" for run in logged if run.outcome == Outcome.UNUSABLE]
    answer |= {"unusable": unusable} if unusable else {}
    _print(answer, as_json)


@click.command("import")
@click.argument("path", metavar="BUNDLE", type=PATH)
@STORAGE
@TRACKING_URI
@JSON
def import_command(path: Path, storage: str, tracking_uri: str, as_json: bool) -> int:
    """Add a bundle's results to a store that lacks them. Exit code 1 if the store has other results of a trial."""
    from study.run.launch import only_launcher
    from study.store.mlflow import client

    incoming = bundle.read(path)
    execution = Execution(storage=atomic.place(storage), data_root=Path("data"), tracking_uri=tracking_uri)
    client.create_store(execution)
    with only_launcher(execution.storage):
        answer = _import(incoming, execution)
    _print({"bundle": str(path), **answer}, as_json)
    return 1 if answer["conflicts"] else 0


@click.command("merge")
@click.argument("paths", metavar="BUNDLE...", nargs=-1, required=True, type=PATH)
@click.option("--output", required=True, type=PATH, help="The bundle to write.")
@click.option("--prefer", type=PATH, help="The bundle whose results stand where two bundles differ.")
@JSON
def merge_command(paths: Sequence[Path], output: Path, prefer: Path | None, as_json: bool) -> int:
    """Make one bundle of several, by trial. Exit code 1, and no bundle, if two have different results of a trial."""
    if len(paths) < 2:
        raise InputError(f"merge takes two bundles or more, not {paths[0]} alone")
    if prefer is not None:
        check_choice("prefer", str(prefer), map(str, paths))
    bundles = [bundle.read(path) for path in sorted(paths, key=lambda path: path != prefer)]
    scope = _one_scope(bundles)
    runs, conflicts = bundle.merge(bundles)
    open_ones = [entry for entry in conflicts if entry.kept != str(prefer)]
    if open_ones:
        _print({"bundle": None, "conflicts": open_ones}, as_json)
        return 1
    weights = _merged_weights(runs, bundles)
    resolved = [entry for one in bundles for entry in one.manifest["resolved"]] + [asdict(entry) for entry in conflicts]
    commit = provenance.tags()["git_commit"]
    bundle.write(output, runs, bundles[0].profile, weights, scope=scope, code=commit, resolved=resolved)
    _print({**_counts(output, runs, weights), "resolved": conflicts}, as_json)
    return 0


def _travelling(run: Run, execution: Execution) -> Run:
    """The run with the tags that mean the same elsewhere, and when it started."""
    tags = _tags_elsewhere(run)
    started = read_account(execution.trial_folder(run.trial.id)).started
    return replace(run, tags=tags | ({"started": str(started)} if started else {}))


def _tags_elsewhere(run: Run) -> dict[str, str]:
    """Its tags but those that a store, or MLflow, says of its own runs."""
    return {name: value for name, value in run.tags.items() if name not in OWN and not name.startswith("mlflow.")}


def _last_state(run: Run, execution: Execution) -> Path:
    """Where the state is that the run ended with. Older ones are an unfinished attempt's."""
    assert run.records is not None
    last = run.records["iteration"][-1].as_py()
    return TrialFolder(execution.trial_folder(run.trial.id)).checkpoint(last)


def _chosen_weights(chosen: str, runs: Iterable[Run], execution: Execution) -> dict[str, Weights]:
    """Raises `InputError` for an id without a result or without weights; 'all' takes those that there are."""
    if chosen == "none":
        return {}
    paths: dict[str, Weights] = {run.trial.id: _last_state(run, execution) for run in runs}
    if chosen == "all":
        return {id: path for id, path in paths.items() if path.exists()}
    for id in chosen.split():
        if id not in paths:
            raise InputError(f"weights {id!r} belong to no selected trial that has a result; choose none, all, or ids")
        if not paths[id].exists():
            raise InputError(f"the weights of {id} are not in {paths[id]}; choose none, all, or other ids")
    return {id: paths[id] for id in chosen.split()}


def _import(incoming: Bundle, execution: Execution) -> dict[str, Any]:
    """Seal what the store lacks, then show it in MLflow. After a kill or an outage it may be repeated."""
    from study.store.mlflow import mirror, reader

    results = [run for run in incoming.runs if run.records is not None]
    shown = {run.trial.id: run for run in reader.read(execution, [run.trial for run in results])}
    shown = {id: run for id, run in shown.items() if run.outcome.is_result}
    imported: list[str] = []
    equal: list[str] = []
    evaluated: list[str] = []
    conflicts, weights = [], 0
    for run in results:
        local = _sealed(run, execution) or shown.get(run.trial.id)
        if local is not None and not bundle.equal(local, run):
            conflicts.append(bundle.conflict(local, run, f"store {execution.storage}", str(incoming.path)))
            continue
        try:
            weights += _import_weights(run, incoming, execution)
            if local is None:
                _seal(run, incoming, execution)
            if _import_evaluations(run, execution):
                evaluated.append(run.trial.id)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"store {execution.storage} cannot be written ({reason}); then import again") from None
        (imported if local is None else equal).append(run.trial.id)
    new = {*imported, *equal} - shown.keys() | set(evaluated)
    mirror.publish(execution, [run.trial for run in results if run.trial.id in new])
    without = [run.trial.id for run in incoming.runs if run.records is None]
    return {
        **{"imported": imported, "equal": equal, "without_result": without, "weights": weights},
        "evaluated": evaluated,
        "conflicts": conflicts,
    }


def _sealed(run: Run, execution: Execution) -> Run | None:
    """The result of the same trial in the store's folders, also one that MLflow does not show yet."""
    folder = execution.trial_folder(run.trial.id)
    if not has_result(folder):
        return None
    try:
        return run_in(folder, run.trial)
    except InputError as error:
        raise InputError(f"{error}; {MEND}") from None


def _seal(run: Run, incoming: Bundle, execution: Execution) -> None:
    """Write the run into its folder as if it had been trained here; its tags say that it was not."""
    assert run.records is not None
    folder = execution.trial_folder(run.trial.id)
    keep_specification(folder, run.trial)
    for path in (TrialFolder(folder).patch, TrialFolder(folder).trace):
        path.unlink(missing_ok=True)  # of an unfinished attempt; MLflow would show them as this run's
    exported = int(datetime.fromisoformat(incoming.manifest["when"]).timestamp() * 1000)
    origin = {"imported_from": incoming.path.name, "imported_run": run.run_id}
    tags = {"profile": incoming.profile, **_tags_elsewhere(run), **origin, "storage": str(execution.storage.absolute())}
    account = Account(started=int(run.tags.get("started", exported)), tags=tags)
    seal_result(folder, run.outcome, run.records, account, run.layers, wrong=run.wrong)
    last = run.records.to_pylist()[-1]
    progress = Progress(
        iteration=last["iteration"],
        train_error_pct=last.get("train_error_pct"),
        seconds=float(run.tags.get("seconds", 0.0)),
        seconds_left=0.0,
        outcome=run.outcome,
    )
    heartbeat.write(folder, progress)


def _import_evaluations(run: Run, execution: Execution) -> bool:
    """Add the evaluations that the store's trial lacks, if its folder has the result; whether there were any."""
    folder = execution.trial_folder(run.trial.id)
    if run.evaluations is None or read_account(folder).outcome != Outcome.FINISHED:
        return False
    local = read_evaluations(folder)
    if joined_evaluations(local, run.evaluations) == local:
        return False
    add_evaluations(folder, run.evaluations.to_pylist())
    return True


def _import_weights(run: Run, incoming: Bundle, execution: Execution) -> int:
    """Add the run's weights to the store if it lacks them; returns how many."""
    path = _last_state(run, execution)
    if run.trial.id not in incoming.weights or path.exists():
        return 0
    atomic.write(path, incoming.weights[run.trial.id].read_bytes())
    return 1


def _one_scope(bundles: Sequence[Bundle]) -> Scope:
    """What all the bundles are about together. Raises `InputError` if these are several studies."""
    first, *others = bundles
    for other in others:
        if (first.profile, first.scope.data) != (other.profile, other.scope.data):
            raise InputError(
                f"{first.path} is of profile {first.profile} and {other.path} of {other.profile}, or of other data;"
                " a bundle has one profile on one data set: merge those of each"
            )
    scopes = [one.scope for one in bundles]
    names = [scope.experiments.split() for scope in scopes]
    seeds = {scope.seeds for scope in scopes}
    return Scope(
        experiments=" ".join(dict.fromkeys(name for some in names for name in some)) if all(names) else "",
        seeds=seeds.pop() if len(seeds) == 1 else max(count or most_seeds(profile(first.profile)) for count in seeds),
        data=first.scope.data,
    )


def _merged_weights(runs: Iterable[Run], bundles: Sequence[Bundle]) -> dict[str, Weights]:
    """The weights of each run, from the first bundle that has them of an equal run."""
    stands = {run.trial.id: run for run in runs}
    weights: dict[str, Weights] = {}
    for one in bundles:
        for run in one.runs:
            if run.trial.id in one.weights and bundle.equal(run, stands[run.trial.id]):
                weights.setdefault(run.trial.id, one.weights[run.trial.id])
    return weights


def _counts(path: Path, runs: Sequence[Run], weights: dict[str, Weights]) -> dict[str, Any]:
    records = sum(run.records.num_rows for run in runs if run.records is not None)
    return {"bundle": str(path), "runs": len(runs), "records": records, "weights": len(weights)}


def _print(answer: dict[str, Any], as_json: bool) -> None:
    """Conflicts and what is unusable a line each, then the counts; or everything as JSON."""
    conflicts: dict[str, list[Conflict]] = {name: answer[name] for name in ("conflicts", "resolved") if name in answer}
    if as_json:
        print(
            json.dumps(answer | {name: [asdict(entry) for entry in some] for name, some in conflicts.items()}, indent=2)
        )
        return
    for name, some in conflicts.items():
        for entry in some:
            print(f"{name.removesuffix('s')}: {entry}")
    for entry in answer.get("unusable", ()):
        print(f"unusable: {entry}")
    counts = {name: len(value) if isinstance(value, list) else value for name, value in answer.items()}
    path = counts.pop("bundle") or "no bundle"
    print(f"{path}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items()))
