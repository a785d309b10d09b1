"""Planted studies: runs with known errors for every planned trial, so that analysis is tried without training.

The numbers are planted, never presented as measured. Noise is seeded by the trial's id, so a study is reproducible.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from analysis.runs import Frames, load
from experiments import planned as planned_trials
from experiments.profiles import Profile
from study.ledger import LAYERS, RECALIBRATED, Run
from study.spec import Trial


def degradation(trial: Trial) -> float:
    """Final running training error (%) as the paper tells it: plain nets rise with depth, residual nets fall."""
    if trial.model.family == "plain":
        return min(1.0 + (trial.model.depth - 20) * 1.2, 88.0)
    return 0.3 * 20 / trial.model.depth + 0.02


def _fig_7(trial: Trial) -> float:
    """Mean layer response as the paper tells it: smaller in residual nets, and smaller in deeper ones."""
    return (1.8 if trial.model.family == "plain" else 1.6 * (20 / trial.model.depth) ** 0.3) + 0.01


def chance(trial: Trial) -> float:
    """Error (%) of guessing."""
    return 100 * (1 - 1 / trial.data.classes)


def finished(trial: Trial) -> str:
    return "finished"


def planted(
    profile: Profile,
    error: Callable[[Trial], float] = degradation,
    noise: float = 0.1,
    outcomes: Callable[[Trial], str] = finished,
    test_error: Callable[[Trial], float] | None = None,
    pace: Callable[[Trial], float] = lambda trial: 0.08,
    response: Callable[[Trial], float] = lambda trial: _fig_7(trial),
    shuffled: Callable[[Trial], float] = chance,
) -> list[Run]:
    """A run for every planned trial of the profile, except those whose outcome is 'missing'.

    The running training error falls exponentially from 90 % to `error(trial)`, with `pace(trial)` of the iterations as
    its time constant; `noise` is the standard deviation between seeds (percentage points), drawn anew for training and
    test error. `test_error` (default: `error` plus 4) is the last iterate's. A run that is not finished stops halfway;
    a failed or unusable one has no records. `response` is the mean deviation of a finished net's layers at the end.
    Nets that learn shuffled labels have `shuffled` as both errors. Recalibrated, errors are half a point less.
    """
    test_error = test_error or (lambda trial: error(trial) + 4.0)
    runs = []
    for trial in planned_trials(profile):
        outcome = outcomes(trial)
        if outcome == "missing":
            continue
        rng = np.random.default_rng(int(hashlib.sha256(trial.id.encode()).hexdigest()[:8], 16))
        errors = (error, test_error) if trial.data.labels == "true" else (shuffled, shuffled)
        train, test = (max(f(trial) + noise * rng.standard_normal(), 0.0) for f in errors)
        tags = {"git_commit": "0" * 40, "seconds": str(10.0 * trial.model.depth), "device": "cpu", "data_digest": "0"}
        if outcome == "finished":
            tags |= {name: repr(each - 0.5) for name, each in zip(RECALIBRATED, (0.9 * train, test), strict=True)}
        if outcome == "diverged":
            tags["diverged_at"] = str(trial.recipe.iterations // 2)
        if outcome == "unusable":
            tags["reason"] = "planted as unusable"
        runs.append(
            Run(
                run_id=hashlib.sha256(f"run {trial.id}".encode()).hexdigest()[:32],
                trial=trial,
                outcome=outcome,
                tags=tags,
                records=None
                if outcome in ("failed", "unusable")
                else _records(trial, train, test, pace(trial), outcome),
                layers=layers(trial, response(trial), rng) if outcome == "finished" else None,
            )
        )
    return runs


def frames(profile: Profile, *args, **kwargs) -> Frames:
    """The frames of `planted(...)`."""
    return load(planned_trials(profile), planted(profile, *args, **kwargs))


def layers(trial: Trial, response: float, rng: np.random.Generator) -> pa.Table:
    """What the layers of a net do before training, where BatchNorm makes every response 1, and at the end."""
    model, rows = trial.model, []
    a_block = 2 if model.block == "basic" else 1  # 3x3 layers
    count = 1 + 3 * a_block * model.blocks_per_stage
    for iteration in (0, trial.recipe.iterations):
        std = response + 0.02 * rng.standard_normal(count) if iteration else np.ones(count)
        for layer in range(1, count + 1):
            ends_block = layer > 1 and (layer - 1) % a_block == 0
            rows.append(
                {
                    **{"iteration": iteration, "layer": layer, "response_std": std[layer - 1]},
                    **{"gradient_norm": 0.1 + 0.1 / layer, "weight_norm": 2.0},
                    "branch_over_input": std[layer - 1] / 2 if ends_block else None,
                }
            )
    return pa.Table.from_pylist(rows, schema=LAYERS)


def _records(trial: Trial, train: float, test: float, pace: float, outcome: str) -> pa.Table:
    recipe = trial.recipe
    end = recipe.iterations if outcome == "finished" else recipe.iterations // 2
    iteration = np.arange(recipe.record_every, end + 1, recipe.record_every)
    if outcome == "finished" and (len(iteration) == 0 or iteration[-1] != end):
        iteration = np.append(iteration, end)
    left = np.exp(-iteration / (pace * recipe.iterations))
    train_error = train + (90.0 - train) * left
    evaluated = (iteration % recipe.evaluate_every == 0) | (iteration == recipe.iterations)
    test_error = np.where(evaluated, test + (90.0 - test) * left, np.nan)
    test_error[iteration == recipe.iterations] = test
    clean_error = np.where(evaluated, 0.9 * train_error, np.nan)
    drops = np.searchsorted(np.array(recipe.drops), iteration, side="right")
    columns = {
        "iteration": iteration,
        "learning_rate": recipe.learning_rate * 0.1**drops,
        "train_loss": 0.03 * train_error + 0.01,
        "train_error_pct": train_error,
        "clean_train_loss": 0.03 * clean_error + 0.01,
        "clean_train_error_pct": clean_error,
        "test_loss": 0.03 * test_error + 0.01,
        "test_error_pct": test_error,
    }
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})


def _put(run: Run, column: str, value: float | None) -> list[Run]:
    """The run with that value at the end of a column."""
    assert run.records is not None
    values = [*run.records[column].to_pylist()[:-1], value]
    return [replace(run, records=run.records.set_column(run.records.column_names.index(column), column, [values]))]


# What can be wrong with a finished run: the runs that are there instead, and a word of what is said of them.
DAMAGES: dict[str, tuple[Callable[[Run], list[Run]], str]] = {
    "truncated": (lambda run: [replace(run, records=run.records.slice(0, 3))], "do not reach iteration"),
    "empty": (lambda run: [replace(run, records=run.records.slice(0, 0))], "do not reach iteration"),
    "without records": (lambda run: [replace(run, records=None)], "missing"),
    "NaN": (lambda run: _put(run, "test_error_pct", float("nan")), "test_error_pct is nan"),
    "infinite": (lambda run: _put(run, "train_loss", float("inf")), "train_loss is inf"),
    "without its last error": (lambda run: _put(run, "test_error_pct", None), "no test_error_pct"),
    "not rising": (lambda run: [replace(run, records=pa.concat_tables([run.records] * 2))], "do not rise"),
    "twice": (lambda run: [run, replace(run, run_id="again")], "and again are of one trial"),
    "found unusable": (
        lambda run: [replace(run, outcome="unusable", tags={"reason": "altered"}, records=None, layers=None)],
        "altered",
    ),
}
