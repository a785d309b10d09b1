"""Planted studies: runs with known errors for every planned trial, so that analysis is tried without training.

Nets on ImageNet and detectors are planted in the frames, with the paper's own numbers (`tabled`). The numbers are
planted, never presented as measured. Noise is seeded by the trial's id, so a study is reproducible.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis import paper, paper_numbers
from analysis.paper_numbers import Number
from analysis.runs import EVALUATIONS, Frames, load
from experiments import budget, depth_scaling, learning_rate, placebo, plain_vs_residual, starts
from experiments import planned as planned_trials
from experiments.profiles import PROFILES, QUICK, Depths, Profile
from experiments.recipes import COCO_DATA, IMAGENET_DATA, VOC_DATA
from study.spec import DetectionTrial, Trial
from study.store.account import Outcome
from study.store.records import DETECTED, LAYERS, RECALIBRATED, Run
from study.tasks import names

# quick with five depths, three seeds and 1202 layers, without the controls past the paper.
FIVE_DEPTHS = QUICK.on_scales(
    {
        plain_vs_residual.NAME: Depths(depths=(20, 32, 44, 56, 110), seeds=3),
        depth_scaling.NAME: replace(depth_scaling.SCALE["quick"], on_request=False),
        learning_rate.NAME: replace(learning_rate.SCALE["quick"], on_request=False),
        placebo.NAME: None,
        budget.NAME: None,
        starts.NAME: None,
    }
)


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
        detector = isinstance(trial, DetectionTrial)
        if outcome == "finished" and not detector:
            errors = zip(RECALIBRATED, (0.9 * train, test), strict=True)
            tags |= {name: repr(max(0.0, each - 0.5)) for name, each in errors}
        if outcome == "diverged":
            tags["diverged_at"] = str(trial.recipe.iterations // 2)
        if outcome == "unusable":
            tags["reason"] = "planted as unusable"
        runs.append(
            Run(
                run_id=hashlib.sha256(f"run {trial.id}".encode()).hexdigest()[:32],
                trial=trial,
                outcome=Outcome(outcome),
                tags=tags,
                records=None
                if outcome in ("failed", "unusable")
                else _records(trial, train, test, pace(trial), outcome),
                layers=layers(trial, response(trial), rng) if outcome == "finished" and not detector else None,
            )
        )
    return runs


def frames(profile: Profile, *args, **kwargs) -> Frames:
    """The frames of `planted(...)`, which the caller may change."""
    if args or kwargs or not any(profile is one for one in PROFILES):
        return load(planned_trials(profile), planted(profile, *args, **kwargs))
    kept = _as_the_paper_tells(profile.name)
    return Frames(kept.finals.copy(), kept.curves.copy(), kept.layers.copy(), kept.evaluations.copy())


@cache
def _as_the_paper_tells(name: str) -> Frames:
    """The frames of a profile with every default of `planted`, made once."""
    (profile,) = (profile for profile in PROFILES if profile.name == name)
    return load(planned_trials(profile), planted(profile))


def layers(trial: Trial, response: float, rng: np.random.Generator) -> pa.Table:
    """What the layers of a net do before training, where BatchNorm makes every response 1, and at the end."""
    model, rows = trial.model, []
    a_block = 2 if model.block == "basic" else 1  # 3x3 layers
    count = 1 + a_block * sum(model.stages)
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
    if trial.data.held_out:
        columns |= {"validation_loss": 0.03 * test_error + 0.01, "validation_error_pct": test_error}
    if isinstance(trial, DetectionTrial):
        columns = {name: columns[name] for name in columns if name in DETECTED.names}
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})


def put(run: Run, column: str, value: float | None) -> list[Run]:
    """The run with that value at the end of a column."""
    assert run.records is not None
    values = [*run.records[column].to_pylist()[:-1], value]
    return [replace(run, records=run.records.set_column(run.records.column_names.index(column), column, [values]))]


# What can be wrong with a finished run: the runs that are there instead, and a word of what is said of them.
DAMAGES: dict[str, tuple[Callable[[Run], list[Run]], str]] = {
    "truncated": (lambda run: [replace(run, records=run.records.slice(0, 3))], "do not reach iteration"),
    "empty": (lambda run: [replace(run, records=run.records.slice(0, 0))], "do not reach iteration"),
    "without records": (lambda run: [replace(run, records=None)], "missing"),
    "NaN": (lambda run: put(run, "test_error_pct", float("nan")), "test_error_pct is nan"),
    "infinite": (lambda run: put(run, "train_loss", float("inf")), "train_loss is inf"),
    "without its last error": (lambda run: put(run, "test_error_pct", None), "no test_error_pct"),
    "not rising": (lambda run: [replace(run, records=pa.concat_tables([run.records] * 2))], "do not rise"),
    "twice": (lambda run: [run, replace(run, run_id="again")], "and again are of one trial"),
    "found unusable": (
        lambda run: [replace(run, outcome=Outcome.UNUSABLE, tags={"reason": "altered"}, records=None, layers=None)],
        "altered",
    ),
}


# The paper's tables and Fig. 4 as a study


SEEDS, ITERATIONS, ABOVE_THE_AXIS_PCT = 8, 600_000, 63.0
# Standard deviation between seeds: about what retrainings of one ImageNet net differ by; of mAP a guess.
NOISE = {names.TOP1: 0.15, names.TOP5: 0.05}
NOISE_ELSE = 0.1
SHARED = {  # nets of several experiments
    "plain-34": (paper_numbers.PLAIN_RESIDUAL, paper_numbers.OPTIONS),
    "ResNet-34": (paper_numbers.PLAIN_RESIDUAL, paper_numbers.OPTIONS),
    "ResNet-34 (B)": (paper_numbers.OPTIONS, paper_numbers.DEPTH),
}


def printed() -> dict[Number, float]:
    """Every number of Tables 2-5 and 7-14 that is of a net of the paper's own, once."""
    found = {}
    for table in (2, 3, 4, 5, *range(7, 15)):
        classes = paper.table(f"table_{table}").get("classes", [])
        for row in paper.table(f"table_{table}")["rows"]:
            values = row | dict(zip(classes, row.get("ap", []), strict=True))
            for column, number in paper_numbers.numbers(table, row).items():
                if values[column] is not None:
                    found[replace(number, experiment=_net(number)[0][0])] = values[column]
    return found


def spread(sd: float, *of: str) -> np.ndarray:
    """A deviation a seed, always the same ones `of` these names: of mean 0 and of exactly this standard deviation."""
    rng = np.random.default_rng(int(hashlib.sha256("".join(of).encode()).hexdigest()[:8], 16))
    drawn = rng.standard_normal(SEEDS)
    return sd * (drawn - drawn.mean()) / drawn.std(ddof=1)


def tabled(
    base: Frames,
    change: Callable[[Number, float], float] = lambda number, value: value,
    curve: Callable[[str], str] = lambda title: title,
    longer: Callable[[str], float] = lambda title: {"plain-18": 30.0, "plain-34": 31.0}[title],
    evaluated: bool = True,
    data: str = "",
) -> Frames:
    """`base` with the nets of Tables 2-5 and 7-14, and of footnote 3: eight seeds whose means are the paper's numbers.

    `change` plants other numbers, `curve` names the net whose curves of Fig. 4 a net has, `longer` is the final
    training error (%) after three times the iterations, of which the paper prints nothing; `data` is other data.
    """
    numbers = printed() if evaluated else {}
    singles = {_net(number) for number in printed() if not number.title.startswith("ensemble")}
    singles |= {((paper_numbers.LONGER,), title, "") for title in ("plain-18", "plain-34")}
    nets = {net: [_trial(*net, seed, data) for seed in range(SEEDS)] for net in sorted(singles)}
    curves = []
    for (experiments, title, _), trials in nets.items():
        for trial, noise in zip(trials, spread(0.15, *experiments, title), strict=True):
            if paper_numbers.PLAIN_RESIDUAL in experiments:
                own = _fig_4(curve(title)).assign(id=trial["id"], seed=trial["seed"])
                own[["train_error_pct", "test_error_pct"]] += noise
                curves.append(own)
                last = own[own["iteration"] > 0.9 * ITERATIONS]
                trial["final_train_error_pct"] = last["train_error_pct"].mean()
            elif paper_numbers.LONGER in experiments:
                trial["final_train_error_pct"] = longer(title) + noise
    rows = []
    for number, value in numbers.items():
        experiments, title, of = _net(number)
        its = [trials for net, trials in nets.items() if net == (experiments, title, of)] or [
            trials for net, trials in nets.items() if number.experiment in net[0]
        ]
        noise = spread(NOISE.get(number.measure, NOISE_ELSE), str(number))
        for seed in range(SEEDS):
            members = [trials[seed] for trials in its]
            of_net = {"ids": ",".join(trial["id"] for trial in members), "title": title, "seed": seed}
            of_net |= {name: members[0][name] for name in ("experiments", "data", "run_id")}
            how = {"split": number.split, "protocol": number.protocol, "measure": number.measure}
            rows.append(of_net | how | {"value": change(number, value) + noise[seed], "images": 50_000})
    trials = [trial for net in nets.values() for trial in net]
    return Frames(
        pd.concat([base.finals, pd.DataFrame(trials)], ignore_index=True),
        pd.concat([base.curves, *curves], ignore_index=True),
        base.layers,
        pd.DataFrame(rows, columns=list(EVALUATIONS)),
    )


def _net(number: Number) -> tuple[tuple[str, ...], str, str]:
    """The experiments of a number's net, its title, and what else tells its training from others."""
    trained_on = number.split if number.experiment == paper_numbers.VOC else ""  # 07+12 and 07++12 are two trainings
    return SHARED.get(number.title, (number.experiment,)), number.title, trained_on


def _trial(experiments: tuple[str, ...], title: str, trained_on: str, seed: int, data: str) -> dict[str, object]:
    """A row of finals."""
    condition = " ".join([experiments[0], title, trained_on]).replace(",", "")  # commas part the ids of an ensemble
    return {
        **{"id": f"{condition} {seed}", "condition": condition, "experiments": ",".join(experiments), "title": title},
        **{"seed": seed, "outcome": "finished", "run_id": f"run of {condition} {seed}", "iterations": ITERATIONS},
        **{"data": data or _data(experiments)},
        **{"evaluations_sha256": "", "records_sha256": "", "deviations": ()},
    }


def _data(experiments: tuple[str, ...]) -> str:
    """The paper's data set of these experiments."""
    return {paper_numbers.VOC: VOC_DATA, paper_numbers.COCO: COCO_DATA}.get(experiments[0], IMAGENET_DATA).name


def _fig_4(title: str) -> pd.DataFrame:
    """Training and validation error (centre crop) every 5,000 iterations; before they enter the figure, at its top."""
    theirs = paper.curves(4)
    drawn = {}
    for column, series in (("train_error_pct", "train"), ("test_error_pct", "validation")):
        points = theirs[(theirs["curve"] == title) & (theirs["series"] == series)].drop_duplicates("iteration")
        errors = points.set_index("iteration")["value"].reindex(range(5_000, ITERATIONS + 1, 5_000))
        errors[errors.index < points["iteration"].min()] = ABOVE_THE_AXIS_PCT
        drawn[column] = errors.interpolate().ffill()
    return pd.DataFrame(drawn).rename_axis("iteration").reset_index()
