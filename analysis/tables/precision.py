"""The tables of the experiment `precision`, where it is planned: differences from fp32, and verdicts by precision."""

import pandas as pd

from analysis import precision
from analysis.comparisons import WORDS
from analysis.nets import serving
from analysis.runs import Frames
from analysis.statistics import ALPHA
from analysis.tables.printing import DASH, Place, Table, intervals, spread
from experiments import precision as experiment


def tables(frames: Frames) -> list[Table]:
    """Both, or none where no trial serves the experiment."""
    finals = serving(frames.finals, experiment.NAME)
    return [_differences(finals), _verdicts(finals)] if len(finals) else []


def _differences(finals: pd.DataFrame) -> Table:
    numbers = precision.differences(finals)
    text = pd.DataFrame(
        {
            "compared": [f"{name} minus {precision.REFERENCE}" for name in numbers["precision"]],
            "net": numbers["net"],
            "error": numbers["quantity"].map(WORDS),
            "n": numbers["n"].astype(int).astype(str),
            "difference": numbers["difference"].map(spread),
            f"{100 * (1 - 2 * ALPHA):g} % interval": intervals(numbers),
            "p (equal)": numbers["p_equal"].map(_p),
            "p (different)": numbers["p_different"].map(_p),
            "verdict": numbers["verdict"],
        }
    )
    notes = [
        "Errors in percent, differences in points, paired by seed. Equal: within"
        f" {experiment.MARGIN_PCT:g} points by two one-sided t tests; different: by the two-sided t test of 0. Both"
        f" with Holm's correction over all rows, at {ALPHA:g}. The margin was stated before the first run.",
    ]
    return Table("precision", "Precision: the same nets in other arithmetic", numbers, text, notes, Place.MEASURED)


def _verdicts(finals: pd.DataFrame) -> Table:
    numbers = precision.verdicts(finals)
    text = pd.DataFrame(
        {
            "compared": numbers["comparison"],
            "error": numbers["quantity"].map(WORDS),
            "precision": numbers["precision"],
            "n": numbers["n"].astype(int).astype(str),
            "difference": numbers["difference"].map(spread),
            "95 % interval": intervals(numbers),
            "verdict": numbers["verdict"],
            f"as in {precision.REFERENCE}": numbers["same"].map({True: "yes", False: "no"}).fillna(DASH),
        }
    )
    notes = [
        "Whether the deeper net has the larger error: paired t tests, one-sided at"
        f" {ALPHA:g} in either direction, without a correction: each precision is a study of its own.",
    ]
    title = "Precision: the degradation in each arithmetic"
    return Table("precision_verdicts", title, numbers, text, notes, Place.MEASURED)


def _p(value: float) -> str:
    return DASH if pd.isna(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"
