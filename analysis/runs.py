"""Frames: one row per planned trial, one row per record.

Owns the columns that claims, tables and figures read. Must not know where runs are kept: it is handed plans and runs,
and touches neither tracking nor files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from experiments.recipes import deviations
from study import cost
from study.ledger import LAYERS, MEND, RECALIBRATED, RESULTS, UNUSABLE, Run, flaw
from study.spec import Trial

MEASURES = (
    "final_train_error_pct",
    "clean_train_error_pct",
    "test_error_pct",
    "train_loss",
    "best_test_error_pct",
    "validated_test_error_pct",
    *RECALIBRATED,
)
RECORD = (
    "iteration",
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
WITHOUT_RESULT = ("failed", "interrupted", "running", UNUSABLE, "missing")  # outcomes that enter nothing
TRACE = ("records_sha256", "data_digest", "git_commit")  # tags that trace a number to its curve, data and code
_IDENTITY = ("id", "condition", "experiments", "title", "family", "block", "depth", "shortcut", "seed", "recipe")

# Images an error is counted over: (training, test). One of them is the resolution of that error.
IMAGES = {
    "digits": (1437, 360),
    "fashion-mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
}
IMAGES_ELSE = (1_000, 1_000)  # a folder's size is not in the frames: a coarse resolution errs towards undecided


def one_image_pct(data: str, measure: str) -> float:
    """The resolution of an error on the data set of that name: one of the images it is counted over, in percent."""
    train, test = IMAGES.get(data, IMAGES_ELSE)
    return 100 / (test if "test" in measure else train)


@dataclass(frozen=True)
class Frames:
    """What was planned and what its runs measured.

    `finals`: exactly one row per planned trial. `curves`: one row per planned trial that has a run, and record.
    `layers`: one row per finished trial, iteration (0 and the last) and 3x3 layer.
    """

    finals: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame


def load(planned: Mapping[Trial, list[str]], runs: Iterable[Run]) -> Frames:
    """The frames of a study: what was planned, with what its runs measured.

    A planned trial without a run is a row with the outcome 'missing'. A run whose trial is not planned is ignored: a
    store may hold the runs of several profiles. Measures are NaN for every outcome but 'finished', because a diverged
    net has no error: its outcome is the observation. `recipe` is the hash part of the condition.

    A result that cannot be one is a row with the outcome 'unusable', whose `problem` says what is wrong and what to do
    ('' elsewhere); neither its curve nor its layers are in the frames. So are two runs of one trial.
    """
    by_trial: dict[Trial, list[Run]] = {}
    for run in runs:
        by_trial.setdefault(run.trial, []).append(run)
    rows, measured, layers = [], [], []
    for trial, experiments in planned.items():
        found = _checked(by_trial.get(trial, []))
        records = pd.DataFrame(columns=list(RECORD), dtype=float)
        if found is not None and found.records is not None:
            records = found.records.to_pandas().reindex(columns=list(RECORD))
        rows.append(_planned(trial, experiments) | _found(trial, found, records))
        if len(records):
            measured.append(records.assign(id=trial.id))
        if found is not None and found.layers is not None:
            layers.append(found.layers.to_pandas().assign(id=trial.id))
    finals = pd.DataFrame(rows)
    return Frames(finals, _identified(finals, measured, RECORD), _identified(finals, layers, LAYERS.names))


def _checked(runs: list[Run]) -> Run | None:
    """The run of a trial, unusable if it is one of several or its records cannot be those of its outcome."""
    if not runs:
        return None
    run, *others = runs
    if others:
        wrong = f"runs {' and '.join(run.run_id for run in runs)} are of one trial, and neither is used"
    else:
        wrong = flaw(run.trial, run.outcome, run.records) if run.outcome in RESULTS else ""
    tags = run.tags | {"reason": f"{wrong}; {MEND}"}
    return replace(run, outcome=UNUSABLE, tags=tags, records=None, layers=None) if wrong else run


def _identified(finals: pd.DataFrame, tables: list[pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
    """The tables below one another, with what identifies the trial of each row."""
    everything = pd.concat(tables) if tables else pd.DataFrame(columns=["id", *columns])
    return finals[[*_IDENTITY, "outcome"]].merge(everything, on="id", validate="one_to_many")


def _planned(trial: Trial, experiments: list[str]) -> dict[str, Any]:
    return {
        "id": trial.id,
        "condition": trial.condition,
        "experiments": ",".join(experiments),
        "title": trial.model.title,
        "family": trial.model.family,
        "block": trial.model.block,
        "depth": trial.model.depth,
        "shortcut": trial.model.shortcut,
        "width": trial.model.width,
        "data": trial.data.name,
        "labels": trial.data.labels,
        "classes": trial.data.classes,
        "seed": trial.seed,
        "iterations": trial.recipe.iterations,
        "recipe": trial.condition.rpartition("-")[2],
        "learning_rate": trial.recipe.learning_rate,
        "params": cost.parameters(trial.model, trial.data),
        "deviations": "; ".join(deviations(trial)),
    }


def _found(trial: Trial, run: Run | None, records: pd.DataFrame) -> dict[str, Any]:
    nothing = dict.fromkeys(MEASURES, float("nan"))
    if run is None or run.outcome == UNUSABLE:
        outcome, problem = ("missing", "") if run is None else (run.outcome, run.tags["reason"])
        said = {"outcome": outcome, "problem": problem, "run_id": "", **dict.fromkeys(TRACE, "")}
        return {**said, "diverged_at": float("nan"), "seconds": float("nan"), **nothing}
    return {
        "outcome": run.outcome,
        "problem": "",
        "run_id": run.run_id,
        **{name: run.tags.get(name, "") for name in TRACE},
        "diverged_at": float(run.tags.get("diverged_at", "nan")),
        "seconds": float(run.tags.get("seconds", "nan")),
        **(_measures(run, records) if run.outcome == "finished" else nothing),
    }


def _measures(run: Run, records: pd.DataFrame) -> dict[str, float]:
    """Running measures over the last tenth of the iterations; clean and test errors of the last iterate."""
    tenth = records[records["iteration"] > 0.9 * run.trial.recipe.iterations]
    last = records.iloc[-1]
    return {
        "final_train_error_pct": float(tenth["train_error_pct"].mean()),
        "clean_train_error_pct": float(last["clean_train_error_pct"]),
        "test_error_pct": float(last["test_error_pct"]),
        "train_loss": float(tenth["train_loss"].mean()),
        # Labelled extras: they show what choosing an iterate would have gained. Never a result.
        "best_test_error_pct": float(records["test_error_pct"].min()),
        "validated_test_error_pct": _chosen(records),
        **{name: float(run.tags.get(name, "nan")) for name in RECALIBRATED},
    }


def _chosen(records: pd.DataFrame) -> float:
    """Test error of the iterate with the least validation error, the first of equals; NaN without held-out images."""
    validated = records.dropna(subset=["validation_error_pct", "test_error_pct"])
    if validated.empty:
        return float("nan")
    least = validated["validation_error_pct"].astype(float).argmin()
    return float(validated["test_error_pct"].iloc[int(least)])
