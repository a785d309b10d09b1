"""Tables of what goes past the paper, where it is planned: longer schedules, each net's best rate, other starts."""

import pandas as pd

from analysis import budget, rates, starts
from analysis.comparisons import CLEAN, TEST, TRAIN, WORDS
from analysis.nets import serving
from analysis.runs import Frames
from analysis.tables.printing import DASH, Place, Table, intervals, spread
from experiments import budget as budget_experiment
from experiments import rates as rates_experiment
from experiments import starts as starts_experiment
from study.spec import GROWN, PASS_THROUGH


def tables(frames: Frames) -> list[Table]:
    """Those of the experiments that trials serve."""
    made = []
    if budget.fitted(frames.finals):
        made.append(_budget(frames))
    if len(serving(frames.finals, rates_experiment.NAME)):
        made += [_by_rate(frames), _gaps(frames)]
    if len(starts.planned(frames.finals)):
        made += [_by_start(frames), _start_differences(frames)]
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
    text = _compared(numbers, "gap", "schedule").assign(it=numbers["left"].replace("", DASH))
    notes = [
        "The gap in points on schedules of the same shape and several lengths T, paired by seed. In the long run: g of"
        " g + c T^-k, fitted to each seed, g at least 0, with the t interval over seeds; none where the fit of a seed"
        " ends at 0, because then these lengths do not say what it tends to. The gap stays if the interval is above"
        f" {budget_experiment.MARGIN_PCT:g} points, and goes if on the longest schedule it is below. The margin is"
        " older than the first run; that the long run alone cannot show a gap to go was decided after quick's.",
    ]
    return Table("budget", "Longer schedules: what is left of the degradation", numbers, text, notes, Place.MEASURED)


def _compared(numbers: pd.DataFrame, effect: str, *how: str) -> pd.DataFrame:
    """Differences of nets as text: what is compared, in which error, `how`, over how many seeds, and the effect."""
    return pd.DataFrame(
        {
            "compared": numbers["comparison"],
            "error": numbers["quantity"].map(WORDS),
            **{name: numbers[name] for name in how},
            "n": numbers["n"].astype(str),
            effect: numbers[effect].map(spread),
            "95 % interval": intervals(numbers),
        }
    )


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
        "Errors in percent, means over seeds, of last iterates (training: over the last tenth). The first half of the"
        " seeds choose a net's rate by the error on held-out training images; training and test errors are those of the"
        " other seeds.",
    ]
    return Table("rates", "Learning rates: every net at every rate", numbers, text, notes, Place.MEASURED)


def _gaps(frames: Frames) -> Table:
    numbers = rates.gaps(frames)
    text = _compared(numbers, "difference", "rates")
    notes = ["Points, paired by seed, each net at the rate that other seeds chose for it."]
    title = "Learning rates: the degradation at each net's best"
    return Table("best_rates", title, numbers, text, notes, Place.MEASURED)


def _by_start(frames: Frames) -> Table:
    numbers = starts.by_start(frames.finals)
    lost = [f" ({diverged} diverged)" if diverged else "" for diverged in numbers["diverged"]]
    text = pd.DataFrame(
        {
            "net": numbers["net"],
            "start": numbers["start"],
            "noise": [f"{noise:g}" for noise in numbers["noise"]],
            "n": numbers["n"].astype(str) + lost,
            **{WORDS[measure]: _with_interval(numbers, measure) for measure in (TRAIN, CLEAN, TEST)},
        }
    )
    built = f"{PASS_THROUGH!r} with noise {starts_experiment.NOISE:g}"
    notes = [
        "Errors in percent, means over n seeds with 95 % t intervals. Noise: how much of He's weights is added to the"
        f" identity. {built} is the constructed start. {GROWN!r}: a trained net of the same seed with layers added that"
        " pass their input on; before its first update a trial checks that its loss is the trained net's, to 1e-4 nats"
        " on 512 training images, and fails otherwise. It then has its own schedule on top of the trained net's.",
    ]
    return Table("starts", "Starts: every net from every start", numbers, text, notes, Place.MEASURED)


def _with_interval(numbers: pd.DataFrame, measure: str) -> list[str]:
    """`0.81 [0.20, 1.42]`; one seed has no interval, none a dash."""
    triples = zip(numbers[measure], numbers[f"{measure}_low"], numbers[f"{measure}_high"], strict=True)
    return [spread(mean) + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]") for mean, low, high in triples]


def _start_differences(frames: Frames) -> Table:
    numbers = starts.differences(frames.finals)
    text = _compared(numbers, "difference")
    notes = [
        "Points; Welch intervals, and t intervals over pairs where a net is grown from another. n: seeds of the net"
        f" with fewest. Up to {starts_experiment.MARGIN_PCT:g} point above plain-20 is comparably good (claim S1-5)."
        " The margin is older than the first run.",
    ]
    return Table("starts_differences", "Starts: what they change", numbers, text, notes, Place.MEASURED)
