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
from analysis.statistics import ALPHA, believed_sd, estimate, further_seeds, holm
from experiments.profiles import Profile

_SIDE = {1: "weakest", -1: "one that speaks most against it"}


def evaluate(frames: Frames, profile: Profile) -> list[dict[str, Any]]:
    """An entry for every claim, in the paper's order.

    Each has id, section, statement, verdict, effect (percentage points; null where there is none or it is not in
    points), interval (95 %, of the effect alone, not corrected for many claims), n (paired seeds), runs (the ids of
    those used) and a one-paragraph reason with the numbers.
    """
    study = Study(frames.finals, frames.curves, frames.layers, profile)
    outcomes: dict[str, Tested | Counted] = {}
    for claim in paper.claims():
        if claim["id"] not in claims.SAME:
            outcomes[claim["id"]] = _outcome(claim, study)
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


def _outcome(claim: dict[str, Any], study: Study) -> Tested | Counted:
    name, untestable = claim["id"], study.profile.untestable
    if name in counted_claims.CLAIMS:
        return counted_claims.CLAIMS[name]()
    if name in claims.MEASURED:
        reason = untestable.get(name) or untestable.get("*")
        if reason is None:
            try:
                return claims.MEASURED[name](study)
            except NotTestable as why:
                reason = str(why)
    elif name in claims.UNTESTED:
        reason = claims.UNTESTED[name]
    elif claim["kind"] == "conjecture":
        reason = "the paper offers it as a conjecture without a test"
    else:
        reason = claims.NEEDS[claim["cost"]]
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
                tests[name] = outcome, *_weigh(outcome.parts)
        adjusted = holm([p for _, p, _, _ in tests.values()])
        for (name, (outcome, p, side, part)), corrected in zip(tests.items(), adjusted, strict=True):
            verdict = {1: SUPPORTED, -1: CONTRADICTED}[side]
            if corrected >= ALPHA:
                verdict = _undecided(_seeds_to_decide(part, side, len(tests)))
            which = "" if len(outcome.parts) == 1 else f"Of {len(outcome.parts)} parts, the {_SIDE[side]}: "
            test = f"; p {_p(p)}, after Holm over {len(tests)} claims on {family} {_p(corrected)}."
            reason = _first_upper(which + _numbers(part)) + test + _remarks(outcome)
            decided[name] = _measured_entry(verdict, part, outcome.parts, reason)
    return decided


def _weigh(parts: list[Part]) -> tuple[float, int, Part]:
    """The p value of the claim, the side it speaks for (1, or -1 against), and the part that it comes from."""
    weakest = max(parts, key=lambda part: part.p_for())
    worst = min(parts, key=lambda part: part.p_against())
    p_for, p_against = weakest.p_for(), min(1.0, len(parts) * worst.p_against())
    return (p_against, -1, worst) if p_against < p_for else (p_for, 1, weakest)


def _seeds_to_decide(part: Part, side: int, tested: int) -> int | None:
    """Further seeds at which the part would pass at a level divided by the number of claims."""
    centre = float(np.mean(part.sample))
    distance = part.margin - abs(centre) if part.direction == 0 else centre
    level = ALPHA / tested * (2 if side > 0 else 1)  # further_seeds is two-sided, support is one-sided
    return further_seeds(distance, believed_sd(part.sample, part.resolution), len(part.sample), level)


def _too_few(outcome: Tested) -> dict[str, Any]:
    part = min(outcome.parts, key=lambda part: len(part.values))
    n = len(part.values)
    have = "no seed" if n == 0 else "only one seed"
    reason = f"{_first_upper(part.what)}: {have} has every number it needs; two are the least that can be tested."
    if n:
        reason += f" That seed: {part.values.iloc[0]:.2f}{part.unit and ' ' + part.unit}."
    return _measured_entry(_undecided(2 - n), part, outcome.parts, reason + _remarks(outcome))


def _measured_entry(verdict: str, part: Part, parts: list[Part], reason: str) -> dict[str, Any]:
    found = estimate(part.values, part.resolution)
    in_points = part.unit == "points"
    return {
        "verdict": verdict,
        "effect": found.mean if in_points and found.n else None,
        "interval": [found.low, found.high] if in_points and found.n > 1 else None,
        "n": found.n,
        "runs": _runs(rows.loc[rows["seed"].isin(each.values.index)] for each in parts for rows in each.nets),
        "reason": reason,
    }


def _entry(outcome: Counted) -> dict[str, Any]:
    seeds = [int((rows["outcome"].isin(("finished", "diverged"))).sum()) for rows in outcome.nets]
    return {
        "verdict": outcome.verdict,
        "effect": None,
        "interval": None,
        "n": min(seeds, default=0),
        "runs": _runs(outcome.nets),
        "reason": outcome.reason,
    }


def _runs(nets: Iterable[pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(run for rows in nets for run in rows["run_id"] if run))


def _undecided(k: int | None) -> str:
    return f"undecided (needs {'more than 1000' if k is None else k} more seeds)"


def _numbers(part: Part) -> str:
    found = estimate(part.values, part.resolution)
    within = f" (to be within {part.margin:g})" if part.direction == 0 else ""
    return (
        f"{part.what}: {found.mean:.2f}{part.unit and ' ' + part.unit} [{found.low:.2f}, {found.high:.2f}]{within}"
        f" over {found.n} paired seeds"
    )


def _remarks(outcome: Tested) -> str:
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


def _p(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _first_upper(text) + "."
