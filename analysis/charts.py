"""The pictures of the study page that answer a pointer: pure functions from frames to charts of plotly figures.

Owns what a curve says when it is pointed at, what can be switched off, and the same values in words. Which nets a
figure shows, how far its axis goes and where names stand is decided in `analysis.figures`, whose caption a chart has:
training errors are thin and dashed here too, test errors bold, the paper's curves dotted. Must not know the page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import effects, paper
from analysis.figures import (
    FAMILY_COLOURS,
    apart,
    by_net,
    colours_of,
    named,
    nets_1,
    nets_4,
    nets_7,
    panels_6,
    papers_curves,
    ranked,
    top_4,
    top_of,
    unfinished,
)
from analysis.nets import TEST, TRAINING, serving
from analysis.runs import Frames
from analysis.tables.printing import DASH

BAND, PAPERS, MEAN, SEED = "range over seeds", "the paper, digitised", "mean over seeds", "a seed"
DIVERGED, PROVISIONAL, PLANNED = "diverged", "unfinished, provisional", "as predicted"
BENEFIT = "residual benefit"
TRAINS, TESTS = "training error", "test error"
# Shades of the shallowest net and the deepest, on a light ground and on a dark one: all stand out from it.
SHADES = ((0.65, 1.0), (0.66, 0.2))
FAMILIES = {"plain": (FAMILY_COLOURS["plain"], "#ff9a5c"), "residual": (FAMILY_COLOURS["residual"], "#7ab8f5")}
FONT = "system-ui, sans-serif"
MOST = 10  # runs that a curve names: more would not fit beside it
SHORT = 8  # characters of a run's id where there is no room for 32; the table under the chart has them whole
GREY = ("#444444", "#c3c8d0")
Style = dict[str, Any]  # of a line
BOLD: Style = {"width": 2.6}
DOTTED: Style = {"width": 1.2, "dash": "dot"}
BOTH: dict[str, Style] = {TRAINS: {"width": 1.2, "dash": "dash"}, TESTS: BOLD}
_DRAWN = {TRAINS: "train_error_pct", TESTS: "test_error_pct"}
_FINAL = {TRAINS: TRAINING, TESTS: TEST}
_SYMBOLS, _DASHES = ("square", "circle", "triangle-up"), ("dash", "solid", "dot")  # plain, residual, their difference
_CROSS: dict[str, Any] = {"symbol": "x-thin", "size": 10, "line": {"width": 2.5}}

Pair = tuple[str, str]  # a colour on a light ground and on a dark one


@dataclass(frozen=True)
class Chart:
    """Panels that are looked at together, by their titles. `name` is that of the figure whose caption it has.

    Each trace's `meta` holds its `parts` (the net, the measure, what is drawn), each of which can be switched off, and
    its `colours` on a light and on a dark ground. `values`: what is drawn in words; its column 'run' has run ids.
    """

    name: str
    title: str
    panels: dict[str, go.Figure]
    values: pd.DataFrame

    def switches(self) -> dict[str, Pair | None]:
        """Every part with its colours, if it has some of its own: nets by depth, then measures, then all else."""
        found: dict[str, Pair | None] = {}
        for trace in (trace for figure in self.panels.values() for trace in figure.data):
            first, *others = trace.meta["parts"]
            found[first] = tuple(trace.meta["colours"]) if trace.fill is None else found.get(first)
            found |= dict.fromkeys(others)
        return {part: found[part] for part in sorted(found, key=_rank)}


_REST = (TRAINS, TESTS, BAND, PAPERS, MEAN, SEED, DIVERGED, PROVISIONAL, PLANNED)


def _rank(part: str) -> tuple[int, bool, int]:
    number = re.search(r"\d+", part)
    place = _REST.index(part) + 1 if part in _REST else 0
    return place, not part.startswith("plain"), int(number[0]) if number else 0


def figure_1(frames: Frames) -> Chart:
    """Fig. 1: training error and test error of a shallow and a deep plain net."""
    finals = nets_1(frames.finals)
    top, pairs = top_of(finals), _pairs(finals)
    panels = {}
    for measure, series in ((TRAINS, "train"), (TESTS, "test")):
        traces = [*_papers(1, series, finals, pairs), *_curves(frames, finals, {measure: BOLD}, top, pairs)]
        panels[measure] = _errors(traces, finals, top)
    return Chart("figure_1", "Fig. 1: plain nets, a shallow and a deep one", panels, _by_trial(finals))


def figure_4(frames: Frames) -> Chart:
    """Fig. 4: error while training of plain and residual nets of 18 and 34 layers; the paper's alone without ours."""
    finals = nets_4(frames.finals)
    title = "Fig. 4: nets of 18 and 34 layers on ImageNet"
    if finals.empty:
        return _papers_figure_4(f"{title}, the paper's")
    top, pairs = top_4(finals), _pairs(finals)
    panels = {}
    for family in FAMILIES:
        rows = finals[finals["family"] == family]
        theirs = [
            trace
            for measure, series in ((TRAINS, "train"), (TESTS, "validation"))
            for trace in _papers(4, series, rows, pairs, measure)
        ]
        panels[f"{family} nets"] = _errors([*theirs, *_curves(frames, rows, BOTH, top, pairs)], rows, top)
    return Chart("figure_4", title, panels, _by_trial(finals))


def _papers_figure_4(title: str) -> Chart:
    """The paper's Fig. 4 in its own axes."""
    theirs, panels, values = paper.curves(4), {}, []
    nets = theirs.drop_duplicates("curve")["curve"].tolist()
    family = {net: "plain" if net.startswith("plain") else "residual" for net in nets}
    known = pd.DataFrame({"title": nets, "family": family.values(), "depth": [int(net[-2:]) for net in nets]})
    pairs = _pairs(known)
    for of, nets_of in known.groupby("family"):
        traces, ends = [], []
        for net in nets_of["title"]:
            row = {"net": net}
            for measure, series in ((TRAINS, "train"), (TESTS, "validation")):
                curve = theirs[(theirs["curve"] == net) & (theirs["series"] == series)].sort_values("iteration")
                row[measure] = f"{curve['value'].iloc[-1]:.2f}"
                traces.append(_paper([net, measure], curve, pairs[net], BOTH[measure]))
            values.append(row)
            ends.append((float(row[TESTS]), net, pairs[net]))
        figure = _figure([*traces, *_names(ends, 60, theirs["iteration"].max())], "iteration", "error (%)")
        panels[f"{of} nets"] = figure.update_layout(yaxis_range=(20, 60), xaxis_range=(0, theirs["iteration"].max()))
    return Chart("figure_4", title, panels, pd.DataFrame(values))


def figure_6(frames: Frames) -> Chart:
    """Fig. 6: error while training of plain nets, of ResNets and of the nets of depth-scaling."""
    rows_of = panels_6(frames.finals)
    finals = pd.concat(rows_of.values()).drop_duplicates("id")
    top, pairs = top_of(finals), _pairs(finals)
    panels = {
        title: _errors([*_papers(6, "test", rows, pairs, TESTS), *_curves(frames, rows, BOTH, top, pairs)], rows, top)
        for title, rows in rows_of.items()
    }
    return Chart("figure_6", "Fig. 6: plain against residual nets, and very deep ones", panels, _by_trial(finals))


def figure_7(frames: Frames) -> Chart:
    """Fig. 7: deviation of each 3x3 layer's output at the end of training, in order and ranked."""
    finals = nets_7(frames.finals)
    ends = frames.layers[frames.layers["id"].isin(finals["id"]) & (frames.layers["iteration"] > 0)]
    pairs, theirs_of, panels, values = _pairs(finals), paper.responses(), {}, []
    drawn_of = theirs_of[theirs_of["curve"].isin(set(finals["title"]))]
    top = 1.05 * max([1.0, *ends["response_std"].dropna(), *drawn_of["response_std"]])
    for ordered in ("in order", "by magnitude"):
        for family, title in (("plain", "plain nets"), ("residual", "ResNets, option A")):
            traces = []
            for net in finals.loc[finals["family"] == family, "title"].drop_duplicates():
                theirs = theirs_of.loc[theirs_of["curve"] == net, "response_std"]
                runs = finals[finals["title"] == net].set_index("seed")["run_id"]
                measured = ends[ends["title"] == net].pivot(index="layer", columns="seed", values="response_std")
                if ordered == "in order":
                    row = {"net": net, "seeds": str(len(measured.columns)), "mean over layers": _mean(measured.stack())}
                    values.append(row | {"the paper's mean over layers": _mean(theirs)})
                else:
                    theirs, measured = ranked(theirs), measured.astype(float).apply(ranked)
                if len(theirs):
                    curve = pd.DataFrame({"iteration": np.arange(1, len(theirs) + 1), "value": theirs})
                    traces.append(_paper([net, PAPERS], curve, pairs[net], DOTTED, "layer", ""))
                if len(measured):
                    seeds = [(seed, runs[seed]) for seed in measured]
                    traces += _seeds([net], "", measured, seeds, pairs[net], {"width": 2}, "layer", "", ".3f")
            figure = _figure(traces, "layer", "std of responses")
            panels[f"{title}, {ordered}"] = figure.update_layout(yaxis_range=(0, top), margin_r=16)
    return Chart("figure_7", "Fig. 7: responses of the layers", panels, pd.DataFrame(values))


def error_against_depth(frames: Frames) -> Chart:
    """Final error against depth, plain beside residual: the means as lines, every seed as a dot."""
    finals = serving(frames.finals, "plain-vs-residual")
    done, lost = finals[finals["outcome"] == "finished"], finals[finals["outcome"] == "diverged"]
    top = max(1.08 * float(done[[TRAINING, TEST]].max().max()), 5.0) if len(done) else 100.0
    panels = {}
    for measure, column in _FINAL.items():
        traces = []
        for family, pair in FAMILIES.items():
            rows, parts = done[done["family"] == family], f"{family} nets"
            means = rows.groupby("depth")[column].mean()
            style: Style = {"width": 2, "dash": "dash" if family == "plain" else "solid"}
            said = f"<b>{parts}</b>, mean<br>%{{x}} layers: %{{y:.2f}} %"
            traces.append(_trace([parts, MEAN], pair, means.index, means, said, "lines", style))
            traces.append(_dots([parts, SEED], pair, rows, rows["depth"], rows[column], _dot(family)))
            crosses = lost[lost["family"] == family]
            at = pd.Series(top, crosses.index)
            traces.append(_dots([parts, DIVERGED], pair, crosses, crosses["depth"], at, _CROSS, "diverged"))
        figure = _figure([trace for trace in traces if len(trace.x)], "layers", "final error (%)")
        panels[measure] = _by_depth(figure, finals).update_layout(yaxis_range=(0, top))
    return Chart("error_against_depth", "Error against depth", panels, _by_trial(finals))


def gaps_against_depth(frames: Frames) -> Chart:
    """Degradation gaps of plain and of residual nets, and residual benefit: means and 95 % intervals."""
    finals = serving(frames.finals, "plain-vs-residual")
    panels, values = {}, []
    for measure, column in _FINAL.items():
        gaps = [
            (f"gap of {family} nets", pair, effects.degradation_gap(finals, column, family))
            for family, pair in FAMILIES.items()
        ]
        benefit = effects.residual_benefit(finals, column)
        traces = []
        for shift, (part, pair, rows) in enumerate((*gaps, (BENEFIT, GREY, benefit))):
            known = []
            for row in rows.to_dict("records"):
                interval = DASH if pd.isna(row["low"]) else f"{row['low']:.2f} to {row['high']:.2f}"
                known.append([str(row["depth"]), interval, str(row["n"])])
                said_of = {"quantity": part, "error": measure, "layers": str(row["depth"])}
                values.append(said_of | {"mean": f"{row['mean']:.2f}", "95 % interval": interval, "n": str(row["n"])})
            at = rows["depth"].astype(float) * (1 + 0.025 * (shift - 1))  # so that intervals do not hide one another
            bars = {"array": _f4(rows["high"] - rows["mean"]), "arrayminus": _f4(rows["mean"] - rows["low"])}
            said = f"<b>{part}</b>, {measure}<br>%{{customdata[0]}} layers: %{{y:+.2f}} points"
            said += "<br>95 % interval %{customdata[1]}, n = %{customdata[2]}"
            trace = _trace([part], pair, at, rows["mean"], said, "lines+markers", {"dash": _DASHES[shift]})
            marker = {"symbol": _SYMBOLS[shift], "size": 7}
            traces.append(trace.update(error_y=bars | {"width": 4}, customdata=known, marker=marker))
        figure = _figure([trace for trace in traces if len(trace.x)], "layers", "percentage points")
        panels[measure] = _by_depth(figure, finals)
    return Chart("gaps_against_depth", "What depth costs, and what shortcuts gain", panels, pd.DataFrame(values))


def plan_against_actual(frames: Frames) -> Chart:
    """Seconds that each trial took against those that the plan predicted."""
    finals = frames.finals.dropna(subset=["predicted_seconds", "seconds"])
    finals = finals[(finals["predicted_seconds"] > 0) & (finals["seconds"] > 0)]
    traces = []
    if len(finals):
        times = finals[["predicted_seconds", "seconds"]].to_numpy()
        ends = [times.min() / 1.3, times.max() * 1.3]
        traces.append(_trace([PLANNED], GREY, ends, ends, PLANNED, "lines", {"width": 1.2}))
    for family, pair in FAMILIES.items():
        ended = {(): finals["outcome"] != "diverged", (DIVERGED,): finals["outcome"] == "diverged"}
        for parts, chosen in ended.items():
            rows = finals[chosen & (finals["family"] == family)]
            said = f"{''.join(parts)}<br>predicted %{{x:,.3~g}} s, took %{{y:,.3~g}} s"
            marker = _CROSS if parts else _dot(family)
            where = rows["predicted_seconds"], rows["seconds"]
            traces.append(_dots([f"{family} nets", *parts], pair, rows, *where, marker, said))
    figure = _figure([trace for trace in traces if len(trace.x)], "predicted (s)", "taken (s)")
    figure.update_xaxes(type="log").update_yaxes(type="log").update_layout(margin_r=16)
    values = [
        {"trial": row["id"], "predicted (s)": f"{row['predicted_seconds']:,.1f}", "taken (s)": f"{row['seconds']:,.1f}"}
        | {"taken / predicted": f"{row['seconds'] / row['predicted_seconds']:.2f}", "run": row["run_id"]}
        for row in finals.to_dict("records")
    ]
    columns = ["trial", "predicted (s)", "taken (s)", "taken / predicted", "run"]
    values_of = pd.DataFrame(values, columns=columns)
    return Chart("plan_against_actual", "Seconds a trial, predicted and taken", {"every trial": figure}, values_of)


CHARTS = (figure_1, figure_4, figure_6, figure_7, error_against_depth, gaps_against_depth, plan_against_actual)


def drawn(frames: Frames) -> Iterator[Chart]:
    """Every chart, in the order of the page."""
    for draw in CHARTS:
        yield draw(frames)


def templates() -> list[dict[str, Any]]:
    """What all panels share, on a light ground and on a dark one."""
    return [_template("#1d2129", "#dfe2e7", "#ffffff"), _template("#e6e8ec", "#343a45", "#1c2027")]


def _template(text: str, grid: str, label: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True, "title": {"standoff": 8}}
    return go.layout.Template(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": text},
            "hoverlabel": {"bgcolor": label, "align": "left", "font": {"family": FONT, "color": text}},
            "margin": {"l": 8, "r": 90, "t": 12, "b": 8},
            "showlegend": False,  # the switches are
            "hovermode": "closest",
            "uirevision": "kept",  # what was zoomed stays so
            "xaxis": axis | {"tickformat": "~s", "nticks": 6},
            "yaxis": axis,
        }
    ).to_plotly_json()


def _dot(family: str) -> dict[str, Any]:
    return {"symbol": dict(zip(FAMILIES, _SYMBOLS, strict=False))[family], "size": 8, "opacity": 0.75}


def _pairs(finals: pd.DataFrame) -> dict[str, Pair]:
    """A colour for each net on a light ground, darker with depth, and on a dark one, lighter with depth."""
    light, dark = (colours_of(finals, *shades) for shades in SHADES)
    return {net: (_hex(light[net]), _hex(dark[net])) for net in light}


def _hex(colour: tuple[float, ...]) -> str:
    red, green, blue = (round(255 * each) for each in colour[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _trace(
    parts: list[str],
    pair: Pair,
    x: Any,
    y: Any,
    said: str,
    mode: str,
    line: Style | None = None,
    **options: Any,
) -> go.Scatter:
    """A trace that says `said` when it is pointed at; '' if it says nothing."""
    whole = np.issubdtype(np.asarray(x).dtype, np.integer)
    return go.Scatter(
        x=np.asarray(x, "int32" if whole else "float32"),
        y=_f4(y),
        mode=mode,
        line={"color": pair[0]} | (line or {}),
        meta={"parts": parts, "colours": list(pair)},
        **({"hovertemplate": f"{said}<extra></extra>"} if said else {"hoverinfo": "skip"}),
        **options,
    )


def _f4(values: Any) -> np.ndarray:
    """Seven digits are enough to look at."""
    return np.asarray(values, "float32")


def _dots(
    parts: list[str], pair: Pair, rows: pd.DataFrame, x: pd.Series, y: pd.Series, marker: dict[str, Any], said: str = ""
) -> go.Scatter:
    """A mark a trial, which says of which run it is."""
    of = [f"<b>{escape(str(row['title']))}</b>, seed {row['seed']}" for row in rows.to_dict("records")]
    customdata = np.array([of, list(rows["run_id"])], dtype=object).T.tolist()
    said = f"%{{customdata[0]}}: {said or '%{y:.2f} %'}<br>run %{{customdata[1]}}"
    marker = marker | {"color": pair[0], "line": marker.get("line", {}) | {"color": pair[0]}}
    return _trace(parts, pair, x, y, said, "markers", marker=marker, customdata=customdata, cliponaxis=False)


def _curves(
    frames: Frames, finals: pd.DataFrame, measures: dict[str, Style], top: float, pairs: dict[str, Pair]
) -> Iterator[go.Scatter]:
    """Error against iteration: means over finished seeds with their range, and each trial that has no result by itself.

    Then the marks of diverged trials, and the names of the nets at the ends.
    """
    done, undone = finals[finals["outcome"] == "finished"], unfinished(frames.curves, finals)
    of = {row["id"]: (row["seed"], row["run_id"]) for row in finals.to_dict("records")}
    for measure, style in measures.items():
        of_measure = [measure] if len(measures) > 1 else []  # else the panel has one measure, and nothing is to switch
        for net, seeds in by_net(frames.curves, done, _DRAWN[measure]):
            runs = [of[id] for id in seeds]
            yield from _seeds([net, *of_measure], measure, seeds, runs, pairs[net], style, "iteration", " %", ".2f")
        for net, seeds in by_net(frames.curves, undone, _DRAWN[measure]):
            for id in seeds:
                curve, (seed, run) = seeds[id].dropna(), of[id]
                said = f"<b>{escape(net)}</b>, {measure}, unfinished<br>iteration %{{x:,}}<br>"
                said += f"seed {seed}: %{{y:.2f}} %<br>run {run}"
                faint: Style = {"width": 1.2, "dash": "dashdot"}
                parts = [net, *of_measure, PROVISIONAL]
                yield _trace(parts, pairs[net], curve.index, curve, said, "lines", faint, opacity=0.6)
    for title, rows in finals[finals["outcome"] == "diverged"].groupby("title"):
        said, at = "diverged at iteration %{x:,}", pd.Series(top, rows.index)
        yield _dots([str(title), DIVERGED], pairs[str(title)], rows, rows["diverged_at"], at, _CROSS, said)
    last = TEST if TESTS in measures else TRAINING
    means = done.groupby("title", sort=False)[last].mean()
    yield from _names([(y, str(net), pairs[str(net)]) for net, y in means.items()], top, finals["iterations"].max())


def _seeds(
    parts: list[str],
    measure: str,
    seeds: pd.DataFrame,
    runs: list[tuple[int, str]],
    pair: Pair,
    style: Style,
    along: str,
    unit: str,
    digits: str,
) -> Iterator[go.Scatter]:
    """The mean of `seeds` [along, seed], which says what each run has where it is pointed at, and the seeds' range."""
    if len(seeds.columns) > 1:
        light, dark = (_rgba(colour, 0.2) for colour in pair)
        x = np.concatenate([seeds.index, seeds.index[::-1]])
        y = np.concatenate([seeds.min(axis=1), seeds.max(axis=1)[::-1]])
        filled: dict[str, Any] = {"fill": "toself", "fillcolor": light}
        yield _trace([*parts, BAND], (light, dark), x, y, "", "lines", {"width": 0}, **filled)
    said = (
        f"<b>{escape(parts[0])}</b>{', ' if measure else ''}{measure}<br>{along} %{{x:,}}: mean %{{y:{digits}}}{unit}"
    )
    for place, (seed, run) in enumerate(runs[:MOST]):
        said += f"<br>seed {seed}: %{{customdata[{place}]:{digits}}}{unit}, run {run[:SHORT]}"
    said += f"<br>and {len(runs) - MOST} more" if len(runs) > MOST else ""
    each = _f4(seeds.iloc[:, :MOST])
    yield _trace(parts, pair, seeds.index, seeds.mean(axis=1), said, "lines", style, customdata=each)


def _papers(
    number: int, series: str, finals: pd.DataFrame, pairs: dict[str, Pair], *measure: str
) -> Iterator[go.Scatter]:
    """The paper's digitised curves of the nets that are drawn, on our iterations."""
    for net, curve in papers_curves(number, series, finals):
        if len(curve):
            yield _paper([net, *measure, PAPERS], curve, pairs[net], DOTTED)


def _paper(
    parts: list[str], curve: pd.DataFrame, pair: Pair, style: Style, along: str = "iteration", unit: str = " %"
) -> go.Scatter:
    said = f"<b>{escape(parts[0])}</b> of the paper, digitised<br>{along} %{{x:,}}: %{{y:.2f}}{unit}"
    return _trace(parts, pair, curve["iteration"], curve["value"], said, "lines", style)


def _names(ends: list[tuple[float, str, Pair]], top: float, x: float) -> Iterator[go.Scatter]:
    """The name of each net right of the panel, where its line ends."""
    for place, value, net, pair in apart(ends, top):
        name = named(escape(net), value, top)
        yield _trace(
            [net], pair, [x], [place], "", "text", text=[f" {name}"], textposition="middle right", cliponaxis=False,
            textfont={"color": pair[0]},
        )  # fmt: skip


def _errors(traces: list[go.Scatter], finals: pd.DataFrame, top: float) -> go.Figure:
    end = int(finals["iterations"].max()) if len(finals) else 1
    figure = _figure(traces, "iteration", "error (%)")
    return figure.update_layout(xaxis_range=(0, end), yaxis_range=(0, top))


def _figure(traces: list[go.Scatter], x: str, y: str) -> go.Figure:
    """A panel; without a template, which the page has once."""
    figure = go.Figure(traces, {"template": go.layout.Template(), "xaxis_title_text": x, "yaxis_title_text": y})
    if not traces:
        figure.add_annotation(text="no finished trial", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure


def _by_depth(figure: go.Figure, finals: pd.DataFrame) -> go.Figure:
    """Depth, logarithmic, with a tick for each net that is planned."""
    depths = sorted(set(finals["depth"]))
    return figure.update_xaxes(type="log", tickvals=depths, ticktext=[str(depth) for depth in depths]).update_layout(
        margin_r=16
    )


def _by_trial(finals: pd.DataFrame) -> pd.DataFrame:
    """The final errors of every trial, in print."""
    rows = [
        {"net": row["title"], "seed": str(row["seed"]), "outcome": row["outcome"]}
        | {f"{name} (%)": DASH if pd.isna(row[of]) else f"{row[of]:.2f}" for name, of in _FINAL.items()}
        | {"run": row["run_id"]}
        for row in finals.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["net", "seed", "outcome", f"{TRAINS} (%)", f"{TESTS} (%)", "run"])


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.3f}" if len(values) else DASH


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red},{green},{blue},{alpha:g})"
