"""The paper's Figs. 1, 4, 6 and 7 as pictures: errors while training and responses of layers, over the paper's curves.

Owns which nets each figure shows and how far its axes go. Lines are means over finished trials; a diverged trial is a
mark, and what there is of the curve of a trial without a result is drawn by itself.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import paper
from analysis.nets import TEST, TRAINING, serving
from analysis.pictures import captions
from analysis.pictures.picture import (
    TESTS,
    TRAINS,
    Axis,
    Key,
    Line,
    Marks,
    Note,
    Panel,
    Picture,
    Series,
    Source,
    Style,
    Tint,
    names,
    paper_curves,
    tints,
)
from analysis.pictures.values import by_trial, mean_of
from analysis.runs import Frames, thinned
from study.store.account import RESULTS

PAPER_TOP_PCT = 20  # upper end of the error axes of Figs. 1 and 6
RECORDS = {TRAINS: "train_error_pct", TESTS: "test_error_pct"}
BOTH = {TRAINS: Style.THIN, TESTS: Style.BOLD}
_THIN, _VALIDATION = Key(Style.THIN), Key(Style.BOLD, "validation error, centre crop")
_REST = (Key(Style.BAND), Key(Style.PAPER), Key(Style.PROVISIONAL), Key(Style.CROSS))
_DOTTED = (
    "Dotted: the paper's curves of nets of the same depth, digitised, on CIFAR-10 and of 64,000 iterations, drawn over"
    " as much of the training."
)


def figure_1(frames: Frames, profile: str) -> Picture:
    """Fig. 1: training error (left) and test error (right) of a shallow and a 56-layer plain net."""
    finals = nets_1(frames.finals)
    top, panels = top_of(finals), []
    for measure, series in ((TRAINS, "train"), (TESTS, "test")):
        printed = _paper(1, series, finals, tints(finals))
        panels.append(error_panel(measure, frames, finals, tints(finals), top, {measure: Style.BOLD}, printed))
    text = (
        "Running training error (on the batches as trained on) and test error of plain nets, as in the paper's Fig. 1."
        f" {_DOTTED}{captions.provisional(unfinished(frames, finals))}"
    )
    return Picture(
        name="figure_1",
        title="Fig. 1: plain nets, a shallow and a deep one",
        panels=tuple(panels),
        keys=_REST,
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def figure_4(frames: Frames, profile: str) -> Picture:
    """Fig. 4: error while training of plain (left) and residual nets (right) of 18 and 34 layers on ImageNet.

    Over the paper's own curves; without planned trials of such nets, these alone.
    """
    finals = nets_4(frames.finals)
    if finals.empty:
        return _figure_4_of_the_paper(finals, profile)
    top, panels = top_4(finals), []
    for family in ("plain", "residual"):
        rows = finals[finals["family"] == family]
        printed = [
            line
            for measure, series in ((TRAINS, "train"), (TESTS, "validation"))
            for line in _paper(4, series, rows, tints(finals), measure)
        ]
        panels.append(error_panel(f"{family} nets", frames, rows, tints(finals), top, BOTH, printed))
    text = (
        "Running training error (thin, dashed) and validation error of centre crops (bold) while training, as in Fig. 4"
        " of the paper. Dotted: the paper's curves of nets of the same depth, digitised, on ImageNet and of 600,000"
        f" iterations, drawn over as much of the training.{captions.provisional(unfinished(frames, finals))}"
    )
    return Picture(
        name="figure_4",
        title="Fig. 4: nets of 18 and 34 layers on ImageNet",
        panels=tuple(panels),
        keys=(_THIN, _VALIDATION, *_REST),
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def _figure_4_of_the_paper(finals: pd.DataFrame, profile: str) -> Picture:
    """The paper's Fig. 4 in its own axes."""
    curves, panels, values = paper.curves(4), [], []
    end = float(curves["iteration"].max())
    for family, side in (("plain", "left"), ("residual", "right")):
        lines: list[Series] = []
        ends = []
        nets = curves[curves["panel"] == side]
        for net, place in zip(sorted(set(nets["curve"])), (0.1, 0.9), strict=True):
            row, tint = {"net": net}, Tint(family, place)
            for measure, series in ((TRAINS, "train"), (TESTS, "validation")):
                curve = nets[(nets["curve"] == net) & (nets["series"] == series)].sort_values("iteration")
                lines.append(_printed(net, tint, BOTH[measure], curve["iteration"], curve["value"], (measure,)))
                row[measure] = f"{curve['value'].iloc[-1]:.2f}"
            values.append(row)
            ends.append((float(row[TESTS]), net, tint))
        x = Axis(label="iteration", limits=(0, end), whole=True)
        y = Axis(label="error (%)", limits=(20, 60), step=10, unit=" %")
        panels.append(Panel(title=f"{family} nets", series=tuple(lines), x=x, y=y, names=names(ends, 60)))
    text = "Fig. 4 of the paper, digitised: training on ImageNet. No run of ours is in it."
    return Picture(
        name="figure_4",
        title="Fig. 4: nets of 18 and 34 layers on ImageNet, the paper's",
        panels=tuple(panels),
        keys=(_THIN, _VALIDATION),
        values=pd.DataFrame(values),
        **captions.about(text, finals, profile),
    )


def figure_6(frames: Frames, profile: str) -> Picture:
    """Fig. 6: error while training of plain nets (left), ResNets (middle) and the nets of depth-scaling (right)."""
    rows_of = panels_6(frames.finals)
    finals = pd.concat(rows_of.values()).drop_duplicates("id")
    top, tint_of = top_of(finals), tints(finals)
    panels = [
        error_panel(title, frames, rows, tint_of, top, BOTH, _paper(6, "test", rows, tint_of, TESTS))
        for title, rows in rows_of.items()
    ]
    text = (
        "Running training error (thin, dashed) and test error (bold) while training, as in Fig. 6 of the paper."
        f" {_DOTTED} Here these are test errors.{captions.provisional(unfinished(frames, finals))}"
    )
    if finals["iterations"].nunique() > 1:
        text += " The nets of depth scaling have a recipe of their own; compare them with each other only."
    return Picture(
        name="figure_6",
        title="Fig. 6: plain against residual nets" + (", and very deep ones" if len(panels) > 2 else ""),
        panels=tuple(panels),
        width=4.0 * len(panels),
        height=4.0,
        keys=(_THIN, Key(Style.BOLD), *_REST),
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def figure_7(frames: Frames, profile: str) -> Picture:
    """Fig. 7: deviation of each 3x3 layer's output at the end of training, in order (top) and ranked (bottom).

    Plain nets of 20 and 56 layers on the left, ResNets of 20, 56 and 110 on the right, over the paper's own curves.
    """
    finals = nets_7(frames.finals)
    ends = frames.layers[frames.layers["id"].isin(finals["id"]) & (frames.layers["iteration"] > 0)]
    printed = paper.responses()
    printed = printed[printed["curve"].isin(set(finals["title"]))]
    y = Axis(
        label="std of responses",
        limits=(0, 1.05 * max([1.0, *ends["response_std"].dropna(), *printed["response_std"]])),
        digits=3,
    )
    panels = []
    for ordered in ("in order", "by magnitude"):
        for family, title in (("plain", "plain nets"), ("residual", "ResNets, option A")):
            rows = finals[finals["family"] == family]
            tint_of = {net: tint for net, tint in tints(finals).items() if net in set(rows["title"])}
            panels.append(
                Panel(
                    title=f"{title}, {ordered}",
                    series=tuple(_responses(ends, printed, rows, tint_of, ordered == "by magnitude")),
                    x=Axis(label="layer", whole=True),
                    y=y,
                    corner=tuple(tint_of.items()),
                    empty=ends[ends["id"].isin(rows["id"])].empty,
                )
            )
    text = (
        "Standard deviation of each 3x3 layer's output after BatchNorm, before ReLU or addition, as in Fig. 7 of the"
        " paper: over one batch of training images, by whose statistics BatchNorm normalises. The paper's curves are of"
        " its own nets on CIFAR-10."
    )
    return Picture(
        name="figure_7",
        title="Fig. 7: responses of the layers",
        panels=tuple(panels),
        columns=2,
        height=5.0,
        keys=(Key(Style.MEAN), *_REST),
        values=_mean_responses(finals, ends, printed),
        **captions.about(text, finals, profile),
    )


def _responses(
    ends: pd.DataFrame, printed: pd.DataFrame, finals: pd.DataFrame, tint_of: dict[str, Tint], ranked: bool
) -> Iterator[Series]:
    """The paper's line of each net, then the mean of its seeds with their range."""
    sources = sources_of(finals)
    for net, tint in tint_of.items():
        reported = printed.loc[printed["curve"] == net, "response_std"]
        measured = ends[ends["title"] == net].pivot(index="layer", columns="id", values="response_std").astype(float)
        if ranked:
            reported, measured = _from_the_largest(reported), measured.apply(_from_the_largest)
        if len(reported):
            yield _printed(net, tint, Style.PAPER, pd.Series(np.arange(1, len(reported) + 1)), reported, (Style.PAPER,))
        if len(measured):
            yield of_seeds(net, tint, Style.MEAN, measured, sources)


def _from_the_largest(values: pd.Series) -> pd.Series:
    return pd.Series(np.sort(values)[::-1], index=values.index)


def _mean_responses(finals: pd.DataFrame, ends: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """The mean over the layers of each net and over its seeds, beside the paper's, in print."""
    rows = []
    for family in ("plain", "residual"):
        for net in finals.loc[finals["family"] == family, "title"].drop_duplicates():
            measured = ends[ends["title"] == net]
            row = {
                "net": net,
                "seeds": str(measured["id"].nunique()),
                "mean over layers": mean_of(measured["response_std"]),
            }
            reported = printed.loc[printed["curve"] == net, "response_std"]
            rows.append(row | {"the paper's mean over layers": mean_of(reported)})
    return pd.DataFrame(rows)


def error_panel(
    title: str,
    frames: Frames,
    finals: pd.DataFrame,
    tint_of: dict[str, Tint],
    top: float,
    measures: dict[str, Style],
    printed: Iterator[Line] | list[Line],
) -> Panel:
    """Error against iteration: the paper's lines, means over the finished seeds with their range, and all the rest."""
    done = finals[finals["outcome"] == "finished"]
    lost = finals[finals["outcome"] == "diverged"]
    last = TEST if TESTS in measures else TRAINING
    means = done.groupby("title", sort=False)[last].mean()
    faint = list(_unfinished_lines(frames, finals, tint_of, measures))
    series = [*printed, *_mean_lines(frames, done, tint_of, measures), *faint, *_crosses(lost, tint_of, top)]
    unnamed = {line.net: line for line in reversed(faint) if line.net not in set(done["title"])}
    notes = [Note(net, line.tint, line.x[-1], line.y[-1]) for net, line in unnamed.items()]
    notes += [
        Note(str(net), tint_of[str(net)], float(rows["diverged_at"].max()), top) for net, rows in lost.groupby("title")
    ]
    return Panel(
        title=title,
        series=tuple(series),
        x=Axis(label="iteration", limits=(0, int(finals["iterations"].max()) if len(finals) else 1), whole=True),
        y=Axis(label="error (%)", limits=(0, top), step=5 if top == PAPER_TOP_PCT else 20, unit=" %"),
        names=names([(mean, str(net), tint_of[str(net)]) for net, mean in means.items()], top),
        notes=tuple(notes),
        empty=done.empty,
    )


def _mean_lines(
    frames: Frames, done: pd.DataFrame, tint_of: dict[str, Tint], measures: dict[str, Style]
) -> Iterator[Line]:
    for measure, style in measures.items():
        parts = (measure,) if len(measures) > 1 else ()  # of one measure there is nothing to switch off
        for net, seeds in by_net(frames.curves, done, RECORDS[measure]):
            yield of_seeds(net, tint_of[net], style, seeds, sources_of(done), parts, measure)


def _unfinished_lines(
    frames: Frames, finals: pd.DataFrame, tint_of: dict[str, Tint], measures: dict[str, Style]
) -> Iterator[Line]:
    undone = unfinished(frames, finals)
    sources = sources_of(undone)
    for measure in measures:
        parts = (measure, Style.PROVISIONAL) if len(measures) > 1 else (Style.PROVISIONAL,)
        for net, seeds in by_net(frames.curves, undone, RECORDS[measure]):
            for id, curve in seeds.items():
                curve = curve.dropna()
                yield Line(
                    net=net,
                    tint=tint_of[net],
                    style=Style.PROVISIONAL,
                    x=curve.index.to_numpy(),
                    y=curve.to_numpy(),
                    parts=parts,
                    measure=measure,
                    sources=(sources[str(id)],),
                )


def _crosses(lost: pd.DataFrame, tint_of: dict[str, Tint], top: float) -> Iterator[Marks]:
    """A mark on the upper edge for each diverged trial, where it diverged."""
    for net, rows in lost.groupby("title"):
        yield Marks(
            net=str(net),
            tint=tint_of[str(net)],
            style=Style.CROSS,
            x=rows["diverged_at"].to_numpy(),
            y=np.full(len(rows), top),
            parts=(Style.CROSS,),
            sources=tuple(sources_of(rows).values()),
            labels=tuple(f"diverged at iteration {at:,.0f}" for at in rows["diverged_at"]),
        )


def _paper(number: int, series: str, finals: pd.DataFrame, tint_of: dict[str, Tint], *measure: str) -> Iterator[Line]:
    """The paper's digitised curves of the nets that are drawn."""
    for net, curve in paper_curves(number, series, finals):
        yield _printed(net, tint_of[net], Style.PAPER, curve["iteration"], curve["value"], (*measure, Style.PAPER))


def _printed(net: str, tint: Tint, style: Style, x: pd.Series, y: pd.Series, parts: tuple[str, ...]) -> Line:
    """A line of the paper's: it has no seeds."""
    return Line(net=net, tint=tint, style=style, x=x.to_numpy(), y=y.to_numpy(), parts=parts)


def of_seeds(
    net: str,
    tint: Tint,
    style: Style,
    seeds: pd.DataFrame,
    sources: dict[str, Source],
    parts: tuple[str, ...] = (),
    measure: str = "",
) -> Line:
    """The mean of `seeds` [x, id] and, of two or more, their range: a deviation of so few would be a worse guide."""
    several = len(seeds.columns) > 1
    return Line(
        net=net,
        tint=tint,
        style=style,
        x=seeds.index.to_numpy(),
        y=seeds.mean(axis=1).to_numpy(),
        band=(seeds.min(axis=1).to_numpy(), seeds.max(axis=1).to_numpy()) if several else None,
        by_seed=seeds.to_numpy(),
        sources=tuple(sources[str(id)] for id in seeds),
        parts=parts,
        measure=measure,
    )


def by_net(curves: pd.DataFrame, finals: pd.DataFrame, measure: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The measure [iteration, trial] of the trials of each net, as finely as it can be shown."""
    shown = thinned(curves.loc[curves["id"].isin(finals["id"]), ["id", "iteration", measure]]).dropna()
    for title, rows in finals.groupby("title", sort=False):
        curves_of_net = shown[shown["id"].isin(rows["id"])]
        if len(curves_of_net):
            yield str(title), curves_of_net.pivot(index="iteration", columns="id", values=measure)


def sources_of(finals: pd.DataFrame) -> dict[str, Source]:
    """By the trial's id, in the order of the rows."""
    return {row["id"]: Source(row["title"], row["seed"], row["run_id"]) for row in finals.to_dict("records")}


def unfinished(frames: Frames, finals: pd.DataFrame) -> pd.DataFrame:
    """The trials without a result of whose curve there is something."""
    return finals[~finals["outcome"].isin(RESULTS) & finals["id"].isin(frames.curves["id"].unique())]


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
    """The rows of each panel of Fig. 6, by its title; depth scaling has one where it is planned."""
    compared, deep = serving(finals, "plain-vs-residual"), serving(finals, "depth-scaling")
    return {
        "plain nets": compared[compared["family"] == "plain"],
        "ResNets, option A": compared[compared["family"] == "residual"],
        **({"depth scaling": deep} if len(deep) else {}),
    }


def nets_7(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of Fig. 7: plain nets of 20 and 56 layers, ResNets of 20, 56 and 110."""
    nets = serving(finals, "plain-vs-residual").query("depth in (20, 56, 110)")
    return nets[(nets["family"] == "residual") | (nets["depth"] < 110)]
