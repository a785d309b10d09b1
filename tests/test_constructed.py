"""Claims about the constructed solution's test, tables and pictures: both parts count, and starts are told apart."""

from dataclasses import replace

import numpy as np
import pytest
from planted import FIVE_DEPTHS, degradation, frames

from analysis import pictures, starts
from analysis.comparisons import CLEAN, TEST, TRAIN, NotTestable, Study
from analysis.decision import weigh
from analysis.nets import serving
from analysis.pictures import interactive, static
from analysis.pictures.picture import Line, Marks, Panel, Style
from analysis.runs import Frames
from analysis.tables.past import tables
from analysis.verdicts import Kind
from experiments import plain_vs_residual
from experiments import starts as experiment
from experiments import starts_grid as grid
from experiments.profiles import QUICK, Profile
from study.spec import DIRAC, GROWN, HE, PASS_THROUGH, Trial

SEEDS = 6
ALONE = FIVE_DEPTHS.on_scales({experiment.NAME: replace(experiment.SCALE["quick"], on_request=False)})
WHOLE = ALONE.on_scales({grid.NAME: replace(grid.SCALE["quick"], on_request=False)})


def error(trial: Trial, built: float = 0.8) -> float:
    """Plain-20 at 1 %, plain-56 at 44 %, and from every start but He's at `built`."""
    return degradation(trial) if trial.recipe.start == HE else built


def planted(profile: Profile = ALONE, built: float = 0.8, **planting) -> Frames:
    return frames(profile, **({"error": lambda trial: error(trial, built), "noise": 0.2} | planting))


def study(of: Frames, profile: Profile = ALONE) -> Study:
    return Study(of.finals, of.curves, of.layers, of.evaluations, profile)


def test_a_net_that_keeps_the_constructed_solution_and_does_not_find_it_supports_the_claim() -> None:
    of = planted()
    kept, found = starts.constructed(study(of)).parts
    assert (kept.n, found.n) == (SEEDS, SEEDS)
    plain = serving(of.finals, experiment.NAME).query("title == 'plain-56'")
    built, he = (plain[plain["start"] == start][TRAIN] for start in (PASS_THROUGH, HE))
    assert len(built) == SEEDS and found.estimate().mean == pytest.approx(he.mean() - built.mean() - 1.0)
    assert kept.estimate().mean == pytest.approx(-1.2, abs=0.3) and kept.direction == -1
    p, kind, _ = weigh([kept, found])
    assert kind is Kind.SUPPORTED and p < 1e-3
    assert kept.what == "training error of plain-56 from the constructed start minus plain-20, minus 1"


def test_each_part_is_needed() -> None:
    easy = planted(error=lambda trial: 1.0)  # He's start finds as good a solution
    _, kind, part = weigh(starts.constructed(study(easy)).parts)
    assert kind is Kind.CONTRADICTED and "He's start" in part.what
    p, kind, part = weigh(starts.constructed(study(planted(built=2.0))).parts)  # at the margin above plain-20
    assert not (kind is Kind.SUPPORTED and p < 0.05) and "minus plain-20" in part.what


def test_a_solver_that_leaves_the_constructed_solution_does_not_contradict_that_it_finds_none() -> None:
    with pytest.raises(NotTestable, match=r"leaves the constructed solution: it ends 19\S* points above plain-20"):
        starts.constructed(study(planted(built=20.0)))
    lost = planted(
        outcomes=lambda trial: "diverged" if (trial.recipe.start, trial.seed) == (PASS_THROUGH, 1) else "finished"
    )
    with pytest.raises(NotTestable, match="1 of 6 trials of plain-56 diverged from the constructed start"):
        starts.constructed(study(lost))


def test_a_plain_study_says_which_experiment_the_claim_needs() -> None:
    with pytest.raises(NotTestable, match="^needs the experiment starts$"):
        starts.constructed(study(frames(FIVE_DEPTHS), FIVE_DEPTHS))
    assert not [table for table in tables(frames(FIVE_DEPTHS)) if table.name.startswith("starts")]


def test_nets_from_the_margins_two_sides_are_told_apart_by_six_seeds() -> None:
    """Half a point below the margin is comparably good, half a point above is not, with a deviation of 0.2 points."""
    p, kind, part = weigh(starts.constructed(study(planted(built=1.5))).parts)
    assert kind is Kind.SUPPORTED and p < 0.05 and "minus plain-20" in part.what
    with pytest.raises(NotTestable):
        starts.constructed(study(planted(built=2.5)))


def test_the_table_has_a_row_for_every_net_and_start_with_its_three_errors() -> None:
    of = planted(WHOLE, outcomes=lambda trial: "diverged" if trial.recipe.start_noise == 1.0 else "finished")
    rows = starts.by_start(of.finals)
    assert not rows.duplicated(["net", "start", "noise"]).any()
    noises = {(row["start"], row["noise"]) for row in rows.to_dict("records") if row["net"] == "plain-56"}
    assert noises == {
        *((start, noise) for start in (DIRAC, PASS_THROUGH) for noise in (0.0, 0.1, 0.3, 1.0)),
        *((HE, 0.0), (GROWN, 0.0)),
    }
    assert set(rows.query("start == 'pass-through' and noise == 0.1")["depth"]) == {20, 32, 44, 56, 110}
    built = rows.query("net == 'plain-56' and start == 'pass-through' and noise == 0.1").iloc[0]
    trials = of.finals.query("title == 'plain-56' and start == 'pass-through' and start_noise == 0.1")
    assert built["n"] == SEEDS == len(trials)
    assert [built[measure] for measure in (TRAIN, CLEAN, TEST)] == pytest.approx(
        [trials[measure].mean() for measure in (TRAIN, CLEAN, TEST)]
    )
    assert built[f"{TEST}_low"] < built[TEST] < built[f"{TEST}_high"]
    assert set(rows.query("noise == 1.0")["diverged"]) == {3} and set(rows.query("noise == 1.0")["n"]) == {0}


def test_a_grown_net_is_compared_with_the_net_of_its_seed() -> None:
    of = planted(WHOLE, error=lambda trial: 5.0 + trial.seed + (trial.recipe.start == GROWN), noise=0.0)
    found = starts.differences(of.finals).set_index(["comparison", "quantity"])
    grown = found.loc[("plain-56 grown from plain-20, trained on, minus that plain-20", TRAIN)]
    assert (grown["n"], grown["difference"]) == (3, pytest.approx(1.0, abs=1e-3))
    assert grown["high"] - grown["low"] < 0.5  # pairs: the seeds' own differences are not in it
    assert len(found) == 2 * 6
    text = {table.name: table.text for table in tables(of)}
    assert {"starts", "starts_differences"} <= set(text)
    assert (text["starts"]["training error"].str.contains(r"\[")).all()


def test_unfinished_starts_leave_dashes_and_no_difference() -> None:
    of = planted(WHOLE, outcomes=lambda trial: "missing")
    assert (starts.by_start(of.finals)["n"] == 0).all() and starts.differences(of.finals)["difference"].isna().all()
    assert {table.name for table in tables(of)} >= {"starts", "starts_differences"}


def test_the_main_experiments_trials_are_the_same_with_and_without_starts() -> None:
    alone = {trial.id for trial in plain_vs_residual.trials(QUICK)}
    both = [trial for trial in experiment.trials(ALONE) if trial.recipe.start == HE]
    assert alone & {trial.id for trial in both} and len({trial.id for trial in both}) == 3 * SEEDS


def lines(panel: Panel, style: Style) -> dict[str, Line]:
    return {series.net: series for series in panel.series if isinstance(series, Line) and series.style is style}


def test_pictures_of_starts_are_made_only_where_their_runs_exist() -> None:
    def missing(trial: Trial) -> str:
        return "finished" if trial.recipe.start == HE else "missing"

    usual = list(pictures.MAKERS)[:-3]
    for of in (frames(FIVE_DEPTHS), planted(WHOLE, outcomes=missing)):
        assert [picture.name for picture in pictures.made(of, "quick")] == usual
    assert [picture.name for picture in pictures.made(planted(), "quick")] == [*usual, "constructed_solution"]
    assert [picture.name for picture in pictures.made(planted(WHOLE), "quick")] == [*usual, *pictures.ON_REQUEST]


def test_the_constructed_solution_is_drawn_beside_hes_start_and_told_apart_from_it() -> None:
    of = planted()
    shown = pictures.named("constructed_solution", of, "quick")
    finals = serving(of.finals, experiment.NAME)
    for panel, column in zip(shown.panels, ("train_error_pct", "test_error_pct"), strict=True):
        drawn = lines(panel, Style.BOLD)
        assert set(drawn) == {"plain-20", "plain-56", "ResNet-56", "constructed"}
        for start, net in ((HE, "plain-56"), (PASS_THROUGH, "constructed")):
            ids = finals.loc[(finals["title"] == "plain-56") & (finals["start"] == start), "id"]
            curves = of.curves[of.curves["id"].isin(ids)].dropna(subset=[column])
            np.testing.assert_allclose(drawn[net].y, curves.groupby("iteration")[column].mean())
            assert len(drawn[net].sources) == SEEDS
        assert static.colour(drawn["constructed"].tint) != static.colour(drawn["plain-56"].tint)
    assert "24 of 24 planned trials finished" in shown.caption and shown.panels[0].y.limits == (0, 100)
    chart = interactive.draw(shown)
    assert list(chart.switches())[:4] == ["plain-20", "plain-56", "ResNet-56", "constructed"]


def test_noise_and_depth_are_drawn_with_every_seed_and_their_means() -> None:
    def of_start(trial: Trial) -> float:
        return error(trial, 2.0 + trial.recipe.start_noise + trial.model.depth / 100)

    of = planted(WHOLE, error=of_start, outcomes=lambda t: "diverged" if t.recipe.start_noise == 1 else "finished")
    noise, depth = (pictures.named(name, of, "quick").panels[0] for name in ("starts_noise", "starts_depth"))
    assert noise.x.ticks == {0: "0", 1: "0.1", 2: "0.3", 3: "1"}
    deep = starts.planned(of.finals).query("title == 'plain-56'")
    assert noise.rule == pytest.approx(deep[deep["start"] == HE][TRAIN].mean())
    for net, start in (("Dirac", DIRAC), ("pass-through", PASS_THROUGH)):
        trials = deep[(deep["start"] == start) & (deep["outcome"] == "finished")]
        line = lines(noise, Style.MEAN)[net]
        assert list(line.x) == [0, 1, 2]
        np.testing.assert_allclose(line.y, trials.groupby("start_noise")[TRAIN].mean())
        dots, crosses = (
            [len(one.x) for one in noise.series if isinstance(one, Marks) and (one.net, one.style) == (net, style)]
            for style in (Style.DOT, Style.CROSS)
        )
        assert dots == [len(trials)] and crosses == [3]
    built, he_start = (lines(depth, Style.MEAN)[net] for net in ("constructed", "He's start"))
    assert list(built.x) == list(he_start.x) == [20, 32, 44, 56, 110] and he_start.y[-1] > 80 > 5 > built.y[-1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", pictures.ON_REQUEST)
def test_pictures_of_starts_are_drawn_without_any_trial_or_run_and_say_so(name: str) -> None:
    of = planted(WHOLE, outcomes=lambda trial: "missing")
    for study_of, says in ((of, "Missing: "), (replace(of, finals=of.finals.iloc[:0]), "no trial of these nets is")):
        shown = pictures.named(name, study_of, "quick")
        static.draw(shown)
        interactive.draw(shown)
        assert says in shown.caption and all(panel.empty for panel in shown.panels)
