"""From comparisons to verdicts: tests, Holm's correction, and the reason that a reader sees.

Owns how the comparisons of `analysis.claims` become verdicts:
- One number per seed: nets that share a seed share data order and, where shapes agree, initial weights, so
  differences are paired. Only trials of one experiment, hence one recipe per net, are compared.
- Only finished trials have an error. Missing and diverged ones are left out and named; claims about failing count them.
- A claim in several parts holds if all hold: its p value is the largest of the parts', and its effect is that of the
  weakest part. It is contradicted if one part is (corrected for the number of parts).
- Holm's correction runs over the claims tested of each family (`FAMILIES`: one question of the paper each).
  supported: p < 0.05, one-sided in the stated direction. contradicted: p < 0.05, two-sided, in the other direction.
  Otherwise undecided, with the further seeds that would decide it if effect and deviation stayed as observed. Fewer
  than two paired seeds are never decided.
- Tests are t tests. Sign flips and, from `RESAMPLED` seeds on, bootstrap intervals are reported beside them; from so
  many seeds on, a reason states where they disagree. With three seeds sign flips cannot: their least p is 1/8.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import claims, counted_claims, paper
from analysis.comparisons import Counted, NotTestable, Part, Study, Tested, mean, some
from analysis.runs import Frames
from analysis.statistics import (
    ALPHA,
    RESAMPLED,
    Greater,
    believed_sd,
    bootstrap_interval,
    estimate,
    further_seeds,
    holm,
    p_greater,
    p_sign_flips,
)
from analysis.verdicts import Kind, Verdict
from experiments.profiles import Profile
from study.store.account import RESULTS, Outcome

Evidence = Tested | Counted


class Weighed(NamedTuple):
    """The p value of a claim, the verdict that it speaks for (supported or contradicted), and the part it is of."""

    p: float
    leaning: Kind
    part: Part


def evaluate(frames: Frames, profile: Profile) -> list[Verdict]:
    """A verdict for every claim, in the paper's order."""
    study = Study(frames.finals, frames.curves, frames.layers, frames.evaluations, profile)
    known = {claim.id: claim for claim in paper.claims()}
    verdicts = {name: _counted(known[name], count()) for name, count in counted_claims.CLAIMS.items()}
    for family in claims.FAMILIES:
        verdicts |= {verdict.claim.id: verdict for verdict in evaluate_family(family, study)}
    for name, other in claims.SAME.items():
        reason = profile.untestable.get(name)
        if reason:
            verdicts[name] = Verdict(claim=known[name], kind=Kind.NOT_TESTABLE, reason=_sentence(reason))
        else:
            reason = f"Same trials and test as {other}. {verdicts[other].reason}"
            verdicts[name] = verdicts[other].of(known[name], reason)
    return [verdicts[name] for name in known]


def evaluate_family(family: str, study: Study) -> list[Verdict]:
    """Verdicts on the claims of a family; nothing that other families' claims measured enters them."""
    known = {claim.id: claim for claim in paper.claims()}
    outcomes = {known[name]: outcome_of(known[name], study) for name in claims.FAMILIES[family]}
    tested = {claim: outcome for claim, outcome in outcomes.items() if isinstance(outcome, Tested)}
    counted = [_counted(claim, outcome) for claim, outcome in outcomes.items() if isinstance(outcome, Counted)]
    return [*counted, *_decide(family, tested)]


def outcome_of(claim: paper.Claim, study: Study) -> Evidence:
    """What the study measured for a claim that is not the `SAME` as another, before any correction."""
    if claim.id in counted_claims.CLAIMS:
        return counted_claims.CLAIMS[claim.id]()
    untestable = study.profile.untestable
    reason = untestable.get(claim.id) or untestable.get("*")
    if reason is None:
        try:
            return claims.MEASURED[claim.id](study)
        except NotTestable as why:
            reason = str(why)
    return Counted(Kind.NOT_TESTABLE, _sentence(reason))


def _decide(family: str, tested: dict[paper.Claim, Tested]) -> Iterable[Verdict]:
    """Verdicts on a family's claims, after Holm's correction over those that have a p value."""
    tests = {}
    for claim, outcome in tested.items():
        if min(len(part.values) for part in outcome.parts) < 2:
            yield _too_few(claim, outcome)
        else:
            tests[claim] = weigh(outcome.parts)
    flips = [_p_of(tested[claim].parts, leaning, p_sign_flips) for claim, (_, leaning, _) in tests.items()]
    adjusted = holm([weighed.p for weighed in tests.values()])
    for (claim, weighed), flipped, corrected, corrected_flips in zip(
        tests.items(), flips, adjusted, holm(flips), strict=True
    ):
        p, leaning, part = weighed
        parts = tested[claim].parts
        reason = (
            f"{in_words(part, leaning, parts)}; p {in_figures(p)}, after Holm over {len(tests)} claims on {family}"
            f" {in_figures(corrected)}; sign flips: {_flips_in_words(flipped, leaning, parts)}."
        )
        if len(part.values) >= RESAMPLED:
            reason += _disagreements(part, corrected, corrected_flips)
        kind, needed = leaning, None
        if corrected >= ALPHA:
            kind = Kind.UNDECIDED
            one_sided = 2 if leaning is Kind.SUPPORTED else 1  # seeds_to_decide is two-sided, support is one-sided
            needed = seeds_to_decide(part, one_sided * ALPHA / len(tests))
        yield _measured(claim, tested[claim], part, reason, kind, leaning, needed, flipped)


def weigh(parts: list[Part]) -> Weighed:
    """Which side the parts together are on. Each has two values or more."""
    p_for, p_against = _p_of(parts, Kind.SUPPORTED), _p_of(parts, Kind.CONTRADICTED)
    if p_against < p_for:
        return Weighed(p_against, Kind.CONTRADICTED, min(parts, key=lambda part: part.p_against()))
    return Weighed(p_for, Kind.SUPPORTED, max(parts, key=lambda part: part.p_for()))


def _p_of(parts: list[Part], side: Kind, greater: Greater = p_greater) -> float:
    """p of all parts together, for the claim or against it."""
    if side is Kind.SUPPORTED:
        return max(part.p_for(greater) for part in parts)
    return min(1.0, len(parts) * min(part.p_against(greater) for part in parts))


def seeds_to_decide(part: Part, level: float) -> int | None:
    """Further seeds at which the part would pass, in one direction or the other, at this two-sided level."""
    centre = float(np.mean(part.sample))
    distance = part.margin - abs(centre) if part.direction == 0 else centre
    return further_seeds(distance, believed_sd(part.sample, part.resolution), len(part.sample), level)


def _flips_in_words(p: float, side: Kind, parts: list[Part]) -> str:
    n = min(len(part.sample) for part in parts)
    least = min(1.0, 0.5**n * (1 if side is Kind.SUPPORTED else 2 * len(parts)))
    return f"p = {p:.3g}" + (f", the least that {n} seeds can give" if p <= least else "")


def _disagreements(part: Part, corrected: float, corrected_flips: float) -> str:
    """Where tests that assume less come to another conclusion than the t test."""
    sentences = ""
    if (corrected_flips < ALPHA) != (corrected < ALPHA):
        sentences += f" Sign flips disagree: after the same correction p {in_figures(corrected_flips)}."
    normal, resampled = estimate(part.values, part.resolution), bootstrap_interval(part.values)
    bounds = {part.margin, -part.margin}
    if resampled and any((normal.low > x, normal.high < x) != (resampled[0] > x, resampled[1] < x) for x in bounds):
        sentences += f" The bootstrap disagrees: its interval is [{resampled[0]:.2f}, {resampled[1]:.2f}]."
    return sentences


def _too_few(claim: paper.Claim, outcome: Tested) -> Verdict:
    part = min(outcome.parts, key=lambda part: len(part.values))
    n = len(part.values)
    have = "no seed" if n == 0 else "only one seed"
    reason = f"{_first_upper(part.what)}: {have} has every number it needs; a test needs two seeds at least."
    if n:
        reason += f" That seed: {_with_unit(part.values.iloc[0], part)}."
    return _measured(claim, outcome, part, reason, Kind.UNDECIDED, None, 2 - n)


def _measured(
    claim: paper.Claim,
    outcome: Tested,
    part: Part,
    reason: str,
    kind: Kind,
    leaning: Kind | None,
    seeds_needed: int | None,
    p_permutation: float | None = None,
) -> Verdict:
    """The verdict with the numbers of the part that decides."""
    normal, resampled = estimate(part.values, part.resolution), bootstrap_interval(part.values)
    in_points = part.unit == "points"
    return Verdict(
        claim=claim,
        kind=kind,
        reason=reason + remarks(outcome),
        effect=normal.mean if in_points and normal.n else None,
        interval=(normal.low, normal.high) if in_points and normal.n > 1 else None,
        n=normal.n,
        runs=runs_of(outcome.parts),
        interval_bootstrap=resampled if in_points else None,
        p_permutation=p_permutation,
        leaning=leaning if kind is Kind.UNDECIDED else None,
        seeds_needed=seeds_needed,
        proxy=outcome.proxy,
    )


def runs_of(parts: list[Part]) -> tuple[str, ...]:
    """The ids of the runs that the parts' numbers are from."""
    return _runs(rows.loc[rows["seed"].isin(part.values.index)] for part in parts for rows in part.nets)


def _counted(claim: paper.Claim, outcome: Counted) -> Verdict:
    seeds = [int(rows["outcome"].isin(RESULTS).sum()) for rows in outcome.nets]
    return Verdict(
        claim=claim,
        kind=outcome.kind,
        reason=outcome.reason,
        n=min(seeds, default=0),
        runs=_runs(outcome.nets),
    )


def _runs(nets: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run for rows in nets for run in rows["run_id"] if run))


def in_words(part: Part, side: Kind, parts: list[Part], level: float = 1 - ALPHA) -> str:
    """How a reason begins: the effect of `part`, which decides for this side, with its interval."""
    which = ""
    if len(parts) > 1 and side is Kind.SUPPORTED:
        which = f"Weakest of {len(parts)} parts: "
    elif len(parts) > 1:
        which = f"Strongest counter-evidence, 1 of {len(parts)} parts: "
    normal = estimate(part.values, part.resolution, level)
    within = f" (to be within {part.margin:g})" if part.direction == 0 else ""
    effect = f"{_with_unit(normal.mean, part)} [{normal.low:.2f}, {normal.high:.2f}]{within}"
    return _first_upper(f"{which}{part.what}: {effect} over {normal.n} paired seeds")


def remarks(outcome: Tested) -> str:
    """What else a reader must know: notes, a clean error that disagrees, trials left out."""
    sentences = [outcome.note] if outcome.note else []
    for part in outcome.parts:
        effect = mean(part.values)
        if part.clean is not None and effect is not None and part.direction and part.clean * effect < 0:
            sentences.append(f"Measured clean, {part.what} has the other sign: {part.clean:.2f} points.")
    absent = {
        row["id"]: row["outcome"]
        for part in outcome.parts
        for rows in part.nets
        for _, row in rows.iterrows()
        if row["outcome"] != Outcome.FINISHED and row["seed"] not in part.values.index
    }
    if absent:
        sentences.append(f"Left out: {some([f'{name} ({how})' for name, how in absent.items()])}.")
    return "".join(f" {sentence}" for sentence in sentences)


def in_figures(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _with_unit(value: float, part: Part) -> str:
    return f"{value:.2f} {part.unit}" if part.unit else f"{value:.2f}"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _first_upper(text) + "."
