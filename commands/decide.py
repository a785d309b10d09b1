"""`run --until-decided CLAIM`: paired seeds are added until one claim is decided, or seeds or budget end.

Owns the rule of such a sequence, its rounds and its record. Must not know any particular claim.

A claim is looked at with 2, 3, 4, 6, 8, 12, 16, 24, ... seeds. Look k decides at level ALPHA / (k (k + 1)). These
levels sum to ALPHA over all looks that there could ever be, so that whichever are taken, and wherever and why ever a
sequence ends, a difference that is not there is decided in at most 5 % of sequences (union bound). Both directions
share a look's level, which is therefore two-sided: with one-sided support, as in a report, the two would sum to more.
The interval at 1 - level is one of a confidence sequence. What a claim decides by counting, such as a net that
diverged, has no p value and takes no level.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis import claims, files, paper, runs
from analysis.comparisons import Counted, Study, Tested
from analysis.decision import in_figures, in_words, outcome_of, remarks, runs_of, seeds_to_decide, weigh
from analysis.paper import Claim
from analysis.report import DECISIONS
from analysis.statistics import ALPHA, MOST_SEEDS, estimate
from analysis.verdicts import Kind
from analysis.verdicts import in_words as verdict_in_words
from commands.options import Selection
from commands.plan import over_budget, plan_of
from commands.run import accounts, run_missing
from experiments import planned, with_needed
from study.run.forecast import Accounts, Forecast, Plan, has_result, make_plan
from study.spec import InputError, check_at_least, check_choice
from study.store import provenance
from study.store.records import Run

SEEDS = 24  # the most, unless --max-seeds says otherwise


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
    n = min(len(part.values) for part in parts)
    if n < 2:
        reason = f"Only {n} of {look.seeds} seeds have every number that is needed.{remarks(outcome)}"
        return Seen(look=look, outcome=outcome, verdict=Kind.UNDECIDED, reason=reason, n=n, runs=used)
    p, side, part = weigh(parts)
    p = min(1.0, 2 * p) if side is Kind.SUPPORTED else p  # against, it is two-sided
    found = estimate(part.values, part.resolution, 1 - look.level)
    at = f"; two-sided p {in_figures(p)} at look {look.number}, of level {look.level:.2g}."
    return Seen(
        look=look,
        outcome=outcome,
        verdict=Kind.UNDECIDED if p >= look.level else side,
        reason=in_words(part, side, parts, 1 - look.level) + at + remarks(outcome),
        n=n,
        runs=used,
        p=p,
        effect=found.mean,
        interval=(found.low, found.high),
        unit=part.unit,
    )


def further(seen: Seen, later: Iterable[Look]) -> Look | None:
    """The first of these looks that would decide, if effect and deviation stayed as they are seen."""
    if seen.p is None:
        return None
    assert isinstance(seen.outcome, Tested)
    parts = seen.outcome.parts
    _, side, part = weigh(parts)
    for look in later:
        seeds = seeds_to_decide(part, look.level / (1 if side is Kind.SUPPORTED else len(parts)))
        if seeds is not None and seeds <= look.seeds - seen.look.seeds:
            return look
    return None


def following(seen: Seen, later: Sequence[Look]) -> Look:
    """The look to train for: the next, or where that would not decide the one after, which doubles the seeds."""
    return further(seen, later[:1]) or later[min(1, len(later) - 1)]


def decide(selected: Selection, console: Console) -> int:
    """Add seeds until the claim is decided; print every look and write the record. 0 if it is decided, else 1.

    A look is a function of the runs of its seeds, so that the same command again goes on where this one stopped.
    Raises `InputError` for a claim that seeds of this profile cannot decide.
    """
    from study.store.mlflow import reader  # and with it mlflow

    arguments = selected.arguments
    most = SEEDS if arguments["max_seeds"] is None else arguments["max_seeds"]
    check_at_least("max-seeds", most, 2)
    for other in ("seeds", "profile_trace"):
        if arguments[other]:
            raise InputError(f"--{other.replace('_', '-')} does not go with --until-decided; leave one of them out")
    claim, sequence = _claim(arguments["until_decided"]), looks(most)
    conditions = _conditions(claim, selected)

    def asked(look: Look) -> Selection:
        profile = selected.profile.with_seeds(look.seeds)
        serves = planned(profile, arguments["experiments"].split())
        ours = {
            trial: names
            for trial, names in serves.items()
            if trial.condition in conditions and trial.seed < look.seeds  # the controls' further seeds are not asked
        }
        return replace(selected, profile=profile, serves=with_needed(ours, serves))

    done = accounts(asked(sequence[-1]))
    reached = [look for look in sequence if all(has_result(done, trial) for trial in asked(look).trials)]
    target = reached[-1] if reached else sequence[0]
    seen: list[Seen] = []
    spent: list[Forecast] = []
    while True:
        chosen = asked(target)
        plan = plan_of(chosen, accounts(chosen), console.print)
        if over := _over_budget(spent, plan, arguments):
            ended = f"{target.seeds} seeds would {over}"
            break
        if lacking := run_missing(chosen, console):
            ended = f"{lacking} trials have no result"
            break
        spent += _taken(plan, accounts(chosen))
        logged = reader.read(chosen.execution, chosen.trials)
        for look in sequence[len(seen) : target.number]:
            seen.append(see(_outcome(claim, asked(look), logged), look))
            console.print(_line(seen[-1]), markup=False, soft_wrap=True)
            if seen[-1].verdict is not Kind.UNDECIDED:
                break
        later = sequence[len(seen) :]
        if seen[-1].verdict is not Kind.UNDECIDED or not later:
            ended = f"more than {most} seeds were not asked for"
            break
        target = following(seen[-1], later)
    return _conclude(selected, seen, ended, console)


def _claim(name: str) -> Claim:
    """The claim that is tested: of two that rest on the same test, the first."""
    known = {claim.id: claim for claim in paper.claims()}
    if name not in known:
        check_choice("claim", name, [*claims.MEASURED, *claims.SAME])
    return known[claims.SAME.get(name, name)]


def _conditions(claim: Claim, selected: Selection) -> set[str]:
    """The conditions that the claim compares. Raises `InputError` where it compares none."""
    outcome = _outcome(claim, selected)
    if isinstance(outcome, Counted):
        raise InputError(f"claim {claim.id} needs no seeds: {outcome.kind}. {outcome.reason}")
    return {condition for part in outcome.parts for rows in part.nets for condition in rows["condition"]}


def _outcome(claim: Claim, selected: Selection, logged: Iterable[Run] = ()) -> Tested | Counted:
    """What the logged of the selected trials say of the claim. Raises `InputError` where they cannot test it."""
    frames = runs.load(selected.serves, logged)
    outcome = outcome_of(
        claim, Study(frames.finals, frames.curves, frames.layers, frames.evaluations, selected.profile)
    )
    if isinstance(outcome, Counted) and outcome.kind is Kind.NOT_TESTABLE:
        raise InputError(f"claim {claim.id} cannot be decided by seeds: {outcome.kind}. {outcome.reason}")
    return outcome


def _over_budget(spent: Iterable[Forecast], plan: Plan, arguments: Mapping[str, Any]) -> str:
    """How far what this command has spent and what the plan would add are over its budget; '' where they are not."""
    together = [*spent, *plan.todo]
    return over_budget(make_plan(together, {each.trial.id for each in together}, plan.nodes), arguments)


def _taken(plan: Plan, said: Accounts) -> Iterator[Forecast]:
    """The forecasts of the trials that the plan ran, with the seconds that they took."""
    for each in plan.todo:
        yield replace(each, seconds=float(said[each.trial.id].tags["seconds"]))


def _line(seen: Seen) -> str:
    """`look 2, 3 seeds: +66.5 points [-12, 145], p = 0.01, level 0.0083: undecided`."""
    numbers = ""
    if seen.effect is not None and seen.interval is not None and seen.p is not None:
        low, high = seen.interval
        unit = seen.unit and f" {seen.unit}"
        numbers = f"{seen.effect:+.3g}{unit} [{low:.3g}, {high:.3g}], p {in_figures(seen.p)}, "
    return f"look {seen.look.number}, {seen.n} seeds: {numbers}level {seen.look.level:.2g}: {seen.verdict}"


def _conclude(selected: Selection, seen: Sequence[Seen], ended: str, console: Console) -> int:
    """Print the verdict, write the record, and return the exit code."""
    name, profile = selected.arguments["until_decided"], selected.profile
    (claim,) = (claim for claim in paper.claims() if claim.id == name)
    verdict, reason = (seen[-1].verdict, seen[-1].reason) if seen else (Kind.UNDECIDED, "")
    decided = verdict is not Kind.UNDECIDED
    text = verdict_in_words(verdict, None if decided else _needed(seen))
    if not decided:
        reason = f"{reason} Ended: {ended}.".strip()
    record = {
        "id": claim.id,
        "section": claim.section,
        "statement": claim.statement,
        "profile": profile.name,
        "data": profile.data.name,
        "verdict": text,
        "reason": reason,
        "runs": seen[-1].runs if seen else [],
        "alpha": ALPHA,
        "looks": [_row(each) for each in seen],
        "command": shlex.join(["python", "-m", "experiments", "run", *sys.argv[2:]]),
        "provenance": provenance.tags(),
    }
    folder = (selected.arguments["results"] or Path("results")) / profile.name / DECISIONS
    path = files.write(folder / f"{name}.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    console.print(f"{text}: {name} {claim.statement}\n{reason}\n{path}", markup=False, soft_wrap=True)
    return 0 if decided else 1


def _needed(seen: Sequence[Seen]) -> int | None:
    """Seeds beyond the last look with which a later one would decide; two are the least."""
    if not seen or seen[-1].p is None:
        return 2 - (seen[-1].n if seen else 0)
    now = seen[-1].look
    look = further(seen[-1], looks(now.seeds + MOST_SEEDS)[now.number :])
    return None if look is None else look.seeds - now.seeds


def _row(seen: Seen) -> dict[str, Any]:
    look = seen.look
    return {
        **{"look": look.number, "seeds": look.seeds, "level": look.level, "n": seen.n, "p": seen.p},
        **{"effect": seen.effect, "interval": seen.interval, "unit": seen.unit, "verdict": seen.verdict},
        "runs": seen.runs,
    }
