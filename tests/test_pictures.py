"""Claims about the pictures: nothing planned is silently absent, nothing is cut away, equal frames give equal bytes."""

import html
import json
from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.axes import Axes
from planted import FIVE_DEPTHS, degradation, frames

from analysis import effects, nets, paper, pictures
from analysis.pictures import picture, static
from analysis.pictures.picture import Estimates, Line, Marks, Panel, Picture, Style, Tint
from analysis.runs import Frames
from experiments import (
    bottlenecks,
    controls,
    depth_scaling,
    imagenet_depth,
    imagenet_longer,
    learning_rate,
    plain_vs_residual,
    reimplementations,
    shortcut_options,
)
from experiments.profiles import PAPER, Depths, Nets
from experiments.recipes import paper_imagenet
from study.spec import PROTOCOL, SCHEMA, Trial

IMAGENET = replace(  # every record of 600,000 iterations is not needed here
    PAPER,
    imagenet=PAPER.imagenet
    and replace(
        PAPER.imagenet,
        recipe=lambda model: replace(paper_imagenet(model), record_every=50_000, evaluate_every=50_000),
    ),
    scales={
        plain_vs_residual.NAME: Depths(depths=(20,), seeds=5),
        controls.NAME: Nets(nets=(), seeds=5),
        **dict.fromkeys(
            (
                shortcut_options.NAME,
                depth_scaling.NAME,
                learning_rate.NAME,
                bottlenecks.NAME,
                reimplementations.NAME,
                imagenet_depth.NAME,
                imagenet_longer.NAME,
            )
        ),
    },
)


def large(trial: Trial) -> float:
    """Errors as the quick profile has them: plain nets far above the paper's axis."""
    return degradation(trial) if trial.model.family == "residual" else min(1.3 * (trial.model.depth - 19), 88.0)


def as_in_the_paper(trial: Trial) -> float:
    return 65.0 if trial.model.family == "plain" and trial.model.depth >= 110 else 0.05 * trial.model.depth


def outcomes(trial: Trial) -> str:
    if trial.model.title == "plain-1202":
        return "diverged"
    return "missing" if trial.model.title == "plain-44" and trial.seed == 2 else "finished"


@pytest.fixture(scope="module")
def quick() -> Frames:
    return frames(FIVE_DEPTHS, error=large, outcomes=outcomes)


def drawn(name: str, study: Frames) -> Picture:
    return pictures.named(name, study, "quick")


def of_trials(study: Frames) -> list[Picture]:
    """The figures, but for Fig. 4, which has no trial."""
    return [drawn(name, study) for name in pictures.FIGURES if name != "figure_4"]


def lines(panel: Panel, *styles: Style) -> list[Line]:
    return [series for series in panel.series if isinstance(series, Line) and series.style in styles]


def marks(panel: Panel, style: Style) -> list[Marks]:
    return [series for series in panel.series if isinstance(series, Marks) and series.style is style]


def keys(shown: Picture) -> list[str]:
    return [key.text or key.style for key in shown.legend()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_figure_1_shows_the_planted_training_and_test_errors(quick):
    finals = quick.finals.query("family == 'plain' and experiments.str.startswith('plain-vs-residual')")
    for panel, measure in zip(drawn("figure_1", quick).panels, ("train_error_pct", "test_error_pct"), strict=True):
        assert [name.text for name in panel.names] == ["plain-20", "plain-56"]  # from the lower end to the upper one
        for line, title in zip(lines(panel, Style.BOLD), ("plain-20", "plain-56"), strict=True):
            trials = quick.curves[quick.curves["id"].isin(finals.query(f"title == '{title}'")["id"])]
            means = trials.dropna(subset=[measure]).groupby("iteration")[measure].mean()
            np.testing.assert_allclose(line.x, means.index)
            np.testing.assert_allclose(line.y, means)


def test_large_errors_are_not_clipped_away(quick):
    assert all(panel.y.limits == (0, 100) for panel in drawn("figure_6", quick).panels)


def test_small_errors_are_drawn_on_the_papers_axis_and_what_ends_above_it_is_named():
    plain, *_ = drawn("figure_6", frames(FIVE_DEPTHS, error=as_in_the_paper)).panels
    assert plain.y.limits == (0, 20)
    assert "plain-110 ↑ 69 %" in [name.text for name in plain.names]


def test_figure_7_shows_every_layer_in_order_and_ranked_over_the_papers(quick):
    _, in_order, _, ranked = drawn("figure_7", quick).panels
    ends = quick.layers.query("title == 'ResNet-56' and iteration > 0")
    measured = {line.net: line for line in lines(in_order, Style.MEAN)}
    assert sorted(len(line.x) for line in measured.values()) == [19, 55, 109]
    np.testing.assert_allclose(measured["ResNet-56"].y, ends.groupby("layer")["response_std"].mean())
    reported = paper.responses().query("curve == 'ResNet-56'")["response_std"]
    dotted = {line.net: line for line in lines(ranked, Style.PAPER)}
    assert list(dotted["ResNet-56"].y) == sorted(reported, reverse=True)


def test_the_papers_curves_are_drawn_over_the_iterations_trained_here_and_lie_behind(quick):
    figure_1 = drawn("figure_1", quick)
    for panel, series in zip(figure_1.panels, ("train", "test"), strict=True):
        for line, net in zip(lines(panel, Style.PAPER), ("plain-20", "plain-56"), strict=True):
            reported = paper.curves(1).query(f"curve == '{net}' and series == '{series}'")
            np.testing.assert_allclose(line.x[-1], reported["iteration"].max() * 360 / 64_000)
            assert line.y.max() == reported["value"].max()
    for axes in static.draw(figure_1).axes:
        dotted = [line.get_zorder() for line in axes.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 2
        assert max(dotted) < min(line.get_zorder() for line in axes.lines if line.get_linestyle() != ":")


def test_figure_4_is_the_papers_alone_and_says_so(quick):
    figure_4 = drawn("figure_4", quick)
    assert "No run of ours is in it." in figure_4.caption
    assert figure_4.traced["run_id"] == []
    right = {tuple(line.y) for line in lines(figure_4.panels[1], Style.THIN, Style.BOLD)}
    for series in ("train", "validation"):
        reported = paper.curves(4).query(f"curve == 'ResNet-34' and series == '{series}'").sort_values("iteration")
        assert tuple(reported["value"]) in right


def test_figure_4_has_our_curves_over_the_papers_where_such_nets_were_trained():
    figure_4 = pictures.named("figure_4", frames(IMAGENET), "paper")
    assert [panel.title for panel in figure_4.panels] == ["plain nets", "residual nets"]
    counts = [len(lines(figure_4.panels[0], style)) for style in (Style.THIN, Style.BOLD, Style.PAPER)]
    assert counts == [2, 2, 4]  # two nets, two series each
    assert "12 of 12 planned trials finished" in figure_4.caption


def test_gaps_are_drawn_with_their_intervals(quick):
    shown = drawn("gaps_against_depth", quick)
    gap = effects.degradation_gap(nets.serving(quick.finals, "plain-vs-residual"), nets.TRAINING)
    plain = next(series for series in shown.panels[0].series if series.net == "gap of plain nets")
    assert isinstance(plain, Estimates)
    np.testing.assert_allclose(plain.y, gap["mean"])
    np.testing.assert_allclose([plain.low, plain.high], [gap["low"], gap["high"]])
    bars = static.draw(shown).axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(np.array(bars, dtype=float)[:, :, 1], gap[["low", "high"]])


def test_a_diverged_trial_is_a_mark_at_its_iteration(quick):
    figure_6 = drawn("figure_6", quick)
    (cross,) = marks(figure_6.panels[2], Style.CROSS)
    assert list(cross.x) == [100] and cross.net == "plain-1202"
    assert "plain-1202" in [note.text for note in figure_6.panels[2].notes]
    assert "diverged" in keys(figure_6)
    assert "Diverged: plain-1202 (1 of 1, at iteration 100)." in figure_6.caption


def test_without_divergence_the_legend_has_no_such_mark():
    assert "diverged" not in keys(drawn("figure_6", frames(FIVE_DEPTHS, error=large)))


@pytest.mark.parametrize("outcome", ["missing", "failed", "interrupted", "running", "unusable"])
def test_a_trial_without_a_result_is_named_in_the_caption(outcome):
    some = frames(FIVE_DEPTHS, outcomes=lambda trial: outcome if trial.model.title == "plain-20" else "finished")
    for shown in of_trials(some):
        assert f"{outcome.capitalize()}: plain-20 (3 of 3)." in shown.caption, shown.name


def test_a_diverged_or_unfinished_trial_enters_no_mean():
    """Half a curve of an interrupted seed would bend the mean where it stops."""
    cut = frames(FIVE_DEPTHS, error=large, outcomes=lambda trial: "interrupted" if trial.seed == 2 else "finished")
    line = lines(drawn("figure_1", cut).panels[0], Style.BOLD)[0]
    first_two = cut.curves.query("experiments.str.startswith('plain-vs-residual') and title == 'plain-20' and seed < 2")
    np.testing.assert_allclose(line.y, first_two.groupby("iteration")["train_error_pct"].mean())


def test_what_an_unfinished_trial_has_is_faint_named_and_in_no_mean():
    def outcome(trial: Trial) -> str:
        return "running" if trial.model.title == "plain-20" and trial.seed == 2 else "finished"

    study = frames(FIVE_DEPTHS, error=large, outcomes=outcome)
    without = Frames(study.finals, study.curves[study.curves["outcome"] != "running"], study.layers)
    for name, panels in (("figure_1", 2), ("figure_6", 1)):
        shown, bare = drawn(name, study), drawn(name, without)
        assert "in no mean: the curves so far of plain-20 (seed 2)." in shown.caption
        assert "unfinished, provisional" in keys(shown) and "unfinished, provisional" not in keys(bare)
        for panel, other in zip(shown.panels[:panels], bare.panels, strict=False):
            faint = lines(panel, Style.PROVISIONAL)
            assert faint and all(max(line.x) <= 180 for line in faint)
            means = (lines(every, Style.THIN, Style.BOLD) for every in (panel, other))
            for line, same in zip(*means, strict=True):
                np.testing.assert_array_equal(line.y, same.y)
        axes = static.draw(shown).axes[0]
        assert all(line.get_alpha() < 1 for line in axes.lines if line.get_linestyle() == "-.")


def test_a_net_of_unfinished_trials_alone_is_named_where_its_curve_ends():
    study = frames(FIVE_DEPTHS, outcomes=lambda trial: "running" if trial.model.title == "ResNet-1202" else "finished")
    assert "ResNet-1202" in [note.text for note in drawn("figure_6", study).panels[2].notes]


def test_trials_that_miss_a_target_stand_above_the_last_iteration_and_end_the_line(quick):
    for panel, target in zip(drawn("iterations_to_target", quick).panels, (50, 20, 10), strict=True):
        censored = np.concatenate([series.y for series in marks(panel, Style.CENSORED)])
        compared = nets.serving(quick.finals, "plain-vs-residual").query("outcome == 'finished'")
        assert len(censored) == compared[f"reached_{target}_pct"].isna().sum() > 0
        assert (censored > 360).all() and panel.y.limits[1] > max(censored)
        plain, _ = lines(panel, Style.MEAN)
        medians = effects.iterations_to_target(compared, target, "plain")["median"]
        np.testing.assert_array_equal(plain.y, medians)
        assert medians.isna().any()


def test_a_line_with_a_gap_is_drawn_in_pieces_that_hold_every_value():
    x, y = np.arange(5.0), np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    line = Line(net="plain nets", tint=Tint("plain"), style=Style.MEAN, x=x, y=y)
    empty = picture.Axis()
    shown = Picture(name="gap", title="", panels=(Panel(title="", series=(line,), x=empty, y=empty),), caption="")
    pieces = [list(piece.get_ydata()) for piece in static.draw(shown).axes[0].lines]
    assert pieces == [[1, 2], [4, 5]]


def test_shortcut_differences_are_drawn_with_their_intervals(quick):
    left, right = drawn("shortcut_differences", quick).panels
    assert list(right.y.ticks.values())[:3] == [f"20 layers: {pair}" for pair in ("B − A", "C − A", "C − B")]
    expected = effects.shortcut_differences(nets.beside_plain(quick.finals), nets.TEST)
    expected = expected.set_index(["depth", "quantity"])
    _, test = left.series
    order = [(depth, f"plain - {option}") for depth in (20, 56) for option in "ABC"]
    drawn_values = np.array([test.x, test.low, test.high]).T
    np.testing.assert_allclose(drawn_values, expected.loc[order, ["mean", "low", "high"]].astype(float))


def test_the_caption_tells_data_profile_seeds_and_runs(quick):
    caption = drawn("error_against_depth", quick).caption
    assert "Data: digits; profile quick; n = 2-3 seeds a net; 29 of 30 planned trials finished." in caption


def test_every_seed_is_a_dot_and_the_line_their_mean(quick):
    training, _ = drawn("error_against_depth", quick).panels
    planned = nets.serving(quick.finals, "plain-vs-residual")
    families = ("plain", "residual")
    for dots, line, family in zip(marks(training, Style.DOT), lines(training, Style.MEAN), families, strict=True):
        done = planned[(planned["family"] == family) & (planned["outcome"] == "finished")]
        assert sorted(dots.y) == sorted(done["final_train_error_pct"])
        assert [source.run_id for source in dots.sources] == list(done["run_id"])
        np.testing.assert_allclose(line.y, done.groupby("depth")["final_train_error_pct"].mean())


def test_shortcut_options_stand_beside_the_plain_net_of_their_depth(quick):
    for panel, depth in zip(drawn("shortcut_options", quick).panels, (20, 56), strict=True):
        assert list(panel.x.ticks.values()) == ["plain", "A", "B", "C"]
        plain = nets.serving(quick.finals, "plain-vs-residual").query(f"title == 'plain-{depth}'")
        assert panel.notes[0].text == f"{plain['final_train_error_pct'].mean():.1f}"
        assert len(panel.notes) == 8  # a mean of training and one of test error, four nets


def test_deeper_nets_are_darker_so_that_grey_prints_keep_the_order(quick):
    tints = picture.tints(quick.finals.query("family == 'plain'"))
    shades = [static.colour(tints[f"plain-{depth}"]) for depth in (20, 32, 44, 56, 110)]
    grey = [np.dot(matplotlib.colors.to_rgb(shade), (0.3, 0.59, 0.11)) for shade in shades]
    assert grey == sorted(grey, reverse=True)
    assert min(-np.diff(grey)) > 0.02


def test_names_at_the_ends_of_lines_do_not_overlap():
    same = frames(FIVE_DEPTHS, error=lambda trial: 0.5, noise=0.0)
    middle = drawn("figure_6", same).panels[1]
    heights = sorted(name.at for name in middle.names)
    assert len(heights) == 5
    assert min(np.diff(heights)) > 0.05 * middle.y.limits[1]


def test_equal_frames_give_equal_bytes_that_hold_no_date(quick, tmp_path):
    for folder in ("once", "again"):
        static.save(static.draw(drawn("error_against_depth", quick)), tmp_path / folder, "picture")
    for kind in ("svg", "pdf", "png"):
        once, again = ((tmp_path / folder / f"picture.{kind}").read_bytes() for folder in ("once", "again"))
        assert once == again, kind
        assert b"CreationDate" not in once and b"<dc:date>" not in once


def test_what_a_user_has_set_for_matplotlib_is_in_no_picture(quick, tmp_path):
    """A matplotlibrc of theirs, a style of seaborn's, settings of a notebook: TeX alone would fail, or take minutes."""
    figure_1 = drawn("figure_1", quick)
    before = [path.read_bytes() for path in static.save(static.draw(figure_1), tmp_path / "before", "figure_1")]
    theirs = {
        "text.usetex": True,
        "font.size": 30,
        "axes.facecolor": "black",
        "savefig.facecolor": "red",
        "lines.markersize": 40,
        "figure.constrained_layout.h_pad": 1.0,
        "pdf.fonttype": 42,
        "path.simplify": False,
        "axes.prop_cycle": matplotlib.cycler("color", ["red"]),
    }
    with matplotlib.rc_context(theirs):
        after = [path.read_bytes() for path in static.save(static.draw(figure_1), tmp_path / "after", "figure_1")]
    assert before == after


def test_the_files_metadata_tell_other_runs_apart(quick):
    other = frames(FIVE_DEPTHS, error=large)  # plain-44 has one run more
    shown = [drawn("error_against_depth", study) for study in (quick, other)]
    assert [len(each.traced["run_id"]) for each in shown] == [29, 30]
    assert shown[0].traced | {"run_id": []} == {
        "profile": "quick",
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "run_id": [],
        "data_digest": ["0"],
        "git_commit": ["0" * 40],
    }


def test_svg_files_hold_what_they_rest_on_and_pages_hold_no_name_twice(quick, tmp_path):
    shown = drawn("figure_1", quick)
    figure = static.draw(shown)
    static.save(figure, tmp_path, "figure_1")
    assert json.dumps(shown.traced) in html.unescape((tmp_path / "figure_1.svg").read_text())
    page = static.inline(figure, "figure_1")
    assert page.startswith("<svg") and "<metadata" not in page
    assert 'id="figure_1-' in page and page.count('id="') == page.count('id="figure_1-')
    assert page.count('href="#') == page.count('href="#figure_1-')


@pytest.mark.filterwarnings("error")
def test_a_study_without_any_run_still_draws_and_says_so():
    empty = frames(FIVE_DEPTHS, outcomes=lambda trial: "missing")
    for shown in of_trials(empty):
        assert "Missing: " in shown.caption, shown.name
        assert any("no finished trial" in texts(axes) for axes in static.draw(shown).axes), shown.name


@pytest.mark.filterwarnings("error")
def test_a_selection_without_the_nets_of_a_figure_says_that_none_are_planned(quick):
    few = Frames(quick.finals.query("experiments == 'learning-rate'"), quick.curves.iloc[:0], quick.layers.iloc[:0])
    for name in pictures.FIGURES:
        shown = drawn(name, few)
        static.draw(shown)
        assert "no trial of these nets is planned" in shown.caption
