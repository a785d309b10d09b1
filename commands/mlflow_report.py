"""What a rendering adds to MLflow, for people who browse there: a picture of each curve, and the run 'Report'.

Owns what they look like and say. How they get there is
`study/store/mlflow/tracking.py`'s business; nothing is ever read back.
"""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.files import MANIFEST
from analysis.pictures.colours import FAMILY_COLOURS
from analysis.pictures.static import styled
from analysis.questions import in_one_sentence
from analysis.runs import Frames, thinned
from analysis.tables.claims import verdict_table
from analysis.tables.printing import markdown
from analysis.verdicts import Kind, Verdict, counts
from experiments.command import Command
from experiments.profiles import Profile
from study.execution import Execution
from study.spec import InputError

LARGEST = 8 * 2**20  # bytes of a file that the run 'Report' holds; the curves are among the runs' own files
_METRIC = {Kind.NOT_TESTABLE: "not testable"}  # how a metric abbreviates a kind of verdict
log = logging.getLogger(__name__)


def show(
    frames: Frames,
    verdicts: Sequence[Verdict],
    profile: Profile,
    execution: Execution,
    folder: Path,
    command: Command | None = None,
) -> None:
    """Give the runs of results that have none a picture of their curve, and the profile its run 'Report' anew.

    `folder` holds what was rendered, from what `command` selects. Where MLflow cannot be written, that is a warning:
    the rendering is complete.
    """
    from study.store.mlflow import decoration

    try:
        if runs := decoration.unpictured(execution, frames.finals["id"]):
            decoration.picture(execution, pictures(frames.curves, runs))
        if not (folder / MANIFEST).exists():
            return  # no report is there to be shown
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        names = [name for name in (*files, MANIFEST) if (folder / name).stat().st_size <= LARGEST]
        numbers = {f"claims {_METRIC.get(kind, kind)}": float(count) for kind, count in counts(verdicts).items()}
        left_out = sorted(set(files) - set(names))
        counted = in_one_sentence(verdicts, frames.finals)
        again = (command or Command(profile=profile.name)).make("report")
        described = note(verdicts, counted, profile, folder, left_out, again)
        decoration.report(execution, profile.name, folder, names, numbers, described)
    except InputError as error:
        log.warning("the report is in %s, and not in MLflow: %s", folder, error)


def note(
    verdicts: Sequence[Verdict], counted: str, profile: Profile, folder: Path, left_out: Sequence[str], again: str
) -> str:
    """The description of the run 'Report', in Markdown."""
    lines = [
        f"What the runs of profile **{profile.name}** say about the paper's {len(verdicts)} claims: {counted}",
        f"The study page is the artifact `index.html`, and `{folder.resolve() / 'index.html'}` on the machine that"
        f" rendered it; `{again}` renders it again.",
    ]
    lines += [f"Too large to be here, and in `{folder}`: {', '.join(left_out)}."] if left_out else []
    table = markdown(verdict_table(verdicts)).splitlines()
    unpadded = "\n".join(" ".join(line.split()) for line in table)
    return "\n\n".join([*lines, unpadded])  # last: MLflow cuts a tag after 8,000 characters


def pictures(curves: pd.DataFrame, runs: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The id of each of these runs (by trial) that has a curve of errors, and the picture of it, as PNG.

    One figure is drawn on again and again: making its axes would take most of the time.
    """
    figure = Figure(figsize=(5, 3), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), _axes(figure)
    train, test = axes.lines
    for id, curve in curves[curves["id"].isin(list(runs))].groupby("id", sort=False, observed=True):
        if curve[["train_error_pct", "test_error_pct"]].isna().all(axis=None):
            continue  # a detector's, or of a net that diverged at once
        trial, curve = curve.iloc[0], thinned(curve)
        tested = curve.dropna(subset=["test_error_pct"])
        train.set_data(curve["iteration"], curve["train_error_pct"])
        test.set_data(tested["iteration"], tested["test_error_pct"])
        for line in (train, test):
            line.set_color(FAMILY_COLOURS.get(trial["family"], "black"))
        axes.set(
            xlim=(0, curve["iteration"].max()), title=f"{trial['title']}, seed {trial['seed']}, {trial['outcome']}"
        )
        with io.BytesIO() as png:
            canvas.print_png(png)
            yield runs[str(id)], png.getvalue()


@styled
def _axes(figure: Figure) -> Axes:
    """With a line for training errors, and one for test errors."""
    axes = figure.add_axes((0.11, 0.15, 0.86, 0.74))
    axes.plot([], [], lw=1, alpha=0.6)
    axes.plot([], [], "o-", lw=1.6, ms=3)
    axes.set(xlabel="iterations (thin: training error, dots: test error)", ylabel="error (%)", ylim=(0, 100))
    return axes
