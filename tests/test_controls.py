"""Negative controls: right where there is nothing to find, and loud where there is something."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import FIVE_DEPTHS, frames

from analysis import controls
from analysis.decision import evaluate
from analysis.nets import serving
from experiments import controls as experiment
from experiments import depth_scaling, learning_rate, most_seeds, plain_vs_residual, planned, shortcut_options
from experiments.profiles import PROFILES, Depths
from study.spec import Trial


def thirty(trial: Trial) -> float:
    return 30.0


def measured(**planting) -> pd.DataFrame:
    finals = serving(
        frames(FIVE_DEPTHS, **({"error": thirty, "test_error": thirty, "noise": 1.0} | planting)).finals, "controls"
    )
    return controls.measured(finals).set_index("quantity")


def flagged(rows: pd.DataFrame) -> set[str]:
    """Quantities whose expected value lies outside their interval."""
    return set(rows.index[(rows["low"] > rows["expected"]) | (rows["high"] < rows["expected"])])


def test_half_of_the_a_a_trials_or_all_are_the_main_experiments_own():
    for profile in PROFILES:
        main, seeds = set(plain_vs_residual.trials(profile)), plain_vs_residual.SCALE[profile.name].seeds
        same = [trial for trial in experiment.trials(profile) if trial.data.labels == "true"]
        twice = 2 * experiment.SCALE[profile.name].seeds
        assert len(same) == 2 * twice and len(set(same) & main) == 2 * min(seeds, twice) >= twice
        assert {trial.seed for trial in set(same) - main} == set(range(seeds, twice))


def test_seeds_beyond_the_profiles_serve_nothing_but_the_controls():
    for profile in PROFILES:
        for trial, experiments in planned(profile).items():
            extra = trial.seed >= most_seeds(profile) or trial.data.labels == "shuffled"
            assert not extra or experiments == ["controls"]


def test_claims_are_the_same_with_and_without_the_controls():
    study = frames(FIVE_DEPTHS, noise=1.0)
    kept = study.finals["experiments"] != "controls"
    alone = type(study)(study.finals[kept], study.curves, study.layers)
    assert evaluate(study, FIVE_DEPTHS) == evaluate(alone, FIVE_DEPTHS)


def test_every_split_of_six_seeds_pairs_each_with_another_once():
    found = controls.splits(range(6))
    assert len(found) == len(set(map(tuple, found))) == 120  # 15 ways to pair six off, times 2**3 orders
    assert all(sorted(seed for pair in split for seed in pair) == list(range(6)) for split in found)
    assert len(controls.splits("abcd")) == 12 and controls.splits(range(5)) == controls.splits(range(4))


def test_of_too_many_splits_a_sample_is_drawn_that_is_always_the_same():
    found = controls.splits(range(96))
    assert 900 < len(found) <= controls.MOST_SPLITS and found == controls.splits(range(96))
    assert all(len(split) == 48 for split in found)


@pytest.mark.slow
def test_without_an_effect_the_rate_is_near_what_the_test_promises():
    """Planted studies with noise drawn anew: the mean of their rates, over splits and over pairs of nets."""
    rates: dict[str, list[float]] = {}
    for number in range(40):
        profile = FIVE_DEPTHS.on_scales(
            {
                plain_vs_residual.NAME: Depths(depths=(20,), seeds=3),
                shortcut_options.NAME: None,
                depth_scaling.NAME: None,
                learning_rate.NAME: None,
            }
        )
        other = profile.with_data(replace(FIVE_DEPTHS.data, digest=str(number)))  # other ids, hence other noise
        finals = serving(frames(other, error=thirty, test_error=thirty, noise=1.0).finals, "controls")
        for row in controls.measured(finals).dropna(subset=["false_positives"]).to_dict("records"):
            rates.setdefault(row["quantity"], []).append(row["found"])
    assert len(rates) == 3
    for quantity, found in rates.items():
        error = np.std(found, ddof=1) / len(found) ** 0.5
        assert abs(np.mean(found) - controls.NOMINAL_PCT) < 3.5 * error, quantity


def test_without_an_effect_the_first_seeds_are_like_the_others_and_shuffled_nets_at_chance():
    rows = measured(noise=0.3)
    estimates = rows[rows["false_positives"].isna()]
    assert len(estimates) == 2 * 2 + 3 + 3 and len(flagged(estimates)) <= 2  # of ten intervals at 95 %
    assert set(estimates["expected"]) == {0.0, 90.0}


def test_a_planted_difference_between_the_first_seeds_and_the_others_is_flagged():
    def later(trial: Trial) -> float:
        return 30.0 + 20.0 * (trial.seed >= most_seeds(FIVE_DEPTHS) and trial.model.family == "plain")

    rows = measured(test_error=later)
    (quantity,) = {name for name in flagged(rows) if name.startswith("test error of") and "seeds" in name}
    assert quantity == "test error of plain-20, seeds 0 to 2 minus 3 to 5"
    assert rows.loc[quantity, "found"] == pytest.approx(-20, abs=3)


def test_a_net_that_learns_from_shuffled_labels_is_flagged():
    rows = measured(shuffled=lambda trial: 60.0 if trial.model.depth == 56 else 90.0, noise=0.3)
    assert {"test error of plain-56", "test error of plain-56 minus plain-20"} <= flagged(rows)
    pairs = rows.loc["verdicts on test error, over pairs of nets"]
    assert (pairs["n"], pairs["false_positives"] >= 4) == (6, True)  # both pairs with plain-56, in both orders


def test_equal_errors_of_all_seeds_are_no_verdict():
    rows = measured(noise=0.0)
    assert set(rows["false_positives"].dropna()) == {0} and not flagged(rows[rows["false_positives"].isna()])


def test_what_is_missing_is_left_out_of_the_pairs():
    def outcome(trial: Trial) -> str:
        return "missing" if trial.seed in (1, 5) else "finished"

    rows = measured(outcomes=outcome)
    assert rows.loc["test error of plain-20, seeds 0 to 2 minus 3 to 5", "n"] == 1
    assert rows.loc["verdicts on test error, over splits of each net's seeds", "n"] == 2 * 12
    assert rows.loc["test error of plain-20", "n"] == 2
    nothing = measured(outcomes=lambda trial: "missing")
    assert nothing[["found", "low", "high"]].isna().all(axis=None) and (nothing["n"] == 0).all()


def test_a_study_without_the_experiment_has_no_controls():
    assert controls.measured(frames(FIVE_DEPTHS).finals.iloc[:0]).empty
