"""From comparisons to verdicts: tests, Holm's correction, and the reason that a reader sees.

Owns how the comparisons of `analysis.claims` become verdicts:
- Nets that are compared are independent samples of seeds and compared by Welch's test. Sharing a seed's number gains
  nothing: the seeds' correlation, which reasons state, is about 0, and pairs would cost half of the degrees of freedom.
  A claim on a change within a seed, such as a slope or a change through training, is tested on one number per seed.
  Which of the two it is follows from what is compared, not from the values. Only trials of one experiment, hence one
  recipe per net, are compared.
- Only finished trials have an error. Missing and diverged ones are left out and named; claims about failing count them.
- A claim in several parts holds if all hold: its p value is the largest of the parts', and its effect is that of the
  weakest part. It is contradicted if one part is (corrected for the number of parts).
- Tests are two-sided both ways, p < 0.05; the mean says the direction. Equal nets hence give a verdict, of either kind,
  in at most 5 % of studies. Equivalence is two one-sided tests at 0.05 (TOST), beside the 90 % interval that fits them.
- Holm's correction runs over the claims tested of each family (`FAMILIES`: one question of the paper each). Over all
  tested claims of the study, `q` is the false discovery rate (Benjamini and Yekutieli).
- Otherwise undecided: which way it leans, and the further seeds that would decide it in 80 % of studies, with a range
  from the uncertainty of the deviation. Fewer than two seeds are never decided.
- Sign flips and, from `RESAMPLED` seeds on, bootstrap intervals are reported beside the tests, on differences of equal
  seeds; from so many seeds on, a reason states where they disagree. With three seeds sign flips cannot: their least
  two-sided p is 1/4.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import claims, counted_claims, images, paper
from analysis.comparisons import Counted, NotTestable, Part, Study, Tested, mean, some
from analysis.runs import Frames
from analysis.statistics import (
    ALPHA,
    MOST_SEEDS,
    RESAMPLED,
    Greater,
    believed_sd,
    bootstrap_interval,
    false_discovery,
    further_seeds,
    holm,
    p_sign_flips,
    sd_range,
    spread,
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
    tested = {name: verdict.p for name, verdict in verdicts.items() if verdict.p is not None}
    for name, q in zip(tested, false_discovery(list(tested.values())), strict=True):
        verdicts[name] = replace(verdicts[name], q=q)
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
        if min(part.n for part in outcome.parts) < 2:
            yield _too_few(claim, outcome)
        else:
            tests[claim] = weigh(outcome.parts)
    flips = [_p_of(tested[claim].parts, leaning, p_sign_flips) for claim, (_, leaning, _) in tests.items()]
    flips = [1.0 if math.isnan(p) else p for p in flips]  # nets without two seeds in common
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
        correlation = seed_correlation(part)
        if correlation is not None:
            reason += f" Seeds of the two nets correlate by {correlation:.2f}."
        if len(part.values) >= RESAMPLED:
            reason += _disagreements(part, corrected, corrected_flips)
        kind, needed, between = leaning, None, None
        if corrected >= ALPHA:
            kind = Kind.UNDECIDED
            needed, between = seeds_to_decide(part, leaning, ALPHA / len(tests), len(parts))
            reason += f" {_power_in_words(leaning, needed, between)}"
        verdict = _measured(claim, tested[claim], part, reason, kind, leaning)
        yield replace(
            verdict,
            seeds_needed=needed,
            seeds_range=between,
            p=p,
            p_family=corrected,
            p_permutation=flipped,
            seed_correlation=correlation,
        )


def weigh(parts: list[Part]) -> Weighed:
    """Which side the parts together are on. Each has two values or more.

    Where a mean is on the other side than the claim (p for it is 1), they are against it, however weakly.
    """
    p_for, p_against = _p_of(parts, Kind.SUPPORTED), _p_of(parts, Kind.CONTRADICTED)
    if p_against < p_for or p_for == 1:
        return Weighed(p_against, Kind.CONTRADICTED, min(parts, key=lambda part: part.p_against()))
    return Weighed(p_for, Kind.SUPPORTED, max(parts, key=lambda part: part.p_for()))


def _p_of(parts: list[Part], side: Kind, greater: Greater | None = None) -> float:
    """p of all parts together, for the claim or against it."""
    if side is Kind.SUPPORTED:
        return max(part.p_for(greater) for part in parts)
    return min(1.0, len(parts) * min(part.p_against(greater) for part in parts))


def seeds_to_decide(
    part: Part, side: Kind, level: float, parts: int = 1
) -> tuple[int | None, tuple[int | None, int | None]]:
    """Further seeds at which this part is decided for this side, at this two-sided level, in 80 % of studies.

    Of a claim in several `parts` one alone contradicts, at level / parts. Then the same for the two ends of the 95 %
    interval of the deviation.
    """
    centre, n = part.centre(), part.n
    if side is Kind.CONTRADICTED:
        distances, alpha = [abs(centre) - part.margin], level / 2 / parts
    elif part.direction == 0:
        distances, alpha = [part.margin - centre, part.margin + centre], level
    else:
        distances, alpha = [abs(centre)], level / 2
    if part.arms:
        _, error, df = spread([(weight, list(values)) for weight, values in part.arms], part.resolution)
        sd = error * math.sqrt(n)
    else:
        sd, df = believed_sd(part.sample, part.resolution), n - 1.0
    needed, low, high = (further_seeds(distances, each, n, alpha, df / (n - 1)) for each in (sd, *sd_range(sd, df)))
    return needed, (low, high)


def seed_correlation(part: Part) -> float | None:
    """Pearson's correlation of two nets over the seeds that both have; None for fewer than three or equal values."""
    if len(part.arms) != 2:
        return None
    both = pd.concat([values for _, values in part.arms], axis=1, join="inner").to_numpy(float)
    if len(both) < 3 or (np.ptp(both, axis=0) == 0).any():
        return None
    return float(np.corrcoef(both.T)[0, 1])


def _power_in_words(leaning: Kind, needed: int | None, between: tuple[int | None, int | None]) -> str:
    seeds, low, high = (f"more than {MOST_SEEDS:,}" if k is None else f"{k}" for k in (needed, *between))
    return (
        f"It leans to {leaning}: with effect and deviation as observed, {seeds} more seeds decide it in 80 % of studies"
        f" ({low} to {high} over the 95 % interval of the deviation)."
    )


def _flips_in_words(p: float, side: Kind, parts: list[Part]) -> str:
    sizes = [len(part.sample) for part in parts]  # of which one part alone contradicts
    n = min(sizes) if side is Kind.SUPPORTED else max(sizes)
    equivalence = side is Kind.SUPPORTED and all(part.direction == 0 for part in parts)
    least = min(1.0, 0.5**n * (1 if equivalence else 2) * (1 if side is Kind.SUPPORTED else len(parts)))
    return f"p = {p:.3g}" + (f", the least that {n} seeds can give" if p <= least else "")


def _disagreements(part: Part, corrected: float, corrected_flips: float) -> str:
    """Where tests that assume less come to another conclusion than the t test."""
    sentences = ""
    if (corrected_flips < ALPHA) != (corrected < ALPHA):
        sentences += f" Sign flips disagree: after the same correction p {in_figures(corrected_flips)}."
    normal, resampled = part.estimate(), bootstrap_interval(part.values)
    bounds = {part.margin, -part.margin}
    if resampled and any((normal.low > x, normal.high < x) != (resampled[0] > x, resampled[1] < x) for x in bounds):
        sentences += f" The bootstrap disagrees: its interval is [{resampled[0]:.2f}, {resampled[1]:.2f}]."
    return sentences


def _too_few(claim: paper.Claim, outcome: Tested) -> Verdict:
    part = min(outcome.parts, key=lambda part: part.n)
    n = part.n
    have = "no seed" if n == 0 else "only one seed"
    reason = f"{_first_upper(part.what)}: {have} has every number it needs; a test needs two seeds at least."
    if len(part.values) == 1:
        reason += f" That seed: {_with_unit(part.values.iloc[0], part)}."
    return replace(_measured(claim, outcome, part, reason, Kind.UNDECIDED, None), seeds_needed=2 - n)


def _measured(
    claim: paper.Claim,
    outcome: Tested,
    part: Part,
    reason: str,
    kind: Kind,
    leaning: Kind | None,
) -> Verdict:
    """The verdict with the numbers of the part that decides."""
    level = level_of(part, leaning)
    normal, resampled = part.estimate(level), bootstrap_interval(part.values)
    in_points = part.unit == "points"
    return Verdict(
        claim=claim,
        kind=kind,
        reason=reason + remarks(outcome),
        effect=normal.mean if in_points and normal.n else None,
        interval=(normal.low, normal.high) if in_points and normal.n > 1 else None,
        interval_level=level if in_points and normal.n > 1 else None,
        n=normal.n,
        runs=runs_of(outcome.parts),
        interval_bootstrap=resampled if in_points else None,
        interval_images=images.interval(part),
        leaning=leaning if kind is Kind.UNDECIDED else None,
        proxy=outcome.proxy,
    )


def level_of(part: Part, side: Kind | None, alpha: float = ALPHA) -> float:
    """The level of the interval that matches the test: of equivalence, 1 - 2 alpha."""
    return 1 - 2 * alpha if part.direction == 0 and side is Kind.SUPPORTED else 1 - alpha


def runs_of(parts: list[Part]) -> tuple[str, ...]:
    """The ids of the runs that the parts' numbers are from."""
    return _runs(
        rows.loc[rows["seed"].isin(part.seeds) & (rows["outcome"] == Outcome.FINISHED)]
        for part in parts
        for rows in part.nets
    )


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


def in_words(part: Part, side: Kind, parts: list[Part], alpha: float = ALPHA) -> str:
    """How a reason begins: the effect of `part`, which decides for this side, with its interval."""
    which = ""
    if len(parts) > 1 and side is Kind.SUPPORTED:
        which = f"Weakest of {len(parts)} parts: "
    elif len(parts) > 1:
        which = f"Strongest counter-evidence, 1 of {len(parts)} parts: "
    level = level_of(part, side, alpha)
    normal = part.estimate(level)
    within = f" (to be within {part.margin:g})" if part.direction == 0 else ""
    at = f" at {100 * level:g} %" if level != 1 - ALPHA else ""
    effect = f"{_with_unit(normal.mean, part)} [{normal.low:.2f}, {normal.high:.2f}]{at}{within}"
    return _first_upper(f"{which}{part.what}: {effect} over {normal.n} {'seeds a net' if part.arms else 'seeds'}")


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
