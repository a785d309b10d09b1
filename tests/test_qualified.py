"""What a referee asks first: a verdict that holds without training, by counting, or on this schedule only says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import FIVE_DEPTHS, degradation, frames

from analysis import budget, counted_claims, rates
from analysis.placebo import kinds as untrained
from analysis.qualified import judge
from analysis.runs import Frames, load
from analysis.tables.past import tables
from analysis.verdicts import Kind
from experiments import EXPERIMENTS, budget_grid, learning_rate, name_of, placebo, plain_vs_residual, planned
from experiments import rates as rates_experiment
from experiments.profiles import QUICK, Depths, Nets, Profile
from study.execution import Execution
from study.run.worker import run_trial
from study.spec import Trial
from study.store.account import Outcome
from study.store.records import run_in

SEEDS = 6
BUDGET = replace(budget_grid.SCALE["quick"], seeds=SEEDS, on_request=False)
RATES = replace(rates_experiment.SCALE["quick"], seeds=2 * SEEDS, on_request=False)
ASKED = FIVE_DEPTHS.on_scales(
    {
        plain_vs_residual.NAME: Depths(depths=(20, 32, 44, 56, 110), seeds=SEEDS),
        placebo.NAME: placebo.SCALE["quick"],
        budget_grid.NAME: BUDGET,
    }
)


def study(profile: Profile = ASKED, gap: float = 30.0, exponent: float = 1.0, rest: float = 0.0, **planting) -> Frames:
    """Plain nets whose error above the shallowest's falls with the length of the schedule; placebos at chance."""

    def error(trial: Trial) -> float:
        if trial.recipe.iterations == placebo.ITERATIONS:
            return 80.0
        if trial.model.family == "plain":
            length = trial.recipe.iterations / 360
            return 1.0 + (rest + gap * length**-exponent) * (trial.model.depth - 20) / 36
        return degradation(trial)

    return frames(profile, **({"error": error, "noise": 0.05} | planting))


def kinds(of: Frames, profile: Profile = ASKED) -> dict[str, Kind]:
    return {verdict.claim.id: verdict.kind for verdict in judge(of, profile)}


def test_a_gap_that_longer_schedules_close_is_supported_within_this_budget() -> None:
    fit = budget.fitted(study().finals)
    assert fit is not None and fit.left is budget.Left.UNDECIDED  # it tends to 0, but no schedule has shown it
    assert [round(gap.mean) for gap in fit.gaps.values()] == [30, 8, 3] and fit.rest.n == SEEDS
    assert np.isnan(fit.rest.low) and fit.in_words.startswith("tends to 0")
    closed = budget.fitted(study(exponent=3.0).finals)
    assert closed is not None and closed.left is budget.Left.GOES
    assert kinds(study())["S1-1"] is kinds(study(exponent=3.0))["S1-1"] is Kind.WITHIN_BUDGET


def test_a_gap_that_stays_on_longer_schedules_is_supported() -> None:
    staying = study(rest=5.0)
    fit = budget.fitted(staying.finals)
    assert fit is not None and fit.left is budget.Left.STAYS and fit.rest.low < 5 < fit.rest.high
    verdicts = kinds(staying)
    assert verdicts["S1-1"] is Kind.SUPPORTED
    assert verdicts["S42-6"] is not Kind.SUPPORTED  # residual nets were not followed


def test_without_longer_schedules_nothing_is_more_than_supported_within_this_budget() -> None:
    alone = FIVE_DEPTHS.on_scales({plain_vs_residual.NAME: Depths(depths=(20, 32, 44, 56, 110), seeds=SEEDS)})
    verdicts = kinds(study(alone), alone)
    assert verdicts["S1-1"] is Kind.WITHIN_BUDGET and Kind.SUPPORTED not in verdicts.values()


def test_what_is_counted_holds_by_construction() -> None:
    assert kinds(study())["S3-1"] is Kind.BY_CONSTRUCTION


def test_what_the_placebo_supports_holds_without_training() -> None:
    """No layer's response is far from 1: BatchNorm makes it so, before a net has learned anything."""
    failing = study(gap=36.0, exponent=0.0)
    assert untrained(failing, ASKED)["S41-3"] is Kind.SUPPORTED
    assert untrained(failing, ASKED)["S1-1"] is not Kind.SUPPORTED
    assert kinds(failing)["S41-3"] is Kind.WITHOUT_TRAINING
    assert not untrained(study(outcomes=_without_placebo), ASKED)


def _without_placebo(trial: Trial) -> str:
    return "missing" if trial.recipe.iterations == placebo.ITERATIONS else "finished"


@pytest.mark.parametrize(("g", "c", "k"), [(0.0, 60.0, 0.5), (2.0, 30.0, 1.0), (10.0, 5.0, 2.0), (3.0, 0.0, 1.0)])
def test_the_limit_of_a_power_law_is_found(g: float, c: float, k: float) -> None:
    lengths = np.array([360.0, 1440.0, 3600.0])
    assert budget.limit(lengths, g + c * (lengths / 360) ** -k) == pytest.approx(g, abs=0.05)


def test_rates_are_chosen_by_some_seeds_and_judged_by_others() -> None:
    """The choosing seeds prefer 0.02 for plain-56; the judging ones, whose errors are reported, do not."""
    profile = FIVE_DEPTHS.on_scales({rates_experiment.NAME: RATES})

    def error(trial: Trial) -> float:
        better = trial.recipe.learning_rate == (0.02 if trial.seed < SEEDS else 0.005)
        return degradation(trial) + (0.0 if better else 20.0)

    chosen = rates.by_rate(frames(profile, error=error)).query("chosen").set_index("net")
    assert (chosen["learning_rate"] == 0.02).all() and (chosen["n"] == SEEDS).all()
    assert chosen.loc["plain-56", "training_error_pct"] == pytest.approx(20 + 1 + 36 * 1.2, abs=1)
    gaps = rates.gaps(frames(profile, error=error)).set_index(["quantity", "comparison"])
    gap = gaps.loc[("final_train_error_pct", "plain-56 minus plain-20")]
    assert gap["difference"] == pytest.approx(36 * 1.2, abs=0.5) and gap["rates"] == "0.02 and 0.02"


def test_the_tables_are_there_where_the_experiments_are_planned() -> None:
    profile = ASKED.on_scales({rates_experiment.NAME: RATES})
    assert [table.name for table in tables(study(profile))] == ["budget", "rates", "best_rates"]
    assert not tables(frames(FIVE_DEPTHS))


@pytest.mark.slow
def test_quicks_nets_after_a_dozen_iterations_support_nothing_but_what_is_counted(tmp_path: Path) -> None:
    """The placebo of quick itself, trained: what it supported would not be about training."""
    execution = Execution(storage=tmp_path, data_root=tmp_path, device="cpu")
    trials = placebo.mirrored(QUICK)
    for trial in trials:
        assert run_trial(trial, execution, {}) is Outcome.FINISHED
    runs = [run_in(execution.trial_folder(trial.id), trial, trial.id) for trial in trials]
    whole = load(planned(QUICK, [placebo.NAME]), runs)
    found = untrained(whole, QUICK)
    assert {name for name, kind in found.items() if kind is Kind.SUPPORTED} <= set(counted_claims.CLAIMS)
    assert found["S1-1"] is Kind.UNDECIDED and found["S42-10"] is Kind.CONTRADICTED


def test_a_profile_of_ones_own_that_plans_few_nets_says_so_of_the_claims_on_others() -> None:
    scales = {name_of(one): None for one in EXPERIMENTS}
    scales |= {learning_rate.NAME: Nets(nets=(("plain", 20), ("residual", 20)), seeds=2)}
    own = replace(QUICK, name="own", scales=scales)
    verdicts = {verdict.claim.id: verdict for verdict in judge(frames(own, noise=0.1), own)}
    for claim in ("S41-3", "S41-4", "S42-6"):
        assert verdicts[claim].kind is Kind.NOT_TESTABLE and "plans none of the nets" in verdicts[claim].reason
