"""`run --until-decided CLAIM`: seeds are added until one claim is decided, or seeds or budget end.

Owns the rounds of such a sequence and its record. The rule is `analysis/sequential.py`. Must not know any particular
claim.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from analysis import claims, files, paper, runs
from analysis.comparisons import Counted, Study, Tested
from analysis.decision import in_figures, outcome_of
from analysis.files import DECISIONS
from analysis.paper import Claim
from analysis.sequential import FEWEST, Look, Seen, further_seeds, looks, next_look, see
from analysis.statistics import ALPHA
from analysis.verdicts import Kind, in_words
from commands.accounts import accounts
from commands.budget import over_budget
from commands.options import PROBE, RUN_OPTIONS, Costs, Deciding, Selection, costs, deciding, selecting
from commands.plan import HERE, plan_of, probe_conditions
from commands.train import run_missing
from experiments import planned, with_needed
from experiments.profiles import MOST_SEEDS
from study.run.forecast import Accounts, Forecast, Plan, has_result, make_plan
from study.spec import InputError, check_at_least, check_at_most, check_choice
from study.store import provenance
from study.store.records import Run

SEEDS = 24  # that one command adds at most, without --max-seeds


@click.command("decide")
@selecting(*RUN_OPTIONS)
@costs
@PROBE
@deciding
def decide_command(selected: Selection, costs: Costs, probe: bool, deciding: Deciding) -> int:
    """Add seeds until a claim is decided. Exit code 1 if seeds or budget end before."""
    return decide(selected, costs, probe, deciding, Console(highlight=False))


def decide(selected: Selection, costs: Costs, probe: bool, deciding: Deciding, console: Console) -> int:
    """Add seeds until the claim is decided; print every look and write the record. 0 if it is decided, else 1.

    A look is a function of the runs of its seeds, so that the same command again goes on where this one stopped.
    Raises `InputError` for a claim that seeds of this profile cannot decide, or one that was looked at by another rule.
    """
    most = deciding.max_seeds
    if most is not None:
        check_at_least("max-seeds", most, FEWEST)
        check_at_most("max-seeds", most, MOST_SEEDS)
    for name, value in (("seeds", selected.choice.seeds), ("profile-trace", selected.execution.profile_trace)):
        if value:
            raise InputError(f"--{name} does not go with --until-decided; leave one of them out")
    claim = _claim(deciding.until_decided)
    question = Question(claim, _conditions(claim, selected), selected)
    _check_rule(selected, deciding)
    sequence, reached = _sequence(question, most)
    target = reached or sequence[0]
    seen: list[Seen] = []
    spent: list[Forecast] = []
    while True:
        if ended := _train(question, target, spent, costs, probe, console):
            break
        logged = _logged(question.at(target))
        for look in sequence[len(seen) : target.number]:
            seen.append(see(_outcome(claim, question.at(look), logged), look))
            console.print(_line(seen[-1]), markup=False, soft_wrap=True)
            if seen[-1].verdict is not Kind.UNDECIDED:
                break
        later = sequence[len(seen) :]
        if seen[-1].verdict is not Kind.UNDECIDED or not later:
            ended = f"more than {most} seeds were not asked for"
            if most is None:
                ended = f"{sequence[-1].seeds} seeds; the same command goes on with up to {SEEDS} more"
            break
        target = next_look(seen[-1], later)
    return _conclude(selected, deciding, seen, ended, console)


@dataclass(frozen=True)
class Question:
    """A claim, and the conditions that it compares."""

    claim: Claim
    conditions: set[str]
    selected: Selection

    def at(self, look: Look) -> Selection:
        """The trials of one look: of the compared conditions, and those whose nets they start from."""
        profile = self.selected.profile.with_seeds(look.seeds)
        serves = planned(profile, self.selected.choice.experiments.split())
        compared = {
            trial: names
            for trial, names in serves.items()
            if trial.condition in self.conditions and trial.seed < look.seeds  # not the controls' further seeds
        }
        return replace(self.selected, profile=profile, serves=with_needed(compared, serves))


def _sequence(question: Question, most: int | None) -> tuple[list[Look], Look | None]:
    """The looks of this command, and the last that is reached; without a most, those of `SEEDS` further seeds."""
    sequence = looks(most, SEEDS)
    reached = _reached(question, sequence)
    while most is None and reached == sequence[-1]:
        sequence = looks(None, reached.seeds + SEEDS)
        reached = _reached(question, sequence)
    return sequence, reached


def _reached(question: Question, sequence: Sequence[Look]) -> Look | None:
    """The last look of which every trial has a result."""
    known = accounts(question.at(sequence[-1]))
    reached = [look for look in sequence if all(has_result(known, trial) for trial in question.at(look).trials)]
    return reached[-1] if reached else None


def _train(question: Question, target: Look, spent: list[Forecast], costs: Costs, probe: bool, console: Console) -> str:
    """Train what a look lacks, and add it to what is `spent`; why the sequence ends here, or ''."""
    selected = question.at(target)
    known = accounts(selected)
    if probe:
        probe_conditions(selected, known, HERE, lambda text: console.print(text, soft_wrap=True))
    plan = plan_of(selected, known)
    if over := _over_budget(spent, plan, costs):
        return f"{target.seeds} seeds would {over}"
    if lacking := run_missing(selected, costs, False, console):
        return f"{lacking} trials have no result"
    spent += _taken(plan, accounts(selected))
    return ""


def _logged(selected: Selection) -> list[Run]:
    from study.store.mlflow import reader  # with mlflow: seconds before a claim is known to be one

    return reader.read(selected.execution, selected.trials)


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


def _over_budget(spent: Iterable[Forecast], plan: Plan, costs: Costs) -> str:
    """How far what this command has spent and what the plan would add are over its budget; '' where they are not."""
    together = [*spent, *plan.todo]
    every = make_plan(together, [(forecast.trial,) for forecast in together], plan.nodes)
    return over_budget(replace(every, watts=plan.watts), costs)


def _taken(plan: Plan, known: Accounts) -> Iterator[Forecast]:
    """The forecasts of the trials that the plan ran, with the seconds that they took."""
    for forecast in plan.todo:
        yield replace(forecast, seconds=float(known[forecast.trial.id].tags.get("seconds", forecast.seconds)))


def _line(seen: Seen) -> str:
    """`look 2, 4 seeds: +66.5 points [-12, 145], p = 0.01, level 0.0028: undecided`."""
    numbers = ""
    if seen.effect is not None and seen.interval is not None and seen.p is not None:
        low, high = seen.interval
        unit = seen.unit and f" {seen.unit}"
        numbers = f"{seen.effect:+.3g}{unit} [{low:.3g}, {high:.3g}], p {in_figures(seen.p)}, "
    return f"look {seen.look.number}, {seen.n} seeds: {numbers}level {seen.level:.2g}: {seen.verdict}"


def _conclude(selected: Selection, deciding: Deciding, seen: Sequence[Seen], ended: str, console: Console) -> int:
    """Print the verdict, write the record, and return the exit code."""
    name, profile = deciding.until_decided, selected.profile
    (claim,) = (claim for claim in paper.claims() if claim.id == name)
    verdict, reason = (seen[-1].verdict, seen[-1].reason) if seen else (Kind.UNDECIDED, "")
    decided = verdict is not Kind.UNDECIDED
    leaning = seen[-1].leaning if seen else None
    text = in_words(
        verdict, leaning, None if decided else further_seeds(seen, looks(deciding.max_seeds, SEEDS)[0].seeds)
    )
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
        "max_seeds": deciding.max_seeds,
        "looks": [_row(look) for look in seen],
        "command": shlex.join(["python", "-m", "experiments", "run", *sys.argv[2:]]),
        "provenance": provenance.tags(),
    }
    path = files.write(_path(selected, deciding), json.dumps(record, indent=1, allow_nan=False) + "\n")
    console.print(f"{text}: {name} {claim.statement}\n{reason}\n{path}", markup=False, soft_wrap=True)
    return 0 if decided else 1


def _path(selected: Selection, deciding: Deciding) -> Path:
    folder = (deciding.results or Path("results")) / selected.profile.name / DECISIONS
    return folder / f"{deciding.until_decided}.json"


def _check_rule(selected: Selection, deciding: Deciding) -> None:
    """Raises `InputError` where the record is of looks by another rule: two rules together are wrong more often."""
    path = _path(selected, deciding)
    if not path.exists():
        return
    record = json.loads(path.read_bytes())
    if record["data"] == selected.profile.data.name and record.get("max_seeds", 0) != deciding.max_seeds:
        known = {0: "the rule of an earlier version", None: "the rule without --max-seeds"}
        rule = known.get(record.get("max_seeds", 0), f"--max-seeds {record.get('max_seeds')}")
        raise InputError(f"{path} has looks by {rule}; repeat that, or name another folder with --results")


def _row(seen: Seen) -> dict[str, Any]:
    look = seen.look
    return {
        **{"look": look.number, "seeds": look.seeds, "level": seen.level, "n": seen.n, "p": seen.p},
        **{"effect": seen.effect, "interval": seen.interval, "unit": seen.unit, "verdict": seen.verdict},
        "runs": seen.runs,
    }
