"""Pictures of the constructed solution: training from it beside He's start, and what its noise and the depth do.

They are made where trials of `starts` or `starts-grid` have results. Means are lines, seeds dots or a range.
"""

import pandas as pd

from analysis import starts
from analysis.nets import serving
from analysis.pictures import captions
from analysis.pictures.curves import BOTH, error_panel, top_of, unfinished
from analysis.pictures.depth import depth_axis, mean_line, seed_marks, top_above
from analysis.pictures.picture import Axis, Key, Panel, Picture, Series, Style, Tint, names, tints
from analysis.pictures.values import FINAL, by_trial
from analysis.runs import Frames
from experiments import plain_vs_residual
from experiments import starts as experiment
from study.spec import DIRAC, HE, PASS_THROUGH
from study.store.account import Outcome

BUILT = "constructed"  # the name of plain-56 from the constructed start, and its hue's
_KEYS = (Key(Style.BAND), Key(Style.PROVISIONAL), Key(Style.CROSS))
_DOTS = (Key(Style.DOT), Key(Style.MEAN), Key(Style.CROSS))
_ERRORS = "Training error: running error over the last tenth of the iterations. Test error: last iterate."


def constructed_solution(frames: Frames, profile: str) -> Picture:
    """Training and test error while training: plain-56 from the constructed start and from He's, plain-20, ResNet-56.

    `starts` gives every net that starts as He's weights the title that it has elsewhere.
    """
    finals = serving(frames.finals, experiment.NAME)
    is_built = finals["start"] == PASS_THROUGH
    tint_of = {**tints(finals[~is_built]), BUILT: Tint(BUILT)}
    finals = finals.assign(title=finals["title"].where(~is_built, BUILT))
    top = top_of(finals)
    panels = [error_panel(measure, frames, finals, tint_of, top, {measure: Style.BOLD}, []) for measure in BOTH]
    text = (
        "Running training error and test error. Constructed: plain-56 whose square convolutions start as the identity"
        f" plus {experiment.NOISE:g} times He's weights, and whose BatchNorm starts as the undoing of itself on"
        " training images, so that layers pass their input on. The others start from He's weights. Data, order of"
        f" images and schedule are the same.{captions.provisional(unfinished(frames, finals))}"
    )
    return Picture(
        name="constructed_solution",
        title="The constructed solution: plain-56 from two starts",
        panels=tuple(panels),
        keys=_KEYS,
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def starts_noise(frames: Frames, profile: str) -> Picture:
    """Final error of plain-56 against the noise that is added to the identity, from Dirac's and pass-through starts."""
    nets = starts.planned(frames.finals).query("family == 'plain' and depth == 56")
    finals, he = nets[nets["start"].isin((DIRAC, PASS_THROUGH))], nets[nets["start"] == HE]
    place_of = {float(noise): float(place) for place, noise in enumerate(sorted(set(finals["start_noise"])))}
    ticks = {int(place): f"{noise:g}" for noise, place in place_of.items()}
    lines = {
        "Dirac": (Tint(), finals[finals["start"] == DIRAC]),
        "pass-through": (Tint(BUILT), finals[finals["start"] == PASS_THROUGH]),
    }
    x = Axis(label="noise, in units of He's weights", ticks=ticks, limits=(-0.3, max(len(ticks), 1) - 0.7))
    of_he = {name: float(_done(he)[column].mean()) for name, column in FINAL.items()}
    text = (
        "Error of plain-56 at the end of training against how much of He's weights is added to the identity at the"
        " start. Dirac: BatchNorm starts as usual. Pass-through: it undoes itself. Line across: the mean from He's"
        f" start. {_ERRORS}"
    )
    return Picture(
        name="starts_noise",
        title="Starts: noise in the identity",
        panels=tuple(_panels(lines, place_of, "start_noise", x, pd.concat([finals, he]), of_he)),
        keys=_DOTS,
        values=by_trial(finals),
        **captions.about(text, pd.concat([finals, he]), profile),
    )


def starts_depth(frames: Frames, profile: str) -> Picture:
    """Final error of plain nets against depth, from the constructed start and from He's."""
    nets = starts.planned(frames.finals)
    he = pd.concat([nets, serving(frames.finals, plain_vs_residual.NAME)]).drop_duplicates("id")
    he = he[(he["family"] == "plain") & (he["start"] == HE)]
    built = nets[(nets["family"] == "plain") & (nets["start"] == PASS_THROUGH)]
    built = built[built["start_noise"] == experiment.NOISE]
    lines = {"He's start": (Tint("plain"), he), BUILT: (Tint(BUILT), built)}
    finals = pd.concat([he, built])
    places = {float(depth): float(depth) for depth in finals["depth"]}
    text = (
        "Error of plain nets at the end of training against depth, from He's weights and from the constructed start"
        f" (pass-through, noise {experiment.NOISE:g}). {_ERRORS}"
    )
    return Picture(
        name="starts_depth",
        title="Starts: error against depth",
        panels=tuple(_panels(lines, places, "depth", depth_axis(finals), finals)),
        keys=_DOTS,
        values=by_trial(finals),
        **captions.about(text, finals, profile),
    )


def _panels(
    lines: dict[str, tuple[Tint, pd.DataFrame]],
    place_of: dict[float, float],
    column: str,
    x: Axis,
    finals: pd.DataFrame,
    rule: dict[str, float] | None = None,
) -> list[Panel]:
    """A panel for training and one for test error, of each line's trials at the places of their values in `column`."""
    top, panels = top_above(_done(finals), 1.08), []
    for measure, error in FINAL.items():
        series, ends = list[Series](), []
        for net, (tint, trials) in lines.items():
            done, lost = _done(trials), trials[trials["outcome"] == Outcome.DIVERGED]
            if len(done):
                means = done.groupby(done[column].map(place_of))[error].mean()
                series.append(mean_line(net, tint, means.index.to_numpy(float), means.to_numpy(), Style.MEAN))
                labels = [f"{value:.2f} %" for value in done[error]]
                at = done[column].map(place_of)
                series.append(seed_marks(net, tint, Style.DOT, done, at, done[error], labels, Style.DOT))
                ends.append((float(means.iloc[-1]), net, tint))
            if len(lost):
                at, edge = lost[column].map(place_of), pd.Series(top, lost.index)
                series.append(
                    seed_marks(net, tint, Style.CROSS, lost, at, edge, [Style.CROSS] * len(lost), Style.CROSS)
                )
        across = (rule or {}).get(measure, float("nan"))
        panels.append(
            Panel(
                title=measure,
                series=tuple(series),
                x=x,
                y=Axis(label="final error (%)", limits=(0, top), unit=" %"),
                names=names(ends, top),
                rule=None if pd.isna(across) else across,
                empty=_done(finals).empty,
            )
        )
    return panels


def _done(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["outcome"] == Outcome.FINISHED]
