"""The analysis plan of a profile: what every claim tests, in a file that is older than the data.

Owns the files `plans/<profile>.yaml`, what of a claim's test belongs into them, and which verdicts they cover. A
verdict is confirmatory if its test, its nets and its seeds are those of the plan, and its first trial began after the
plan was written. Every other one is exploratory. Must not know how a verdict is reached.
Not covered: the arithmetic beneath a test. `code_sha256` says whether that has changed; git says how.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import yaml

from analysis import claims, comparisons, counted_claims, decision, detection_claims, imagenet_claims, paper, statistics
from analysis.comparisons import Part, Study, Tested
from analysis.decision import outcome_of
from analysis.runs import MISSING, Frames, load
from experiments import EXPERIMENTS, budget, name_of, placebo, planned, rates, scale_of, starts
from experiments.profiles import Profile
from study.spec import InputError

FOLDER = Path(__file__).parent / "plans"
EVERY = "*"  # in `exploratory`: all claims
CODE = (claims, imagenet_claims, detection_claims, comparisons, decision, statistics)
Test = dict[str, Any]  # of a claim, as it is in the file


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A file of `plans/`. `exploratory`: by claim, or '*' for all, why its verdict is not confirmatory."""

    profile: str
    dated: datetime
    known: str  # what had been seen of the profile when the plan was written
    exploratory: Mapping[str, str]
    code_sha256: str
    rules: Mapping[str, Any]
    claims: Mapping[str, Sequence[Test]]
    sha256: str  # of the file


def path_of(profile: str) -> Path:
    return FOLDER / f"{profile}.yaml"


def read(profile: str) -> Plan | None:
    """The plan of the profile of that name; None where there is none. Raises `InputError` for a file that is none."""
    path = path_of(profile)
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        return Plan(**yaml.safe_load(content), sha256=hashlib.sha256(content).hexdigest())
    except (TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no analysis plan ({error}); git has what it was") from None


def text(profile: Profile, dated: datetime, known: str, exploratory: Mapping[str, str]) -> str:
    """The content of the profile's file, as the code plans its analysis now."""
    content = {
        "profile": profile.name,
        "dated": dated,
        "known": known,
        "exploratory": dict(exploratory),
        "code_sha256": code_sha256(),
        "rules": rules(profile),
        "claims": tests(profile),
    }
    return yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)


def tests(profile: Profile) -> dict[str, list[Test]]:
    """By claim, its tests: of the trials that the profile plans, and where it differs of all, those on request too."""
    everything = [name_of(experiment) for experiment in EXPERIMENTS if scale_of(experiment, profile)]
    usual, requested = (tests_of(load(planned(profile, names), ()), profile) for names in ((), everything))
    return {name: [usual[name], *([requested[name]] if requested[name] != usual[name] else [])] for name in usual}


def tests_of(frames: Frames, profile: Profile) -> dict[str, Test]:
    """By claim, what is tested on the trials that are planned, whatever their runs measured."""
    nothing = {name: value for name, value in MISSING.items() if name in frames.finals}
    study = Study(
        frames.finals.assign(**nothing),
        frames.curves.iloc[:0],
        frames.layers.iloc[:0],
        frames.evaluations.iloc[:0],
        profile,
    )
    families = {name: family for family, members in claims.FAMILIES.items() for name in members}
    found: dict[str, Test] = {}
    for claim in paper.claims():
        if claim.id in counted_claims.CLAIMS:
            found[claim.id] = {"counted": True}
        elif claim.id in claims.SAME:
            found[claim.id] = {"same_as": claims.SAME[claim.id]}
        else:
            outcome = outcome_of(claim, study)
            if isinstance(outcome, Tested):
                parts = [_part(part) for part in outcome.parts]
                found[claim.id] = {"family": families[claim.id], "proxy": outcome.proxy, "parts": parts}
            else:
                found[claim.id] = {"not_testable": outcome.reason}
    return found


def _part(part: Part) -> Test:
    """A comparison without its numbers: what it is of, what the claim says of it, and the seeds of each net."""
    side = {1: "above 0", -1: "below 0", 0: f"within {part.margin:g} of 0"}[part.direction]
    nets = pd.concat(part.nets).drop_duplicates("id").groupby("condition", sort=False)["seed"].nunique()
    seeds = {str(condition): int(count) for condition, count in nets.items()}
    test = ("Welch" if part.arms else "one number a seed") + (", against only" if part.guard else "")
    return {"estimand": part.what, "unit": part.unit, "claim": side, "test": test, "seeds": seeds}


def rules(profile: Profile) -> dict[str, Any]:
    """What holds for all claims: tests, correction, exclusions, and how placebo, budget, rates and starts are read."""
    read = {
        "level": f"two-sided, {statistics.ALPHA:g}, both ways; of equivalence two one-sided tests at this level",
        "correction": "Holm over the tested claims of a family; Benjamini and Yekutieli's q over the study beside it",
        "parts": "all must hold, p the largest; one contradicts, p the least times their number",
        "exclusions": "trials that did not finish have no error and are left out and named; nothing else is left out",
        "least_seeds": 2,
        "error": "of the last iterate; training error is the running one over the last tenth of the iterations",
    }
    scales = {
        "placebo": (placebo, f"supported after {placebo.ITERATIONS} iterations: holds without training"),
        "budget": (
            budget,
            f"g of gap(T) = g + c T^-k above {budget.MARGIN_PCT:g} points: supported whatever the budget",
        ),
        "rates": (
            rates,
            "each net's rate chosen on held-out images by the first half of the seeds, judged on the others",
        ),
        "starts": (starts, f"constructed start of noise {starts.NOISE:g}; no worse by {starts.MARGIN_PCT:g} points"),
    }
    return read | {name: rule for name, (module, rule) in scales.items() if scale_of(module, profile)}


def code_sha256(modules: Iterable[ModuleType] = CODE) -> str:
    """Of the text of the modules that test claims, without comments, docstrings and white space."""
    whole = hashlib.sha256()
    for module in modules:
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                first, last = node.body[0].lineno, node.body[0].end_lineno or 0
                lines[first - 1 : last] = [""] * (last - first + 1)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
        whole.update("".join("".join(lines).split()).encode())
    return whole.hexdigest()


def uncovered(frames: Frames, profile: Profile, plan: Plan | None) -> dict[str, str]:
    """By claim, why the plan does not cover its test; '' where it does, trials' times apart (`began_before`)."""
    present = tests_of(frames, profile)
    if plan is None:
        return dict.fromkeys(present, f"there is no analysis plan of profile {profile.name}")
    if plan.rules != rules(profile):
        return dict.fromkeys(present, "the rules of all claims have changed since the plan was written")
    return {name: _uncovered(name, test, plan, present) for name, test in present.items()}


def _uncovered(name: str, test: Test, plan: Plan, present: Mapping[str, Test]) -> str:
    if reason := plan.exploratory.get(name) or plan.exploratory.get(EVERY):
        return reason
    dated = plan.claims.get(name, ())
    if test in dated:
        same = test.get("same_as")
        return _uncovered(same, present[same], plan, present) if same else ""
    if _without_seeds(test) in map(_without_seeds, dated):
        return "its nets, their recipes or their seeds are not those of the plan"
    return "its test is not the one of the plan"


def _without_seeds(test: Test) -> Test:
    parts = [{name: value for name, value in part.items() if name != "seeds"} for part in test.get("parts", ())]
    return {**test, "parts": parts}


def _moment(text: str) -> datetime | None:
    """The moment of a run's tag, which may be anybody's; None where it is none, or of no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def began_before(plan: Plan, finals: pd.DataFrame, runs: Sequence[str]) -> str:
    """Why these runs are not covered by the date of the plan; '' if all began after it."""
    used = finals[finals["run_id"].isin(runs)]
    for started, id in sorted(zip(used["started"], used["id"], strict=True)):
        began = _moment(started)
        if began is None:
            return f"when {id} began was not recorded"
        if began < plan.dated:
            return f"{id} began on {started}, before the plan was written"
    return ""
