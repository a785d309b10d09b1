"""The pictures: pure functions from frames to matplotlib figures, each with a caption that accounts for every trial.

Owns colours, axes, captions and how a figure becomes files. Must not know where runs are kept or what claims are made:
no picture says in words what it is supposed to show. Lines and means are of finished trials only; a diverged trial is
a mark, one without a result is named in the caption, and what there is of its curve is faint.
"""

import hashlib
import io
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, NullLocator, StrMethodFormatter

from analysis import effects, files, paper
from analysis.nets import TEST, TRAINING, beside_plain, serving
from analysis.runs import TARGETS_PCT, WITHOUT_RESULT, Frames, thinned
from study.spec import PROTOCOL, SCHEMA, check_choice
from study.store.account import RESULTS

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlepad": 12,  # clear of the marks of diverged trials on the upper edge
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "degradation-study",  # otherwise element names are random and no two renderings equal
    "svg.fonttype": "path",  # the reader's machine need not have the font
}
# Hue tells the family, to colour-blind readers too; lightness falls with depth, so that grey prints keep the order.
COLOURMAPS = {"plain": "Oranges", "residual": "Blues"}
FAMILY_COLOURS = {"plain": "#d9580d", "residual": "#1f6cb0"}
FAMILY_MARKERS = {"plain": "s", "residual": "o"}
PAPER_TOP_PCT = 20  # upper end of the error axes of Figs. 1 and 6
_THEIRS = (
    "Dotted: the paper's curves of nets as deep, digitised, on CIFAR-10 and of 64,000 iterations, drawn over as much of"
    " the training."
)

styled = matplotlib.rc_context(STYLE)


@styled
def figure_1(frames: Frames, profile: str) -> Figure:
    """Fig. 1: training error (left) and test error (right) of a shallow and a 56-layer plain net."""
    finals = nets_1(frames.finals)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    top, colours = top_of(finals), colours_of(finals)
    for axes, measure, series in ((left, "train_error_pct", "train"), (right, "test_error_pct", "test")):
        _papers_curves(axes, 1, series, finals, colours)
        _curves(axes, frames.curves, finals, {measure: "-"}, top, colours)
    left.set(title="training error", ylabel="error (%)")
    right.set(title="test error")
    provisional = _provisional(frames.curves, finals)
    _legend(figure, finals, _BAND, _PAPERS, *([_UNFINISHED] if provisional else []))
    text = (
        "Running training error (on the batches as trained on) and test error of plain nets, as in the paper's Fig. 1."
        f" {_THEIRS}{provisional}"
    )
    return _captioned(figure, text, finals, profile)


@styled
def figure_4(frames: Frames, profile: str) -> Figure:
    """Fig. 4: error while training of plain (left) and residual nets (right) of 18 and 34 layers on ImageNet.

    Over the paper's own curves; without planned trials of such nets, these alone.
    """
    finals = nets_4(frames.finals)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels, colours, top = figure.subplots(1, 2, sharey=True), colours_of(finals), top_4(finals)
    for axes, family, panel in zip(panels, FAMILY_COLOURS, ("left", "right"), strict=True):
        rows = finals[finals["family"] == family]
        if finals.empty:
            _papers_figure_4(axes, family, panel)
        else:
            for series in ("train", "validation"):
                _papers_curves(axes, 4, series, rows, colours)
            _curves(axes, frames.curves, rows, {"train_error_pct": "--", "test_error_pct": "-"}, top, colours)
        axes.set_title(f"{family} nets")
    panels[0].set_ylabel("error (%)")
    validation = Line2D([], [], color=_GREY, linewidth=2.2, label="validation error, centre crop")
    if finals.empty:
        _legend(figure, finals, _THIN, validation)
        text = "Fig. 4 of the paper, digitised: training on ImageNet. No run of ours is in it."
        return _captioned(figure, text, finals, profile)
    _legend(figure, finals, _THIN, validation, _BAND, _PAPERS)
    text = (
        "Running training error (thin, dashed) and validation error of centre crops (bold) while training, as in Fig. 4"
        " of the paper. Dotted: the paper's curves of nets as deep, digitised, on ImageNet and of 600,000 iterations,"
        f" drawn over as much of the training.{_provisional(frames.curves, finals)}"
    )
    return _captioned(figure, text, finals, profile)


def _papers_figure_4(axes: Axes, family: str, panel: str) -> None:
    """A panel of the paper's Fig. 4 in its own axes."""
    nets = paper.curves(4)
    ends, here = [], nets[nets["panel"] == panel]
    for (net, shade), (series, style) in product(
        zip(sorted(set(here["curve"])), (0.5, 0.9), strict=True), (("train", "--"), ("validation", "-"))
    ):
        curve = here[(here["curve"] == net) & (here["series"] == series)].sort_values("iteration")
        colour = tuple(matplotlib.colormaps[COLOURMAPS[family]](shade))
        axes.plot(
            curve["iteration"], curve["value"], color=colour, linestyle=style, linewidth=1 if style == "--" else 2
        )
        if series == "validation":
            ends.append((float(curve["value"].iloc[-1]), net, colour))
    axes.set(xlabel="iteration", ylim=(20, 60), xlim=(0, nets["iteration"].max()))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.locator_params(axis="x", nbins=4)
    _name_ends(axes, ends, 60)


@styled
def figure_6(frames: Frames, profile: str) -> Figure:
    """Fig. 6: error while training of plain nets (left), ResNets (middle) and the nets of depth-scaling (right)."""
    panels = panels_6(frames.finals)
    *compared, deep = panels.values()
    finals = pd.concat(panels.values()).drop_duplicates("id")
    figure = Figure(figsize=(12, 4), layout="constrained")
    top, colours = top_of(finals), colours_of(finals)
    for axes, (title, rows) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        _papers_curves(axes, 6, "test", rows, colours)
        _curves(axes, frames.curves, rows, {"train_error_pct": "--", "test_error_pct": "-"}, top, colours)
        axes.set(title=title, ylabel="error (%)" if title == "plain nets" else "")
    provisional = _provisional(frames.curves, finals)
    _legend(figure, finals, _THIN, _BOLD, _BAND, _PAPERS, *([_UNFINISHED] if provisional else []))
    text = (
        "Running training error (thin, dashed) and test error (bold) while training, as in Fig. 6 of the paper."
        f" {_THEIRS} Here these are test errors.{provisional}"
    )
    if len(set(pd.concat(compared)["iterations"]) | set(deep["iterations"])) > 1:
        text += " The nets of depth scaling have a recipe of their own; compare them with each other only."
    return _captioned(figure, text, finals, profile)


@styled
def figure_7(frames: Frames, profile: str) -> Figure:
    """Fig. 7: deviation of each 3x3 layer's output at the end of training, in order (top) and ranked (bottom).

    Plain nets of 20 and 56 layers on the left, ResNets of 20, 56 and 110 on the right, over the paper's own curves.
    """
    finals = nets_7(frames.finals)
    ends = frames.layers[frames.layers["id"].isin(finals["id"]) & (frames.layers["iteration"] > 0)]
    figure = Figure(figsize=(8, 5), layout="constrained")
    panels, colours, responses = figure.subplots(2, 2, sharex=True, sharey=True), colours_of(finals), paper.responses()
    for column, (family, title) in enumerate((("plain", "plain nets"), ("residual", "ResNets, option A"))):
        for row, order in enumerate(("in order", "by magnitude")):
            axes, names = panels[row, column], []
            for net in finals.loc[finals["family"] == family, "title"].drop_duplicates():
                colour = colours[net]
                theirs = responses.loc[responses["curve"] == net, "response_std"]
                measured = ends[ends["title"] == net].pivot(index="layer", columns="seed", values="response_std")
                if row:
                    theirs, measured = ranked(theirs), measured.astype(float).apply(ranked)
                axes.plot(np.arange(1, len(theirs) + 1), theirs, color=colour, linewidth=1, linestyle=":")
                if len(measured):
                    layer, low, high = measured.index, measured.min(axis=1), measured.max(axis=1)
                    axes.plot(layer, measured.mean(axis=1), color=colour, linewidth=1.8)
                    axes.fill_between(layer, low, high, color=colour, alpha=0.25, linewidth=0)
                names.append((net, colour))
            axes.set(title=f"{title}, {order}", xlabel="layer" if row else "")
            axes.set_ylabel("" if column else "std of responses")
            for place, (name, colour) in enumerate(names):
                axes.text(0.98, 0.94 - 0.1 * place, name, transform=axes.transAxes, ha="right", va="top", color=colour)
            _say_if_empty(axes, ends[ends["family"] == family])
    panels[0, 0].set_ylim(bottom=0)
    _legend(figure, finals, _MEAN, _BAND, _PAPERS)
    text = (
        "Standard deviation of each 3x3 layer's output after BatchNorm, before ReLU or addition, as in Fig. 7 of the"
        " paper: over one batch of training images, by whose statistics BatchNorm normalises. The paper's curves are of"
        " its own nets on CIFAR-10."
    )
    return _captioned(figure, text, finals, profile)


def ranked(values: pd.Series) -> pd.Series:
    """The values from the largest on."""
    return pd.Series(np.sort(values)[::-1], index=values.index)


@styled
def error_against_depth(frames: Frames, profile: str) -> Figure:
    """Final error against depth, plain beside residual: the means as lines, every seed as a dot."""
    finals = serving(frames.finals, "plain-vs-residual")
    done = finals[finals["outcome"] == "finished"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    top = max(1.08 * float(done[[TRAINING, TEST]].max().max()), 5.0) if len(done) else 100.0
    for axes, measure, title in zip(panels, (TRAINING, TEST), ("training error", "test error"), strict=True):
        ends = []
        for family, rows in done.groupby("family"):
            colour, marker = FAMILY_COLOURS[str(family)], FAMILY_MARKERS[str(family)]
            means = rows.groupby("depth")[measure].mean()
            axes.plot(means.index, means, color=colour, linewidth=2, linestyle="--" if family == "plain" else "-")
            axes.scatter(
                rows["depth"], rows[measure], color=colour, marker=marker, s=22, alpha=0.65, linewidth=0, zorder=3,
                clip_on=False,
            )  # fmt: skip
            ends.append((float(means.iloc[-1]), f"{family} nets", colour))
        for family, rows in finals[finals["outcome"] == "diverged"].groupby("family"):
            axes.plot(rows["depth"], [top] * len(rows), color=FAMILY_COLOURS[str(family)], **_CROSS)
        _depth_axis(axes, finals)
        axes.set(title=title, ylim=(0, top))
        _name_ends(axes, ends, top)
        _say_if_empty(axes, done)
    panels[0].set_ylabel("final error (%)")
    _legend(figure, finals, _DOT, _BAR)
    text = (
        "Error at the end of training against depth. Training error: running error over the last tenth of the"
        " iterations. Test error: last iterate. Dots: seeds; lines: their means."
    )
    return _captioned(figure, text, finals, profile)


@styled
def shortcut_options(frames: Frames, profile: str) -> Figure:
    """Options A, B and C beside the plain net at each depth: every seed as a dot, the mean as a bar and a number."""
    finals = beside_plain(frames.finals)
    done = finals[finals["outcome"] == "finished"]
    depths = sorted(set(finals["depth"]))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    top = max(1.15 * float(done[[TRAINING, TEST]].max().max()), 5.0) if len(done) else 100.0
    for axes, depth in zip(
        np.atleast_1d(figure.subplots(1, max(len(depths), 1), sharey=True)), depths or [0], strict=True
    ):
        here = done[done["depth"] == depth]
        for position, shortcut in enumerate(("none", "A", "B", "C")):
            rows = here[here["shortcut"] == shortcut]
            colour = FAMILY_COLOURS["plain" if shortcut == "none" else "residual"]
            for measure, x, face in ((TRAINING, position - 0.2, "white"), (TEST, position + 0.2, colour)):
                if len(rows):
                    mean = rows[measure].mean()
                    axes.hlines(mean, x - 0.15, x + 0.15, color=colour, linewidth=2)
                    axes.text(x, rows[measure].max() + 0.025 * top, f"{mean:.1f}", ha="center", fontsize=8, color=_GREY)
                    axes.scatter(
                        [x] * len(rows), rows[measure], s=22, facecolor=face, edgecolor=colour, zorder=3, clip_on=False
                    )
            diverged = finals[
                (finals["depth"] == depth) & (finals["shortcut"] == shortcut) & (finals["outcome"] == "diverged")
            ]
            if len(diverged):  # an empty artist that is not clipped would confuse the layout
                axes.plot([position] * len(diverged), [top] * len(diverged), color=colour, **_CROSS)
        axes.set_xticks(range(4), ["plain", "A", "B", "C"])
        axes.grid(axis="x", visible=False)
        axes.set(title=f"{depth} layers" if depth else "", ylim=(0, top), xlim=(-0.6, 3.6), xlabel="shortcut option")
        _say_if_empty(axes, here)
    figure.axes[0].set_ylabel("final error (%)")
    _legend(figure, finals, _HOLLOW, _DOT_TEST, _BAR)
    text = (
        "Parameter-free shortcuts (A), projections where dimensions grow (B) and projections everywhere (C), beside the"
        " plain net. Left of each pair: training error; right: test error."
    )
    return _captioned(figure, text, finals, profile)


@styled
def gaps_against_depth(frames: Frames, profile: str) -> Figure:
    """Degradation gap of plain and of residual nets, and residual benefit, against depth: means and 95 % intervals."""
    finals = serving(frames.finals, "plain-vs-residual")
    done = finals[finals["outcome"] == "finished"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, title in zip(panels, (TRAINING, TEST), ("training error", "test error"), strict=True):
        plain, residual = (effects.degradation_gap(finals, measure, family) for family in FAMILY_COLOURS)
        lines: tuple[tuple[pd.DataFrame, dict[str, Any]], ...] = (
            (plain, {"label": "gap of plain nets", **_FAMILY["plain"]}),
            (residual, {"label": "gap of residual nets", **_FAMILY["residual"]}),
            (effects.residual_benefit(finals, measure), {"label": "residual benefit", **_BENEFIT}),
        )
        for shift, (rows, style) in enumerate(lines):
            at = rows["depth"].astype(float) * (1 + 0.025 * (shift - 1))  # so that intervals do not hide one another
            axes.errorbar(at, rows["mean"], _bars(rows), capsize=3, markersize=5, **style)
        axes.axhline(0, color=_GREY, linewidth=0.8)
        _depth_axis(axes, finals)
        axes.set(title=title)
        _say_if_empty(axes, done)
    panels[0].set_ylabel("percentage points")
    _legend(figure, done, *panels[0].get_legend_handles_labels()[0])
    text = (
        "Degradation gap: error at a depth minus error of the shallowest net of the family. Residual benefit: error of"
        " the plain net minus error of the residual net as deep. Paired by seed; bars: 95 % t intervals."
    )
    return _captioned(figure, text, finals, profile)


@styled
def generalisation_gap(frames: Frames, profile: str) -> Figure:
    """Test error minus clean training error against depth: means and 95 % intervals; nets of depth-scaling apart."""
    panels = {title: serving(frames.finals, name) for title, name in _WITH_DEPTHS.items()}
    finals = pd.concat(panels.values()).drop_duplicates("id")
    done = finals[finals["outcome"] == "finished"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        for shift, (family, style) in enumerate(_FAMILY.items()):
            gap = effects.generalisation_gap(rows, family)
            at = gap["depth"].astype(float) * (0.985 + 0.03 * shift)  # so that intervals do not hide one another
            axes.errorbar(at, gap["mean"], _bars(gap), capsize=3, markersize=5, **style)
        axes.axhline(0, color=_GREY, linewidth=0.8)
        _depth_axis(axes, rows)
        if len(rows):  # also of nets without an error
            axes.set_xlim(rows["depth"].min() / 1.15, rows["depth"].max() * 1.15)
        axes.set(title=title)
        _say_if_empty(axes, rows[rows["outcome"] == "finished"])
    figure.axes[0].set_ylabel("test minus training error\n(percentage points)")
    lines = [Line2D([], [], markersize=5, label=f"{family} nets", **style) for family, style in _FAMILY.items()]
    _legend(figure, done, *lines)
    text = (
        "Generalisation gap: test error minus training error in evaluation mode on images that are not augmented, both"
        " of the last iterate. Means over seeds; bars: 95 % t intervals, where there are two seeds or more."
    )
    return _captioned(figure, text, finals, profile)


@styled
def iterations_to_target(frames: Frames, profile: str) -> Figure:
    """When the running training error is first at most 50, 20 and 10 %, against depth: every seed, and the medians.

    Trials that never get there are marks above the end of training.
    """
    finals = serving(frames.finals, "plain-vs-residual")
    ended = finals[finals["outcome"].isin(RESULTS)]
    end = float(finals["iterations"].max()) if len(finals) else 1.0
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, target in zip(figure.subplots(1, len(TARGETS_PCT), sharey=True), TARGETS_PCT, strict=True):
        for shift, (family, style) in enumerate(_FAMILY.items()):
            medians = effects.iterations_to_target(finals, target, family)
            aside = 0.96 + 0.08 * shift
            axes.plot(aside * medians["depth"], medians["median"], linewidth=2, **style | {"marker": ""})
            rows = ended[ended["family"] == family]
            # seeds side by side: of those that did not get there only the number is to be seen
            at = rows["depth"] * (aside + 0.03 * (rows["seed"] - rows["seed"].mean()))
            first = rows[f"reached_{target}_pct"]
            for mark, chosen in (
                (style["marker"], first.notna()),
                ("^", first.isna() & (rows["outcome"] == "finished")),
                ("x", first.isna() & (rows["outcome"] == "diverged")),
            ):
                where = first[chosen].fillna(1.07 * end)
                axes.plot(at[chosen], where, color=style["color"], marker=mark, **_SEED)
        axes.axhline(end, color=_GREY, linewidth=0.8)
        _depth_axis(axes, finals)
        axes.set(title=f"training error of {target} %", ylim=(0, 1.14 * end))
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= end])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        _say_if_empty(axes, finals[finals["outcome"] == "finished"])
    figure.axes[0].set_ylabel("iterations")
    lines = [Line2D([], [], label=f"{family} nets", **_SEED | style) for family, style in _FAMILY.items()]
    _legend(figure, ended, *lines, _NOT_REACHED)
    text = (
        "The first record whose running training error is at most 50, 20 and 10 %. Marks: seeds; lines: their medians."
        " A trial that ended before is censored: it stands above the line of the last iteration, comes after all others"
        " in the median, and where the median is one of these, there is no line."
    )
    return _captioned(figure, text, finals, profile)


@styled
def shortcut_differences(frames: Frames, profile: str) -> Figure:
    """What options gain over the plain net (left) and over one another (right): paired means and 95 % intervals."""
    finals = beside_plain(frames.finals)
    done = finals[finals["outcome"] == "finished"]
    depths = sorted(set(finals["depth"]))
    found = [effects.shortcut_differences(finals, measure) for measure in (TRAINING, TEST)]
    figure = Figure(figsize=(8, 1.4 + 0.6 * max(len(depths), 1) * 2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 2), _DIFFERENCES.items(), strict=True):
        lines = list(product(depths, names))
        for differences, face, shift in zip(found, ("white", _GREY), (-0.14, 0.14), strict=True):
            rows = differences.set_index(["depth", "quantity"]).reindex(lines)
            axes.errorbar(
                rows["mean"].astype(float), np.arange(len(rows)) + shift, xerr=_bars(rows), fmt="o", color=_GREY,
                markerfacecolor=face, markersize=5, capsize=3,
            )  # fmt: skip
        axes.axvline(0, color=_GREY, linewidth=0.8)
        axes.set_yticks(range(len(lines)), [f"{depth} layers: {name.replace('-', '−')}" for depth, name in lines])
        axes.set(title=title, xlabel="difference in error (percentage points)", ylim=(max(len(lines), 1) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        _say_if_empty(axes, done)
    _legend(figure, done, _HOLLOW, _DOT_TEST)
    text = (
        "Final error of the first net minus that of the second: positive where the second is better. Paired by seed;"
        " bars: 95 % t intervals, not corrected for their number. Each panel has an axis of its own."
    )
    return _captioned(figure, text, finals, profile)


FIGURES = (
    figure_1,
    figure_4,
    figure_6,
    figure_7,
    error_against_depth,
    gaps_against_depth,
    generalisation_gap,
    iterations_to_target,
    shortcut_options,
    shortcut_differences,
)


def drawn(frames: Frames, profile: str) -> Iterator[tuple[str, Figure]]:
    """Every figure with its file name."""
    for draw in FIGURES:
        yield draw.__name__, draw(frames, profile)


def caption(figure: Figure) -> str:
    """The caption of a figure of this module, unwrapped."""
    return " ".join(figure.texts[-1].get_text().split())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.svg, .pdf and .png. Equal frames give equal bytes: no dates, no random element names.

    What a figure rests on goes into the files' metadata (Description, or Keywords in a PDF) as JSON: run ids, digests
    of the data, commits of the code that ran them, schema and protocol.
    """
    runs = str(figure.get_label())
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Title": name, "Description": runs, "Date": None},
        "pdf": {"Title": name, "Keywords": runs, "CreationDate": None},
        "png": {"Title": name, "Description": runs},
    }
    return [files.write(folder / f"{name}.{kind}", _rendered(figure, kind, about)) for kind, about in metadata.items()]


def inline(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page that holds several, without its caption, which the page prints."""
    text = figure.texts[-1]
    text.set_visible(False)
    svg = _rendered(figure, "svg", {"Title": name, "Date": None}).decode()
    text.set_visible(True)
    width, height = 72 * figure.get_size_inches()  # points
    above = (1 - text.get_position()[1]) * height
    svg = re.sub(r'viewBox="[^"]*"', f'viewBox="0 0 {width:g} {above:g}"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)  # names must be unique in the page
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def html(name: str, frames: Frames, profile: str) -> str:
    """The figure of that name as an HTML `<figure>` with its caption, for notebooks; the caption describes it, too."""
    check_choice("figure", name, [draw.__name__ for draw in FIGURES])
    figure = next(draw for draw in FIGURES if draw.__name__ == name)(frames, profile)
    said = escape(caption(figure))
    picture = inline(figure, name)
    return f'<figure><div role="img" aria-label="{said}">{picture}</div><figcaption>{said}</figcaption></figure>'


def nets_1(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of Fig. 1: the shallowest plain net of plain-vs-residual, and that of 56 layers, or else the deepest."""
    plain = serving(finals, "plain-vs-residual").query("family == 'plain'")
    depths = set(plain["depth"])
    chosen = {min(depths), 56 if 56 in depths else max(depths)} if depths else set()
    return plain[plain["depth"].isin(chosen)]


def nets_4(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of Fig. 4: nets of 18 and 34 layers on ImageNet."""
    return serving(finals, "imagenet-plain-vs-residual").query("block == 'basic'")


def panels_6(finals: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each panel of Fig. 6, by its title."""
    compared = serving(finals, "plain-vs-residual")
    return {
        "plain nets": compared[compared["family"] == "plain"],
        "ResNets, option A": compared[compared["family"] == "residual"],
        "depth scaling": serving(finals, "depth-scaling"),
    }


def nets_7(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of Fig. 7: plain nets of 20 and 56 layers, ResNets of 20, 56 and 110."""
    nets = serving(finals, "plain-vs-residual").query("depth in (20, 56, 110)")
    return nets[(nets["family"] == "residual") | (nets["depth"] < 110)]


_CROSS: dict[str, Any] = {
    "marker": "x",
    "markersize": 9,
    "markeredgewidth": 2,
    "linestyle": "none",
    "clip_on": False,
    "zorder": 5,
}
_BESIDE: dict[str, Any] = {
    "textcoords": "offset points",
    "va": "center",
    "fontsize": 8.5,
    "annotation_clip": False,
}
_GREY = "#444444"
_BENEFIT: dict[str, Any] = {"color": _GREY, "marker": "^", "linestyle": ":"}
_FAMILY: dict[str, dict[str, Any]] = {
    "plain": {"color": FAMILY_COLOURS["plain"], "marker": "s", "linestyle": "--"},
    "residual": {"color": FAMILY_COLOURS["residual"], "marker": "o", "linestyle": "-"},
}
_FAINT: dict[str, Any] = {"alpha": 0.6, "linestyle": "-.", "zorder": 2.5}
_LEGEND_INCHES = 0.3
_THIN = Line2D([], [], color=_GREY, linewidth=1, linestyle="--", label="training error")
_BOLD = Line2D([], [], color=_GREY, linewidth=2.2, label="test error")
_BAND = Line2D([], [], color=_GREY, linewidth=8, alpha=0.25, label="range over seeds")
_MEAN = Line2D([], [], color=_GREY, linewidth=1.8, label="mean over seeds")
_WITH_DEPTHS = {"plain against residual": "plain-vs-residual", "depth scaling": "depth-scaling"}
_DIFFERENCES = {
    "plain net minus option": list(effects.PAIRS)[:3],
    "option minus option": list(effects.PAIRS)[3:],
}
_SEED: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 5,
    "markeredgewidth": 1.3,
    "markerfacecolor": "white",
    "zorder": 3,
}
_UNFINISHED = Line2D([], [], color=_GREY, linewidth=1.2, label="unfinished, provisional", **_FAINT)
_PAPERS = Line2D([], [], color=_GREY, linewidth=1, linestyle=":", label="the paper, digitised")
_DOT = Line2D([], [], color=_GREY, marker="o", markersize=5, linestyle="none", label="a seed")
_HOLLOW = Line2D(
    [], [], color=_GREY, marker="o", markersize=5, markerfacecolor="white", linestyle="none", label="training error"
)
_DOT_TEST = Line2D([], [], color=_GREY, marker="o", markersize=5, linestyle="none", label="test error")
_NOT_REACHED = Line2D([], [], color=_GREY, marker="^", label="not reached", **_SEED)
_BAR = Line2D([], [], color=_GREY, linewidth=2, label="mean over seeds")


Colours = dict[str, tuple[float, ...]]  # by the title of a net


def _papers_curves(axes: Axes, number: int, series: str, finals: pd.DataFrame, colours: Colours) -> None:
    """The paper's digitised curves of the nets that are drawn, on our iterations, behind everything else."""
    for title, curve in papers_curves(number, series, finals):
        axes.plot(curve["iteration"], curve["value"], color=colours[title], linewidth=1, linestyle=":", zorder=1)


def papers_curves(number: int, series: str, finals: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The paper's curve of each net, [iteration, value], on our iterations; empty where the paper has none."""
    theirs = paper.curves(number)
    theirs = theirs[theirs["series"] == series]
    for title, rows in finals.groupby("title"):
        curve = theirs[theirs["curve"] == title].drop_duplicates("iteration").sort_values("iteration")
        ours = rows["iterations"].max() / (paper.IMAGENET_ITERATIONS if number == 4 else paper.ITERATIONS)
        yield str(title), curve[["iteration", "value"]].assign(iteration=curve["iteration"] * ours)


def _curves(
    axes: Axes, curves: pd.DataFrame, finals: pd.DataFrame, measures: dict[str, str], top: float, colours: Colours
) -> None:
    """Error against iteration, a colour a net: mean over the finished seeds, with the band of their range.

    The curves of trials without a result stand in front, each by itself and faint.
    """
    done, undone = finals[finals["outcome"] == "finished"], unfinished(curves, finals)
    for measure, style in measures.items():
        width = 1.0 if style == "--" else 2.2
        for net, seeds in by_net(curves, done, measure):
            axes.plot(seeds.index, seeds.mean(axis=1), color=colours[net], linewidth=width, linestyle=style)
            if len(seeds.columns) > 1:  # the full range: a standard deviation of two or three seeds says less
                low, high = seeds.min(axis=1), seeds.max(axis=1)
                axes.fill_between(seeds.index, low, high, color=colours[net], alpha=0.2, linewidth=0)
        for net, seeds in by_net(curves, undone, measure):
            for curve in (seeds[id].dropna() for id in seeds):
                axes.plot(curve.index, curve, color=colours[net], linewidth=0.5 + 0.4 * width, **_FAINT)
            if measure == next(iter(measures)) and net not in set(done["title"]):  # no mean, at whose end its name is
                axes.annotate(net, (curve.index[-1], curve.iloc[-1]), (4, 0), color=colours[net], **_BESIDE)
    last = TEST if "test_error_pct" in measures else TRAINING
    ends = [(y, str(title), colours[str(title)]) for title, y in done.groupby("title", sort=False)[last].mean().items()]
    _name_ends(axes, ends, top)
    for title, rows in finals[finals["outcome"] == "diverged"].groupby("title"):
        axes.plot(rows["diverged_at"], [top] * len(rows), color=colours[str(title)], **_CROSS)
        axes.annotate(str(title), (rows["diverged_at"].max(), top), (8, 0), color=colours[str(title)], **_BESIDE)
    end = finals["iterations"].max() if len(finals) else 1
    axes.set(xlim=(0, end), ylim=(0, top), xlabel="iteration", ylabel="")
    axes.yaxis.set_major_locator(MultipleLocator(5 if top == PAPER_TOP_PCT else 20))
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _say_if_empty(axes, done)


def by_net(curves: pd.DataFrame, finals: pd.DataFrame, measure: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The measure [iteration, trial] of the trials of each net, as finely as it can be shown."""
    shown = thinned(curves.loc[curves["id"].isin(finals["id"]), ["id", "iteration", measure]]).dropna()
    for title, rows in finals.groupby("title", sort=False):
        of_net = shown[shown["id"].isin(rows["id"])]
        if len(of_net):
            yield str(title), of_net.pivot(index="iteration", columns="id", values=measure)


def unfinished(curves: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """The trials without a result of whose curve there is something."""
    return finals[~finals["outcome"].isin(RESULTS) & finals["id"].isin(curves["id"].unique())]


def _provisional(curves: pd.DataFrame, finals: pd.DataFrame) -> str:
    """A sentence that names the faint curves; '' where there are none."""
    nets = [
        f"{title} (seed{'s' if len(rows) > 1 else ''} {', '.join(map(str, sorted(rows['seed'])))})"
        for title, rows in unfinished(curves, finals).groupby("title", sort=False)
    ]
    return f" Faint and provisional, in no mean: the curves so far of {', '.join(nets)}." if nets else ""


def colours_of(finals: pd.DataFrame, first: float = 0.45, last: float = 0.95) -> Colours:
    """A colour for each net by its title: hue by family, lightness by depth, from the `first` shade to the `last`."""
    depths = sorted(set(finals["depth"]))
    few = (first + 0.1 * (last - first), last - 0.1 * (last - first))
    shades = dict(zip(depths, np.linspace(first, last, len(depths)) if len(depths) > 2 else few, strict=False))
    nets = finals.drop_duplicates("title").to_dict("records")
    return {net["title"]: tuple(matplotlib.colormaps[COLOURMAPS[net["family"]]](shades[net["depth"]])) for net in nets}


def top_of(finals: pd.DataFrame) -> float:
    """Upper end of the error axis (%): the paper's 20 where the nets of at most 56 layers end below it, else 100.

    The paper's axis would cut the degradation away where it is large. As in the paper, deeper plain nets do not count:
    those that end above the axis are named at its upper edge.
    """
    errors = finals[finals["depth"] <= 56][[TRAINING, TEST]]
    return PAPER_TOP_PCT if errors.max().max() < PAPER_TOP_PCT else 100


def top_4(finals: pd.DataFrame) -> float:
    """Upper end of Fig. 4's error axis (%): the paper's 60 where the nets end below it, else 100."""
    return 60 if finals[[TRAINING, TEST]].max().max() < 60 else 100


def apart(ends: Iterable[tuple[float, str, Any]], top: float) -> list[tuple[float, float, str, Any]]:
    """Lines' ends (error %, name, colour) from the lowest up, each after a place for its name that is its own."""
    ordered = sorted(ends, key=lambda end: end[0])
    gap = 0.062 * top
    places: list[float] = []
    for value, _, _ in ordered:
        places.append(max(min(value, top), places[-1] + gap if places else 0.0))
    limit = top
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return [(place, *end) for place, end in zip(places, ordered, strict=True)]


def named(name: str, value: float, top: float) -> str:
    """The name of a line, with the error that it ends at where that is above the axis."""
    return name if value <= top else f"{name} ↑ {value:.0f} %"


def _name_ends(axes: Axes, ends: Iterable[tuple[float, str, object]], top: float) -> None:
    """Write each line's name right of the panel at its last value (error %, name, colour), moved apart as needed."""
    for place, value, name, colour in apart(ends, top):
        axes.annotate(
            named(name, value, top),
            xy=(1, min(value, top)),
            xytext=(1.05, place),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _depth_axis(axes: Axes, finals: pd.DataFrame) -> None:
    """Depth, logarithmic, with a tick for each net that is planned."""
    depths = sorted(set(finals["depth"]))
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_xlabel("layers")


def _bars(rows: pd.DataFrame) -> list[pd.Series]:
    """Lengths of the error bars of estimates: below and above the mean."""
    return [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]


def _say_if_empty(axes: Axes, done: pd.DataFrame) -> None:
    if done.empty:
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=_GREY)


def _legend(figure: Figure, finals: pd.DataFrame, *handles: Line2D) -> None:
    """What line styles and marks mean, under the panels: those that are used."""
    seeds = finals[finals["outcome"] == "finished"].groupby("condition").size()
    if seeds.max() == 1:
        handles = tuple(handle for handle in handles if handle is not _BAND)
    if (finals["outcome"] == "diverged").any():
        handles = (*handles, Line2D([], [], color=_GREY, **_CROSS, label="diverged"))
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=len(handles)).set_in_layout(False)


def _captioned(figure: Figure, text: str, finals: pd.DataFrame, profile: str) -> Figure:
    """Put the caption under the figure, and what it rests on into its label."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(f"{text} {_account(finals, profile)}", int(width * 17))
    under = 0.1 + 0.15 * len(lines)  # inches
    total = height + under
    figure.set_size_inches(width, total)
    bottom = (under + _LEGEND_INCHES) / total
    figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))  # type: ignore[union-attr, call-arg]
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.5, under / total))
    figure.text(0.1 / width, (under - 0.05) / total, "\n".join(lines), va="top", fontsize=8, color=_GREY)
    figure.draw_without_rendering()  # the layout, once for all files
    figure.set_layout_engine("none")
    traced = {name: sorted(set(finals[name]) - {""}) for name in ("run_id", "data_digest", "git_commit")}
    figure.set_label(json.dumps({"profile": profile, "schema": SCHEMA, "protocol": PROTOCOL, **traced}))
    return figure


def _account(finals: pd.DataFrame, profile: str) -> str:
    """What was drawn and what was not: data, profile, seeds, runs, and every trial that is not a finished one."""
    if finals.empty:
        return f"Profile {profile}: no trial of these nets is planned."
    done = finals[finals["outcome"] == "finished"]
    seeds = sorted(set(done.groupby("condition").size()))
    n = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else f"{seeds[0] if seeds else 0}"
    account = (
        f"Data: {', '.join(sorted(set(finals['data'])))}; profile {profile};"
        f" n = {n} seed{'' if n == '1' else 's'} a net; {len(done)} of {len(finals)} planned trials finished."
    )
    for outcome in ("diverged", *WITHOUT_RESULT):
        nets = finals[finals["outcome"] == outcome].groupby("title", sort=False)
        if len(nets):
            planned = finals.groupby("title").size()
            counts = (f"{title} ({len(rows)} of {planned[title]}{_where(rows)})" for title, rows in nets)
            account += f" {outcome.capitalize()}: {', '.join(counts)}."
    traced = {name: sorted({value[:7] for value in finals[name]} - {""}) for name in ("data_digest", "git_commit")}
    if len(done):
        runs = hashlib.sha256(" ".join(sorted(set(finals["run_id"]) - {""})).encode()).hexdigest()[:7]
        data, code = (", ".join(values) or "unknown" for values in traced.values())
        account += f" Runs {runs}, data {data}, code {code}, protocol {PROTOCOL}."
    return account


def _where(rows: pd.DataFrame) -> str:
    at = sorted(set(rows["diverged_at"].dropna().astype(int)))
    return f", at iteration {', '.join(map(str, at))}" if at else ""


@styled
def _rendered(figure: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
