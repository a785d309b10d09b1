"""What a claim compares: numbers of nets, one per seed, and how they are paired.

Owns the vocabulary of claims: a study, a net in it, an evaluation of it, a comparison (`Part`), and what a claim
returns (`Tested` or `Counted`). Must not know any particular claim, nor how comparisons become verdicts.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import paper_numbers
from analysis.nets import serving
from analysis.paper_numbers import Number
from analysis.runs import one_image_pct
from analysis.statistics import ALPHA, Estimate, Greater, contrast, estimate, p_contrast_greater, p_greater
from analysis.verdicts import Kind
from experiments.profiles import Profile
from experiments.recipes import PAPER_DATA
from study.store.account import Outcome
from study.tasks.names import SERVERS

TRAIN, CLEAN, TEST = "final_train_error_pct", "clean_train_error_pct", "test_error_pct"
WORDS = {TRAIN: "training error", CLEAN: "clean training error", TEST: "test error"}


class NotTestable(Exception):
    """This profile, or what is planned of it, cannot test the claim. The message is the reason."""


@dataclass(frozen=True)
class Study:
    """What a claim is a function of."""

    finals: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    evaluations: pd.DataFrame
    profile: Profile


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison: a number per seed, and the sign that the claim asserts of it."""

    what: str
    values: pd.Series  # by seed; the effect is their mean
    direction: int  # 1: the claim says above 0; -1: below; 0: within `margin` of 0
    nets: tuple[pd.DataFrame, ...]  # the rows of finals it is made of
    resolution: float
    margin: float = 0.0
    tested: pd.Series | None = None  # by seed; where the test is on another number than the effect
    clean: float | None = None  # the same effect with the clean training error
    unit: str = "points"

    arms: tuple[tuple[float, pd.Series], ...] = ()  # weight and values by seed of each of the independent nets
    # Weight and rows of each net, where the effect is a weighted sum of mean test errors, or that plus a constant.
    on_test: tuple[tuple[float, pd.DataFrame], ...] = ()

    @property
    def sample(self) -> list[float]:
        return list(self.values if self.tested is None else self.tested)

    @property
    def n(self) -> int:
        """Seeds; of independent nets, of the one with fewest."""
        return min([len(values) for _, values in self.arms] or [len(self.values)])

    @property
    def seeds(self) -> set[int]:
        """The seeds of which any value enters."""
        return set().union(*(values.index for _, values in self.arms)) if self.arms else set(self.values.index)

    def estimate(self, level: float = 1 - ALPHA) -> Estimate:
        """The effect with its interval."""
        if self.arms:
            return contrast([(weight, list(values)) for weight, values in self.arms], self.resolution, level)
        return estimate(self.values, self.resolution, level)

    def centre(self) -> float:
        """The mean of what is tested."""
        return self.estimate().mean if self.arms else float(np.mean(self.sample))

    def p_greater(self, side: float, than: float, greater: Greater | None = None) -> float:
        """One-sided p of 'the mean, times `side`, is not greater than `than`'.

        Independent nets, those with `arms`, are compared by Welch's test: seeds of two nets are pairs by name alone.
        That follows from the data's structure, never from their values. A `greater` tests one number per seed.
        """
        if greater is None and self.arms:
            return p_contrast_greater([(side * weight, list(x)) for weight, x in self.arms], than, self.resolution)
        return (greater or p_greater)([side * value for value in self.sample], than, self.resolution)

    def p_for(self, greater: Greater | None = None) -> float:
        """Two-sided p, 1 where the mean is not on the claim's side; of equivalence the p of two one-sided tests."""
        if self.direction == 0:
            return max(self.p_greater(side, -self.margin, greater) for side in (1.0, -1.0))
        return min(1.0, 2 * self.p_greater(self.direction, 0.0, greater))

    def p_against(self, greater: Greater | None = None) -> float:
        """Two-sided p of the opposite; 1 where the mean is on the claim's side."""
        side = -1.0 if self.direction > 0 or (self.direction == 0 and self.centre() < 0) else 1.0
        return min(1.0, 2 * self.p_greater(side, self.margin, greater))


@dataclass(frozen=True)
class Tested:
    """A claim to be decided by tests: all parts must hold. `note` is a sentence for the reason.

    `proxy`: the nets or data are not those that the claim is about.
    """

    parts: list[Part]
    note: str = ""
    proxy: bool = False


@dataclass(frozen=True)
class Counted:
    """A claim decided by counting, without a p value."""

    kind: Kind
    reason: str
    nets: tuple[pd.DataFrame, ...] = ()


# Nets and comparisons


def net(
    study: Study, experiment: str, family: str, depth: int, shortcut: str = "A", block: str = "basic"
) -> pd.DataFrame:
    """The planned trials of one condition in one experiment, by seed. Raises `NotTestable` if there are none."""
    model = study.profile.model(family, depth, shortcut, block)
    rows = _planned(study, experiment, model.title)
    if rows.empty:
        raise NotTestable(f"no trial of {model.title} is planned in {experiment}")
    assert rows["condition"].nunique() == 1, "an experiment gives a net one recipe"
    return rows


def _planned(study: Study, experiment: str, title: str = "") -> pd.DataFrame:
    """The planned trials of an experiment, by seed; of one net, if its title is given."""
    rows = serving(study.finals, experiment)
    if title:
        rows = rows[rows["title"] == title]
    return rows.set_index("seed", drop=False).sort_index()


def imagenet_net(study: Study, experiment: str, title: str) -> pd.DataFrame:
    """As `net`, for nets that have a title in an experiment whatever the profile. Raises `NotTestable`."""
    rows = _planned(study, experiment, title)
    if rows.empty:
        raise NotTestable(f"needs {title}: {paper_numbers.takes(experiment)}")
    assert rows["condition"].nunique() == 1, "an experiment gives a net one recipe"
    return rows


def title(rows: pd.DataFrame) -> str:
    return str(rows["title"].iloc[0])


def resolution(rows: pd.DataFrame, measure: str) -> float:
    """One image, in percent of those the error of these trials is counted over."""
    return one_image_pct(rows["data"].iloc[0], measure)


def compare(minuend: pd.DataFrame, subtrahend: pd.DataFrame, measure: str, direction: int, margin: float = 0.0) -> Part:
    """Difference of two nets in one measure: of independent nets, whose seeds share no more than a number."""

    def difference(column: str) -> pd.Series:
        return (minuend[column] - subtrahend[column]).dropna()

    return Part(
        what=f"{WORDS[measure]} of {title(minuend)} minus {title(subtrahend)}",
        values=difference(measure),
        direction=direction,
        margin=margin,
        nets=(minuend, subtrahend),
        resolution=resolution(minuend, measure),
        clean=mean(difference(CLEAN)) if measure == TRAIN else None,
        arms=((1.0, minuend[measure].dropna()), (-1.0, subtrahend[measure].dropna())),
        on_test=on_test(measure, (1.0, minuend), (-1.0, subtrahend)),
    )


def on_test(measure: str, *nets: tuple[float, pd.DataFrame]) -> tuple[tuple[float, pd.DataFrame], ...]:
    """The nets' finished trials if what is measured is their test error, else nothing."""
    return tuple((weight, rows.dropna(subset=[TEST])) for weight, rows in nets) if measure == TEST else ()


def against(rows: pd.DataFrame, measure: str, threshold: float, direction: int) -> Part:
    """A net's error minus a fixed number of the paper."""
    return Part(
        what=f"{WORDS[measure]} of {title(rows)} minus {threshold:g}",
        values=(rows[measure] - threshold).dropna(),
        direction=direction,
        nets=(rows,),
        resolution=resolution(rows, measure),
        clean=mean((rows[CLEAN] - threshold).dropna()) if measure == TRAIN else None,
        on_test=on_test(measure, (1.0, rows)),
    )


def trend(nets: list[pd.DataFrame], measure: str, direction: int) -> Tested:
    """An error that rises (direction 1) or falls (-1) with depth.

    The effect is deepest minus shallowest; the test is of the slopes over depth, one a seed.
    """
    errors = by_depth(nets, measure)
    part = trend_part(nets, errors, WORDS[measure], measure, direction)
    ends = (1.0, nets[-1].loc[errors.index]), (-1.0, nets[0].loc[errors.index])
    part = replace(part, on_test=on_test(measure, *ends))
    if measure == TRAIN:
        clean = by_depth(nets, CLEAN)
        part = replace(part, clean=mean(clean.iloc[:, -1] - clean.iloc[:, 0]))
    ordered: list[str] = []
    not_ordered: list[str] = []
    for left, right in zip(errors.columns[:-1], errors.columns[1:], strict=True):
        holds = len(errors) > 0 and bool((direction * (errors[right] - errors[left]) > 0).all())
        (ordered if holds else not_ordered).append(f"{left}{'<' if direction > 0 else '>'}{right}")
    note = f"Neighbours in the stated order in every seed: {', '.join(ordered) or 'none'}"
    return Tested([part], note + (f"; not: {', '.join(not_ordered)}." if not_ordered else "."))


def trend_part(nets: list[pd.DataFrame], errors: pd.DataFrame, words: str, measure: str, direction: int) -> Part:
    depths = np.array(errors.columns, dtype=float)
    if len(depths) < 2:
        raise NotTestable("a trend with depth needs two depths")
    slopes = errors.apply(lambda row: np.polyfit(depths, row.to_numpy(float), 1)[0] * np.ptp(depths), axis=1)
    return Part(
        what=f"{words} at depth {depths[-1]:.0f} minus depth {depths[0]:.0f} (p: slopes over {len(depths)} depths)",
        values=errors.iloc[:, -1] - errors.iloc[:, 0],
        tested=slopes if len(errors) else pd.Series(dtype=float),
        direction=direction,
        nets=tuple(nets),
        resolution=resolution(nets[0], measure),
    )


def by_depth(nets: list[pd.DataFrame], measure: str) -> pd.DataFrame:
    """Errors [seed, depth] of the seeds that finished at every depth."""
    return pd.DataFrame({rows["depth"].iloc[0]: rows[measure] for rows in nets}).dropna()


def first_iteration(
    study: Study, rows: pd.DataFrame, at_most: float, error: str = "train_error_pct", censored: bool = True
) -> pd.Series:
    """By seed, the first record whose error, running training error unless named, is at most `at_most`.

    Finished trials only. A trial that never reaches it counts with its whole length, a lower bound; as NaN if not
    `censored`.
    """
    first = {}
    for seed, row in rows[rows["outcome"] == Outcome.FINISHED].iterrows():
        curve = study.curves[study.curves["id"] == row["id"]]
        reached = curve.loc[curve[error] <= at_most, "iteration"]
        never = float(row["iterations"]) if censored else float("nan")
        first[seed] = float(reached.min()) if len(reached) else never
    return pd.Series(first, dtype=float)


def record_every(study: Study, rows: pd.DataFrame) -> float:
    iterations = study.curves.loc[study.curves["id"].isin(rows["id"]), "iteration"]
    return float(iterations.min()) if len(iterations) else 0.0


# Evaluations beyond the records


@dataclass(frozen=True)
class Evaluated:
    """A number of the paper's tables as this study has it."""

    number: Number
    values: pd.Series  # by seed
    nets: pd.DataFrame  # the rows of finals it is of
    resolution: float  # one image, in percent


def evaluated(study: Study, number: Number) -> Evaluated:
    """The values of a number; empty where its nets are planned and not evaluated yet.

    Before an ensemble is evaluated, every net of its experiment counts as part of it. Raises `NotTestable` where no net
    is planned, or where only a server has the labels.
    """
    rows = paper_numbers.rows_of(study.evaluations, number)
    nets = _planned(study, number.experiment, "" if number.ensemble else number.title)
    if nets.empty:
        raise NotTestable(f"needs {number.title}: {paper_numbers.takes(number.experiment)}")
    if rows.empty and number.split in SERVERS:
        raise NotTestable(f"needs {number}, and only that split's server has its labels")
    if rows.empty:
        return Evaluated(number, pd.Series(dtype=float), nets, 0.0)
    conditions = nets.loc[nets["id"].isin(",".join(rows["ids"]).split(",")), "condition"]
    nets, images = nets[nets["condition"].isin(conditions)], rows["images"].min()
    return Evaluated(number, rows["value"].astype(float), nets, 100 / images if images > 0 else 0.0)


def difference(
    study: Study, minuend: Number, subtrahend: Number, direction: int, by: float = 0.0, margin: float = 0.0
) -> Part:
    """Paired difference of two nets tested alike, or of one net tested in two ways; minus `by`, a number of the paper.

    Raises `NotTestable` where the nets are not planned or, if `by` is given, not of the paper's data.
    """
    assert (minuend.split, minuend.measure) == (subtrahend.split, subtrahend.measure)
    assert minuend.protocol == subtrahend.protocol or minuend.title == subtrahend.title
    one, other = evaluated(study, minuend), evaluated(study, subtrahend)
    if minuend.protocol == subtrahend.protocol:
        what = f"{minuend.words} of {minuend.title} minus {subtrahend.title} ({minuend.protocol}, {minuend.split})"
    else:
        what = f"{minuend.words} of {minuend.title} ({minuend.split}), {minuend.protocol} minus {subtrahend.protocol}"
    what += f", minus {by:g}" if by else ""
    return part_of([one, other], one.values - other.values - by, what, direction, margin, of_the_paper=bool(by))


def level(study: Study, number: Number, threshold: float, direction: int) -> Part:
    """A net's number against a fixed one of the paper. Raises `NotTestable` as `difference` does."""
    one = evaluated(study, number)
    return part_of([one], one.values - threshold, f"{number} minus {threshold:g}", direction, of_the_paper=True)


def part_of(
    evaluations: list[Evaluated],
    values: pd.Series,
    what: str,
    direction: int,
    margin: float = 0.0,
    unit: str = "points",
    of_the_paper: bool = False,
) -> Part:
    """A comparison of evaluations.

    Raises `NotTestable` where a number of the paper is in it (`of_the_paper`) and a net was trained on other data.
    """
    for evaluation in evaluations:
        others = set(evaluation.nets["data"]) - set(paper_numbers.PAPER_DATA_SETS)
        if of_the_paper and others:
            raise NotTestable(f"the number it is compared with is not one on {some(sorted(others))}")
    return Part(
        what=what,
        values=values.dropna(),
        direction=direction,
        margin=margin,
        nets=tuple(evaluation.nets for evaluation in evaluations),
        resolution=max(evaluation.resolution for evaluation in evaluations),
        unit=unit,
    )


def chance(study: Study) -> float:
    return 100 * (1 - 1 / study.profile.data.classes)


def only_on_cifar10(study: Study) -> None:
    if study.profile.data.name != PAPER_DATA.name:
        raise NotTestable("the number it is compared with is a CIFAR-10 error")


def diverged(*nets: pd.DataFrame) -> Counted | None:
    """The verdict on a claim that a net converges, where a seed of it did not."""
    lost = [row_id for rows in nets for row_id in rows.loc[rows["outcome"] == Outcome.DIVERGED, "id"]]
    return Counted(Kind.CONTRADICTED, f"Diverged: {some(lost)}.", nets) if lost else None


def some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None
