"""What a person sees in MLflow beside the numbers: names, colours, descriptions, views, pictures, the report's run.

Callers pass what descriptions, views and reports contain; nothing here knows which experiments there are.
"""

import colorsys
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

from study.execution import Execution
from study.printable import as_code, in_markdown
from study.spec import Trial
from study.store.account import RESULTS, Account, Outcome
from study.store.finals import final_mean
from study.store.mlflow import client
from study.store.mlflow.tags import CONTROL, KIND, NOTE, PICTURED, STUDY, VIEW, View
from study.store.records import RECALIBRATED

TESTED = ("test_error_pct", "map_50")  # of the last record
HUES = {"none": 22, "A": 208, "B": 275, "C": 150, "A-average": 190}  # degrees, by shortcut
VGG_HUE = 40
PICTURE = "curve.png"


def run_name(trial: Trial, tags: Mapping[str, str]) -> str:
    """What a person calls the run: `plain-56 · seed 2 · digits · plain-vs-residual`. Several runs may share a name."""
    first = tags.get("experiments", "").partition(",")[0]
    net = trial.title + (CONTROL if trial.data.labels == "shuffled" else "")  # first: the UI cuts names
    return " · ".join([net, f"seed {trial.seed}", trial.data.label, *([first] if first else [])])


def colour(trial: Trial) -> str:
    """Of the run's curves in charts: plain nets orange, residual ones blue, violet, green by option; deep ones dark."""
    hue = VGG_HUE if trial.model.family == "vgg" else HUES[trial.model.shortcut]
    depth = min(math.log2(trial.model.depth / 16) / 4, 1.0)  # 16 layers to 256, and more
    rgb = colorsys.hls_to_rgb(hue / 360, 0.72 - 0.42 * depth, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def finals(trial: Trial, account: Account, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The columns of a result: seconds and, if it finished, the errors in percent that tables print, rounded alike."""
    tags = account.tags
    numbers = {name: round(float(tags[name]), 2) for name in ("seconds", *RECALIBRATED) if name in tags}
    if account.outcome != Outcome.FINISHED or not records:
        return numbers
    iteration = [record["iteration"] for record in records]
    running = [math.nan if (error := r.get("train_error_pct")) is None else error for r in records]
    train_error_pct = final_mean(running, iteration, trial.recipe.iterations)
    if not math.isnan(train_error_pct):
        numbers["final_train_error_pct"] = round(train_error_pct, 2)
    last = records[-1]
    return numbers | {f"final_{name}": round(last[name], 2) for name in TESTED if last.get(name) is not None}


def trial_note(trial: Trial, account: Account, finals: Mapping[str, float]) -> str:
    """The description of a result's run, in Markdown."""
    tags = {name: in_markdown(value) for name, value in account.tags.items()}
    diverged = f"diverged at iteration {tags.get('diverged_at', '?')}"
    outcome = diverged if account.outcome == Outcome.DIVERGED else "finished"
    lines = [f"**{trial.title}** on {trial.data.label}, seed {trial.seed}: {outcome}.", ""]
    errors = {"training error": "final_train_error_pct", "test error": "final_test_error_pct"}
    lines += [f"- {title} at the end: {finals[name]:.2f} %" for title, name in errors.items() if name in finals]
    if "final_map_50" in finals:
        lines.append(f"- mAP at the end: {finals['final_map_50']:.2f}")
    lines.append(f"- trained for: {tags.get('experiments') or 'nothing in particular'}")
    if tags.get("deviations", "none") != "none":
        lines.append(f"- departs from the paper in {tags['deviations']}")
    setting = ", ".join(f"{name} {tags[name]}" for name in ("python", "torch", "machine", "device") if name in tags)
    lines.append(f"- code {tags.get('git_commit', 'unknown')[:12]} ({tags.get('git_patch', 'unknown')}); {setting}")
    if "data_digest" in tags:
        lines.append(f"- images {tags['data_digest'][:12]} (SHA-256)")
    again = f"Again, in a new store: {as_code(account.tags['again'])}. " if "again" in tags else ""
    lines += ["", f"{again}The trial is `{trial.id}`."]
    return "\n".join(lines)


def describe(execution: Execution, experiment: str, note: str, views: Iterable[View]) -> None:
    """Give a profile's MLflow experiment (its id) this description, in Markdown, and these views.

    A description that somebody wrote there stays. Raises `InputError` where MLflow cannot be written.
    """
    client.settle(execution)
    mlflow = client.connect(execution)
    with client.reaching(execution, "cannot be written"):
        present = mlflow.get_experiment(experiment)
        tags = dict(KIND)
        for view in views:
            envelope = {
                "name": view.name,
                "createdAt": present.creation_time,
                "updatedAt": present.creation_time,
                "state": json.dumps(view.state),
            }
            tags[VIEW + view.key] = json.dumps(envelope)
        written = _sha(present.tags.get(NOTE, ""))
        if NOTE not in present.tags or written == present.tags.get("note_sha256"):
            tags |= {NOTE: note, "note_sha256": _sha(note)}
        for name, value in tags.items():
            if present.tags.get(name) != value:
                mlflow.set_experiment_tag(experiment, name, value)


def unpictured(execution: Execution, ids: Iterable[str]) -> dict[str, str]:
    """The run, by trial, of every one of these trials that has a result and no picture of its curve.

    Raises `InputError` where MLflow is out of reach.
    """
    if not client.has_runs(execution):
        return {}
    mlflow = client.connect(execution)
    with client.reaching(execution):
        runs = list(client.search(mlflow, ids))
    results = [run for run in runs if run.data.tags.get("outcome") in RESULTS and PICTURED not in run.data.tags]
    return {run.data.tags["trial_id"]: run.info.run_id for run in results}


def picture(execution: Execution, pictures: Iterable[tuple[str, bytes]]) -> None:
    """Attach pictures of curves, PNG, to the runs of these ids. Raises `InputError` where MLflow cannot be written."""
    client.settle(execution)
    mlflow = client.connect(execution)
    with client.reaching(execution, "cannot be written"):
        for run_id, png in pictures:
            client.attach(execution, mlflow.get_run(run_id), {PICTURE: png})
            mlflow.set_tag(run_id, PICTURED, PICTURE)


def report(
    execution: Execution, profile: str, folder: Path, names: Sequence[str], numbers: Mapping[str, float], note: str
) -> None:
    """Make the profile's run 'Report' hold these files of the folder, numbers and description; there is one such run.

    It replaces what the run held before, and does nothing where it holds the same already, or where the profile has no
    runs. The run has no tag `profile`, by which runs of trials are found. Raises `InputError` as `picture`.
    """
    if not client.has_runs(execution):
        return
    client.settle(execution)
    mlflow = client.connect(execution)
    with client.reaching(execution, "cannot be written"):
        experiment = mlflow.get_experiment_by_name(f"{STUDY}: {profile}")
        if experiment is None:
            return
        files = {name: (folder / name).read_bytes() for name in sorted(names)}
        content = [(name, _sha(data)) for name, data in files.items()]
        sealed = _sha(json.dumps([content, dict(numbers), note]))
        existing = list(mlflow.search_runs([experiment.experiment_id], "tags.kind = 'report'"))
        for other in existing[1:]:
            mlflow.delete_run(other.info.run_id)
        tags = {"study": STUDY, "kind": "report"}
        run = existing[0] if existing else mlflow.create_run(experiment.experiment_id, run_name="Report", tags=tags)
        if run.data.tags.get("report_sha256") == sealed:
            return
        run_id = run.info.run_id
        client.artifacts(execution, run).delete_artifacts()  # what this report no longer has, too
        client.attach(execution, run, files)
        now = round(1_000 * time.time())
        mlflow.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])
        client.tag(mlflow, run_id, {NOTE: note, "report_sha256": sealed})
        mlflow.set_terminated(run_id)


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
