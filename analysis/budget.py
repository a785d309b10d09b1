"""What is left of the degradation on longer schedules: the gap between two plain nets, g + c T^-k of the length T.

Owns the fit and what it says. A pure function of the finals of the experiments `budget` and `budget-grid`. Must not
know how a table shows it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from analysis.comparisons import TRAIN
from analysis.nets import serving
from analysis.runs import one_image_pct
from analysis.statistics import Estimate, estimate
from experiments import budget, budget_grid
from study.store.account import Outcome

AT_BOUND_PCT = 1e-3  # of g, is 0
RATES = (0.05, 4.0)  # of k: slower is no decay within any schedule, faster is none that three lengths can tell


class Left(StrEnum):
    """What is left of the gap in the long run."""

    STAYS = "stays"  # the interval of what it tends to is above the margin
    GOES = "goes"  # on the longest schedule its interval is below the margin
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Fit:
    """The gap at each length of the schedule in iterations, over seeds; and g, over the seeds' own fits.

    `rest` has no interval where the fit of a seed ends at g = 0, the least that it can: then the lengths do not say
    what the gap tends to, and only a gap that is measured to be below the margin goes.
    """

    shallow: str
    deep: str
    gaps: dict[int, Estimate]
    rest: Estimate

    @property
    def left(self) -> Left:
        if self.rest.n < 2:
            return Left.NOT_RUN
        if self.gaps[max(self.gaps)].high < budget.MARGIN_PCT:
            return Left.GOES
        return Left.STAYS if self.rest.low > budget.MARGIN_PCT else Left.UNDECIDED

    @property
    def in_words(self) -> str:
        """`tends to 5.1 [4.2, 6] points: it stays`."""
        interval = f" [{self.rest.low:.3g}, {self.rest.high:.3g}]" if not np.isnan(self.rest.low) else ""
        left = "whether it stays is undecided" if self.left is Left.UNDECIDED else f"it {self.left}"
        return f"tends to {self.rest.mean:.3g}{interval} points: {left}"


def fitted(finals: pd.DataFrame, measure: str = TRAIN) -> Fit | None:
    """Of the plain nets of least and most depth, by seeds that finished at every length; None where none is planned.

    g takes three lengths: with fewer it is not fitted.
    """
    schedules = pd.concat([serving(finals, name) for name in (budget.NAME, budget_grid.NAME)])
    plain = schedules.drop_duplicates("id").query("family == 'plain'")
    if plain.empty:
        return None
    depths = sorted(plain["depth"].unique())
    done = plain[plain["outcome"] == Outcome.FINISHED]
    errors = done.pivot_table(index="seed", columns=["depth", "iterations"], values=measure)
    lengths = sorted(map(int, plain["iterations"].unique()))
    nan = pd.Series(np.nan, index=errors.index)
    gaps = pd.DataFrame(
        {T: errors.get((depths[-1], T), nan) - errors.get((depths[0], T), nan) for T in lengths}, dtype=float
    ).dropna()
    resolution = one_image_pct(plain["data"].iloc[0], measure)
    rests = [limit(np.array(lengths, float), row.to_numpy(float)) for _, row in gaps.iterrows()]
    shallow, deep = (str(plain[plain["depth"] == depth]["title"].iloc[0]) for depth in (depths[0], depths[-1]))
    rest = estimate(rests if len(lengths) >= 3 else [], resolution)
    if min(rests, default=0.0) < AT_BOUND_PCT:
        rest = replace(rest, sd=np.nan, low=np.nan, high=np.nan)
    return Fit(shallow, deep, gaps={T: estimate(gaps[T], resolution) for T in lengths}, rest=rest)


def limit(lengths: np.ndarray, gaps: np.ndarray) -> float:
    """g of the least squares fit of g + c (T / T_0)^-k, with g and c at least 0, T_0 the first length."""
    relative = lengths / lengths[0]

    def off(parameters: np.ndarray) -> np.ndarray:
        g, c, k = parameters
        residuals: np.ndarray = g + c * relative**-k - gaps
        return residuals

    first = [max(gaps[-1], 0.0), max(gaps[0] - gaps[-1], 1e-3), 1.0]
    bounds = ([0.0, 0.0, RATES[0]], [np.inf, np.inf, RATES[1]])
    return float(least_squares(off, first, bounds=bounds).x[0])
