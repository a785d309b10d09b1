"""Claims about the referee's page: its numbers are those of the study, and what was not run is named."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import frames
from scipy import stats

from analysis import budget, controls, page, plan, referee
from analysis.nets import serving
from analysis.qualified import judge
from analysis.runs import Frames
from analysis.verdicts import Kind, Planned, Verdict
from experiments import budget as budget_experiment
from experiments import controls as controls_experiment
from experiments import placebo
from experiments.profiles import QUICK


@pytest.fixture(scope="module")
def study() -> Frames:
    return frames(QUICK)


@pytest.fixture(scope="module")
def judged(study: Frames) -> list[Verdict]:
    return judge(study, QUICK)


def answers(study: Frames, judged: list[Verdict]) -> dict[str, str]:
    return {row.question: " ".join(row.answers) for row in referee.rows(study, judged, "quick")}


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (6, 0.05 / 4)])
def test_the_least_effect_is_found_in_80_percent_of_simulated_studies(n, alpha):
    """Nets of deviation 1, so that a difference of one seed each has sqrt(2)."""
    random, studies = np.random.default_rng(0), 4000
    shift = referee.least_effect(n, alpha) * math.sqrt(2)
    drawn = random.normal(size=(2, studies, n)) + np.array([shift, 0.0])[:, None, None]
    found = stats.ttest_ind(*drawn, axis=1).pvalue < alpha
    assert found.mean() == pytest.approx(0.8, abs=0.025)
    assert math.isnan(referee.least_effect(1))


def test_the_plan_is_named_with_its_digest_and_the_reasons_of_exploratory_verdicts(study, judged):
    dated = plan.read("quick")
    assert dated is not None
    said = answers(study, judged)["Plan"]
    assert "quick.yaml" in said and dated.sha256[:10] in said and dated.sha256[:11] not in said
    ran = [verdict for verdict in judged if verdict.plan]
    confirmatory = sum(verdict.plan is Planned.CONFIRMATORY for verdict in ran)
    assert f"Confirmatory are {confirmatory} of {len(ran)} verdicts" in said
    assert all(verdict.plan_reason in said for verdict in ran)
    assert "no analysis plan of profile other" in " ".join(referee.rows(study, judged, "other")[0].answers)


def test_rates_of_false_positives_are_those_of_the_controls(study, judged):
    said = answers(study, judged)["Error rates"]
    rates = controls.measured(serving(study.finals, controls_experiment.NAME)).dropna(subset=["false_positives"])
    assert len(rates) == 3
    for row in rates.to_dict("records"):
        assert f"{row['quantity']}: {row['false_positives']:.0f} of {row['n']} comparisons" in said


def test_power_is_told_for_the_seeds_that_claims_were_tested_with(study, judged):
    said = answers(study, judged)["Power"]
    tested = [verdict for verdict in judged if verdict.p is not None]
    assert set(map(int, re.findall(r"With (\d+) seeds", said))) == {verdict.n for verdict in tested}
    assert answers(study, [])["Power"] == "No claim was tested."


def test_the_gap_of_every_length_is_that_of_the_budget(study, judged):
    fit = budget.fitted(study.finals)
    assert fit is not None and any(gap.n for gap in fit.gaps.values())
    said = answers(study, judged)["Longer schedules"]
    assert all(f"{gap.mean:.3g} [" in said and f"after {length:,} iter" in said for length, gap in fit.gaps.items())


def test_claims_that_hold_without_training_are_named(study, judged):
    without = [replace(judged[0], kind=Kind.WITHOUT_TRAINING)]
    assert f"{judged[0].claim.id} is also supported after" in answers(study, without)["Placebo"]


def test_what_was_not_run_is_named(study, judged):
    left_out = {placebo.NAME, budget_experiment.NAME, "budget-grid", controls_experiment.NAME, "rates"}
    kept = [not left_out & set(names.split(",")) for names in study.finals["experiments"]]
    said = answers(Frames(study.finals[kept], study.curves, study.layers, study.evaluations), judged)
    assert "placebo was not run" in said["Placebo"]
    assert "were not run" in said["Longer schedules"]
    assert "controls (a net against itself, shuffled labels) were not run" in said["Error rates"]
    assert "Rates were not compared" in said["Each net at its best rate"]


def test_the_page_escapes_what_it_shows():
    rows = [referee.Row("<i>", ("<script>alert(1)</script>",))]
    finals = pd.DataFrame(columns=["run_id", "condition", "title", "depth"])
    text = page.render_referee("<b>", rows, [], finals)
    assert "<script>" not in text and "<b>" not in text and "<i>" not in text and "&lt;script&gt;" in text
