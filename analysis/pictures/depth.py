"""Pictures past the paper's: what depth costs and shortcuts gain, and how long trials took against the plan.

Means and intervals are those of `analysis.effects`, every seed stands beside its mean.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd

from analysis import effects
from analysis.nets import TEST, TRAINING, beside_plain, serving
from analysis.pictures import captions
from analysis.pictures.curves import sources_of
from analysis.pictures.picture import (
    TESTS,
    TRAINS,
    Axis,
    Estimates,
    Key,
    Line,
    Marks,
    Note,
    Panel,
    Picture,
    Series,
    Style,
    Tint,
    names,
)
from analysis.pictures.values import FINAL, by_estimate, by_time, by_trial
from analysis.runs import TARGETS_PCT, Frames
from study.store.account import RESULTS

FAMILIES = ("plain", "residual")
_POINTS = "percentage points"
_SEEDS_APART = 0.03  # of the depth
_DIVERGED = Key(Style.CROSS)
_BOTH_ERRORS = (Key(Style.HOLLOW, TRAINS), Key(Style.DOT, TESTS))
_WITH_DEPTHS = {"plain against residual": "plain-vs-residual", "depth scaling": "depth-scaling"}
_DIFFERENCES = {
    "plain net minus option": list(effects.PAIRS)[:3],
    "option minus option": list(effects.PAIRS)[3:],
}


def error_against_depth(frames: Frames, profile: str) -> Picture:
    """Final error against depth, plain beside residual: the means as lines, every seed as a dot."""
    finals = serving(frames.finals, "plain-vs-residual")
    done = finals[finals["outcome"] == "finished"]
    top, panels = top_above(done, 1.08), []
    for measure, column in FINAL.items():
        series, ends = list[Series](), []
        for family, rows in done.groupby("family"):
            net, tint, means = f"{family} nets", Tint(str(family)), rows.groupby("depth")[column].mean()
            series.append(mean_line(net, tint, means.index.to_numpy(), means.to_numpy(), Style.MEAN))
            labels = [f"{error:.2f} %" for error in rows[column]]
            series.append(seed_marks(net, tint, Style.DOT, rows, rows["depth"], rows[column], labels, Style.DOT))
            ends.append((float(means.iloc[-1]), net, tint))
        panels.append(
            Panel(
                title=measure,
                series=(*series, *_crosses(finals, top)),
                x=depth_axis(finals),
                y=Axis(label="final error (%)", limits=(0, top), unit=" %"),
                names=names(ends, top),
                empty=done.empty,
            )
        )
    text = (
        "Error at the end of training against depth. Training error: running error over the last tenth of the"
        " iterations. Test error: last iterate. Dots: seeds; lines: their means."
    )
    return Picture(
        name="error_against_depth",
        title="Error against depth",
        panels=tuple(panels),
        keys=(Key(Style.DOT), Key(Style.MEAN), _DIVERGED),
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def gaps_against_depth(frames: Frames, profile: str) -> Picture:
    """Degradation gap of plain and of residual nets, and residual benefit, against depth: means and 95 % intervals."""
    finals = serving(frames.finals, "plain-vs-residual")
    panels, every = [], list[Estimates]()
    for measure, column in FINAL.items():
        quantities = [
            (f"gap of {family} nets", Tint(family), effects.degradation_gap(finals, column, family))
            for family in FAMILIES
        ]
        quantities.append(("residual benefit", Tint(), effects.residual_benefit(finals, column)))
        series = [  # side by side, so that intervals do not hide one another
            _estimates(net, tint, rows, 1 + 0.025 * (place - 1), measure)
            for place, (net, tint, rows) in enumerate(quantities)
        ]
        every += series
        panels.append(
            Panel(
                title=measure,
                series=tuple(series),
                x=depth_axis(finals),
                y=Axis(label=_POINTS),
                rule=0,
                empty=not (finals["outcome"] == "finished").any(),
            )
        )
    text = (
        "Degradation gap: error at a depth minus error of the shallowest net of the family. Residual benefit: error of"
        " the plain net minus error of the residual net of the same depth. Paired by seed; bars: 95 % t intervals."
    )
    return Picture(
        name="gaps_against_depth",
        title="What depth costs, and what shortcuts gain",
        panels=tuple(panels),
        keys=tuple(Key(Style.ESTIMATE, series.net, series.tint) for series in every[:3]),
        values=by_estimate(every),
        **captions.about(text, finals, profile),
    )


def generalisation_gap(frames: Frames, profile: str) -> Picture:
    """Test error minus clean training error against depth: means and 95 % intervals.

    Nets of depth-scaling apart, where they are planned.
    """
    main, *others = ((title, serving(frames.finals, name)) for title, name in _WITH_DEPTHS.items())
    rows_of = dict([main, *((title, rows) for title, rows in others if len(rows))])
    panels = []
    for title, rows in rows_of.items():
        series = [
            _estimates(f"{family} nets", Tint(family), effects.generalisation_gap(rows, family), 0.985 + 0.03 * place)
            for place, family in enumerate(FAMILIES)
        ]
        panels.append(
            Panel(
                title=title,
                series=tuple(series),
                x=depth_axis(rows),
                y=Axis(label=f"test minus training error\n({_POINTS})"),
                rule=0,
                empty=not (rows["outcome"] == "finished").any(),
            )
        )
    finals = pd.concat(rows_of.values()).drop_duplicates("id")
    text = (
        "Generalisation gap: test error minus training error in evaluation mode on images that are not augmented, both"
        " of the last iterate. Means over seeds; bars: 95 % t intervals, where there are two seeds or more."
    )
    return Picture(
        name="generalisation_gap",
        title="Generalisation gap",
        panels=tuple(panels),
        keys=tuple(Key(Style.ESTIMATE, f"{family} nets", Tint(family)) for family in FAMILIES),
        **captions.about(text, finals, profile),
    )


def iterations_to_target(frames: Frames, profile: str) -> Picture:
    """When the running training error is first at most 50, 20 and 10 %, against depth: every seed, and the medians.

    Trials that never get there are marks above the end of training.
    """
    finals = serving(frames.finals, "plain-vs-residual")
    end = float(finals["iterations"].max()) if len(finals) else 1.0
    panels = [
        Panel(
            title=f"training error of {target} %",
            series=tuple(_reached(finals, target, end)),
            x=depth_axis(finals, _SEEDS_APART),
            y=Axis(label="iterations", limits=(0, 1.14 * end), last=end, whole=True),
            rule=end,
            empty=not (finals["outcome"] == "finished").any(),
        )
        for target in TARGETS_PCT
    ]
    text = (
        "The first record whose running training error is at most 50, 20 and 10 %. Marks: seeds; lines: their medians."
        " A trial that ended before is censored: it stands above the line of the last iteration, comes after all others"
        " in the median, and where the median is one of these, there is no line."
    )
    families = tuple(Key(Style.HOLLOW, f"{family} nets", Tint(family)) for family in FAMILIES)
    return Picture(
        name="iterations_to_target",
        title="Iterations to target",
        panels=tuple(panels),
        width=10.0,
        keys=(*families, Key(Style.CENSORED), _DIVERGED),
        **captions.about(text, finals, profile),
    )


def _reached(finals: pd.DataFrame, target: int, end: float) -> Iterator[Series]:
    """Medians of each family, and a mark a trial: where it got there, else above the end of training."""
    ended = finals[finals["outcome"].isin(RESULTS)]
    for place, family in enumerate(FAMILIES):
        net, tint, aside = f"{family} nets", Tint(family), 0.96 + 0.08 * place
        medians = effects.iterations_to_target(finals, target, family)
        yield mean_line(
            net, tint, aside * medians["depth"].to_numpy(float), medians["median"].to_numpy(float), Style.MEAN
        )
        rows = ended[ended["family"] == family]
        # Seeds stand side by side: of those that did not get there only the number can be read.
        at = rows["depth"] * (aside + _SEEDS_APART * (rows["seed"] - rows["seed"].mean()))
        first = rows[f"reached_{target}_pct"]
        for style, chosen in (
            (Style.HOLLOW, first.notna()),
            (Style.CENSORED, first.isna() & (rows["outcome"] == "finished")),
            (Style.CROSS, first.isna() & (rows["outcome"] == "diverged")),
        ):
            labels = [Style.CENSORED if np.isnan(value) else f"iteration {value:,.0f}" for value in first[chosen]]
            yield seed_marks(net, tint, style, rows[chosen], at[chosen], first[chosen].fillna(1.07 * end), labels)


def shortcut_options(frames: Frames, profile: str) -> Picture:
    """Options A, B and C beside the plain net at each depth: every seed as a dot, the mean as a bar and a number."""
    finals = beside_plain(frames.finals)
    depths = sorted(set(finals["depth"]))
    top = top_above(finals[finals["outcome"] == "finished"], 1.15)
    panels = []
    for depth in depths or [0]:
        rows = finals[finals["depth"] == depth]
        series, notes = _options(rows, top)
        panels.append(
            Panel(
                title=f"{depth} layers" if depth else "",
                series=tuple(series),
                x=Axis(
                    label="shortcut option",
                    limits=(-0.6, 3.6),
                    ticks={0: "plain", 1: "A", 2: "B", 3: "C"},
                    grid=False,
                ),
                y=Axis(label="final error (%)", limits=(0, top), unit=" %"),
                notes=tuple(notes),
                empty=not (rows["outcome"] == "finished").any(),
            )
        )
    text = (
        "Parameter-free shortcuts (A), projections where dimensions grow (B) and projections everywhere (C), beside the"
        " plain net. Left of each pair: training error; right: test error."
    )
    return Picture(
        name="shortcut_options",
        title="Shortcut options",
        panels=tuple(panels),
        keys=(*_BOTH_ERRORS, Key(Style.BAR, Style.MEAN), _DIVERGED),
        **captions.about(text, finals, profile),
    )


def _options(finals: pd.DataFrame, top: float) -> tuple[list[Series], list[Note]]:
    """Nets of one depth: a place on x for each shortcut, training error left of it and test error right."""
    series, notes = list[Series](), []
    for place, shortcut in enumerate(("none", "A", "B", "C")):
        net, tint = ("plain", Tint("plain")) if shortcut == "none" else (f"option {shortcut}", Tint("residual"))
        rows = finals[finals["shortcut"] == shortcut]
        done, lost = (rows[rows["outcome"] == outcome] for outcome in ("finished", "diverged"))
        for column, style, x in ((TRAINING, Style.HOLLOW, place - 0.2), (TEST, Style.DOT, place + 0.2)):
            if len(done):
                mean, at = done[column].mean(), pd.Series(x, done.index)
                ends = np.array([x - 0.15, x + 0.15])
                series.append(
                    Line(net=net, tint=tint, style=Style.BAR, x=ends, y=np.array([mean, mean]), parts=(Style.MEAN,))
                )
                notes.append(Note(f"{mean:.1f}", Tint(), x, done[column].max(), above=True))
                labels = [f"{error:.2f} %" for error in done[column]]
                series.append(seed_marks(net, tint, style, done, at, done[column], labels))
        if len(lost):
            at, edge = pd.Series(place, lost.index), pd.Series(top, lost.index)
            series.append(seed_marks(net, tint, Style.CROSS, lost, at, edge, [Style.CROSS] * len(lost), Style.CROSS))
    return series, notes


def shortcut_differences(frames: Frames, profile: str) -> Picture:
    """What options gain over the plain net (left) and over one another (right): paired means and 95 % intervals."""
    finals = beside_plain(frames.finals)
    depths = sorted(set(finals["depth"]))
    panels = []
    for title, pairs in _DIFFERENCES.items():
        lines = list(product(depths, pairs))
        ticks = {place: f"{depth} layers: {pair.replace('-', '−')}" for place, (depth, pair) in enumerate(lines)}
        panels.append(
            Panel(
                title=title,
                series=tuple(_differences(finals, lines, tuple(ticks.values()))),
                x=Axis(label=f"difference in error ({_POINTS})"),
                y=Axis(limits=(max(len(lines), 1) - 0.5, -0.5), ticks=ticks, grid=False),
                rule=0,
                upright=True,
                empty=not (finals["outcome"] == "finished").any(),
            )
        )
    text = (
        "Final error of the first net minus that of the second: positive where the second is better. Paired by seed;"
        " bars: 95 % t intervals, not corrected for their number. Each panel has an axis of its own."
    )
    return Picture(
        name="shortcut_differences",
        title="Shortcut differences",
        panels=tuple(panels),
        height=1.4 + 1.2 * max(len(depths), 1),
        shared=False,
        keys=_BOTH_ERRORS,
        **captions.about(text, finals, profile),
    )


def _differences(finals: pd.DataFrame, lines: list[tuple[int, str]], places: tuple[str, ...]) -> Iterator[Estimates]:
    """A line for each (depth, pair of nets), the training error's a little above the test error's."""
    for (measure, column), style, aside in zip(FINAL.items(), (Style.HOLLOW, Style.DOT), (-0.14, 0.14), strict=True):
        rows = effects.shortcut_differences(finals, column).set_index(["depth", "quantity"]).reindex(lines)
        yield Estimates(
            net="difference",
            tint=Tint(),
            style=style,
            x=rows["mean"].to_numpy(float),
            y=np.arange(len(rows)) + aside,
            low=rows["low"].to_numpy(float),
            high=rows["high"].to_numpy(float),
            n=tuple(rows["n"].fillna(0).astype(int)),
            places=places,
            measure=measure,
            across=True,
        )


def plan_against_actual(frames: Frames, profile: str) -> Picture:
    """Seconds that each trial took against those that the plan predicted."""
    finals = frames.finals.dropna(subset=["predicted_seconds", "seconds"])
    finals = finals[(finals["predicted_seconds"] > 0) & (finals["seconds"] > 0)]
    series: list[Series] = []
    if len(finals):
        times = finals[["predicted_seconds", "seconds"]].to_numpy(float)
        ends = np.array([times.min() / 1.3, times.max() * 1.3])
        series.append(Line(net=Style.DIAGONAL, tint=Tint(), style=Style.DIAGONAL, x=ends, y=ends))
    for family in FAMILIES:
        of_family = finals[finals["family"] == family]
        lost = of_family["outcome"] == Style.CROSS
        for rows, style, parts in ((of_family[~lost], Style.DOT, ()), (of_family[lost], Style.CROSS, (Style.CROSS,))):
            predicted, taken = rows["predicted_seconds"], rows["seconds"]
            labels = [f"predicted {a:,.1f} s, took {b:,.1f} s" for a, b in zip(predicted, taken, strict=True)]
            series.append(seed_marks(f"{family} nets", Tint(family), style, rows, predicted, taken, labels, *parts))
    panel = Panel(
        title="every trial",
        series=tuple(series),
        x=Axis(label="predicted (s)", log=True),
        y=Axis(label="taken (s)", log=True, unit=" s"),
        empty=finals.empty,
    )
    return Picture(
        name="plan_against_actual",
        title="Seconds a trial, predicted and taken",
        panels=(panel,),
        caption="Seconds of training of each trial that has a result, on the machine that it ran on, against those"
        " predicted before it started.",
        keys=(Key(Style.DIAGONAL), Key(Style.DOT), _DIVERGED),
        values=by_time(finals),
    )


def top_above(done: pd.DataFrame, above: float) -> float:
    """Upper end of an axis of final errors (%): a little `above` the largest, and never below 5."""
    return max(above * float(done[[TRAINING, TEST]].max().max()), 5.0) if len(done) else 100.0


def depth_axis(finals: pd.DataFrame, seeds_apart: float = 0.0) -> Axis:
    """Depth, logarithmic, with a tick for each net that is planned, and room for seeds side by side at the ends."""
    depths, room = sorted(set(finals["depth"])), 1.15 + seeds_apart * finals["seed"].nunique() / 2
    limits = (depths[0] / room, depths[-1] * room) if depths else None
    return Axis(label="layers", ticks={depth: str(depth) for depth in depths}, limits=limits, log=True)


def mean_line(net: str, tint: Tint, x: np.ndarray, y: np.ndarray, *parts: str) -> Line:
    return Line(net=net, tint=tint, style=Style.MEAN, x=x, y=y, parts=parts)


def seed_marks(
    net: str,
    tint: Tint,
    style: Style,
    rows: pd.DataFrame,
    x: pd.Series,
    y: pd.Series,
    labels: Sequence[str],
    *parts: str,
) -> Marks:
    """A mark for each of the rows."""
    return Marks(
        net=net,
        tint=tint,
        style=style,
        x=x.to_numpy(),
        y=y.to_numpy(),
        parts=parts,
        sources=tuple(sources_of(rows).values()),
        labels=tuple(labels),
    )


def _crosses(finals: pd.DataFrame, top: float) -> Iterator[Marks]:
    """Diverged trials of each family, on the upper edge."""
    for family, rows in finals[finals["outcome"] == "diverged"].groupby("family"):
        edge = pd.Series(top, rows.index)
        net, labels = f"{family} nets", [Style.CROSS] * len(rows)
        yield seed_marks(net, Tint(str(family)), Style.CROSS, rows, rows["depth"], edge, labels, Style.CROSS)


def _estimates(net: str, tint: Tint, rows: pd.DataFrame, aside: float, measure: str = "") -> Estimates:
    """Estimates by depth, each a factor `aside` of it."""
    return Estimates(
        net=net,
        tint=tint,
        style=Style.ESTIMATE,
        x=rows["depth"].to_numpy(float) * aside,
        y=rows["mean"].to_numpy(float),
        low=rows["low"].to_numpy(float),
        high=rows["high"].to_numpy(float),
        n=tuple(rows["n"]),
        places=tuple(rows["depth"].astype(str)),
        measure=measure,
    )
