"""A verdict: what a study says of one of the paper's claims, as a value, in words and as JSON.

Owns the kinds of verdict, their order on a page and the only place where a verdict becomes text. Must not know how a
verdict is reached (`analysis.decision`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, TypedDict

from analysis import paper
from analysis.statistics import ALPHA, MOST_SEEDS


class Kind(StrEnum):
    """What a verdict says; what needs a reader's attention comes first."""

    CONTRADICTED = "contradicted"
    SUPPORTED = "supported"
    WITHIN_BUDGET = "supported within this budget"
    UNDECIDED = "undecided"
    BY_CONSTRUCTION = "holds by construction"
    WITHOUT_TRAINING = "holds without training"
    NOT_TESTABLE = "not testable in this profile"


_COUNTED = (
    *(Kind.SUPPORTED, Kind.WITHIN_BUDGET, Kind.BY_CONSTRUCTION, Kind.WITHOUT_TRAINING),
    *(Kind.CONTRADICTED, Kind.UNDECIDED, Kind.NOT_TESTABLE),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study says of a claim.

    effect              percentage points; None where there is none or it is not in points
    interval            t interval of the effect, not corrected for many claims
    interval_level      its level, that of the test: 0.95 beside a two-sided test, 0.9 beside one of equivalence
    interval_bootstrap  as interval, at 0.95; None with few seeds
    interval_images     of an effect in test error, at 0.95, for new seeds and new test images like these, where the
                        others are for new seeds on these images; None with few seeds, or where a run has no such bits
    p                   of the test, before any correction
    p_family            after Holm's correction over the claims of one family
    q                   Benjamini and Yekutieli's over all tested claims of the study: the least false discovery rate at
                        which this verdict is among the discoveries
    p_permutation       p of sign flips, on the side of the test; None without a test
    seed_correlation    of two nets that are compared: Pearson's, over the seeds that both have
    n                   seeds; of nets that are compared, of the one with fewest
    runs                ids of the runs used
    leaning             of an undecided claim: supported or contradicted, whichever the numbers are closer to; None with
                        fewer than two seeds
    seeds_needed        of an undecided claim: further seeds at which 80 % of studies are decided, if effect and
                        deviation are as observed; None for more than `MOST_SEEDS`, or if no number of seeds would do
    seeds_range         the same for the two ends of the 95 % interval of the deviation
    proxy               tested on other nets or data than the claim is about
    """

    claim: paper.Claim
    kind: Kind
    reason: str
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    runs: tuple[str, ...] = ()
    interval_bootstrap: tuple[float, float] | None = None
    interval_images: tuple[float, float] | None = None
    p_permutation: float | None = None
    leaning: Kind | None = None
    seeds_needed: int | None = None
    proxy: bool = False
    interval_level: float | None = None
    p: float | None = None
    p_family: float | None = None
    q: float | None = None
    seed_correlation: float | None = None
    seeds_range: tuple[int | None, int | None] | None = None

    @property
    def testable(self) -> bool:
        return self.kind is not Kind.NOT_TESTABLE

    @property
    def text(self) -> str:
        """`undecided (leaning contradicted, 3 more seeds for 80 % power)`."""
        return in_words(self.kind, self.leaning, self.seeds_needed)

    @property
    def statement(self) -> str:
        """What the paper says, marked where the study tests it by proxy."""
        return f"By proxy: {self.claim.statement}" if self.proxy else self.claim.statement

    @property
    def effect_text(self) -> str:
        """`+61.2 [55, 67.4]`, as far as there are numbers; the level of the interval where it is not 95 %."""
        if self.effect is None:
            return "" if self.n else "by counting"  # parameters, layers and multiply-adds need no run
        shown = f"{self.effect:+.3g}"
        if self.interval is not None:
            low, high = self.interval
            shown += f" [{low:.3g}, {high:.3g}]"
            if self.interval_level is not None and self.interval_level != 1 - ALPHA:
                shown += f" ({100 * self.interval_level:g} %)"
        return shown

    def of(self, claim: paper.Claim, reason: str) -> "Verdict":
        """The same verdict on a claim that is tested by the same comparison."""
        return replace(self, claim=claim, reason=reason)


class Entry(TypedDict):
    """An entry of claims.json. Scripts rely on these names."""

    id: str
    section: str
    statement: str
    verdict: str
    effect: float | None
    interval: tuple[float, float] | None
    n: int
    runs: tuple[str, ...]
    reason: str
    interval_bootstrap: tuple[float, float] | None
    p_permutation: float | None
    proxy: bool
    leaning: str | None
    seeds_needed: int | None
    seeds_range: tuple[int | None, int | None] | None
    interval_level: float | None
    p: float | None
    p_family: float | None
    q: float | None
    seed_correlation: float | None
    interval_images: tuple[float, float] | None


def in_words(kind: Kind, leaning: Kind | None, seeds_needed: int | None) -> str:
    """How a verdict is printed. Leaning and seeds count for undecided claims only."""
    if kind is not Kind.UNDECIDED:
        return kind.value
    if leaning is None:
        return f"{kind} (needs {seeds_needed} more {'seed' if seeds_needed == 1 else 'seeds'} for a test)"
    seeds = f"more than {MOST_SEEDS:,}" if seeds_needed is None else f"{seeds_needed}"
    return f"{kind} (leaning {leaning}, {seeds} more {'seed' if seeds_needed == 1 else 'seeds'} for 80 % power)"


def entry(verdict: Verdict) -> Entry:
    """The verdict as claims.json has it."""
    return Entry(
        id=verdict.claim.id,
        section=verdict.claim.section,
        statement=verdict.claim.statement,
        verdict=verdict.text,
        effect=verdict.effect,
        interval=verdict.interval,
        n=verdict.n,
        runs=verdict.runs,
        reason=verdict.reason,
        interval_bootstrap=verdict.interval_bootstrap,
        p_permutation=verdict.p_permutation,
        proxy=verdict.proxy,
        leaning=verdict.leaning,
        seeds_needed=verdict.seeds_needed,
        seeds_range=verdict.seeds_range,
        interval_level=verdict.interval_level,
        p=verdict.p,
        p_family=verdict.p_family,
        q=verdict.q,
        seed_correlation=verdict.seed_correlation,
        interval_images=verdict.interval_images,
    )


def ranked(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The testable claims' verdicts in the order of `Kind`, within a kind in the paper's order."""
    kinds = list(Kind)
    return sorted((verdict for verdict in verdicts if verdict.testable), key=lambda verdict: kinds.index(verdict.kind))


def counts(verdicts: Iterable[Verdict]) -> dict[Kind, int]:
    """How many claims have each kind of verdict; every kind is among them."""
    kinds = [verdict.kind for verdict in verdicts]
    return {kind: kinds.count(kind) for kind in _COUNTED}


def counted(verdicts: Sequence[Verdict]) -> str:
    """`9 supported, 2 hold without training, 63 not testable in this profile`: kinds that no claim has are left out."""
    return ", ".join(
        f"{count} {kind if count == 1 else kind.replace('holds', 'hold')}"
        for kind, count in counts(verdicts).items()
        if count
    )


def to_json(verdicts: Iterable[Verdict]) -> str:
    """Every field of every verdict, from which `from_json` makes equal verdicts."""
    names = [field.name for field in fields(Verdict)]
    rows = [{name: getattr(verdict, name) for name in names} for verdict in verdicts]
    return json.dumps(rows, indent=1, allow_nan=False, default=lambda claim: claim.id) + "\n"


def from_json(text: str) -> list[Verdict]:
    """The verdicts that `to_json` wrote."""
    known = {claim.id: claim for claim in paper.claims()}
    return [_from_row(row, known) for row in json.loads(text)]


def _from_row(row: Mapping[str, Any], known: Mapping[str, paper.Claim]) -> Verdict:
    typed = {
        "claim": known[row["claim"]],
        "kind": Kind(row["kind"]),
        "leaning": row["leaning"] and Kind(row["leaning"]),
        "runs": tuple(row["runs"]),
        "interval": row["interval"] and tuple(row["interval"]),
        "interval_bootstrap": row["interval_bootstrap"] and tuple(row["interval_bootstrap"]),
        "interval_images": row.get("interval_images") and tuple(row["interval_images"]),
        "seeds_range": row.get("seeds_range") and tuple(row["seeds_range"]),
    }
    return Verdict(**{**row, **typed})
