"""Frames show everything that was planned, and average nothing that has no error."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from planted import DAMAGES, FIVE_DEPTHS, Run, frames, planted

from analysis.nets import serving
from analysis.runs import MEASURES, PIXELS, load, thinned
from commands.render import so_far
from experiments import plain_vs_residual, planned
from experiments.profiles import profile
from experiments.recipes import Deviation
from study.execution import Execution
from study.spec import Trial
from study.store.account import Outcome
from study.store.records import EVALUATIONS, keep_records


def diverging_1202(trial: Trial) -> str:
    return "diverged" if trial.model.depth == 1202 and trial.model.family == "plain" else "finished"


def test_finals_has_exactly_one_row_per_planned_trial():
    finals = frames(FIVE_DEPTHS).finals
    assert list(finals["id"]) == [trial.id for trial in planned(FIVE_DEPTHS)]


def test_a_missing_trial_is_a_visible_row():
    finals = frames(FIVE_DEPTHS, outcomes=lambda trial: "missing" if trial.seed == 1 else "finished").finals
    missing = finals[finals["seed"] == 1]
    assert len(missing) > 0
    assert set(missing["outcome"]) == {"missing"}
    assert set(missing["run_id"]) == {""}
    assert missing[list(MEASURES)].isna().all(axis=None)


@pytest.mark.parametrize("outcome", ["diverged", "failed", "interrupted", "running"])
def test_only_a_finished_trial_has_an_error(outcome):
    finals = frames(FIVE_DEPTHS, outcomes=lambda trial: outcome if trial.model.family == "plain" else "finished").finals
    plain = finals["family"] == "plain"
    assert set(finals.loc[plain, "outcome"]) == {outcome}
    assert finals.loc[plain, list(MEASURES)].isna().all(axis=None)
    assert finals.loc[~plain, [name for name in MEASURES if name != "validated_test_error_pct"]].notna().all(axis=None)


def test_a_diverged_trial_keeps_its_curve_and_says_when():
    both = frames(FIVE_DEPTHS, outcomes=diverging_1202)
    (row,) = both.finals[both.finals["outcome"] == "diverged"].to_dict("records")
    curve = both.curves[both.curves["id"] == row["id"]]
    assert row["diverged_at"] == 100
    assert 0 < curve["iteration"].max() <= 100


def test_training_error_is_the_mean_of_the_last_tenth_and_test_error_the_last_iterate():
    trial, run = _first()
    assert run.records is not None
    records = run.records.to_pandas()
    last_tenth = records["iteration"] > 324  # of 360
    records["train_error_pct"] = np.where(last_tenth, np.arange(len(records)), 90.0)
    records["test_error_pct"] = np.where(records["iteration"] == 360, 7.0, 3.0)
    (row,) = load({trial: ["x"]}, [_with(run, records)]).finals.to_dict("records")
    assert row["final_train_error_pct"] == np.mean([27, 28, 29])
    assert row["test_error_pct"] == 7.0
    assert row["best_test_error_pct"] == 3.0  # what choosing by the test set would have reported


def test_curves_have_one_row_per_trial_and_record_in_order():
    both = frames(FIVE_DEPTHS)
    lengths = both.curves.groupby("id").size()
    assert set(lengths.index) == set(both.finals["id"])
    assert set(lengths) == {360 // 12, 200 // 10}
    assert both.curves.groupby("id")["iteration"].apply(lambda x: x.is_monotonic_increasing).all()


def test_a_net_that_serves_several_experiments_is_one_row_that_names_them():
    finals = frames(FIVE_DEPTHS).finals
    shared = finals[(finals["title"] == "ResNet-20") & (finals["learning_rate"] == 0.005)]
    assert set(shared["experiments"]) == {"plain-vs-residual,shortcut-options,controls", "controls"}
    assert set(shared.loc[shared["experiments"] == "controls", "seed"]) == {*range(6)}  # 3 to 5, and shuffled labels


def test_recipes_of_one_net_are_told_apart():
    finals = frames(FIVE_DEPTHS).finals
    of_110 = finals[finals["title"] == "ResNet-110"]
    assert of_110["recipe"].nunique() == of_110["iterations"].nunique() == 2


def test_departures_from_the_paper_are_listed_and_the_paper_has_none():
    assert all(Deviation("width", "8", "16") in row for row in frames(FIVE_DEPTHS).finals["deviations"])
    for name, departures in (
        ("paper", ()),
        ("one-gpu", (Deviation("precision", "bf16", "fp32"), Deviation("bn_batch", "128", "64"))),
    ):
        finals = frames(profile(name)).finals
        at_20 = serving(finals, plain_vs_residual.NAME).query("title == 'plain-20'")
        assert set(at_20["deviations"]) == {departures}


def test_a_run_of_an_unplanned_trial_is_ignored():
    one, two, *_ = planted(FIVE_DEPTHS)
    both = load({one.trial: ["x"]}, [one, two])
    assert list(both.finals["id"]) == [one.trial.id]
    assert set(both.curves["id"]) == {one.trial.id}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_result_that_cannot_be_one_is_named_and_measures_nothing(kind):
    trial, run = _first()
    damage, word = DAMAGES[kind]
    both = load({trial: ["x"]}, damage(run))
    (row,) = both.finals.to_dict("records")
    assert (row["outcome"], row["run_id"]) == ("unusable", "") and word in row["problem"]
    assert both.finals[list(MEASURES)].isna().all(axis=None)
    assert both.curves.empty and both.layers.empty


def test_a_diverged_run_needs_no_numbers_but_rising_iterations():
    trial = next(trial for trial in planned(FIVE_DEPTHS) if diverging_1202(trial) == "diverged")
    run = next(run for run in planted(FIVE_DEPTHS, outcomes=diverging_1202) if run.trial == trial)
    for kind, outcome in (("NaN", "diverged"), ("truncated", "diverged"), ("not rising", "unusable")):
        assert set(load({trial: ["x"]}, DAMAGES[kind][0](run)).finals["outcome"]) == {outcome}


def test_an_evaluation_whose_loss_overflowed_is_a_measurement():
    trial, run = _first()
    assert run.records is not None
    place = run.records.column_names.index("test_loss")
    overflowed = run.records.set_column(place, "test_loss", [[float("inf")] * run.records.num_rows])
    assert set(load({trial: ["x"]}, [dataclasses.replace(run, records=overflowed)]).finals["outcome"]) == {"finished"}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_damaged_the_means_are_those_of_the_other_trials(seed):
    rng, runs = np.random.default_rng(seed), planted(FIVE_DEPTHS)
    hit = dict(zip(rng.choice(len(runs), len(DAMAGES), replace=False), DAMAGES, strict=True))
    bad = {runs[place].trial.id for place in hit}
    everything = load(planned(FIVE_DEPTHS), [one for i, run in enumerate(runs) for one in _damaged(run, hit.get(i))])
    others = load(planned(FIVE_DEPTHS), [run for run in runs if run.trial.id not in bad])
    assert set(everything.finals.query("outcome == 'unusable'")["id"]) == bad
    means = [both.finals.groupby("condition")[list(MEASURES)].mean() for both in (everything, others)]
    pd.testing.assert_frame_equal(*means)
    pd.testing.assert_frame_equal(everything.curves, others.curves)


def _damaged(run: Run, kind: str | None) -> list[Run]:
    return DAMAGES[kind][0](run) if kind else [run]


def test_nothing_run_yet_is_a_study_of_missing_trials():
    both = load(planned(FIVE_DEPTHS), [])
    assert set(both.finals["outcome"]) == {"missing"}
    assert both.curves.empty


def test_the_iterate_that_validation_chooses_is_an_extra_beside_the_last():
    trial, run = _first()
    assert run.records is not None
    records = run.records.to_pandas()
    evaluated = records["test_error_pct"].notna()
    records.loc[evaluated, "test_error_pct"] = [9.0, 8.0, 5.0, 6.0, 7.0]
    records.loc[evaluated, "validation_error_pct"] = [9.0, 4.0, 4.0, 5.0, 6.0]
    (row,) = load({trial: ["x"]}, [_with(run, records)]).finals.to_dict("records")
    assert (row["validated_test_error_pct"], row["best_test_error_pct"], row["test_error_pct"]) == (8.0, 5.0, 7.0)


def test_a_run_without_a_result_comes_with_what_its_trial_has_written_so_far(tmp_path):
    store = Execution(storage=tmp_path, data_root=tmp_path)
    done, half = planted(FIVE_DEPTHS, outcomes=lambda trial: "running" if trial.seed else "finished")[:2]
    assert so_far(done, store) is done
    logged = dataclasses.replace(half, records=None)
    assert len(so_far(logged, store).records) == 0
    keep_records(store.trial_folder(half.trial.id), half.records)
    assert so_far(logged, store).records.equals(half.records)
    (store.trial_folder(half.trial.id) / "records_so_far.parquet").write_bytes(b"half a file")
    damaged = so_far(logged, store)
    assert (damaged.outcome, damaged.records) == ("unusable", None)
    assert "records_so_far.parquet cannot be read" in damaged.tags["reason"] and damaged.tags["reason"].endswith(
        "; delete it"
    )


def test_what_an_unusable_result_left_in_its_folder_is_not_its_curve_so_far(tmp_path):
    store = Execution(storage=tmp_path, data_root=tmp_path)
    trial, run = _first()
    keep_records(store.trial_folder(trial.id), run.records)
    altered = dataclasses.replace(run, outcome=Outcome.UNUSABLE, records=None, layers=None, tags={"reason": "altered"})
    assert load({trial: ["x"]}, [so_far(altered, store)]).curves.empty


def long_curve(records: int, **series) -> pd.DataFrame:
    return pd.DataFrame({"id": "a", "iteration": np.arange(1, records + 1), **series})


def test_thinning_keeps_the_ends_and_every_records_share():
    error = np.linspace(90, 5, 64_000)
    error[30_000] = 5_000.0  # far narrower than a pixel
    curve = long_curve(64_000, train_error_pct=error)
    shown = thinned(curve)
    assert len(shown) == PIXELS
    for end in (0, -1):
        assert shown.iloc[end].to_dict() == curve.iloc[end].to_dict()
    inner = shown["train_error_pct"].iloc[1:-1]
    assert 40 < inner.diff().max() < 60  # of a hundred records
    assert inner.mean() == pytest.approx(error[1:-1].mean(), rel=1e-3)
    assert thinned(shown).equals(shown)


def test_thinning_leaves_out_what_was_not_measured_and_leaves_short_curves_alone():
    every_thousandth = np.where(np.arange(1, 64_001) % 1_000 == 0, 7.0, np.nan)
    assert set(thinned(long_curve(64_000, test_error_pct=every_thousandth))["test_error_pct"].dropna()) == {7.0}
    short = frames(FIVE_DEPTHS).curves
    pd.testing.assert_frame_equal(thinned(short), short)


def test_the_iteration_that_reaches_a_target_is_the_first_record_at_most_as_large():
    trial, run = _first()
    assert run.records is not None
    records = run.records.to_pandas()
    records["train_error_pct"] = np.r_[60.0, 50.0, 55.0, 20.5, np.full(len(records) - 4, 20.1)]
    (row,) = load({trial: ["x"]}, [_with(run, records)]).finals.to_dict("records")
    assert row["reached_50_pct"] == records["iteration"][1]
    assert np.isnan(row["reached_20_pct"]) and np.isnan(row["reached_10_pct"])


def test_evaluations_are_rows_that_name_their_net_and_an_ensemble_names_all_of_its_nets():
    one, two, *_ = planted(FIVE_DEPTHS)
    of = {"split": "test", "protocol": "mirrored", "measure": "top1_error_pct"}
    ids = f"{one.trial.id},{two.trial.id}"
    rows = [of | {"nets": nets, "value": value, "images": 360} for nets, value in (("", 3.0), (ids, 2.0))]
    evaluated = dataclasses.replace(one, evaluations=pa.Table.from_pylist(rows, schema=EVALUATIONS))
    both = load({one.trial: ["x", "y"], two.trial: ["x"]}, [evaluated, two])
    alone, ensemble = both.evaluations.to_dict("records")
    of |= {"experiments": "x,y", "seed": one.trial.seed, "data": "digits", "images": 360, "run_id": one.run_id}
    assert alone == of | {"ids": one.trial.id, "title": one.trial.model.title, "value": 3.0}
    assert ensemble == of | {"ids": ids, "title": "ensemble of 2", "value": 2.0}
    assert (both.finals["evaluations_sha256"] != "").tolist() == [True, False]
    assert frames(FIVE_DEPTHS).evaluations.empty


def _first() -> tuple[Trial, Run]:
    run = planted(FIVE_DEPTHS)[0]
    return run.trial, run


def _with(run: Run, records) -> Run:

    return dataclasses.replace(run, records=pa.Table.from_pandas(records, preserve_index=False))
