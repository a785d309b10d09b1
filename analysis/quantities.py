"""What the study measures, each defined in one place: degradation gap, residual benefit, critical depth.

Owns the definitions; pure functions of the finals. All are differences of nets that share a seed, hence data order and,
where shapes agree, initial weights; a seed counts where both nets of a difference finished. Percentage points; no
interval is narrower than one image allows.
"""

from typing import Any

import pandas as pd

from analysis.runs import one_image_pct
from analysis.statistics import estimate

COLUMNS = ["quantity", "depth", "n", "mean", "sd", "low", "high"]


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


def critical_depth(gap: pd.DataFrame) -> tuple[int, int | None]:
    """Between which depths degradation begins: the last depth before, and the first at which, the gap exceeds 0.

    It exceeds 0 where its interval does. (d, None): nowhere up to d. `gap` is a `degradation_gap` of a depth or more.
    """
    before = int(gap["since"].iloc[0])
    for row in gap.sort_values("depth").to_dict("records"):
        if row["low"] > 0:
            return before, int(row["depth"])
        before = int(row["depth"])
    return before, None


def _by_depth(finals: pd.DataFrame, family: str, measure: str) -> pd.DataFrame:
    """Errors of finished trials [seed, depth] of plain nets, or of residual nets with option A, of basic blocks."""
    rows = finals[
        (finals["family"] == family)
        & (finals["block"] == "basic")
        & finals["shortcut"].isin(("none", "A"))
        & (finals["outcome"] == "finished")
    ]
    return rows.pivot(index="seed", columns="depth", values=measure).sort_index(axis=1)


def _estimates(quantity: str, differences: dict[Any, pd.Series], finals: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = []
    for depth, values in differences.items():
        found = estimate(values.dropna(), one_image_pct(finals["data"].iloc[0], measure))
        rows.append([quantity, depth, found.n, found.mean, found.sd, found.low, found.high])
    return pd.DataFrame(rows, columns=COLUMNS)
