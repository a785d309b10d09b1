"""Numbers with their uncertainty: intervals, paired tests, equivalence, correction for many claims.

Owns the arithmetic of a verdict: functions of numbers. Must not know claims, frames or figures.

Verdicts rest on t tests: Welch's where independent nets are compared, of one number per seed where a claim is about a
change within a seed. Sign flips and the bootstrap, which assume no normal distribution, are reported beside them. With
few seeds several numbers may be equal, because an error is a whole number of wrong images. A standard deviation of 0
would then claim certainty that a count of images cannot give, so the t tests take the `resolution` of one error (one
image, in percent): rounding two errors to it leaves a deviation of resolution / sqrt(6) in their difference, which is
the least that the tests use. With resolution 0, equal non-zero differences have p = 0 and an interval of width 0.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000
RESAMPLED = 8  # the fewest values that are resampled: five have 126 different resamples and 32 sign patterns
RESAMPLES = 9999  # sign patterns of up to 13 values are all counted, of more so many are drawn
Greater = Callable[[Sequence[float], float, float], float]  # (values, than, resolution) -> one-sided p


Arms = Sequence[tuple[float, Sequence[float]]]  # independent samples, each with its weight in a sum of means


@dataclass(frozen=True)
class Estimate:
    """n values with their mean, standard deviation (n-1) and interval for the mean; NaN where n does not allow one."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values: Iterable[float], resolution: float = 0.0, level: float = 1 - ALPHA) -> Estimate:
    """Mean and t interval of values that are one per seed. One value has no deviation and no interval."""
    x = np.asarray(list(values), dtype=float)
    if np.isnan(x).any():
        raise ValueError("a missing value cannot be averaged; drop it and report how many were dropped")
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * _believed(sd, resolution) / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def prediction_interval(sample: Estimate, runs: int = 1, level: float = 1 - ALPHA) -> tuple[float, float]:
    """The interval in which the mean of so many further seeds lies, if they are from the sample's distribution."""
    if sample.n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, sample.n - 1)) * sample.sd * math.sqrt(1 / sample.n + 1 / runs)
    return sample.mean - half, sample.mean + half


def proportion_interval(count: int, n: int, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Clopper and Pearson's interval for a proportion of n independent cases; NaN for n = 0."""
    if not n:
        return math.nan, math.nan
    interval = stats.binomtest(count, n).proportion_ci(level)
    return float(interval.low), float(interval.high)


def p_proportion_greater(count: int, n: int, than: float) -> float:
    """Exact one-sided p of 'the proportion is not greater than `than`' (binomial)."""
    return float(stats.binomtest(count, n, than, alternative="greater").pvalue)


def p_greater(values: Iterable[float], than: float = 0.0, resolution: float = 0.0) -> float:
    """One-sided p of 'the mean is not greater than `than`'; NaN for fewer than two values."""
    sample = estimate(values, resolution)
    if sample.n < 2:
        return math.nan
    error = _believed(sample.sd, resolution) / math.sqrt(sample.n)
    if error == 0:
        return 0.0 if sample.mean > than else 1.0
    return float(stats.t.sf((sample.mean - than) / error, sample.n - 1))


def spread(arms: Arms, resolution: float = 0.0) -> tuple[float, float, float]:
    """The weighted sum of the means of independent samples, its standard error and Satterthwaite's degrees of freedom.

    With weights 1 and -1 it is Welch's test (Biometrika 34, 1947). A deviation is no smaller than the rounding to
    `resolution` leaves in one error, resolution / sqrt(12). Each sample has two values or more.
    """
    weights, samples = zip(*arms, strict=True)
    mean = sum(weight * float(np.mean(sample)) for weight, sample in arms)
    sizes = [len(sample) for sample in samples]
    variances = [
        (weight * max(float(np.std(sample, ddof=1)), resolution / math.sqrt(12))) ** 2 / len(sample)
        for weight, sample in arms
    ]
    total = sum(variances)
    if total == 0:
        return mean, 0.0, sum(sizes) - len(sizes)
    return mean, math.sqrt(total), total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))


def contrast(arms: Arms, resolution: float = 0.0, level: float = 1 - ALPHA) -> Estimate:
    """As `estimate`, for a weighted sum of means of independent samples; `sd` is of one such sum, n the least."""
    n = min(len(sample) for _, sample in arms)
    if n < 2:
        mean = sum(weight * float(np.mean(sample)) if len(sample) else math.nan for weight, sample in arms)
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    mean, error, df = spread(arms, resolution)
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    sd = math.sqrt(sum((weight * float(np.std(sample, ddof=1))) ** 2 for weight, sample in arms))
    return Estimate(n, mean, sd, mean - half, mean + half)


def p_contrast_greater(arms: Arms, than: float = 0.0, resolution: float = 0.0) -> float:
    """One-sided p of 'the weighted sum of means is not greater than `than`'; NaN for fewer than two values in one."""
    if min(len(sample) for _, sample in arms) < 2:
        return math.nan
    mean, error, df = spread(arms, resolution)
    if error == 0:
        return 0.0 if mean > than else 1.0
    return float(stats.t.sf((mean - than) / error, df))


def p_sign_flips(values: Iterable[float], than: float = 0.0, resolution: float = 0.0) -> float:
    """As `p_greater`, for any symmetric distribution: the share of sign patterns with a mean at least as great.

    No p is below 1 / 2^n. The test uses no deviation, so the `resolution` that the t test needs changes nothing.
    """
    x = np.asarray(list(values), dtype=float) - than
    if len(x) < 2:
        return math.nan
    flips = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, alternative="greater", rng=0
    )
    return float(flips.pvalue)


def bootstrap_interval(values: Iterable[float], level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """Bias-corrected and accelerated bootstrap interval for the mean; None for equal values or under `RESAMPLED`."""
    x = np.asarray(list(values), dtype=float)
    if len(x) < RESAMPLED or np.ptp(x) == 0:
        return None
    resampled = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=0)
    low, high = resampled.confidence_interval
    return float(low), float(high)


def p_two_sided(values: Sequence[float], resolution: float = 0.0) -> float:
    """p of 'the mean is 0': the paired t test, when the values are differences of pairs."""
    mirrored = [-value for value in values]
    return min(1.0, 2 * min(p_greater(values, 0.0, resolution), p_greater(mirrored, 0.0, resolution)))


def p_equivalent(
    values: Sequence[float], margin: float, resolution: float = 0.0, greater: Greater = p_greater
) -> float:
    """Two one-sided tests (TOST): p of 'the mean is at least `margin` away from 0'."""
    mirrored = [-value for value in values]
    return max(greater(values, -margin, resolution), greater(mirrored, -margin, resolution))


def power(effect: float, sd: float, n: int, alpha: float = ALPHA, df: float | None = None) -> float:
    """Chance that `p_greater` of n normal values with this mean and deviation is below `alpha` (noncentral t)."""
    free = n - 1 if df is None else df
    return float(stats.nct.sf(stats.t.ppf(1 - alpha, free), free, effect / sd * math.sqrt(n)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values in the given order, controlling the family-wise error."""
    adjusted = [0.0] * len(ps)
    so_far = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        so_far = max(so_far, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = so_far
    return adjusted


def further_seeds(
    distances: Sequence[float], sd: float, n: int, alpha: float = ALPHA, df_share: float = 1.0
) -> int | None:
    """The fewest further seeds at which one-sided t tests at level `alpha` reject in `POWER` of studies.

    `distances` are those of the true mean from the bounds that the tests are to exclude, positive on the alternative's
    side: one, or for equivalence two, which must both be excluded (Bonferroni's bound on the power). `df_share` is the
    degrees of freedom over n - 1: 1 of one sample, up to 2 of two. None where a distance is not positive, or if
    `MOST_SEEDS` more would not do. Effect and deviation are taken as known, which with few seeds they are not.
    """
    if not all(distance > 0 for distance in distances) or math.isnan(sd):
        return None
    if sd == 0:
        return 1

    def enough(total: int) -> bool:
        missed = [1 - power(each, sd, total, alpha, df_share * (total - 1)) for each in distances]
        return sum(missed) <= 1 - POWER

    more = range(max(1, 2 - n), MOST_SEEDS + 1)
    index = bisect_left(more, True, key=lambda k: enough(n + k))
    return more[index] if index < len(more) else None


def sd_range(sd: float, df: float, level: float = 1 - ALPHA) -> tuple[float, float]:
    """The interval of a normal deviation of which `sd` was observed with so many degrees of freedom (chi squared)."""
    high, low = (float(stats.chi2.ppf(share, df)) for share in ((1 + level) / 2, (1 - level) / 2))
    return sd * math.sqrt(df / high), sd * math.sqrt(df / low)


def false_discovery(ps: Sequence[float]) -> list[float]:
    """Benjamini and Yekutieli's adjusted p values (Annals of Statistics 29, 2001), valid for any dependence."""
    return [float(q) for q in stats.false_discovery_control(ps, method="by")] if len(ps) else []


def believed_sd(values: Iterable[float], resolution: float = 0.0) -> float:
    """The standard deviation that the tests use: the observed one, but no smaller than rounding leaves."""
    return _believed(estimate(values, resolution).sd, resolution)


def _believed(sd: float, resolution: float) -> float:
    return max(sd, resolution / math.sqrt(6))
