"""Whether precision changes a number or a verdict is decided on paired seeds, and runs that are missing are shown."""

from dataclasses import replace

import pandas as pd
import pytest
from planted import FIVE_DEPTHS, degradation, frames

from analysis import precision
from analysis.nets import serving
from analysis.tables import every
from analysis.tables.precision import tables
from experiments import precision as experiment
from experiments.profiles import Profile
from study.spec import Trial

NETS = replace(experiment.SCALE["one-gpu"], precisions=("bf16", "tf32"), seeds=8, on_request=False)
ASKED = FIVE_DEPTHS.on_scales({experiment.NAME: NETS})


def finals(profile: Profile = ASKED, **planting) -> pd.DataFrame:
    return serving(frames(profile, **({"noise": 0.05} | planting)).finals, experiment.NAME)


def off_in_bf16(points: float):
    return lambda trial: degradation(trial) + 4 + (points if trial.recipe.precision == "bf16" else 0.0)


def verdict(table: pd.DataFrame, name: str, title: str, quantity: str) -> str:
    row = table[(table["precision"] == name) & (table["net"] == title) & (table["quantity"] == quantity)]
    return row["verdict"].item()


def test_nets_that_differ_by_noise_alone_are_equal() -> None:
    table = precision.differences(finals())
    assert len(table) == 2 * 4 * 2 and set(table["verdict"]) == {precision.EQUAL}
    assert (table["n"] == 8).all() and (table["low"] < table["difference"]).all()


def test_a_shift_beyond_the_margin_is_found_where_it_is() -> None:
    table = precision.differences(finals(test_error=off_in_bf16(1.0)))
    assert verdict(table, "bf16", "plain-56", "test_error_pct") == precision.DIFFERENT
    assert verdict(table, "tf32", "plain-56", "test_error_pct") == precision.EQUAL
    assert verdict(table, "bf16", "plain-56", "final_train_error_pct") == precision.EQUAL


def test_a_shift_within_the_margin_is_equal_and_noise_leaves_it_undecided() -> None:
    small = precision.differences(finals(test_error=off_in_bf16(0.1)))
    assert verdict(small, "bf16", "plain-20", "test_error_pct") == precision.EQUAL
    noisy = precision.differences(finals(noise=2.0))
    assert precision.UNDECIDED in set(noisy["verdict"])


def test_the_degradation_is_compared_within_each_precision() -> None:
    def turned(trial: Trial) -> float:
        return 60.0 - degradation(trial) if trial.recipe.precision == "bf16" else degradation(trial)

    table = precision.verdicts(finals(error=turned)).set_index(["quantity", "comparison", "precision"]).sort_index()
    plain = table.xs(("final_train_error_pct", "plain-56 minus plain-20"))
    assert plain["verdict"].to_dict() == {"fp32": "larger", "bf16": "not larger", "tf32": "larger"}
    assert plain["same"].to_dict() == {"fp32": True, "bf16": False, "tf32": True}
    residual = table.xs(("final_train_error_pct", "ResNet-56 minus ResNet-20"))
    assert residual.loc["fp32", "verdict"] == "not larger" and residual.loc["bf16", "verdict"] == "larger"


@pytest.mark.parametrize("missing", ["fp32", "tf32"])
def test_what_has_not_run_is_a_visible_row(missing: str) -> None:
    lacking = finals(outcomes=lambda trial: "missing" if trial.recipe.precision == missing else "finished")
    table = precision.differences(lacking)
    gone = table if missing == "fp32" else table[table["precision"] == missing]
    assert len(table) == 16 and set(gone["verdict"]) == {precision.NOT_RUN} and (gone["n"] == 0).all()
    of_verdicts = precision.verdicts(lacking)
    assert of_verdicts[of_verdicts["precision"] == missing]["same"].isna().all()


def test_the_tables_are_there_where_the_experiment_is_planned() -> None:
    names = [table.name for table in tables(frames(ASKED))]
    assert names == ["precision", "precision_verdicts"]
    assert set(names) <= {table.name for table in every(frames(ASKED))}
    assert not tables(frames(FIVE_DEPTHS))
    (differences, _) = tables(frames(ASKED))
    assert "within 0.36 points" in differences.notes[0] and "before the first run" in differences.notes[0]
