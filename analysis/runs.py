"""Frames: one row per planned trial, one row per record, one row per evaluation beyond the records.

Owns the columns that claims, tables and pictures read: pure functions of plans and runs. Must not know where runs are
kept, neither tracking nor files.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from experiments.recipes import deviations
from study import cost
from study.data import counts
from study.spec import Trial, detection_of
from study.store.account import RESULTS, Outcome
from study.store.finals import final_mean
from study.store.records import COLUMNS, LAYERS, MEND, RECALIBRATED, Run, flaw_of, table_digest

MEASURES = (
    "final_train_error_pct",
    "clean_train_error_pct",
    "test_error_pct",
    "train_loss",
    "best_test_error_pct",
    "validated_test_error_pct",
    *RECALIBRATED,
)
ON_TEST_IMAGES = (
    "test_error_pct",
    "best_test_error_pct",
    "validated_test_error_pct",
    "recalibrated_test_error_pct",
)
RECORD = tuple(COLUMNS.names)
TARGETS_PCT = (50, 20, 10)  # running training errors; `finals` has the iteration at which a trial first reached each
WITHOUT_RESULT = (
    Outcome.FAILED,
    Outcome.INTERRUPTED,
    Outcome.RUNNING,
    Outcome.UNUSABLE,
    Outcome.MISSING,
)  # outcomes that enter nothing
# Of an evaluation. `ids`: the trial of its net; of an ensemble, its nets' trials with commas between them.
EVALUATIONS = (
    "ids",
    "experiments",
    "title",
    "seed",
    "data",
    "split",
    "protocol",
    "measure",
    "value",
    "images",
    "run_id",
)
TRACE = ("records_sha256", "data_digest", "git_commit", "started")  # tags that trace a number
_IDENTITY = ("id", "condition", "experiments", "title", "family", "block", "depth", "shortcut", "seed", "recipe")
PIXELS = 640  # width of a panel in the finest bitmap, hence the most points of a curve that are visible

CLASSIFICATION, DETECTION = "classification", "detection"  # values of the column `task`
Row = dict[str, Any]  # of a frame: a value a column

NO_BITS: Row = {"test_images": 0, "test_wrong": b""}
NEVER = {f"reached_{target}_pct": float("nan") for target in TARGETS_PCT}
MISSING: Row = {
    "outcome": Outcome.MISSING.value,
    "problem": "",
    "run_id": "",
    **dict.fromkeys((*TRACE, "evaluations_sha256", "device"), ""),
    **NO_BITS,
    **dict.fromkeys(("diverged_at", "cohort", "seconds", "predicted_seconds", *MEASURES), float("nan")),
    **NEVER,
}

# Images an error is counted over: (training, test). One of them is the resolution of that error. Of other data, such as
# a folder, it is the test images that runs counted, also of training errors: a coarse one errs towards undecided.
# One table for the process: tests of claims ask by name, and their code is fixed by analysis plans that have run.
IMAGES = dict(counts.IMAGES)
IMAGES_ELSE = (1_000, 1_000)  # where no run of the data counted them


def one_image_pct(data: str, measure: str) -> float:
    """The resolution of an error on the data set of that name: one of the images it is counted over, in percent."""
    train, test = IMAGES.get(data, IMAGES_ELSE)
    return 100 / (test if measure in ON_TEST_IMAGES else train)


@dataclass(frozen=True)
class Frames:
    """What was planned and what its runs measured.

    `finals`: exactly one row per planned trial. `curves`: one row per planned trial that has a run, and record, trial
    after trial; its text is categorical, because a large study has tens of millions of records. `layers`: one row per
    finished trial, iteration (0 and the last) and 3x3 layer.
    `evaluations`: one row per split, protocol and measure of a net, or of an ensemble, whose seed is that of the first
    of its nets.
    """

    finals: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    evaluations: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(EVALUATIONS)))

    def __post_init__(self) -> None:
        """Take the counts of data that are not known by name: of runs, and of a report's files read by a lecture."""
        counted = self.finals.get("test_images", pd.Series(0, self.finals.index))
        own = (counted > 0) & ~self.finals["data"].isin(list(counts.IMAGES))
        for name, images in zip(self.finals.loc[own, "data"], counted[own].astype(int), strict=True):
            IMAGES[name] = (images, images)


def load(planned: Mapping[Trial, list[str]], runs: Iterable[Run]) -> Frames:
    """The frames of a study: what was planned, with what its runs measured.

    A planned trial without a run is a row with the outcome 'missing'. A run whose trial is not planned is ignored: a
    store may hold the runs of several profiles. Measures are NaN for every outcome but 'finished', because a diverged
    net has no error: its outcome is the observation. `recipe` is the hash part of the condition. `test_wrong` has which
    of so many `test_images` the last iterate classifies wrong (`Wrong.bits`); 0 and b"" where that was not kept.

    `reached_50_pct` and the others of `TARGETS_PCT`: iteration of the first record whose running training error is at
    most that, for trials with a result; NaN if none is. The records of other runs are curves that may still change.

    Only one run is held at a time, so that runs from a generator need little memory.

    A result that cannot be one is a row with the outcome 'unusable'; its `problem` is what is wrong and what to do (''
    elsewhere), and neither its curve nor its layers are in the frames. Two runs of one trial are treated alike.
    """
    measured: dict[str, Row] = {}
    curves: dict[str, pa.Table] = {}
    layers: dict[str, pa.Table] = {}
    seen: dict[str, list[str]] = {}
    evaluations: list[Row] = []
    for run in runs:
        if run.trial not in planned:
            continue
        id = run.trial.id
        seen.setdefault(id, []).append(run.run_id)
        run = _checked(run, seen[id])
        curves[id], layers[id] = _with(COLUMNS, run.records), _with(LAYERS, run.layers)
        measured[id] = _measured(run, curves[id].to_pandas())
        if run.evaluations is not None:
            evaluations += _evaluated(run.trial, planned[run.trial], run.run_id, run.evaluations.to_pylist())
    starts = {trial.id: trial for trial in planned}
    finals = pd.DataFrame(
        [
            _planned(trial, experiments, starts) | measured.get(trial.id, MISSING)
            for trial, experiments in planned.items()
        ]
    )
    return Frames(
        finals,
        _identified(finals, curves, COLUMNS),
        _identified(finals, layers, LAYERS),
        pd.DataFrame(evaluations, columns=list(EVALUATIONS)),
    )


def _evaluated(trial: Trial, experiments: list[str], run_id: str, evaluations: list[Row]) -> Iterator[Row]:
    """The rows of `evaluations` that one run has."""
    for row in evaluations:
        nets = row.pop("nets")
        yield {
            "ids": nets or trial.id,
            "experiments": ",".join(experiments),
            "title": f"ensemble of {nets.count(',') + 1}" if nets else trial.title,
            "run_id": run_id,
            "seed": trial.seed,
            "data": trial.data.name,
            **row,
        }


def _checked(run: Run, run_ids: list[str]) -> Run:
    """The run, unusable if it is not the only one of its trial or its records cannot be those of its outcome."""
    if len(run_ids) > 1:
        wrong = f"runs {' and '.join(run_ids)} are of one trial, and neither is used"
    else:
        wrong = flaw_of(run.trial, run.outcome, run.records) if run.outcome.is_result else ""
    tags = run.tags | {"reason": f"{wrong}; {MEND}"}
    return (
        replace(run, outcome=Outcome.UNUSABLE, tags=tags, records=None, layers=None, evaluations=None) if wrong else run
    )


def outcome_counts(finals: pd.DataFrame) -> dict[str, int]:
    """How many planned trials have each outcome; finished, diverged and missing always among them."""
    counts = finals["outcome"].value_counts()
    return {
        name.value: int(counts.get(name, 0))
        for name in (*RESULTS, *WITHOUT_RESULT)
        if name in counts or name in (Outcome.FINISHED, Outcome.DIVERGED, Outcome.MISSING)
    }


def thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves as finely as a picture can show them: at most `PIXELS` rows a trial.

    A longer curve becomes the means over equal windows of its iterations, one for each column of pixels, so that every
    record counts and a spike narrower than a pixel is not drawn by chance. A mean leaves out what was not measured. The
    first and the last record are kept: a curve begins and ends where the trial did. Shorter curves stay as they are.
    """
    shown = []
    for _, curve in curves.groupby("id", sort=False, observed=True):
        if len(curve) > PIXELS:
            at = curve["iteration"].to_numpy()
            window = 1 + (at - at[1]) * (PIXELS - 2) // (at[-1] - at[1])
            window[0], window[-1] = 0, PIXELS - 1
            means = curve[[name for name in RECORD if name in curve]].groupby(window).mean()
            curve = curve.iloc[: len(means)].assign(**{str(name): means[name].to_numpy() for name in means})
        shown.append(curve)
    return pd.concat(shown) if shown else curves


def _with(schema: pa.Schema, table: pa.Table | None) -> pa.Table:
    """The table with these columns; one that it lacks is empty."""
    if table is None:
        return schema.empty_table()
    present = set(table.column_names)
    columns = [table[f.name].cast(f.type) if f.name in present else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _identified(finals: pd.DataFrame, tables: dict[str, pa.Table], schema: pa.Schema) -> pd.DataFrame:
    """The tables below one another, with what identifies the trial of each row. Empties `tables` to save memory."""
    trials = finals.loc[finals["id"].isin([id for id in tables if len(tables[id])]), [*_IDENTITY, "outcome"]]
    below = [tables[id] for id in trials["id"]]
    tables.clear()
    rows = np.repeat(np.arange(len(below)), [len(table) for table in below])
    identity = {
        name: pd.to_numeric(column, downcast="integer") if column.dtype == int else column.astype("category")
        for name, column in trials.items()
    }
    below = pa.concat_tables([schema.empty_table(), *below])
    measured = below.to_pandas(split_blocks=True, self_destruct=True)
    curves: pd.DataFrame = pd.concat([pd.DataFrame(identity).take(rows).reset_index(drop=True), measured], axis=1)
    return curves


def _planned(trial: Trial, experiments: list[str], starts: Mapping[str, Trial]) -> Row:
    return {
        "id": trial.id,
        "condition": trial.condition,
        "experiments": ",".join(experiments),
        "title": trial.title,
        "task": DETECTION if detection_of(trial) else CLASSIFICATION,
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
        "recipe": trial.condition.removeprefix(f"{trial.label}-"),
        "learning_rate": trial.recipe.learning_rate,
        "precision": trial.recipe.precision,
        "start": trial.recipe.start,
        "start_noise": trial.recipe.start_noise,
        "grown_from": trial.recipe.grown_from,
        "params": cost.size(trial)[0],
        "deviations": deviations(trial, starts),
    }


def _measured(run: Run, records: pd.DataFrame) -> Row:
    """The columns of `finals` that a run fills."""
    if run.outcome == Outcome.UNUSABLE:
        return MISSING | {"outcome": run.outcome.value, "problem": run.tags["reason"]}
    return {
        "outcome": run.outcome.value,
        "problem": "",
        "run_id": run.run_id,
        **{name: run.tags.get(name, "") for name in TRACE},
        "evaluations_sha256": "" if run.evaluations is None else table_digest(run.evaluations),
        "device": run.tags.get("device", ""),
        **({"test_images": run.wrong.images, "test_wrong": run.wrong.bits} if run.wrong else NO_BITS),
        "diverged_at": float(run.tags.get("diverged_at", "nan")),
        "cohort": float(run.tags.get("cohort", "nan")),  # how many seeds trained together
        "seconds": float(run.tags.get("seconds", "nan")),
        "predicted_seconds": float(run.tags.get("predicted_seconds", "nan")),
        **(_measures(run, records) if run.outcome == Outcome.FINISHED else dict.fromkeys(MEASURES, float("nan"))),
        **(_reached(records) if run.outcome.is_result else NEVER),
    }


def _reached(records: pd.DataFrame) -> dict[str, float]:
    """The first iteration at which the running training error is at most each target; NaN where it never is."""
    error, iteration = records["train_error_pct"], records["iteration"]
    return {name: float(iteration[error <= at].min()) for name, at in zip(NEVER, TARGETS_PCT, strict=True)}


def _measures(run: Run, records: pd.DataFrame) -> dict[str, float]:
    """Running measures over the last tenth of the iterations; clean and test errors of the last iterate."""
    iteration, iterations = records["iteration"], run.trial.recipe.iterations
    last = records.iloc[-1]
    return {
        "final_train_error_pct": final_mean(records["train_error_pct"], iteration, iterations),
        "clean_train_error_pct": float(last["clean_train_error_pct"]),
        "test_error_pct": float(last["test_error_pct"]),
        "train_loss": final_mean(records["train_loss"], iteration, iterations),
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
