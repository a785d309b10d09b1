"""A picture as a value: panels of series with their numbers, names and axes, made once and drawn by two renderers.

Owns what a picture can hold, and where the names of lines stand. Must not know colours, files, nor a plotting library:
a style and a tint say what is drawn and of which family and depth, a renderer decides how that looks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper

Values = np.ndarray
TRAINS, TESTS = "training error", "test error"


class Style(StrEnum):
    """What a line or a mark is, in the words of a legend."""

    THIN = "training error"
    BOLD = "test error"
    MEAN = "mean over seeds"
    BAR = "mean over seeds, at one place"
    BAND = "range over seeds"  # no series': a line has it as its `band`
    PAPER = "the paper, digitised"
    PROVISIONAL = "unfinished, provisional"  # of a trial without a result
    DIAGONAL = "as predicted"
    ESTIMATE = "mean and 95 % interval"
    DOT = "a seed"
    HOLLOW = "a seed, hollow"  # by its training error, or where seeds hide one another
    CENSORED = "not reached"
    CROSS = "diverged"


@dataclass(frozen=True)
class Tint:
    """Family and place among the depths of a picture: 0 for the shallowest, 1 for the deepest, None for them all."""

    family: str = ""  # or 'constructed', of plain nets from that start; '': of no family
    place: float | None = None


@dataclass(frozen=True)
class Source:
    """The trial behind a mark or a column of values."""

    title: str
    seed: int
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """What lines, marks and estimates share. A reader can switch off `net`, and each of `parts`."""

    net: str
    tint: Tint
    style: Style
    x: Values
    y: Values
    parts: tuple[str, ...] = ()
    measure: str = ""


@dataclass(frozen=True, kw_only=True)
class Line(Series):
    """A curve. Of seeds: their mean, `by_seed` [x, seed] with a source a column, and their range if there are two."""

    band: tuple[Values, Values] | None = None
    by_seed: Values | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Marks(Series):
    """A mark a trial, with its source and what is to be read of it."""

    sources: tuple[Source, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Estimates(Series):
    """Means over seeds with 95 % intervals; `places` names each. Across: the means lie on x, in no order."""

    low: Values
    high: Values
    n: tuple[int, ...]
    places: tuple[str, ...]
    across: bool = False


@dataclass(frozen=True)
class Name:
    """The name of a line right of the panel: it ends at `y`, and its name stands at `at`."""

    text: str
    net: str
    tint: Tint
    y: float
    at: float


@dataclass(frozen=True)
class Note:
    """Words in the panel, for a reader who cannot point: beside a point (x, y), or above it."""

    text: str
    tint: Tint
    x: float
    y: float
    above: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows. `ticks` by their places, else one every `step`, else the renderer's; none beyond `last`."""

    label: str = ""
    limits: tuple[float, float] | None = None
    ticks: Mapping[int, str] | None = None
    step: float | None = None
    last: float | None = None
    log: bool = False
    whole: bool = False
    grid: bool = True
    unit: str = ""
    digits: int = 2


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Axes with what is drawn in them. `rule`: a line across where y (or x, if `upright`) has this value."""

    title: str
    series: tuple[Series, ...]
    x: Axis
    y: Axis
    names: tuple[Name, ...] = ()
    corner: tuple[tuple[str, Tint], ...] = ()  # names of lines that end at different places
    notes: tuple[Note, ...] = ()
    rule: float | None = None
    upright: bool = False
    empty: bool = False  # no finished trial


@dataclass(frozen=True)
class Key:
    """A line of the legend; in the style's own words unless it has a `text`."""

    style: Style
    text: str = ""
    tint: Tint = Tint()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Panels that are looked at together, row by row, with a caption that accounts for every trial.

    `name`: of its files. `keys`: of its legend; those of what is not drawn are left out. `values`: what is drawn, in
    print; its column 'run' has run ids. `traced`: what it rests on.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str
    keys: tuple[Key, ...] = ()
    columns: int = 0  # 0: all panels side by side
    width: float = 8.0  # inches
    height: float = 3.6  # inches, without the caption
    shared: bool = True  # one y axis for all panels
    values: pd.DataFrame = field(default_factory=pd.DataFrame)
    traced: Mapping[str, Any] = field(default_factory=dict)

    def series(self) -> Iterator[Series]:
        for panel in self.panels:
            yield from panel.series

    def legend(self) -> list[Key]:
        """The keys of what is drawn."""
        styles = {series.style for series in self.series() if len(series.x)}
        if any(isinstance(series, Line) and series.band for series in self.series()):
            styles.add(Style.BAND)
        return [key for key in self.keys if key.style in styles]


def tints(finals: pd.DataFrame) -> dict[str, Tint]:
    """A tint for each net, by its title; few depths keep a distance from the ends of the scale."""
    depths = sorted(set(finals["depth"]))
    places = np.linspace(0, 1, len(depths)) if len(depths) > 2 else (0.1, 0.9)
    place = dict(zip(depths, map(float, places), strict=False))
    nets = finals.drop_duplicates("title").to_dict("records")
    return {net["title"]: Tint(net["family"], place[net["depth"]]) for net in nets}


def names(ends: Iterable[tuple[float, str, Tint]], top: float) -> tuple[Name, ...]:
    """A name for each line's end (error %, net, tint), from the lowest up, moved apart so that none overlap.

    A line that ends above the axis, whose upper end is `top`, is named at its edge with the error that it ends at.
    """
    ordered = sorted(ends, key=lambda end: end[0])
    gap, places = 0.062 * top, list[float]()
    for value, _, _ in ordered:
        places.append(max(min(value, top), places[-1] + gap if places else 0.0))
    limit = top
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return tuple(
        Name(net if value <= top else f"{net} ↑ {value:.0f} %", net, tint, min(value, top), at)
        for at, (value, net, tint) in zip(places, ordered, strict=True)
    )


def paper_curves(number: int, series: str, finals: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The paper's curve of each net that it has, [iteration, value], over as many iterations as were trained here."""
    curves = paper.curves(number)
    curves = curves[curves["series"] == series]
    whole = paper.IMAGENET_ITERATIONS if number == 4 else paper.ITERATIONS
    for title, rows in finals.groupby("title"):
        curve = curves[curves["curve"] == title].drop_duplicates("iteration").sort_values("iteration")
        if len(curve):
            iteration = curve["iteration"] * (rows["iterations"].max() / whole)
            yield str(title), curve[["iteration", "value"]].assign(iteration=iteration)
