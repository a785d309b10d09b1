"""What a referee asks of a study before its verdicts: plan, deviations, power, error rates and controls, as values.

Owns what is asked and how it is worked out from the frames and the verdicts. What was not run is named. Must not know
how a page shows it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.optimize import brentq

from analysis import budget, claims, controls, plan, rates
from analysis.comparisons import WORDS
from analysis.nets import serving
from analysis.questions import family_of
from analysis.runs import Frames
from analysis.statistics import ALPHA, POWER, power
from analysis.tables import meta
from analysis.verdicts import Kind, Planned, Verdict
from experiments import budget as budget_experiment
from experiments import controls as controls_experiment
from experiments import placebo
from experiments import rates as rates_experiment
from study.store.account import RESULTS

DIGITS = 10  # of a SHA-256, on the page
LARGEST = 1000.0  # deviations of a difference; the least effect that is found is below


@dataclass(frozen=True)
class Row:
    """An answer: to what, and sentences."""

    question: str
    answers: tuple[str, ...]


def rows(frames: Frames, verdicts: Sequence[Verdict], profile: str) -> list[Row]:
    """The referee's page, from top to bottom."""
    return [
        Row("Plan", tuple(_plan(verdicts, profile))),
        Row("Deviations from the paper", tuple(_deviations(frames.finals))),
        Row("Power", tuple(_power(verdicts))),
        Row("Error rates", tuple(_error_rates(frames.finals, verdicts))),
        Row("Placebo", tuple(_placebo(frames.finals, verdicts))),
        Row("Longer schedules", tuple(_budget(frames.finals))),
        Row("Each net at its best rate", tuple(_rates(frames))),
    ]


def least_effect(n: int, alpha: float = ALPHA) -> float:
    """The effect that Welch's test of two nets with n seeds each finds in `POWER` of studies, two-sided at `alpha`.

    In deviations of a difference of one seed each, sqrt(2) times those of a net where both scatter alike. NaN with
    fewer than two seeds. Noncentral t (`analysis.statistics.power`), with 2 n - 2 degrees of freedom.
    """
    if n < 2:
        return math.nan
    return float(brentq(lambda effect: power(effect, 1.0, n, alpha / 2, 2 * n - 2) - POWER, 0.0, LARGEST))


def _plan(verdicts: Sequence[Verdict], profile: str) -> Iterable[str]:
    dated = plan.read(profile)
    if dated is None:
        yield f"There is no analysis plan of profile {profile}."
    else:
        unchanged = dated.code_sha256 == plan.code_sha256()
        yield (
            f"{plan.path_of(profile).name}, dated {dated.dated:%Y-%m-%d %H:%M %Z}, SHA-256 {dated.sha256[:DIGITS]}; the"
            f" code of the tests {'is unchanged' if unchanged else 'has changed'} since."
        )
    ran = [verdict for verdict in verdicts if verdict.plan]
    confirmatory = sum(verdict.plan is Planned.CONFIRMATORY for verdict in ran)
    yield f"Confirmatory are {confirmatory} of {len(ran)} verdicts that rest on runs."
    reasons: dict[str, list[str]] = {}
    for verdict in ran:
        if verdict.plan is Planned.EXPLORATORY:
            reasons.setdefault(verdict.plan_reason, []).append(verdict.claim.id)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield f"Exploratory are {_named(names)}: {reason}."


def _deviations(finals: pd.DataFrame) -> Iterable[str]:
    numbers = meta.deviations(finals).numbers
    departing = numbers[numbers["field"] != ""]
    yield (
        f"{departing['condition'].nunique()} of {numbers['condition'].nunique()} conditions depart from the paper's"
        f" recipe, in {departing['field'].nunique()} fields: {', '.join(dict.fromkeys(departing['field'])) or 'none'}."
    )


def _power(verdicts: Sequence[Verdict]) -> Iterable[str]:
    tested = _tested(verdicts)
    if not tested:
        yield "No claim was tested."
        return
    largest, share = max(_families(tested).values()), f"{100 * POWER:g} % of studies"
    for n in sorted({verdict.n for verdict in tested}):
        yield (
            f"With {n} seeds a net ({sum(verdict.n == n for verdict in tested)} of {len(tested)} tested claims),"
            f" Welch's test finds an effect of {least_effect(n):.2g} deviations of a difference in {share} at"
            f" {100 * ALPHA:g} %; after Holm over the {largest} claims of the largest family, of"
            f" {least_effect(n, ALPHA / largest):.2g}."
        )


def _tested(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those of a test of their own."""
    return [verdict for verdict in verdicts if verdict.p is not None and verdict.claim.id not in claims.SAME]


def _families(tested: Iterable[Verdict]) -> dict[str, int]:
    """How many claims of each family were tested."""
    families = [family_of(verdict.claim.id) for verdict in tested]
    return {family: families.count(family) for family in families}


def _error_rates(finals: pd.DataFrame, verdicts: Sequence[Verdict]) -> Iterable[str]:
    tested = _tested(verdicts)
    if tested:
        yield (
            f"Holm's correction holds the chance of any false verdict on a question at {100 * ALPHA:g} %, for"
            f" {len(_families(tested))} questions one by one; over the {len(tested)} tested claims together,"
            f" {sum((verdict.q or 0) < ALPHA for verdict in tested)} have a false discovery rate q below {ALPHA:g}."
        )
    measured = controls.measured(serving(finals, controls_experiment.NAME))
    found = measured.dropna(subset=["false_positives", "found"])
    for row in found.to_dict("records"):
        yield (
            f"Control ({row['control']}), {row['quantity']}: {row['false_positives']:.0f} of {row['n']} comparisons,"
            f" {row['found']:.2g} % [{row['low']:.2g}, {row['high']:.2g}]; {row['expected']:g} % by chance."
        )
    if found.empty:
        yield "The controls (a net against itself, shuffled labels) were not run."


def _placebo(finals: pd.DataFrame, verdicts: Iterable[Verdict]) -> Iterable[str]:
    planned = serving(finals, placebo.NAME)
    done = planned["outcome"].isin(RESULTS).sum()
    if not done:
        yield "The placebo was not run: what holds without training is not known."
        return
    names = [verdict.claim.id for verdict in verdicts if verdict.kind is Kind.WITHOUT_TRAINING]
    yield (
        f"Of the claims that trained nets support, {_named(names) if names else 'none'} {'are' if names[1:] else 'is'}"
        f" also supported after {placebo.ITERATIONS} iterations ({done} of {len(planned)} trials have a result)."
    )


def _budget(finals: pd.DataFrame) -> Iterable[str]:
    fit = budget.fitted(finals)
    gaps = {length: gap for length, gap in fit.gaps.items() if gap.n} if fit else {}
    if fit is None or not gaps:
        yield "Longer schedules were not run: whether the degradation stays is not known."
        return
    yield f"Training error of {fit.deep} minus {fit.shallow}, points: " + "; ".join(
        f"{gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}] after {length:,} iterations (n = {gap.n})"
        for length, gap in gaps.items()
    )
    if fit.left is budget.Left.NOT_RUN:
        yield "What it tends to is not fitted: that takes three lengths and two seeds."
    else:
        yield f"It {fit.in_words}, by a margin of {budget_experiment.MARGIN_PCT:g}."


def _rates(frames: Frames) -> Iterable[str]:
    planned = len(serving(frames.finals, rates_experiment.NAME))
    found = rates.gaps(frames).query("n > 0") if planned else pd.DataFrame()
    if found.empty:
        yield "Rates were not compared: whether the degradation is there at each net's best one is not known."
    for row in found.to_dict("records"):
        yield (
            f"{WORDS[row['quantity']].capitalize()}, {row['comparison']}, at rates {row['rates']}:"
            f" {row['difference']:.3g} [{row['low']:.3g}, {row['high']:.3g}] points, n = {row['n']}."
        )


def _named(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
