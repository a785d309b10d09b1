"""Tables of the controls past the paper, where they are planned: longer schedules, and each net's best rate."""

import pandas as pd

from analysis import budget, rates
from analysis.comparisons import TEST, TRAIN, WORDS
from analysis.nets import serving
from analysis.runs import Frames
from analysis.tables.printing import DASH, Place, Table, intervals, spread
from experiments import budget as budget_experiment
from experiments import rates as rates_experiment


def tables(frames: Frames) -> list[Table]:
    """Those of the experiments that trials serve."""
    made = []
    if budget.fitted(frames.finals):
        made.append(_budget(frames))
    if len(serving(frames.finals, rates_experiment.NAME)):
        made += [_by_rate(frames), _gaps(frames)]
    return made


def _budget(frames: Frames) -> Table:
    rows = []
    for measure in (TRAIN, TEST):
        fit = budget.fitted(frames.finals, measure)
        assert fit is not None  # plain nets are planned
        comparison = f"{fit.deep} minus {fit.shallow}"
        for length, gap in fit.gaps.items():
            rows.append([measure, comparison, f"{length:,} iterations", gap.n, gap.mean, gap.low, gap.high, ""])
        rest = fit.rest
        rows.append([measure, comparison, "in the long run", rest.n, rest.mean, rest.low, rest.high, fit.left])
    columns = ["quantity", "comparison", "schedule", "n", "gap", "low", "high", "left"]
    numbers = pd.DataFrame(rows, columns=columns)
    text = pd.DataFrame(
        {
            "compared": numbers["comparison"],
            "error": numbers["quantity"].map(WORDS),
            "schedule": numbers["schedule"],
            "n": numbers["n"].astype(str),
            "gap": numbers["gap"].map(spread),
            "95 % interval": intervals(numbers),
            "it": numbers["left"].replace("", DASH),
        }
    )
    notes = [
        "The gap in points on schedules of the same shape and several lengths T, paired by seed. In the long run: g of"
        " g + c T^-k, fitted to each seed, with the t interval over seeds. The gap stays if the interval is above"
        f" {budget_experiment.MARGIN_PCT:g} points, and goes if it is below. The margin is older than the first run.",
    ]
    return Table("budget", "Longer schedules: what is left of the degradation", numbers, text, notes, Place.MEASURED)


def _by_rate(frames: Frames) -> Table:
    numbers = rates.by_rate(frames)
    text = pd.DataFrame(
        {
            "net": numbers["net"],
            "learning rate": [f"{rate:g}" for rate in numbers["learning_rate"]],
            "validation error": numbers["validation_error_pct"].map(spread),
            "chosen": numbers["chosen"].map({True: "yes", False: ""}),
            "n": numbers["n"].astype(str),
            "training error": numbers["training_error_pct"].map(spread),
            "test error": numbers["test_error_pct"].map(spread),
        }
    )
    notes = [
        "Errors in percent, of last iterates, means over seeds. The first half of the seeds choose a net's rate by the"
        " error on held-out training images; training and test errors are those of the other seeds.",
    ]
    return Table("rates", "Learning rates: every net at every rate", numbers, text, notes, Place.MEASURED)


def _gaps(frames: Frames) -> Table:
    numbers = rates.gaps(frames)
    text = pd.DataFrame(
        {
            "compared": numbers["comparison"],
            "error": numbers["quantity"].map(WORDS),
            "rates": numbers["rates"],
            "n": numbers["n"].astype(str),
            "difference": numbers["difference"].map(spread),
            "95 % interval": intervals(numbers),
        }
    )
    notes = ["Points, paired by seed, each net at the rate that other seeds chose for it."]
    title = "Learning rates: the degradation at each net's best"
    return Table("best_rates", title, numbers, text, notes, Place.MEASURED)
