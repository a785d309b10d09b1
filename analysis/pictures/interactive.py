"""Pictures that answer a pointer: the panels of a picture as Plotly figures, for the study page.

Owns how styles and tints look on a light ground and on a dark one, what a curve tells when it is pointed at, and what
can be switched off. Must not know the page, nor what a picture is about.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analysis.pictures.colours import ENDS, FAMILIES, SHADES, Pair
from analysis.pictures.picture import (
    TESTS,
    TRAINS,
    Axis,
    Estimates,
    Line,
    Marks,
    Panel,
    Picture,
    Series,
    Style,
    Tint,
)
from analysis.pictures.values import intervals_of

FONT = "system-ui, sans-serif"
MOST = 10  # runs that a curve names: more would not fit beside it
SHORT = 8  # characters of a run's id where there is no room for 32; the table under the chart has them whole
NAMES_PX, MARGIN_PX = 90, 16  # right of a panel
_LINES: dict[Style, dict[str, Any]] = {
    Style.THIN: {"width": 1.2, "dash": "dash"},
    Style.BOLD: {"width": 2.6},
    Style.MEAN: {"width": 2},
    Style.BAR: {"width": 2},
    Style.PAPER: {"width": 1.2, "dash": "dot"},
    Style.PROVISIONAL: {"width": 1.2, "dash": "dashdot"},
    Style.DIAGONAL: {"width": 1.2},
}
_SYMBOLS = {"plain": "square", "residual": "circle", "constructed": "diamond", "": "triangle-up"}
_DASHES = {"plain": "dash", "residual": "solid", "constructed": "dashdot", "": "dot"}
_CROSS: dict[str, Any] = {"symbol": "x-thin", "size": 10, "line": {"width": 2.5}}
_REST = (TRAINS, TESTS, Style.BAND, Style.PAPER, Style.MEAN, Style.DOT, Style.CROSS, Style.PROVISIONAL)


@dataclass(frozen=True)
class Chart:
    """A picture with its panels drawn, by their titles.

    Each trace's `meta` holds its `parts` (the net, the measure, what is drawn), each of which can be switched off, and
    its `colours` on a light and on a dark ground.
    """

    picture: Picture
    panels: dict[str, go.Figure]

    def switches(self) -> dict[str, Pair | None]:
        """Every part with its colours, if it has some of its own: nets by depth, then measures, then all else."""
        tints = {series.net: series.tint for series in self.picture.series()}
        nets = sorted(tints, key=lambda net: (list(FAMILIES).index(tints[net].family), tints[net].place or 0.0))
        parts = {part for figure in self.panels.values() for trace in figure.data for part in trace.meta["parts"][1:]}
        drawn = {trace.meta["parts"][0] for figure in self.panels.values() for trace in figure.data}
        colours: dict[str, Pair | None] = {net: colour(tints[net]) for net in nets if net in drawn}
        return colours | {part: None for part in _REST if part in parts}


def draw(picture: Picture) -> Chart:
    """A figure for each panel; without a template, which the page has once."""
    return Chart(picture, {panel.title: _panel(panel) for panel in picture.panels})


def templates() -> list[dict[str, Any]]:
    """What all panels share, on a light ground and on a dark one."""
    return [_template("#1d2129", "#dfe2e7", "#ffffff"), _template("#e6e8ec", "#343a45", "#1c2027")]


def colour(tint: Tint) -> Pair:
    """The family's colours, or the shades of a depth: darker with depth on light, lighter with depth on dark."""
    if tint.place is None:
        return FAMILIES[tint.family]
    light, dark = (_hex(SHADES[tint.family](first + tint.place * (last - first))) for first, last in ENDS)
    return light, dark


def _template(text: str, grid: str, label: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True, "title": {"standoff": 8}}
    template: dict[str, Any] = go.layout.Template(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": text},
            "hoverlabel": {"bgcolor": label, "align": "left", "font": {"family": FONT, "color": text}},
            "margin": {"l": 8, "r": NAMES_PX, "t": 12, "b": 8},
            "showlegend": False,  # the switches are
            "hovermode": "closest",
            "uirevision": "kept",  # what was zoomed stays so
            "xaxis": axis | {"tickformat": "~s", "nticks": 6},
            "yaxis": axis,
        }
    ).to_plotly_json()
    return template


def _panel(panel: Panel) -> go.Figure:
    traces = [trace for series in panel.series if len(series.x) for trace in _traces(series, panel)]
    layout = {"template": go.layout.Template(), "xaxis": _axis(panel.x), "yaxis": _axis(panel.y)}
    figure = go.Figure([*traces, *_names(panel)], layout)
    if not panel.names:
        figure.update_layout(margin_r=MARGIN_PX)
    if panel.empty:
        figure.add_annotation(text="no finished trial", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure


def _axis(axis: Axis) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": {"text": axis.label}}
    if axis.log:
        shown["type"] = "log"
    if axis.limits is not None:
        shown["range"] = tuple(np.log10(axis.limits)) if axis.log else axis.limits
    if axis.ticks is not None:
        shown |= {"tickvals": list(axis.ticks), "ticktext": list(axis.ticks.values())}
    return shown


def _traces(series: Series, panel: Panel) -> Iterator[go.Scatter]:
    if isinstance(series, Marks):
        yield _marks(series)
    elif isinstance(series, Estimates):
        yield _estimates(series)
    elif isinstance(series, Line):
        if series.band:
            yield _band(series, *series.band)
        yield _line(series, panel)


def _line(line: Line, panel: Panel) -> go.Scatter:
    """A curve that tells its value where it is pointed at, and what each of its runs has there."""
    along, unit, digits = panel.x.label, panel.y.unit, f".{panel.y.digits}f"
    name, at = f"<b>{escape(line.net)}</b>", f"{along} %{{x:,}}: "
    options: dict[str, Any] = {}
    style = dict(_LINES[line.style])
    if line.style is Style.DIAGONAL:
        hover = name
    elif line.style is Style.PROVISIONAL:
        (source,) = line.sources
        hover = f"{name}, {line.measure}, unfinished<br>{along} %{{x:,}}<br>"
        hover += f"seed {source.seed}: %{{y:{digits}}}{unit}<br>run {source.run_id}"
        options["opacity"] = 0.6
    elif line.by_seed is not None:
        hover = f"{name}{', ' if line.measure else ''}{line.measure}<br>{at}mean %{{y:{digits}}}{unit}"
        for place, source in enumerate(line.sources[:MOST]):
            seed = f"seed {source.seed}: %{{customdata[{place}]:{digits}}}{unit}"
            hover += f"<br>{seed}, run {source.run_id[:SHORT]}"
        hover += f"<br>and {len(line.sources) - MOST} more" if len(line.sources) > MOST else ""
        options["customdata"] = _f4(line.by_seed[:, :MOST])
    elif Style.MEAN in line.parts:
        hover = f"{name}<br>{at}mean %{{y:{digits}}}{unit}"
        style["dash"] = _DASHES[line.tint.family]
    else:
        hover = f"{name} of the paper, digitised<br>{at}%{{y:.2f}}{unit}"
    return _trace(line, hover, "lines", style, **options)


def _band(line: Line, low: np.ndarray, high: np.ndarray) -> go.Scatter:
    """The range over the seeds of a line, which answers no pointer."""
    light, dark = (_rgba(shade, 0.2) for shade in colour(line.tint))
    return go.Scatter(
        x=_short(np.concatenate([line.x, line.x[::-1]])),
        y=_f4(np.concatenate([low, high[::-1]])),
        mode="lines",
        line={"color": light, "width": 0},
        fill="toself",
        fillcolor=light,
        hoverinfo="skip",
        meta={"parts": [line.net, *line.parts, Style.BAND], "colours": [light, dark]},
    )


def _marks(marks: Marks) -> go.Scatter:
    """A mark a trial, which tells of which run it is."""
    shade, _ = colour(marks.tint)
    look: dict[str, Any] = {"symbol": _SYMBOLS[marks.tint.family], "size": 8, "opacity": 0.75}
    if marks.style is not Style.DOT:
        look = dict(_CROSS) if marks.style is Style.CROSS else look | {"symbol": f"{look['symbol']}-open"}
    marker = look | {"color": shade, "line": look.get("line", {}) | {"color": shade}}
    hover_data = [
        [f"<b>{escape(source.title)}</b>, seed {source.seed}: {label}", source.run_id]
        for source, label in zip(marks.sources, marks.labels, strict=True)
    ]
    hover = "%{customdata[0]}<br>run %{customdata[1]}"
    return _trace(marks, hover, "markers", None, marker=marker, customdata=hover_data, cliponaxis=False)


def _estimates(estimates: Estimates) -> go.Scatter:
    """Means that tell their intervals, with these as bars."""
    value, bars = ("x", "error_x") if estimates.across else ("y", "error_y")
    means = estimates.x if estimates.across else estimates.y
    lengths = {"array": _f4(estimates.high - means), "arrayminus": _f4(means - estimates.low), "width": 4}
    hover = f"<b>{estimates.net}</b>, {estimates.measure}<br>%{{customdata[0]}} layers: %{{{value}:+.2f}} points"
    hover += "<br>95 % interval %{customdata[1]}, n = %{customdata[2]}"
    hover_data = [
        list(row) for row in zip(estimates.places, intervals_of(estimates), map(str, estimates.n), strict=True)
    ]
    marker = {"symbol": _SYMBOLS[estimates.tint.family], "size": 7}
    mode = "markers" if estimates.across else "lines+markers"
    dash = {"dash": _DASHES[estimates.tint.family]}
    return _trace(estimates, hover, mode, dash, marker=marker, customdata=hover_data, **{bars: lengths})


def _names(panel: Panel) -> Iterator[go.Scatter]:
    """The name of each net right of the panel, where its line ends."""
    for name in panel.names:
        end = panel.x.limits[1] if panel.x.limits else 1
        pair = colour(name.tint)
        yield go.Scatter(
            x=_short(np.array([end])),
            y=_f4([name.at]),
            mode="text",
            line={"color": pair[0]},
            text=[f" {escape(name.text)}"],
            textposition="middle right",
            textfont={"color": pair[0]},
            cliponaxis=False,
            hoverinfo="skip",
            meta={"parts": [name.net], "colours": list(pair)},
        )


def _trace(series: Series, hover: str, mode: str, line: dict[str, Any] | None, **options: Any) -> go.Scatter:
    pair = colour(series.tint)
    return go.Scatter(
        x=_short(series.x),
        y=_f4(series.y),
        mode=mode,
        line={"color": pair[0]} | (line or {}),
        meta={"parts": [series.net, *series.parts], "colours": list(pair)},
        hovertemplate=f"{hover}<extra></extra>",
        **options,
    )


def _short(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, "int32" if np.issubdtype(x.dtype, np.integer) else "float32")


def _f4(values: Any) -> np.ndarray:
    """Seven digits are enough to look at."""
    return np.asarray(values, "float32")


def _hex(shade: tuple[float, ...]) -> str:
    red, green, blue = (round(255 * channel) for channel in shade[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _rgba(shade: str, alpha: float) -> str:
    red, green, blue = bytes.fromhex(shade[1:])
    return f"rgba({red},{green},{blue},{alpha:g})"
