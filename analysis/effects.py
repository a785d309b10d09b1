"""What the study measures, each defined in one place: gaps, benefits, critical depth, iterations to a target.

Owns the definitions; pure functions of the finals. Differences between nets are of nets that share a seed, hence data
order and, where shapes agree, initial weights; a seed counts where both nets of a difference finished. Effects are in
percentage points, with intervals at least as wide as the resolution of one image; or in iterations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs import one_image_pct
from analysis.statistics import ALPHA, estimate
from study.store.account import RESULTS, Outcome

COLUMNS = ["quantity", "depth", "n", "mean", "sd", "low", "high"]
# Of shortcuts: the error of the first minus that of the second. What each option gains; what more parameters do.
PAIRS = {
    "plain - A": ("none", "A"),
    "plain - B": ("none", "B"),
    "plain - C": ("none", "C"),
    "B - A": ("B", "A"),
    "C - A": ("C", "A"),
    "C - B": ("C", "B"),
}


def degradation_gap(finals: pd.DataFrame, measure: str, family: str = "plain") -> pd.DataFrame:
    """gap(d): error at depth d minus error at the family's shallowest depth, `since`. Positive: deeper is worse."""
    errors = _by_depth(finals, family, measure)
    since, *deeper = errors.columns if len(errors.columns) else (0,)
    gaps = {depth: errors[depth] - errors[since] for depth in deeper}
    return _estimates("degradation gap", gaps, finals, measure).assign(since=since)


def residual_benefit(finals: pd.DataFrame, measure: str) -> pd.DataFrame:
    """benefit(d): error of the plain net of depth d minus error of the residual net (option A) of the same depth."""
    plain, residual = (_by_depth(finals, family, measure) for family in ("plain", "residual"))
    benefits = {depth: plain[depth] - residual[depth] for depth in plain.columns if depth in residual.columns}
    return _estimates("residual benefit", benefits, finals, measure)


def generalisation_gap(finals: pd.DataFrame, family: str) -> pd.DataFrame:
    """gap(d): test error minus clean training error of the last iterate of the family's net of depth d.

    Clean, because the running training error is of augmented batches and of weights that were still moving.
    """
    test, training = (_by_depth(finals, family, measure) for measure in ("test_error_pct", "clean_train_error_pct"))
    gaps = {depth: test[depth] - training[depth] for depth in test.columns}
    return _estimates("generalisation gap", gaps, finals, "test_error_pct")


def shortcut_differences(finals: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Differences of `PAIRS`, plain nets and options A, B and C as deep. Positive: the second of the pair is better.

    `finals` holds one net of each depth and shortcut.
    """
    done = finals[finals["outcome"] == Outcome.FINISHED]
    estimates = []
    errors = {
        depth: rows.pivot(index="seed", columns="shortcut", values=measure) for depth, rows in done.groupby("depth")
    }
    for name, (first, second) in PAIRS.items():
        differences = {
            depth: nets[first] - nets[second] for depth, nets in errors.items() if {first, second} <= set(nets)
        }
        estimates.append(_estimates(name, differences, finals, measure))
    return pd.concat(estimates)


def iterations_to_target(finals: pd.DataFrame, target_pct: int, family: str) -> pd.DataFrame:
    """When the family's nets first have a running training error of at most `target_pct`: by depth, over seeds.

    n trials with a result, of which `reached` met the target, and the `median` iteration. A trial that did not meet it,
    because its training ended or diverged before, is censored: it would take longer. In the median it comes after all
    that did; the median is NaN where it lies among censored trials. A mean could not include them, and would be biased
    towards the quick ones without them.
    """
    nets, rows_of_depths = _nets(finals, family), []
    for depth, rows in nets[nets["outcome"].isin(RESULTS)].groupby("depth"):
        median = float(rows[f"reached_{target_pct}_pct"].fillna(np.inf).median())
        reached = int(rows[f"reached_{target_pct}_pct"].notna().sum())
        rows_of_depths.append(
            [f"iterations to {target_pct} %", depth, len(rows), reached, median if median < np.inf else np.nan]
        )
    return pd.DataFrame(rows_of_depths, columns=["quantity", "depth", "n", "reached", "median"])


ONSET_PCT = 1.0


def critical_depth(gap: pd.DataFrame) -> tuple[int, int | None]:
    """Between which depths degradation begins: the last depth before, and the first where the gap exceeds a point.

    It exceeds `ONSET_PCT` where its lower bound does; the bounds are simultaneous over the depths (Bonferroni).
    (d, None): nowhere up to d. `gap` is a `degradation_gap` of a depth or more, with two-sided 95 % intervals.
    """
    before, level = int(gap["since"].iloc[0]), ALPHA / len(gap)
    for row in gap.sort_values("depth").to_dict("records"):
        of_freedom = max(row["n"] - 1, 1)
        wider = stats.t.ppf(1 - level, of_freedom) / stats.t.ppf(1 - ALPHA / 2, of_freedom)
        if row["mean"] - wider * (row["mean"] - row["low"]) >= ONSET_PCT:
            return before, int(row["depth"])
        before = int(row["depth"])
    return before, None


def _by_depth(finals: pd.DataFrame, family: str, measure: str) -> pd.DataFrame:
    """Errors of finished trials [seed, depth] of plain nets, or of residual nets with option A, of basic blocks."""
    nets = _nets(finals, family)
    rows = nets[nets["outcome"] == Outcome.FINISHED]
    return rows.pivot(index="seed", columns="depth", values=measure).sort_index(axis=1)


def _nets(finals: pd.DataFrame, family: str) -> pd.DataFrame:
    option = "none" if family == "plain" else "A"
    return finals[(finals["family"] == family) & (finals["block"] == "basic") & (finals["shortcut"] == option)]


def _estimates(quantity: str, differences: Mapping[Any, pd.Series], finals: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = []
    for depth, values in differences.items():
        effect = estimate(values.dropna(), one_image_pct(finals["data"].iloc[0], measure))
        rows.append([quantity, depth, effect.n, effect.mean, effect.sd, effect.low, effect.high])
    return pd.DataFrame(rows, columns=COLUMNS)
