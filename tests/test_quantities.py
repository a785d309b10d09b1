"""Degradation gap, residual benefit and critical depth are what was planted."""

import pandas as pd
import pytest
from planted import frames

from analysis import quantities
from analysis.figures import serving
from experiments.profiles import QUICK
from study.spec import Trial

TEST = "test_error_pct"


def falling_then_rising(trial: Trial) -> float:
    """Plain nets lose 1 point to 32 layers and 2 a net from there on; residual nets stay at 3."""
    return {20: 10.0, 32: 9.0, 44: 11.0, 56: 13.0, 110: 15.0}.get(trial.model.depth, 3.0) if plain(trial) else 3.0


def plain(trial: Trial) -> bool:
    return trial.model.family == "plain"


def finals(**planting) -> pd.DataFrame:
    return serving(frames(QUICK, **planting).finals, "plain-vs-residual")


def means(rows: pd.DataFrame) -> dict[int, float]:
    return dict(zip(rows["depth"], rows["mean"], strict=True))


def test_gap_and_benefit_are_the_planted_differences():
    study = finals(test_error=falling_then_rising, noise=0.0)
    gap = quantities.degradation_gap(study, TEST)
    assert means(gap) == {32: -1.0, 44: 1.0, 56: 3.0, 110: 5.0}
    assert means(quantities.degradation_gap(study, TEST, "residual")) == dict.fromkeys((32, 44, 56, 110), 0.0)
    assert means(quantities.residual_benefit(study, TEST)) == {20: 7.0, 32: 6.0, 44: 8.0, 56: 10.0, 110: 12.0}
    assert (gap["n"] == 3).all()


def test_the_critical_depth_lies_where_the_interval_first_excludes_zero():
    gap = quantities.degradation_gap(finals(test_error=falling_then_rising, noise=0.01), TEST)
    assert quantities.critical_depth(gap) == (32, 44)
    assert quantities.critical_depth(gap[gap["depth"] > 32]) == (20, 44)
    never = quantities.degradation_gap(finals(test_error=lambda trial: 5.0, noise=0.01), TEST, "residual")
    assert quantities.critical_depth(never) == (110, None)


def test_a_seed_counts_only_where_both_nets_finished():
    def outcome(trial: Trial) -> str:
        return "diverged" if plain(trial) and trial.model.depth == 56 and trial.seed == 1 else "finished"

    study = finals(test_error=falling_then_rising, noise=0.0, outcomes=outcome)
    for rows in (quantities.degradation_gap(study, TEST), quantities.residual_benefit(study, TEST)):
        counts = dict(zip(rows["depth"], rows["n"], strict=True))
        assert counts.pop(56) == 2 and set(counts.values()) == {3}


@pytest.mark.parametrize("outcome", ["missing", "diverged"])
def test_a_study_without_errors_has_no_quantity(outcome):
    study = finals(outcomes=lambda trial: outcome)
    assert quantities.degradation_gap(study, TEST).empty and quantities.residual_benefit(study, TEST).empty
