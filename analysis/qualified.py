"""Verdicts with what a referee would ask first: does it hold without training, by construction, on longer schedules?

Owns how the placebo and the budget qualify what the tests of `analysis.decision` say, and which of it the analysis plan
covers. A claim is never made stronger.
"""

from collections.abc import Mapping
from dataclasses import replace

from analysis import budget, claims, counted_claims, paper, placebo, plan
from analysis.comparisons import Study, Tested
from analysis.decision import evaluate, outcome_of
from analysis.runs import Frames
from analysis.verdicts import Kind, Planned, Verdict
from experiments.profiles import PROFILES, Profile


def judge(frames: Frames, profile: Profile) -> list[Verdict]:
    """A verdict for every claim, in the paper's order."""
    profile = _saying_what_it_lacks(frames, profile)
    untrained = placebo.kinds(frames, profile)
    left = budget.fitted(frames.finals)
    shorter = _is_shorter(profile)
    verdicts = [_qualified(verdict, untrained, left, shorter) for verdict in evaluate(frames, profile)]
    dated = plan.read(profile.name)
    uncovered = plan.uncovered(frames, profile, dated)
    return [_planned(verdict, uncovered[verdict.claim.id], dated, frames) for verdict in verdicts]


def _saying_what_it_lacks(frames: Frames, profile: Profile) -> Profile:
    """A person's own profile with the claims that compare nets of which it plans none, which no test can judge."""
    if profile.name in {one.name for one in PROFILES}:
        return profile
    study = Study(frames.finals, frames.curves, frames.layers, frames.evaluations, profile)
    outcomes = {claim.id: outcome_of(claim, study) for claim in paper.claims() if claim.id not in claims.SAME}
    empty = {id for id, outcome in outcomes.items() if isinstance(outcome, Tested) and not outcome.parts}
    untestable = {**dict.fromkeys(empty, "this profile plans none of the nets that it compares"), **profile.untestable}
    return replace(profile, untestable=untestable)


def _planned(verdict: Verdict, reason: str, dated: plan.Plan | None, frames: Frames) -> Verdict:
    """The verdict with whether the plan covers it: its test unless there is a `reason`, its trials by their dates."""
    if not verdict.runs:
        return verdict
    reason = reason or (plan.began_before(dated, frames.finals, verdict.runs) if dated else "")
    return replace(verdict, plan=Planned.EXPLORATORY if reason else Planned.CONFIRMATORY, plan_reason=reason)


def _is_shorter(profile: Profile) -> bool:
    """Whether its CIFAR nets are trained for fewer iterations than the paper's."""
    return profile.recipe(profile.model("plain", 20)).iterations < paper.ITERATIONS


def _qualified(verdict: Verdict, untrained: Mapping[str, Kind], left: budget.Fit | None, shorter: bool) -> Verdict:
    if verdict.kind is Kind.CONTRADICTED and untrained.get(verdict.claim.id) is Kind.CONTRADICTED:
        reason = f"{verdict.reason} The same test contradicts it on nets that were trained for a dozen iterations."
        return replace(verdict, reason=reason)
    if verdict.kind is not Kind.SUPPORTED:
        return verdict
    if verdict.claim.id in counted_claims.CLAIMS:
        return replace(verdict, kind=Kind.BY_CONSTRUCTION)
    if untrained.get(verdict.claim.id) is Kind.SUPPORTED:
        reason = f"{verdict.reason} The same test supports it on nets that were trained for a dozen iterations."
        return replace(verdict, kind=Kind.WITHOUT_TRAINING, reason=reason)
    if not shorter:
        return verdict
    stays = left is not None and left.left is budget.Left.STAYS
    if stays and verdict.claim.id in PLAIN_GAP:
        return verdict
    return replace(verdict, kind=Kind.WITHIN_BUDGET, reason=f"{verdict.reason} {_of_budget(verdict, left)}")


# Claims that say no more than that the deeper plain net has the larger error: what the experiment `budget` follows.
PLAIN_GAP = frozenset({"S1-1", "S1-2", "S42-1", "S42-2"})


def _of_budget(verdict: Verdict, left: budget.Fit | None) -> str:
    if verdict.claim.id in PLAIN_GAP and left is not None:
        if left.left is not budget.Left.NOT_RUN:
            return f"On longer schedules the gap between {left.deep} and {left.shallow} {left.in_words}."
        lengths = [length for length, gap in left.gaps.items() if gap.n > 1]
        if len(lengths) > 1:
            gaps = [f"{left.gaps[length].mean:.3g} points after {length:,} iterations" for length in lengths]
            return f"The gap in training error between {left.deep} and {left.shallow} is {', '.join(gaps)}."
    return "The schedule is shorter than the paper's; whether it holds on a longer one is not known here."
