"""Claims about the pictures: nothing planned is silently absent, nothing is cut away, equal frames give equal bytes."""

import html
import json
from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
from planted import degradation, frames

from analysis import effects, figures, nets, paper
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
from experiments.profiles import PAPER, QUICK, Depths, Nets
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
    return frames(QUICK, error=large, outcomes=outcomes)


def ours(axes) -> list:
    """The lines that are not the paper's."""
    return [line for line in axes.lines if line.get_linestyle() != ":"]


def of_trials(study: Frames) -> list:
    """The figures and their names, but for Fig. 4, which has no trial."""
    return [(name, figure) for name, figure in figures.drawn(study, "quick") if name != "figure_4"]


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_left_panel_of_figure_1_shows_the_planted_training_errors(quick):
    left, right = figures.figure_1(quick, "quick").axes
    finals = quick.finals.query("family == 'plain' and experiments.str.startswith('plain-vs-residual')")
    for axes, measure in ((left, "train_error_pct"), (right, "test_error_pct")):
        assert words(axes) == ["plain-20", "plain-56"]  # from the lower end to the upper one
        for line, title in zip(ours(axes), ("plain-20", "plain-56"), strict=True):
            of_net = quick.curves[quick.curves["id"].isin(finals.query(f"title == '{title}'")["id"])]
            means = of_net.dropna(subset=[measure]).groupby("iteration")[measure].mean()
            np.testing.assert_allclose(line.get_xdata(), means.index)
            np.testing.assert_allclose(line.get_ydata(), means)


def test_large_errors_are_not_clipped_away(quick):
    assert all(axes.get_ylim() == (0, 100) for axes in figures.figure_6(quick, "quick").axes)


def test_small_errors_are_drawn_on_the_papers_axis_and_what_ends_above_it_is_named():
    left, *_ = figures.figure_6(frames(QUICK, error=as_in_the_paper), "quick").axes
    assert left.get_ylim() == (0, 20)
    assert "plain-110 ↑ 69 %" in words(left)


def test_figure_7_shows_every_layer_in_order_and_ranked_over_the_papers(quick):
    figure = figures.figure_7(quick, "quick")
    in_order, ranked = figure.axes[1], figure.axes[3]
    ends = quick.layers.query("title == 'ResNet-56' and iteration > 0")
    means = ends.groupby("layer")["response_std"].mean()
    solid = {len(line.get_xdata()): line for line in in_order.lines if line.get_linestyle() == "-"}
    assert sorted(solid) == [19, 55, 109]
    np.testing.assert_allclose(solid[55].get_ydata(), means)
    dotted = {len(line.get_xdata()): line for line in ranked.lines if line.get_linestyle() == ":"}
    theirs = paper.responses().query("curve == 'ResNet-56'")["response_std"]
    assert list(dotted[55].get_ydata()) == sorted(theirs, reverse=True)


def test_the_papers_curves_lie_behind_on_our_iterations(quick):
    left, right = figures.figure_1(quick, "quick").axes
    for axes, series in ((left, "train"), (right, "test")):
        dotted = [line for line in axes.lines if line not in ours(axes)]
        for line, net in zip(dotted, ("plain-20", "plain-56"), strict=True):
            theirs = paper.curves(1).query(f"curve == '{net}' and series == '{series}'")
            np.testing.assert_allclose(line.get_xdata()[-1], theirs["iteration"].max() * 360 / 64_000)
            assert line.get_ydata().max() == theirs["value"].max()
            assert line.get_zorder() < min(each.get_zorder() for each in ours(axes))


def test_figure_4_is_the_papers_alone_and_says_so(quick):
    figure = figures.figure_4(quick, "quick")
    assert "No run of ours is in it." in figures.caption(figure)
    assert json.loads(figure.get_label())["run_id"] == []
    right = {tuple(line.get_ydata()) for line in figure.axes[1].lines}
    for series in ("train", "validation"):
        theirs = paper.curves(4).query(f"curve == 'ResNet-34' and series == '{series}'").sort_values("iteration")
        assert tuple(theirs["value"]) in right


def test_figure_4_has_our_curves_over_the_papers_where_such_nets_were_trained():
    figure = figures.figure_4(frames(IMAGENET), "paper")
    left, right = figure.axes
    assert left.get_title() == "plain nets" and right.get_title() == "residual nets"
    styles = [line.get_linestyle() for line in left.lines]
    assert styles.count("--") == styles.count("-") == 2 and styles.count(":") == 4  # two nets, two series each
    assert "8 of 8 planned trials finished" in figures.caption(figure)


def test_gaps_are_drawn_with_their_intervals(quick):
    left, _ = figures.gaps_against_depth(quick, "quick").axes
    gap = effects.degradation_gap(nets.serving(quick.finals, "plain-vs-residual"), nets.TRAINING)
    line = next(each for each in left.containers if each.get_label() == "gap of plain nets")
    np.testing.assert_allclose(line.lines[0].get_ydata().astype(float), gap["mean"])
    (bars,) = line.lines[2]
    drawn = np.array([segment[:, 1] for segment in bars.get_segments()], dtype=float)
    np.testing.assert_allclose(drawn, gap[["low", "high"]])


def test_a_diverged_trial_is_a_mark_at_its_iteration(quick):
    figure = figures.figure_6(quick, "quick")
    crosses = [line for line in figure.axes[2].lines if line.get_marker() == "x"]
    assert [list(cross.get_xdata()) for cross in crosses] == [[100]]
    assert "plain-1202" in words(figure.axes[2])
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Diverged: plain-1202 (1 of 1, at iteration 100)." in figures.caption(figure)


def test_without_divergence_the_legend_has_no_such_mark():
    figure = figures.figure_6(frames(QUICK, error=large), "quick")
    assert "diverged" not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("outcome", ["missing", "failed", "interrupted", "running", "unusable"])
def test_a_trial_without_a_result_is_named_in_the_caption(outcome):
    some = frames(QUICK, outcomes=lambda trial: outcome if trial.model.title == "plain-20" else "finished")
    for name, figure in of_trials(some):
        assert f"{outcome.capitalize()}: plain-20 (3 of 3)." in figures.caption(figure), name


def test_a_diverged_or_unfinished_trial_enters_no_mean(quick):
    """Half a curve of an interrupted seed would bend the mean where it stops."""
    cut = frames(QUICK, error=large, outcomes=lambda trial: "interrupted" if trial.seed == 2 else "finished")
    line = ours(figures.figure_1(cut, "quick").axes[0])[0]
    first_two = cut.curves.query("experiments.str.startswith('plain-vs-residual') and title == 'plain-20' and seed < 2")
    np.testing.assert_allclose(line.get_ydata(), first_two.groupby("iteration")["train_error_pct"].mean())


def test_what_an_unfinished_trial_has_is_faint_named_and_in_no_mean():
    def outcome(trial: Trial) -> str:
        return "running" if trial.model.title == "plain-20" and trial.seed == 2 else "finished"

    study = frames(QUICK, error=large, outcomes=outcome)
    without = Frames(study.finals, study.curves[study.curves["outcome"] != "running"], study.layers)
    for draw, panels in ((figures.figure_1, 2), (figures.figure_6, 1)):
        figure, bare = draw(study, "quick"), draw(without, "quick")
        assert "in no mean: the curves so far of plain-20 (seed 2)." in figures.caption(figure)
        assert "unfinished, provisional" in [text.get_text() for text in figure.legends[0].get_texts()]
        assert "unfinished, provisional" not in [text.get_text() for text in bare.legends[0].get_texts()]
        for axes, others in zip(figure.axes[:panels], bare.axes, strict=False):
            faint = [line for line in axes.lines if line.get_linestyle() == "-."]
            assert faint and all(line.get_alpha() < 1 and max(line.get_xdata()) <= 180 for line in faint)
            means = [line for line in ours(axes) if line not in faint]
            for line, other in zip(means, ours(others), strict=True):
                np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())


def test_a_net_of_unfinished_trials_alone_is_named_where_its_curve_ends():
    study = frames(QUICK, outcomes=lambda trial: "running" if trial.model.title == "ResNet-1202" else "finished")
    assert "ResNet-1202" in words(figures.figure_6(study, "quick").axes[2])


def test_trials_that_miss_a_target_stand_above_the_last_iteration_and_end_the_line(quick):
    for axes, target in zip(figures.iterations_to_target(quick, "quick").axes, (50, 20, 10), strict=True):
        marks = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "^"])
        compared = nets.serving(quick.finals, "plain-vs-residual").query("outcome == 'finished'")
        assert len(marks) == compared[f"reached_{target}_pct"].isna().sum() > 0
        assert (marks > 360).all() and axes.get_ylim()[1] > max(marks)
        plain, _ = (line for line in axes.lines if line.get_linewidth() == 2)
        medians = effects.iterations_to_target(compared, target, "plain")["median"]
        np.testing.assert_array_equal(plain.get_ydata(), medians)
        assert medians.isna().any()


def test_shortcut_differences_are_drawn_with_their_intervals(quick):
    left, right = figures.shortcut_differences(quick, "quick").axes
    assert [label.get_text() for label in right.get_yticklabels()][:3] == [
        f"20 layers: {x}" for x in ("B − A", "C − A", "C − B")
    ]
    expected = effects.shortcut_differences(nets.beside_plain(quick.finals), nets.TEST)
    expected = expected.set_index(["depth", "quantity"])
    test = left.containers[1]
    order = [(depth, f"plain - {option}") for depth in (20, 56) for option in "ABC"]
    np.testing.assert_allclose(test.lines[0].get_xdata().astype(float), expected.loc[order, "mean"].astype(float))
    drawn = [segment[:, 0] for segment in test.lines[2][0].get_segments()]
    np.testing.assert_allclose(np.array(drawn, dtype=float), expected.loc[order, ["low", "high"]].astype(float))


def test_the_caption_tells_data_profile_seeds_and_runs(quick):
    text = figures.caption(figures.error_against_depth(quick, "quick"))
    assert "Data: digits; profile quick; n = 2-3 seeds a net; 29 of 30 planned trials finished." in text


def test_every_seed_is_a_dot_and_the_line_their_mean(quick):
    training, _ = figures.error_against_depth(quick, "quick").axes
    planned = quick.finals[["plain-vs-residual" in names.split(",") for names in quick.finals["experiments"]]]
    for dots, line, family in zip(training.collections, training.lines, ("plain", "residual"), strict=True):
        done = planned[(planned["family"] == family) & (planned["outcome"] == "finished")]
        assert sorted(dots.get_offsets()[:, 1]) == sorted(done["final_train_error_pct"])
        np.testing.assert_allclose(line.get_ydata(), done.groupby("depth")["final_train_error_pct"].mean())


def test_shortcut_options_stand_beside_the_plain_net_of_their_depth(quick):
    for axes, depth in zip(figures.shortcut_options(quick, "quick").axes, (20, 56), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["plain", "A", "B", "C"]
        plain = quick.finals.query(
            "title == @name and experiments.str.startswith('plain-vs-residual')", local_dict={"name": f"plain-{depth}"}
        )
        assert words(axes)[0] == f"{plain['final_train_error_pct'].mean():.1f}"
        assert len(words(axes)) == 8  # a mean of training and one of test error, four nets


def test_deeper_nets_are_darker_so_that_grey_prints_keep_the_order(quick):
    colours = figures.colours_of(quick.finals.query("family == 'plain'"))
    grey = [
        np.dot(matplotlib.colors.to_rgb(colours[f"plain-{depth}"]), (0.3, 0.59, 0.11))
        for depth in (20, 32, 44, 56, 110)
    ]
    assert grey == sorted(grey, reverse=True)
    assert min(-np.diff(grey)) > 0.02


def test_names_at_the_ends_of_lines_do_not_overlap():
    same = frames(QUICK, error=lambda trial: 0.5, noise=0.0)
    middle = figures.figure_6(same, "quick").axes[1]
    heights = sorted(text.xyann[1] for text in middle.texts)
    assert len(heights) == 5
    assert min(np.diff(heights)) > 0.05 * middle.get_ylim()[1]


def test_equal_frames_give_equal_bytes_that_hold_no_date(quick, tmp_path):
    for folder in ("once", "again"):
        figures.save(figures.error_against_depth(quick, "quick"), tmp_path / folder, "picture")
    for kind in ("svg", "pdf", "png"):
        once, again = ((tmp_path / folder / f"picture.{kind}").read_bytes() for folder in ("once", "again"))
        assert once == again, kind
        assert b"CreationDate" not in once and b"<dc:date>" not in once


def test_the_files_metadata_tell_other_runs_apart(quick):
    other = frames(QUICK, error=large)  # plain-44 has one run more
    labels = [json.loads(figures.error_against_depth(each, "quick").get_label()) for each in (quick, other)]
    assert [len(label["run_id"]) for label in labels] == [29, 30]
    assert labels[0] | {"run_id": []} == {
        **{"profile": "quick", "schema": SCHEMA, "protocol": PROTOCOL},
        **{"run_id": [], "data_digest": ["0"], "git_commit": ["0" * 40]},
    }


def test_svg_files_hold_the_label_and_pages_hold_no_name_twice(quick, tmp_path):
    figure = figures.figure_1(quick, "quick")
    figures.save(figure, tmp_path, "figure_1")
    assert figure.get_label() in html.unescape((tmp_path / "figure_1.svg").read_text())
    page = figures.inline(figure, "figure_1")
    assert page.startswith("<svg") and "<metadata" not in page
    assert 'id="figure_1-' in page and page.count('id="') == page.count('id="figure_1-')
    assert page.count('href="#') == page.count('href="#figure_1-')


@pytest.mark.filterwarnings("error")
def test_a_study_without_any_run_still_draws_and_says_so():
    empty = frames(QUICK, outcomes=lambda trial: "missing")
    for name, figure in of_trials(empty):
        assert "Missing: " in figures.caption(figure), name
        assert any("no finished trial" in words(axes) for axes in figure.axes), name


@pytest.mark.filterwarnings("error")
def test_a_selection_without_the_nets_of_a_figure_says_that_none_are_planned(quick):
    few = Frames(quick.finals.query("experiments == 'learning-rate'"), quick.curves.iloc[:0], quick.layers.iloc[:0])
    for _, figure in figures.drawn(few, "quick"):
        assert "no trial of these nets is planned" in figures.caption(figure)
