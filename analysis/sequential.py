"""The rule by which paired seeds are added until a claim is decided. Pure: trains nothing, reads nothing.

A claim is looked at with 2, 3, 4, 6, 8, 12, 16, 24, ... seeds. Look k decides at level ALPHA / (k (k + 1)). The levels
sum to ALPHA over all looks. By the union bound, a sequence that may stop at any look, for any reason, decides a null
effect with probability at most ALPHA. Both directions share the level of a look, which is therefore two-sided. The
interval at 1 - level is one of a confidence sequence. A claim that is decided by counting, such as that a net diverges,
has no p value and takes no level.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count, takewhile

from analysis.comparisons import Counted, Tested
from analysis.decision import in_figures, in_words, level_of, remarks, runs_of, seeds_to_decide, weigh
from analysis.statistics import ALPHA, MOST_SEEDS, estimate
from analysis.verdicts import Kind


@dataclass(frozen=True)
class Look:
    number: int
    seeds: int
    level: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A claim at one look, with the effect of the part that speaks most; None where it cannot be tested."""

    look: Look
    outcome: Tested | Counted
    verdict: Kind
    reason: str
    n: int  # paired seeds
    runs: tuple[str, ...]
    leaning: Kind | None = None
    p: float | None = None  # two-sided
    effect: float | None = None
    interval: tuple[float, float] | None = None  # at 1 - level
    unit: str = ""


def looks(most: int) -> list[Look]:
    """The looks with at most so many seeds."""
    seeds = chain.from_iterable((2 * 2**i, 3 * 2**i) for i in count())
    return [Look(k, n, ALPHA / (k * (k + 1))) for k, n in enumerate(takewhile(lambda n: n <= most, seeds), 1)]


def see(outcome: Tested | Counted, look: Look) -> Seen:
    """Judge a claim on the seeds of one look."""
    if isinstance(outcome, Counted):
        runs_counted = tuple(run for rows in outcome.nets for run in rows["run_id"])
        verdict, reason = outcome.kind, outcome.reason
        return Seen(look=look, outcome=outcome, verdict=verdict, reason=reason, n=look.seeds, runs=runs_counted)
    parts, used = outcome.parts, runs_of(outcome.parts)
    n = min(part.n for part in parts)
    if n < 2:
        reason = f"Only {n} of {look.seeds} seeds have every number that is needed.{remarks(outcome)}"
        return Seen(look=look, outcome=outcome, verdict=Kind.UNDECIDED, reason=reason, n=n, runs=used)
    p, side, part = weigh(parts)
    estimated = estimate(part.values, part.resolution, level_of(part, side, look.level))
    at = f"; two-sided p {in_figures(p)} at look {look.number}, of level {look.level:.2g}."
    return Seen(
        look=look,
        outcome=outcome,
        verdict=Kind.UNDECIDED if p >= look.level else side,
        reason=in_words(part, side, parts, look.level) + at + remarks(outcome),
        n=n,
        runs=used,
        leaning=side,
        p=p,
        effect=estimated.mean,
        interval=(estimated.low, estimated.high),
        unit=part.unit,
    )


def further(seen: Seen, later: Iterable[Look]) -> Look | None:
    """The first of these looks that would decide in 80 % of sequences, with effect and deviation as they are seen."""
    if seen.p is None:
        return None
    assert isinstance(seen.outcome, Tested)
    parts = seen.outcome.parts
    _, side, part = weigh(parts)
    for look in later:
        seeds, _ = seeds_to_decide(part, side, look.level, len(parts))
        if seeds is not None and seeds <= look.seeds - seen.look.seeds:
            return look
    return None


def next_look(seen: Seen, later: Sequence[Look]) -> Look:
    """The look to train for: the next, or where that would not decide the one after, which doubles the seeds."""
    return further(seen, later[:1]) or later[min(1, len(later) - 1)]


def further_seeds(seen: Sequence[Seen]) -> int | None:
    """Seeds beyond the last look with which a later one would decide; two are the least."""
    if not seen or seen[-1].p is None:
        return 2 - (seen[-1].n if seen else 0)
    now = seen[-1].look
    look = further(seen[-1], looks(now.seeds + MOST_SEEDS)[now.number :])
    return None if look is None else look.seeds - now.seeds
