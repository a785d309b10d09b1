"""A verdict for each of the paper's 74 claims, from the frames alone.

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
- Tests are t tests. Beside them stand sign flips and, of `RESAMPLED` seeds or more, bootstrap intervals; from so many
  seeds on, a reason says where they disagree. With three seeds no sign flip could: its p is 1/8 at least.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from analysis import claims, counted_claims, paper
from analysis.comparisons import (
    CONTRADICTED,
    NOT_TESTABLE,
    SUPPORTED,
    Counted,
    NotTestable,
    Part,
    Study,
    Tested,
    mean,
    some,
)
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
from experiments.profiles import Profile

_SIDE = {1: "weakest", -1: "one that speaks most against it"}


def evaluate(frames: Frames, profile: Profile) -> list[dict[str, Any]]:
    """An entry for every claim, in the paper's order.

    Each has id, section, statement, verdict, effect (percentage points; null where there is none or it is not in
    points), interval (95 %, of the effect alone, not corrected for many claims), n (paired seeds), runs (the ids of
    those used) and a one-paragraph reason with the numbers. Beside the t test: interval_bootstrap (as interval, null
    below `RESAMPLED` seeds) and p_permutation (sign flips, on the side of the reason's p; null without a test).
    """
    study = Study(frames.finals, frames.curves, frames.layers, frames.evaluations, profile)
    outcomes: dict[str, Tested | Counted] = {}
    for claim in paper.claims():
        if claim["id"] not in claims.SAME:
            outcomes[claim["id"]] = outcome_of(claim, study)
    decided = _decide(outcomes)
    entries = []
    for claim in paper.claims():
        entry = decided.get(claim["id"])
        if entry is None:
            other = claims.SAME[claim["id"]]
            reason = profile.untestable.get(claim["id"])
            entry = (
                _entry(Counted(NOT_TESTABLE, _sentence(reason)))
                if reason
                else decided[other] | {"reason": f"Same trials and test as {other}. {decided[other]['reason']}"}
            )
        entries.append({key: claim[key] for key in ("id", "section", "statement")} | entry)
    return entries


def outcome_of(claim: dict[str, Any], study: Study) -> Tested | Counted:
    """What the study says of a claim of the paper that is not the `SAME` as another, before any correction."""
    name, untestable = claim["id"], study.profile.untestable
    if name in counted_claims.CLAIMS:
        return counted_claims.CLAIMS[name]()
    reason = untestable.get(name) or untestable.get("*")
    if reason is None:
        try:
            return claims.MEASURED[name](study)
        except NotTestable as why:
            reason = str(why)
    return Counted(NOT_TESTABLE, _sentence(reason))


def _decide(outcomes: dict[str, Tested | Counted]) -> dict[str, dict[str, Any]]:
    """Verdicts, after Holm's correction over the claims of each family that have a p value."""
    decided = {name: _entry(outcome) for name, outcome in outcomes.items() if isinstance(outcome, Counted)}
    for family, members in claims.FAMILIES.items():
        tests = {}
        for name in members:
            outcome = outcomes[name]
            if isinstance(outcome, Counted):
                continue
            if min(len(part.values) for part in outcome.parts) < 2:
                decided[name] = _too_few(outcome)
            else:
                tests[name] = outcome, *weigh(outcome.parts)
        adjusted = holm([p for _, p, _, _ in tests.values()])
        flips = {name: _p_of(outcome.parts, side, p_sign_flips) for name, (outcome, _, side, _) in tests.items()}
        flipped = holm(list(flips.values()))
        for name, corrected, by_flips in zip(tests, adjusted, flipped, strict=True):
            outcome, p, side, part = tests[name]
            verdict = {1: SUPPORTED, -1: CONTRADICTED}[side]
            if corrected >= ALPHA:
                one_sided = 2 if side > 0 else 1  # seeds_to_decide is two-sided, support is one-sided
                verdict = undecided(seeds_to_decide(part, one_sided * ALPHA / len(tests)))
            test = f"; p {in_figures(p)}, after Holm over {len(tests)} claims on {family} {in_figures(corrected)}"
            test += f"; sign flips: {_flips_in_words(flips[name], side, outcome.parts)}."
            doubts = _doubts(part, corrected, by_flips) if len(part.values) >= RESAMPLED else ""
            reason = in_words(part, side, outcome.parts) + test + doubts + remarks(outcome)
            decided[name] = _measured_entry(verdict, part, outcome.parts, reason) | {"p_permutation": flips[name]}
    return decided


def weigh(parts: list[Part]) -> tuple[float, int, Part]:
    """The p value of the claim, the side it speaks for (1, or -1 against), and the part that it comes from."""
    p_for, p_against = _p_of(parts, 1), _p_of(parts, -1)
    if p_against < p_for:
        return p_against, -1, min(parts, key=lambda part: part.p_against())
    return p_for, 1, max(parts, key=lambda part: part.p_for())


def _p_of(parts: list[Part], side: int, greater: Greater = p_greater) -> float:
    """p of all parts together, for the claim or against it."""
    if side > 0:
        return max(part.p_for(greater) for part in parts)
    return min(1.0, len(parts) * min(part.p_against(greater) for part in parts))


def seeds_to_decide(part: Part, level: float) -> int | None:
    """Further seeds at which the part would pass, in one direction or the other, at this two-sided level."""
    centre = float(np.mean(part.sample))
    distance = part.margin - abs(centre) if part.direction == 0 else centre
    return further_seeds(distance, believed_sd(part.sample, part.resolution), len(part.sample), level)


def _flips_in_words(p: float, side: int, parts: list[Part]) -> str:
    n = min(len(part.sample) for part in parts)
    least = min(1.0, 0.5**n * (1 if side > 0 else 2 * len(parts)))
    return f"p = {p:.3g}" + (f", the least that {n} seeds can give" if p <= least else "")


def _doubts(part: Part, corrected: float, by_flips: float) -> str:
    """Where tests that assume less come to another conclusion than the t test."""
    doubts = ""
    if (by_flips < ALPHA) != (corrected < ALPHA):
        doubts += f" Sign flips disagree: after the same correction p {in_figures(by_flips)}."
    found, resampled = estimate(part.values, part.resolution), bootstrap_interval(part.values)
    bounds = {part.margin, -part.margin}
    if resampled and any((found.low > x, found.high < x) != (resampled[0] > x, resampled[1] < x) for x in bounds):
        doubts += f" The bootstrap disagrees: its interval is [{resampled[0]:.2f}, {resampled[1]:.2f}]."
    return doubts


def _too_few(outcome: Tested) -> dict[str, Any]:
    part = min(outcome.parts, key=lambda part: len(part.values))
    n = len(part.values)
    have = "no seed" if n == 0 else "only one seed"
    reason = f"{_first_upper(part.what)}: {have} has every number it needs; two are the least that can be tested."
    if n:
        reason += f" That seed: {part.values.iloc[0]:.2f}{part.unit and ' ' + part.unit}."
    return _measured_entry(undecided(2 - n), part, outcome.parts, reason + remarks(outcome))


def _measured_entry(verdict: str, part: Part, parts: list[Part], reason: str) -> dict[str, Any]:
    found, resampled = estimate(part.values, part.resolution), bootstrap_interval(part.values)
    in_points = part.unit == "points"
    return {
        "verdict": verdict,
        "effect": found.mean if in_points and found.n else None,
        "interval": [found.low, found.high] if in_points and found.n > 1 else None,
        "n": found.n,
        "runs": runs_of(parts),
        "reason": reason,
        "interval_bootstrap": list(resampled) if in_points and resampled else None,
        "p_permutation": None,
    }


def runs_of(parts: list[Part]) -> list[str]:
    """The ids of the runs that the parts' numbers are from."""
    return _runs(rows.loc[rows["seed"].isin(part.values.index)] for part in parts for rows in part.nets)


def _entry(outcome: Counted) -> dict[str, Any]:
    seeds = [int((rows["outcome"].isin(("finished", "diverged"))).sum()) for rows in outcome.nets]
    return {
        "verdict": outcome.verdict,
        "effect": None,
        "interval": None,
        "n": min(seeds, default=0),
        "runs": _runs(outcome.nets),
        "reason": outcome.reason,
        "interval_bootstrap": None,
        "p_permutation": None,
    }


def _runs(nets: Iterable[pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(run for rows in nets for run in rows["run_id"] if run))


def undecided(k: int | None) -> str:
    return f"undecided (needs {'more than 1000' if k is None else k} more seeds)"


def in_words(part: Part, side: int, parts: list[Part], level: float = 1 - ALPHA) -> str:
    """The effect of the part that speaks most for this side, with its interval: how a reason begins."""
    which = "" if len(parts) == 1 else f"Of {len(parts)} parts, the {_SIDE[side]}: "
    found = estimate(part.values, part.resolution, level)
    within = f" (to be within {part.margin:g})" if part.direction == 0 else ""
    return _first_upper(
        f"{which}{part.what}: {found.mean:.2f}{part.unit and ' ' + part.unit} [{found.low:.2f}, {found.high:.2f}]"
        f"{within} over {found.n} paired seeds"
    )


def remarks(outcome: Tested) -> str:
    """What else a reader must know: notes, a clean error that disagrees, trials left out."""
    remarks = [outcome.note] if outcome.note else []
    for part in outcome.parts:
        effect = mean(part.values)
        if part.clean is not None and effect is not None and part.direction and part.clean * effect < 0:
            remarks.append(f"Measured clean, {part.what} has the other sign: {part.clean:.2f} points.")
    absent = {
        row["id"]: row["outcome"]
        for part in outcome.parts
        for rows in part.nets
        for _, row in rows.iterrows()
        if row["outcome"] != "finished" and row["seed"] not in part.values.index
    }
    if absent:
        remarks.append(f"Left out: {some([f'{name} ({how})' for name, how in absent.items()])}.")
    return "".join(f" {remark}" for remark in remarks)


def in_figures(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _first_upper(text) + "."
