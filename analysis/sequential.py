"""The rule by which seeds are added until a claim is decided. Pure: trains nothing, reads nothing.

A look tests one number per seed, of compared nets the difference of equal seeds, by the two-sided t test. Its level is
such that a sequence decides a null effect of normal seeds with probability at most ALPHA over all its looks:
- With a most of seeds: from 3 seeds on, ALPHA is spent in proportion to the seeds (Lan and DeMets, Biometrika 70,
  1983). The bounds are those of `SIMULATED` null sequences, from one start of the generator: the error of the whole is
  ALPHA with a standard deviation of 0.03 percentage points. Another most is another rule.
- With none: by an e-process, which may be looked at after every seed and resumed for ever (Perez-Ortiz et al., Annals
  of Statistics 52, 2024; Wang and Ramdas, arXiv 2310.03722). It is the likelihood ratio of the t statistic with a
  standard normal prior of mean / deviation. By Ville's inequality at most ALPHA of null sequences pass 1 / ALPHA.

A claim in several parts is supported where all pass at one look. One of k parts contradicts it at ALPHA / k.
Equivalence is two one-sided tests at the level of the look. That a net diverges too often is an exact test at 5 % in
every look, outside these levels. Where a seed has no number, the level is still that of the look.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import stats

from analysis.comparisons import Counted, Part, Tested
from analysis.decision import in_figures, in_words, level_of, remarks, runs_of, seeds_to_decide, weigh
from analysis.statistics import ALPHA, estimate
from analysis.verdicts import Kind

FEWEST = 3  # seeds of the first look, with a most
LOOKS = 22  # the most of a sequence with a most: every seed from 3 to 24
SIMULATED = 500_000
FURTHER = 200  # seeds that are looked ahead without a most


@dataclass(frozen=True)
class Look:
    number: int
    seeds: int
    most: int | None  # of the sequence

    def level(self, parts: int = 1) -> float:
        """The two-sided level of this look, times `parts`, of a sequence at ALPHA / parts."""
        if self.most is None:
            return parts * e_level(self.seeds, ALPHA / parts)
        return parts * spent_levels(self.most, ALPHA / parts)[self.number - 1]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A claim at one look, with the effect of the part that speaks most; None where it cannot be tested."""

    look: Look
    outcome: Tested | Counted
    verdict: Kind
    reason: str
    n: int  # seeds with every number
    level: float  # of the look
    runs: tuple[str, ...]
    leaning: Kind | None = None
    p: float | None = None  # two-sided
    effect: float | None = None
    interval: tuple[float, float] | None = None  # at 1 - the look's level
    unit: str = ""


def looks(most: int | None, until: int = 0) -> list[Look]:
    """The looks of a sequence with at most so many seeds; without a most, those with at most `until` seeds."""
    if most is not None:
        return [Look(k, n, most) for k, n in enumerate(_seeds(most), 1)]
    first = next(n for n in range(2, 100) if e_level(n, ALPHA) > 0)
    return [Look(k, n, None) for k, n in enumerate(range(first, until + 1), 1)]


def _seeds(most: int) -> list[int]:
    step = max(1, math.ceil((most - FEWEST) / (LOOKS - 1)))
    return sorted({most, *range(FEWEST, most, step)})


@lru_cache
def spent_levels(most: int, alpha: float) -> tuple[float, ...]:
    """The two-sided levels of the looks at t tests of normal values, which a null sequence passes at `alpha` together.

    Until a look with n values, alpha (n - 2) / (most - 2) is spent.
    """
    rng = np.random.default_rng(0)
    sums, squares = np.zeros(SIMULATED), np.zeros(SIMULATED)
    levels, before = [], 0
    for n in _seeds(most):
        more, z = n - before, rng.standard_normal(len(sums))
        sums, squares = sums + math.sqrt(more) * z, squares + z**2
        if more > 1:
            squares = squares + rng.chisquare(more - 1, len(sums))
        t = np.abs(sums) / np.sqrt((squares - sums**2 / n) * n / (n - 1))
        kept = SIMULATED - round(SIMULATED * alpha * (n - 2) / (most - 2))
        bound = np.partition(t, kept)[kept]
        levels.append(2 * float(stats.t.sf(bound, n - 1)))
        sums, squares, before = sums[t < bound], squares[t < bound], n
    return tuple(levels)


def e_value(values: Sequence[float]) -> float:
    """The e-process of the null 'the mean is 0' at these normal values, of which it takes no scale. Two or more.

    The likelihood ratio of the values up to scale: right Haar prior of the deviation, N(0, 1) of mean / deviation.
    """
    n, total, squares = len(values), math.fsum(values), math.fsum(value**2 for value in values)
    return float((1 - total**2 / (squares * (n + 1))) ** (-n / 2) / math.sqrt(n + 1))


def e_level(n: int, alpha: float) -> float:
    """The two-sided p of the t test of n values of which the e-process is 1 / alpha; 0 where it cannot be."""
    ratio = (math.sqrt(n + 1) / alpha) ** (2 / n)
    if ratio >= n + 1:
        return 0.0
    t = math.sqrt((n - 1) * (ratio - 1) / (1 - ratio / (n + 1)))
    return 2 * float(stats.t.sf(t, n - 1))


def see(outcome: Tested | Counted, look: Look) -> Seen:
    """Judge a claim on the seeds of one look."""
    if isinstance(outcome, Counted):
        runs_counted = tuple(run for rows in outcome.nets for run in rows["run_id"])
        verdict, reason = outcome.kind, outcome.reason
        return Seen(
            look=look,
            outcome=outcome,
            verdict=verdict,
            reason=reason,
            n=look.seeds,
            level=look.level(),
            runs=runs_counted,
        )
    parts, used, level = _paired(outcome), runs_of(outcome.parts), look.level()
    n = min(part.n for part in parts)
    if n < 2:
        reason = f"Only {n} of {look.seeds} seeds have every number that is needed.{remarks(outcome)}"
        return Seen(look=look, outcome=outcome, verdict=Kind.UNDECIDED, reason=reason, n=n, level=level, runs=used)
    p, side, part = weigh(parts)
    estimated = estimate(part.values, part.resolution, level_of(part, side, level))
    needed = _level(look, side, parts)
    at = f"; two-sided p {in_figures(p)} at look {look.number}, of level {needed:.2g}."
    return Seen(
        look=look,
        outcome=outcome,
        verdict=Kind.UNDECIDED if p >= needed else side,
        reason=in_words(part, side, parts, level) + at + remarks(outcome),
        n=n,
        level=needed,
        runs=used,
        leaning=side,
        p=p,
        effect=estimated.mean,
        interval=(estimated.low, estimated.high),
        unit=part.unit,
    )


def _paired(outcome: Tested) -> list[Part]:
    """The parts, tested on one number per seed: levels over several looks are known for one sample alone."""
    return [replace(part, arms=()) for part in outcome.parts]


def _level(look: Look, side: Kind, parts: Sequence[Part]) -> float:
    """The level of `weigh`'s p: one part alone contradicts."""
    return look.level(len(parts) if side is Kind.CONTRADICTED else 1)


def further(seen: Seen, later: Iterable[Look]) -> Look | None:
    """The first of these looks that would decide in 80 % of sequences, with effect and deviation as they are seen."""
    if seen.p is None:
        return None
    assert isinstance(seen.outcome, Tested)
    parts = _paired(seen.outcome)
    _, side, part = weigh(parts)
    for look in later:
        seeds, _ = seeds_to_decide(part, side, _level(look, side, parts), len(parts))
        if seeds is not None and seeds <= look.seeds - seen.look.seeds:
            return look
    return None


def next_look(seen: Seen, later: Sequence[Look]) -> Look:
    """The look to train for: the first that would decide, with at most half as many seeds again, or one look more."""
    near = [look for look in later if look.seeds <= seen.look.seeds * 3 // 2] or [later[0]]
    return further(seen, near) or near[-1]


def further_seeds(seen: Sequence[Seen], fewest: int) -> int | None:
    """Seeds beyond the last look with which a later one would decide; `fewest` are those of a first look."""
    if not seen:
        return fewest
    if seen[-1].p is None:
        return max(1, fewest - seen[-1].n)
    now = seen[-1].look
    later = looks(None, now.seeds + FURTHER) if now.most is None else looks(now.most)
    look = further(seen[-1], later[now.number :])
    return None if look is None else look.seeds - now.seeds
