"""Claims about how verdicts are shown: by question, and counted for what they are worth."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from planted import FIVE_DEPTHS, frames

from analysis import claims, counted_claims, paper, report
from analysis.qualified import judge
from analysis.questions import QUESTIONS, by_question, family_of, in_one_sentence, largest_contrast
from analysis.tables.claims import answers, verdict_table
from analysis.verdicts import Kind, Planned, Verdict, ranked

CLAIMS = {claim.id: claim for claim in paper.claims()}


def verdict(claim: str, *runs: str, kind: Kind = Kind.SUPPORTED, proxy: bool = False) -> Verdict:
    return Verdict(claim=CLAIMS[claim], kind=kind, reason="", runs=runs, n=len(runs), proxy=proxy)


def runs_of(*nets: str) -> pd.DataFrame:
    """Two seeds of each net, with run ids such as `plain-20/0`."""
    rows = [(f"{net}/{seed}", f"{net}-recipe", net, int(net.split("-")[1])) for net in nets for seed in (0, 1)]
    return pd.DataFrame(rows, columns=["run_id", "condition", "title", "depth"])


FINALS = runs_of("plain-20", "plain-56", "ResNet-20")
DEEP, SHALLOW, OTHER = (FINALS["run_id"][FINALS["title"] == net] for net in ("plain-56", "plain-20", "ResNet-20"))


def test_every_family_and_what_is_counted_is_a_question():
    assert set(QUESTIONS) == {*claims.FAMILIES, "counted"}
    assert {name for name in CLAIMS if family_of(name) == "counted"} == set(counted_claims.CLAIMS)
    assert family_of("S3-4") == family_of(claims.SAME["S3-4"]) == "layers"


def test_verdicts_stand_under_their_question_with_what_needs_attention_first():
    mixed = [verdict("S42-6"), verdict("S1-1"), verdict("S1-2", kind=Kind.CONTRADICTED), verdict("S3-1"),
             verdict("S1-3", kind=Kind.NOT_TESTABLE)]  # fmt: skip
    grouped = {question: [one.claim.id for one in alike] for question, alike in by_question(mixed).items()}
    assert grouped == {
        QUESTIONS["degradation"]: ["S1-2", "S1-1"],
        QUESTIONS["residual nets"]: ["S42-6"],
        QUESTIONS["counted"]: ["S3-1"],
    }


@pytest.fixture(scope="module")
def judged() -> tuple[list[Verdict], pd.DataFrame]:
    study = frames(FIVE_DEPTHS)
    return judge(study, FIVE_DEPTHS), study.finals


def test_no_testable_claim_is_left_out_and_the_effect_is_before_the_verdict(judged):
    table = verdict_table(judged[0])
    assert set(table["claim"]) == {one.claim.id for one in ranked(judged[0])} and table["claim"].is_unique
    columns = list(table.columns)
    assert columns.index("effect [interval]") < columns.index("verdict") < columns.index("analysis")


def test_claims_of_the_same_conditions_rest_on_one_contrast_whichever_seeds_they_use():
    judged = [
        verdict("S1-1", *DEEP, *SHALLOW),
        verdict("S1-2", *DEEP[:1], *SHALLOW),
        verdict("S42-6", *DEEP, *SHALLOW, *OTHER),
        verdict("S42-4", *OTHER),
        verdict("S1-3", *DEEP, *SHALLOW, kind=Kind.UNDECIDED),
    ]
    contrast = largest_contrast(judged, FINALS)
    assert contrast == (("plain-56", "plain-20"), ("S1-1", "S1-2"), ("S42-6",))
    sentence = in_one_sentence(judged, FINALS)
    assert "2 of the 4 supported ones rest on one contrast, plain-56 against plain-20, which enters into 1" in sentence
    assert "one contrast" not in in_one_sentence([verdict("S1-1", *DEEP), verdict("S1-2", *SHALLOW)], FINALS)


def test_the_sentence_counts_proxies_and_confirmatory_verdicts_of_those_that_rest_on_runs():
    ran = [verdict("S1-1", *DEEP), verdict("S41-14", *SHALLOW, proxy=True)]
    counted = verdict("S3-1", kind=Kind.BY_CONSTRUCTION)
    sentence = in_one_sentence([*ran, counted], FINALS)
    assert "1 holds by construction" in sentence
    assert "Of 2 that rest on runs, 1 is by proxy and none is confirmatory." in sentence
    planned = [replace(one, plan=Planned.CONFIRMATORY) for one in ran]
    assert "2 are confirmatory." in in_one_sentence(planned, FINALS)
    assert in_one_sentence([counted], FINALS) == "1 holds by construction."


def test_the_numbers_of_the_sentence_are_those_of_the_verdicts(judged):
    verdicts, finals = judged
    sentence = in_one_sentence(verdicts, finals)
    ran = [one for one in verdicts if one.testable and one.runs]
    assert f"Of {len(ran)} that rest on runs" in sentence
    contrast = largest_contrast(verdicts, finals)
    assert contrast and len(contrast.claims) > 1 and f"{len(contrast.claims)} of the" in sentence


def test_what_a_lecture_states_of_a_claim_is_its_verdict_and_changes_with_it():
    supported = replace(verdict("S1-1", *DEEP, *SHALLOW), effect=61.234, interval=(55.0, 67.4))
    assert answers([supported], "S1-1", "S42-3").endswith("(S1-1): +61.2 [55, 67.4], **supported**, n = 4")
    untestable = replace(verdict("S1-1", kind=Kind.NOT_TESTABLE), reason="No such nets.")
    assert answers([untestable], "S1-1").endswith("(S1-1): **not testable in this profile**. No such nets.")


def test_lectures_state_no_result_in_their_text():
    """Every claim that a lecture names is printed by a cell; its text has no verdict's number."""
    for source in report.NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(source.read_text())["cells"]
        text = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert not re.search(r"\bS\d+-\d+\b|\+-|±", text), source.name
        named = re.findall(r'"(S\d+-\d+)"', " ".join("".join(cell["source"]) for cell in cells))
        assert set(named) <= set(CLAIMS) and (named or source.stem == "past_the_paper")
