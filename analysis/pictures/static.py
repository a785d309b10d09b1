"""Pictures on paper: a picture drawn by matplotlib and seaborn, with its caption, as SVG, PDF and PNG.

Owns how styles and tints look in print, and how a figure becomes files. Must not know what a picture is about.
"""

import io
import json
import re
import textwrap
from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullLocator, StrMethodFormatter

from analysis import files
from analysis.pictures.colours import DEEPEST, FAMILY_COLOURS, GREY, SHADES, SHALLOWEST
from analysis.pictures.picture import Axis, Estimates, Key, Line, Marks, Name, Panel, Picture, Style, Tint

THEME: dict[Any, Any] = {
    **sns.axes_style("ticks"),
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlepad": 12,  # clear of the marks of diverged trials on the upper edge
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "degradation-study",  # otherwise element names are random and no two renderings equal
    "svg.fonttype": "path",  # the reader's machine need not have the font
}
_MARKERS = {"plain": "s", "residual": "o", "constructed": "D", "": "^"}
_DASHES = {"plain": "--", "residual": "-", "constructed": "-.", "": ":"}
_LINES: dict[Style, dict[str, Any]] = {  # in the order in which they are drawn
    Style.PAPER: {"linestyle": ":", "linewidth": 1, "zorder": 1},
    Style.THIN: {"linestyle": "--", "linewidth": 1},
    Style.BOLD: {"linestyle": "-", "linewidth": 2.2},
    Style.MEAN: {"linestyle": "-", "linewidth": 1.8},
    Style.BAR: {"linestyle": "-", "linewidth": 2},
    Style.PROVISIONAL: {"linestyle": "-.", "linewidth": 1.2, "alpha": 0.6, "zorder": 2.5},
    Style.DIAGONAL: {"linestyle": "-", "linewidth": 1},
}
_HOLLOW = {"markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1.3}
_MARKS: dict[Style, dict[str, Any]] = {
    Style.DOT: {"markersize": 5, "markeredgewidth": 0, "alpha": 0.75},
    Style.HOLLOW: _HOLLOW,
    Style.CENSORED: {"marker": "^", **_HOLLOW},
    Style.CROSS: {"marker": "x", "markersize": 9, "markeredgewidth": 2, "zorder": 5},
}
_NAME_SIZE = 8.5
_LEGEND_INCHES = 0.3

styled = matplotlib.style.context(["default", THEME])  # nothing is left of what the user, or a notebook, has set


@styled
def draw(picture: Picture) -> Figure:
    """The picture as a figure, with its caption under it and what it rests on as its label."""
    figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
    columns = picture.columns or len(picture.panels)
    rows = len(picture.panels) // columns
    grid = figure.subplots(rows, columns, sharex=rows > 1, sharey=picture.shared, squeeze=False)
    for place, (axes, panel) in enumerate(zip(grid.flat, picture.panels, strict=True)):
        _panel(axes, panel)
        first, last = place % columns == 0, place >= len(picture.panels) - columns
        axes.set(xlabel=panel.x.label if last else "", ylabel=panel.y.label if first else "")
    _legend(figure, picture)
    _caption(figure, picture.caption)
    figure.set_label(json.dumps(picture.traced))
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.svg, .pdf and .png. Equal pictures give equal bytes: no dates, no random element names.

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


def html(picture: Picture) -> str:
    """The picture as an HTML `<figure>` with its caption, for notebooks; the caption describes it, too."""
    caption, svg = escape(picture.caption), inline(draw(picture), picture.name)
    return f'<figure><div role="img" aria-label="{caption}">{svg}</div><figcaption>{caption}</figcaption></figure>'


@styled
def _rendered(figure: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _panel(axes: Axes, panel: Panel) -> None:
    lines = [series for series in panel.series if isinstance(series, Line) and not np.isnan(series.y).all()]
    for style, look in _LINES.items():
        _lines(axes, [line for line in lines if line.style is style], look)
    for series in panel.series:
        if isinstance(series, Line) and series.band:
            axes.fill_between(series.x, *series.band, color=colour(series.tint), alpha=0.2, linewidth=0)
        elif isinstance(series, Marks) and len(series.x):  # an empty artist that is not clipped disturbs the layout
            look = _mark_of(series.style, series.tint)
            axes.plot(series.x, series.y, **look, linestyle="none", clip_on=False)
        elif isinstance(series, Estimates):
            _intervals(axes, series)
    if panel.rule is not None:
        (axes.axvline if panel.upright else axes.axhline)(panel.rule, color=GREY, linewidth=0.8)
    axes.set_title(panel.title)
    for letter, axis in (("x", panel.x), ("y", panel.y)):
        _axis(axes, letter, axis)
    _words(axes, panel)


def _lines(axes: Axes, lines: list[Line], look: dict[str, Any]) -> None:
    """Lines of one style. A line with gaps is drawn in pieces: seaborn would leave a gap out, and so close it."""
    shapes = groupby(lines, lambda line: _dash_of(line.style, line.tint))
    for dash, alike in shapes:
        parts, colours = [], {}
        for number, line in enumerate(alike):
            gaps = np.isnan(line.y)
            parts.append(pd.DataFrame({"x": line.x, "y": line.y, "line": str(number), "piece": np.cumsum(gaps)})[~gaps])
            colours[str(number)] = colour(line.tint)
        sns.lineplot(
            pd.concat(parts),
            x="x",
            y="y",
            hue="line",
            units="piece",
            palette=colours,
            estimator=None,  # the values are aggregated already
            errorbar=None,
            sort=False,
            legend=False,
            ax=axes,
            **look | {"linestyle": dash},
        )


def _intervals(axes: Axes, series: Estimates) -> None:
    means = series.x if series.across else series.y
    bars: dict[str, Any] = {"xerr" if series.across else "yerr": [means - series.low, series.high - means]}
    axes.errorbar(series.x, series.y, **bars, capsize=3, **_estimate_of(series.style, series.tint))


def _axis(axes: Axes, letter: str, axis: Axis) -> None:
    shown = axes.xaxis if letter == "x" else axes.yaxis
    if axis.log:
        axes.set(**{f"{letter}scale": "log"})
        shown.set_minor_locator(NullLocator())
    if axis.ticks is not None:
        shown.set_ticks(list(axis.ticks), list(axis.ticks.values()))
    elif axis.step is not None:
        shown.set_major_locator(MultipleLocator(axis.step))
    elif axis.whole:
        shown.set_major_locator(MaxNLocator(5 if letter == "x" else 9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if axis.limits is not None:
        axes.set(**{f"{letter}lim": axis.limits})
    if axis.last is not None:
        shown.set_ticks([tick for tick in shown.get_ticklocs() if tick <= axis.last])
    if axis.whole:
        shown.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if not axis.grid:
        axes.grid(axis=letter, visible=False)  # type: ignore[arg-type]


def _words(axes: Axes, panel: Panel) -> None:
    """Names of lines, numbers of marks, and that there is nothing."""
    for name in panel.names:
        _name(axes, name)
    for place, (net, tint) in enumerate(panel.corner):
        at = (0.98, 0.94 - 0.1 * place)
        axes.text(*at, net, transform=axes.transAxes, ha="right", va="top", color=colour(tint))
    for note in panel.notes:
        offset, size = ((0, 4), 8) if note.above else ((8, 0), _NAME_SIZE)
        axes.annotate(
            note.text,
            (note.x, note.y),
            offset,
            textcoords="offset points",
            fontsize=size,
            color=colour(note.tint),
            annotation_clip=False,
            ha="center" if note.above else "left",
            va="bottom" if note.above else "center",
        )
    if panel.empty:
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=GREY)


def _name(axes: Axes, name: Name) -> None:
    """The name of a line right of the panel, and a stroke to where the line ends."""
    axes.annotate(
        name.text,
        xy=(1, name.y),
        xytext=(1.05, name.at),
        xycoords=axes.get_yaxis_transform(),
        textcoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=_NAME_SIZE,
        color=colour(name.tint),
        arrowprops={
            "arrowstyle": "-",
            "color": colour(name.tint),
            "linewidth": 0.7,
            "shrinkA": 1,
            "shrinkB": 0,
            "relpos": (0, 0.5),
        },
        annotation_clip=False,
    )


def colour(tint: Tint) -> Any:
    """Grey without a family; the family's colour, or the shade of a depth."""
    if tint.place is None:
        return FAMILY_COLOURS.get(tint.family, GREY)
    return SHADES[tint.family](SHALLOWEST + tint.place * (DEEPEST - SHALLOWEST))


def _dash_of(style: Style, tint: Tint) -> str:
    """A family's means are dashed or not; among depths of a family the style tells."""
    return (
        _DASHES[tint.family]
        if style is Style.MEAN and tint.family and tint.place is None
        else _LINES[style]["linestyle"]
    )


def _mark_of(style: Style, tint: Tint) -> dict[str, Any]:
    """How a mark looks: its shape tells the family, too."""
    return {"color": colour(tint), "marker": _MARKERS[tint.family]} | _MARKS[style]


def _estimate_of(style: Style, tint: Tint) -> dict[str, Any]:
    """How means with intervals look: joined if they are of a family's depths, else single marks."""
    if style is Style.ESTIMATE:
        look = {"marker": _MARKERS[tint.family], "linestyle": _DASHES[tint.family], "linewidth": 1.5}
    else:
        look = {"marker": "o", "linestyle": "none", "markerfacecolor": "white" if style is Style.HOLLOW else GREY}
    return {"color": colour(tint), "markersize": 5} | look


def _handle(key: Key) -> Line2D:
    """The line or mark beside a legend's text."""
    if key.style is Style.BAND:
        look = {"linewidth": 8, "alpha": 0.25, "solid_capstyle": "butt"}
    elif key.style is Style.ESTIMATE:
        look = _estimate_of(key.style, key.tint)
    elif key.style in _MARKS:
        family = key.tint.family
        look = (
            {"marker": _MARKERS[family], "linestyle": _DASHES[family]}
            if family
            else {"marker": "o", "linestyle": "none"}
        )
        look |= _MARKS[key.style]
    else:
        look = _LINES[key.style]
    return Line2D([], [], label=key.text or key.style, **{"color": colour(key.tint)} | look)


def _legend(figure: Figure, picture: Picture) -> None:
    """What line styles and marks mean, under the panels."""
    handles = [_handle(key) for key in picture.legend()]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=len(handles)).set_in_layout(False)


def _caption(figure: Figure, caption: str) -> None:
    """Put the caption under the figure, and lay all of it out, once for all files."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption, int(width * 17))
    under = 0.1 + 0.15 * len(lines)  # inches
    total = height + under
    figure.set_size_inches(width, total)
    bottom = (under + _LEGEND_INCHES) / total
    figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))  # type: ignore[union-attr, call-arg]
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.5, under / total))
    figure.text(0.1 / width, (under - 0.05) / total, "\n".join(lines), va="top", fontsize=8, color=GREY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
