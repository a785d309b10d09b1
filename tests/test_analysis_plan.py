"""What an analysis plan covers: verdicts whose test, nets and seeds are its own, on trials that began after it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from planted import frames

from analysis import claims, comparisons, imagenet_claims, paper, plan
from analysis.qualified import judge
from analysis.runs import Frames
from analysis.verdicts import Planned
from commands import preregister
from commands.verify import of_plan
from experiments import initial_layers, plain_vs_residual
from experiments.profiles import PROFILES, SMOKE, Depths, Scale, profile
from study.spec import InputError
from study.store.account import Account, Outcome, write_account

CLASS = profile("class")
REGISTERED = [one for one in PROFILES if one is not SMOKE]
LATER, EARLIER = "2100-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00"


def dated(of: Frames, began: str = LATER) -> Frames:
    """The frames of trials that began then."""
    return replace(of, finals=of.finals.assign(started=began))


@pytest.fixture(scope="module")
def whole() -> Frames:
    return dated(frames(CLASS))


@pytest.mark.parametrize("profile", REGISTERED, ids=lambda profile: profile.name)
def test_every_profile_has_a_plan_and_it_is_what_the_code_tests(profile) -> None:
    """Where this fails, a test has changed: verdicts of trials to come would be exploratory (CONTRIBUTING.md)."""
    written = plan.read(profile.name)
    assert written is not None and written.known and written.dated.tzinfo == UTC
    assert set(written.claims) == {claim.id for claim in paper.claims()}
    assert (dict(written.rules), dict(written.claims)) == (plan.rules(profile), plan.tests(profile))


def test_what_the_plan_covers_is_confirmatory_and_its_digest_is_that_of_the_file(whole: Frames) -> None:
    written = plan.read("class")
    assert written and written.sha256 == hashlib.sha256(plan.path_of("class").read_bytes()).hexdigest()
    tested = [verdict for verdict in judge(whole, CLASS) if verdict.runs]
    assert len(tested) > 10
    assert {(verdict.plan, verdict.plan_reason) for verdict in tested} == {(Planned.CONFIRMATORY, "")}
    assert all(verdict.plan is None for verdict in judge(whole, CLASS) if not verdict.runs)


def test_all_of_quick_is_exploratory_because_its_recipe_was_chosen_by_its_results() -> None:
    quick = profile("quick")
    (reason,) = {verdict.plan_reason for verdict in judge(dated(frames(quick)), quick) if verdict.runs}
    assert "recipe" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda of: (of, CLASS.with_seeds(3)), "its nets, their recipes or their seeds are not those of the plan"),
        (lambda of: (dated(of, EARLIER), CLASS), "before the plan was written"),
        (lambda of: (dated(of, ""), CLASS), "began was not recorded"),
        (lambda of: (dated(of, "yesterday"), CLASS), "began was not recorded"),
        (lambda of: (dated(of, "2100-01-01T00:00:00"), CLASS), "began was not recorded"),
    ],
)
def test_other_seeds_or_earlier_trials_make_verdicts_exploratory(whole: Frames, change: Callable, reason: str) -> None:
    of, asked = change(whole)
    of = dated(frames(asked)) if asked.seeds else of
    (verdict,) = (verdict for verdict in judge(of, asked) if verdict.claim.id == "S1-1")
    assert verdict.plan is Planned.EXPLORATORY and reason in verdict.plan_reason


def test_without_a_plan_every_verdict_is_exploratory(whole: Frames) -> None:
    assert set(plan.uncovered(whole, CLASS, None).values()) == {"there is no analysis plan of profile class"}


def test_another_margin_or_another_rule_is_not_the_plans(whole: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    written = plan.read("class")
    assert written and plan.uncovered(whole, CLASS, written)["S41-15"] == ""
    monkeypatch.setattr(imagenet_claims, "MARGIN", 0.25)
    assert plan.uncovered(whole, CLASS, written)["S41-15"] == "its test is not the one of the plan"
    assert plan.uncovered(whole, CLASS, written)["S1-1"] == ""
    other = replace(written, rules={**written.rules, "level": "one-sided"})
    assert set(plan.uncovered(whole, CLASS, other).values()) == {
        "the rules of all claims have changed since the plan was written"
    }


def test_a_claim_of_the_same_test_as_another_is_covered_as_that_one(
    whole: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(study: comparisons.Study) -> comparisons.Tested:
        tested = claims.residual_test_trend(study)
        return comparisons.Tested([replace(tested.parts[0], direction=1)])

    written = plan.read("class")
    monkeypatch.setitem(claims.MEASURED, "S42-5", another)
    missing = plan.uncovered(whole, CLASS, written)
    assert missing["S42-5"] == missing["S41-26"] == "its test is not the one of the plan"


def test_the_plan_of_an_experiment_on_request_covers_it_where_it_is_requested() -> None:
    """S41-4 takes 32 seeds at the start of training where `initial-layers` is planned, and the profile's elsewhere."""
    asked = CLASS.on_scales({initial_layers.NAME: Scale(seeds=32)})
    fewer = CLASS.on_scales({initial_layers.NAME: Scale(seeds=31)})
    written = plan.read("class")
    reasons = [plan.uncovered(dated(frames(one)), one, written)["S41-4"] for one in (CLASS, asked, fewer)]
    assert reasons == ["", "", "its nets, their recipes or their seeds are not those of the plan"]


def test_a_study_of_fewer_nets_is_covered_where_its_nets_are_those_of_the_plan() -> None:
    nets = plain_vs_residual.SCALE["class"].depths
    smaller = CLASS.on_scales({plain_vs_residual.NAME: Depths(depths=nets[:2], seeds=5)})
    reasons = plan.uncovered(dated(frames(smaller)), smaller, plan.read("class"))
    assert reasons["S42-10"] and not reasons["S41-14"]


def test_the_digest_of_the_code_counts_neither_docstrings_nor_comments(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "tests.py").write_text(text)
        module = type("module", (), {"__file__": str(tmp_path / "tests.py")})
        return plan.code_sha256([module])  # type: ignore[list-item]

    bare = digest("def f(x):\n    return x > 0\n")
    assert bare == digest('"""Tests."""\n\n\ndef f(x):\n    """Above 0."""\n    return x > 0  # strictly\n')
    assert bare != digest("def f(x):\n    return x >= 0\n")


def test_a_plan_is_written_once_and_says_what_was_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FOLDER", tmp_path)

    def write(*options: str) -> None:
        preregister.preregister_command.main(["--profile", "class", *options], standalone_mode=False)

    write("--known", "three seeds of a probe", "--exploratory", "S1-1=it was seen")
    written = plan.read("class")
    assert written and written.known == "three seeds of a probe" and written.exploratory == {"S1-1": "it was seen"}
    assert abs((datetime.now(UTC) - written.dated).total_seconds()) < 60
    for options, why in (
        (("--known", "x"), "a plan is written once"),
        (("--replace", "--exploratory", "S9-9=x"), "claim 'S9-9' is unknown"),
        (("--replace", "--exploratory", "S1-1"), "has no reason; write CLAIM=REASON"),
    ):
        with pytest.raises(InputError, match=why):
            write(*options)
    assert plan.read("class") == written
    (tmp_path / "class.yaml").write_text("claims: 1")
    with pytest.raises(InputError, match="is no analysis plan"):
        plan.read("class")


@pytest.mark.parametrize(("began", "said"), [(2 * 10**12, "older than all 1 trials"), (10**12, "younger than 1 of 1")])
def test_verify_says_whether_the_plan_is_older_than_the_first_trial(tmp_path: Path, began: int, said: str) -> None:
    folder = tmp_path / "trials" / "plain20-digits-x-s0"
    folder.mkdir(parents=True)
    write_account(folder, Account(started=began, outcome=Outcome.FINISHED, tags={"records_sha256": "x"}))
    written = plan.read("class")
    assert written
    manifest = {
        "results": {"plain20-digits-x-s0": "x"},
        "plan": {
            "file": "class.yaml",
            "sha256": "another",
            "dated": written.dated.isoformat(),
            "code_unchanged": False,
        },
    }
    sentence = of_plan(json.loads(json.dumps(manifest)), tmp_path)
    assert said in sentence and "by its own word" in sentence and "the code of the tests has changed" in sentence
    assert of_plan({"plan": None}, tmp_path) == "no analysis plan: every verdict is exploratory"
