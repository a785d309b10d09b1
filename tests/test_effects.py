"""Gaps, benefits, differences of shortcuts, critical depth and iterations to a target are what was planted."""

import pandas as pd
import pytest
from planted import FIVE_DEPTHS, frames

from analysis import effects
from analysis.nets import beside_plain, serving
from study.spec import Trial

TEST = "test_error_pct"


def falling_then_rising(trial: Trial) -> float:
    """Plain nets lose 1 point to 32 layers and 2 a net from there on; residual nets stay at 3."""
    return {20: 10.0, 32: 9.0, 44: 11.0, 56: 13.0, 110: 15.0}.get(trial.model.depth, 3.0) if plain(trial) else 3.0


def plain(trial: Trial) -> bool:
    return trial.model.family == "plain"


def finals(**planting) -> pd.DataFrame:
    return serving(frames(FIVE_DEPTHS, **planting).finals, "plain-vs-residual")


def means(rows: pd.DataFrame) -> dict[int, float]:
    return dict(zip(rows["depth"], rows["mean"], strict=True))


def test_gap_and_benefit_are_the_planted_differences():
    study = finals(test_error=falling_then_rising, noise=0.0)
    gap = effects.degradation_gap(study, TEST)
    assert means(gap) == {32: -1.0, 44: 1.0, 56: 3.0, 110: 5.0}
    assert means(effects.degradation_gap(study, TEST, "residual")) == dict.fromkeys((32, 44, 56, 110), 0.0)
    assert means(effects.residual_benefit(study, TEST)) == {20: 7.0, 32: 6.0, 44: 8.0, 56: 10.0, 110: 12.0}
    assert (gap["n"] == 3).all()


def test_the_critical_depth_lies_where_the_gap_first_exceeds_a_point():
    gap = effects.degradation_gap(finals(test_error=falling_then_rising, noise=0.01), TEST)
    assert effects.critical_depth(gap) == (44, 56)
    assert effects.critical_depth(gap[gap["depth"] > 32]) == (44, 56)
    never = effects.degradation_gap(finals(test_error=lambda trial: 5.0, noise=0.01), TEST, "residual")
    assert effects.critical_depth(never) == (110, None)


def test_a_seed_counts_only_where_both_nets_finished():
    def outcome(trial: Trial) -> str:
        return "diverged" if plain(trial) and trial.model.depth == 56 and trial.seed == 1 else "finished"

    study = finals(test_error=falling_then_rising, noise=0.0, outcomes=outcome)
    for rows in (effects.degradation_gap(study, TEST), effects.residual_benefit(study, TEST)):
        counts = dict(zip(rows["depth"], rows["n"], strict=True))
        assert counts.pop(56) == 2 and set(counts.values()) == {3}


@pytest.mark.parametrize("outcome", ["missing", "diverged"])
def test_a_study_without_errors_has_no_quantity(outcome):
    study = finals(outcomes=lambda trial: outcome)
    assert effects.degradation_gap(study, TEST).empty and effects.residual_benefit(study, TEST).empty


def test_the_generalisation_gap_is_test_minus_clean_training_error_of_the_last_iterate():
    study = finals(error=lambda trial: 10.0, test_error=lambda trial: 12.0, noise=0.0)
    gap = effects.generalisation_gap(study, "plain")  # planted curves have nine tenths of it as clean training error
    clean = study.query("family == 'plain'").groupby("depth")["clean_train_error_pct"].mean()
    assert means(gap) == pytest.approx((12.0 - clean).to_dict())
    assert (gap["high"] > gap["low"]).all()  # no narrower than one image allows


def test_differences_of_shortcuts_are_paired_by_seed():
    errors = {"none": 20.0, "A": 8.0, "B": 7.0, "C": 7.5}

    def error(trial: Trial) -> float:
        return errors[trial.model.shortcut] + 10 * trial.seed  # cancels in a pair

    study = beside_plain(frames(FIVE_DEPTHS, test_error=error, noise=0.0).finals)
    found = effects.shortcut_differences(study, TEST)
    at_20 = found[found["depth"] == 20].set_index("quantity")
    expected = {"plain - A": 12.0, "plain - B": 13.0, "plain - C": 12.5, "B - A": -1.0, "C - A": -0.5, "C - B": 0.5}
    assert at_20["mean"].to_dict() == pytest.approx(expected)
    assert at_20["sd"].to_dict() == pytest.approx(dict.fromkeys(expected, 0.0), abs=1e-9)


def reaching(study: pd.DataFrame, at: dict[int, float | None], outcome: str = "finished") -> pd.DataFrame:
    """The 20-layer plain net's seeds reach 10 % at these iterations, or never."""
    study = study.copy()
    for seed, iteration in at.items():
        row = (study["title"] == "plain-20") & (study["seed"] == seed)
        study.loc[row, "reached_10_pct"] = float("nan") if iteration is None else iteration
        study.loc[row, "outcome"] = "finished" if iteration else outcome
    return effects.iterations_to_target(study, 10, "plain").set_index("depth").loc[20]


@pytest.mark.parametrize("outcome", ["finished", "diverged"])
def test_a_trial_that_never_reaches_the_target_is_censored_and_not_averaged_in(outcome):
    study = finals()
    all_of_them = reaching(study, {0: 100.0, 1: 120.0, 2: 300.0})
    one_never = reaching(study, {0: 100.0, 1: 120.0, 2: None}, outcome)
    two_never = reaching(study, {0: 100.0, 1: None, 2: None}, outcome)
    assert (all_of_them["median"], all_of_them["reached"]) == (120.0, 3)
    assert (one_never["median"], one_never["reached"], one_never["n"]) == (120.0, 2, 3)
    assert pd.isna(two_never["median"]) and two_never["reached"] == 1


def test_an_unfinished_trial_says_nothing_of_when_a_target_is_reached():
    study = finals(outcomes=lambda trial: "running" if trial.seed == 2 else "finished")
    assert (effects.iterations_to_target(study, 50, "residual")["n"] == 2).all()
    assert study.loc[study["outcome"] == "running", "reached_50_pct"].isna().all()
