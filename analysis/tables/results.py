"""What was measured here: Table 6 with the plain nets of Fig. 6, shortcut options, effects, selection, controls.

Owns rows and rounding. A row of Table 6 is a condition: mean and deviation over its finished seeds. A diverged net has
no error and is marked as diverged; a trial without a result is a dash and the command that fills it.
"""

from collections.abc import Hashable, Iterable, Mapping
from enum import StrEnum
from typing import Any

import pandas as pd

from analysis import controls, effects, paper
from analysis.nets import TEST, TRAINING, beside_plain, serving
from analysis.runs import TARGETS_PCT, Frames, one_image_pct
from analysis.statistics import estimate, prediction_interval
from analysis.tables.printing import DASH, Place, Table, interval, intervals, spread
from experiments import controls as controls_experiment
from experiments import depth_scaling, plain_vs_residual
from experiments.recipes import PAPER_DATA, PAPER_WIDTH, Deviation
from study.store.account import RESULTS, Outcome
from study.store.records import RECALIBRATION_BATCHES

COMPARABLE = (
    "No difference from the paper is printed where the data, the width or the iterations are not the paper's"
    f" (CIFAR-10, {PAPER_WIDTH}, {paper.ITERATIONS:,}): such numbers are not comparable."
)
SPREAD = (
    "Errors in percent: mean ± standard deviation over n seeds, 95 % t interval of the mean. Test errors are of last"
    " iterates, training errors running ones over the last tenth of the iterations."
)
DIGITISED = "Values marked Fig. 6 are read off the curves of the paper's figure; it prints none for plain nets."


PREDICTED = (
    "A difference from the paper has the 95 % prediction interval of as many runs as the paper's number is of, one or"
    " five: where it holds 0, our seeds could have given that number."
)
Deviations = tuple[Deviation, ...]


PAPER_RUNS = 5  # of the 110-layer net


class Source(StrEnum):
    """Where the paper has an error of a CIFAR net."""

    TABLE = "Table 6"
    MEAN = "mean of 5"  # in Table 6
    CURVE = "Fig. 6"


def with_footnotes(name: str, title: str, conditions: pd.DataFrame) -> Table:
    """A table of conditions (`table_6`, `shortcut_table`), with its print."""
    numbers = conditions.assign(deviations=["; ".join(map(str, row)) for row in conditions["deviations"]])
    return Table(name, title, numbers, printed(conditions), footnotes(conditions), Place.MEASURED)


def table_6(frames: Frames) -> pd.DataFrame:
    """Table 6, with the plain nets of Fig. 6: a row for each net of plain-vs-residual and depth-scaling.

    Columns: net, layers, params, iterations, planned, n, diverged, training_error_pct, training_error_sd,
    test_error_pct, test_error_sd, test_error_low, test_error_high, paper_test_error_pct, paper_source,
    difference_pct (ours minus the paper's, only where comparable), difference_low, difference_high, deviations (from
    the paper's recipe), note. The interval is of a prediction: where it holds 0, the paper's number, of one run or a
    mean of five, is one that our seeds could have given.
    """
    rows = _of_table_6(frames.finals)
    return _conditions(rows)


def _of_table_6(finals: pd.DataFrame) -> pd.DataFrame:
    """The rows of the trials of plain-vs-residual and depth-scaling, each once."""
    rows = pd.concat([serving(finals, experiment.NAME) for experiment in (plain_vs_residual, depth_scaling)])
    return rows.drop_duplicates("id")


def shortcut_table(frames: Frames) -> pd.DataFrame:
    """Options A, B and C beside the plain net of each depth; the columns of `table_6`.

    The paper's CIFAR nets all have option A.
    """
    rows = beside_plain(frames.finals).sort_values(["depth", "shortcut"], key=_plain_first, kind="stable")
    option = rows["title"] + (rows["shortcut"] == "A").map({True: " (A)", False: ""})
    return _conditions(rows.assign(title=option))


def measured_quantities(frames: Frames) -> Table:
    """What `analysis.effects` defines, a row a depth.

    `mean`, `sd`, `low` and `high` are percentage points; iterations to a target have the `median` of `n` trials, of
    which `reached` got there.
    """
    finals, shortcuts = serving(frames.finals, plain_vs_residual.NAME), beside_plain(frames.finals)
    rows = []
    notes = [
        "Percentage points; paired by seed, 95 % t intervals. Defined in analysis/effects.py.",
        "Iterations: the median over seeds of the first record at or below the target. A trial that never reaches it"
        " comes after all that do.",
    ]
    for measure, error in ((TRAINING, "training error"), (TEST, "test error")):
        for family in ("plain", "residual"):
            gap = effects.degradation_gap(finals, measure, family)
            rows.append(gap.assign(quantity=f"degradation gap of {family} nets", error=error))
            if len(gap):
                before, at = effects.critical_depth(gap)
                where = f"between {before} and {at} layers" if at else f"nowhere up to {before} layers"
                bound = f"the first gap above {effects.ONSET_PCT:g} %, at 95 % over all depths together"
                notes.append(f"Critical depth of {family} nets in {error} ({bound}): {where}.")
        rows.append(effects.residual_benefit(finals, measure).assign(error=error))
        differences = effects.shortcut_differences(shortcuts, measure)
        rows.append(differences.assign(quantity="shortcuts, " + differences["quantity"], error=error))
    for family in ("plain", "residual"):
        gap = effects.generalisation_gap(finals, family)
        rows.append(gap.assign(quantity=f"generalisation gap of {family} nets", error="test minus training error"))
        for target in TARGETS_PCT:
            reached = effects.iterations_to_target(finals, target, family)
            rows.append(reached.assign(quantity=f"iterations of {family} nets to {target} %", error="training error"))
    columns = ["quantity", "error", *effects.COLUMNS[1:], "reached", "median"]
    numbers = (
        pd.concat([effect for effect in rows if len(effect)] or rows).reindex(columns=columns).reset_index(drop=True)
    )
    text = numbers.astype({"depth": str, "n": str}).assign(
        mean=[
            spread(row["mean"], row["sd"]) if pd.isna(row["reached"]) else _median(row["median"], row["reached"])
            for row in numbers.to_dict("records")
        ],
        interval=intervals(numbers),
    )
    shown = text[["quantity", "error", "depth", "mean", "interval", "n"]]
    shown = shown.rename(columns={"mean": "mean or median"})
    return Table("quantities", "Measured quantities", numbers, shown, notes, Place.MEASURED)


def selection(frames: Frames) -> Table:
    """The same runs as other protocols would report them, which makes the gain of choosing an iterate or seed a number.

    Columns of the numbers, all test errors: last (mean of last iterates: the result), validated (mean, of the iterate
    with the least validation error), best (mean, of the least test error of each run), best_seed (least last iterate of
    all seeds), best_of_all (least of all iterates of all seeds), selection_bias (last minus best_of_all), recalibrated
    (mean, of last iterates with BatchNorm's statistics averaged anew; NaN where a run does not say) and
    recalibrated_minus_last.
    """
    rows = []
    for _, seeds in _of_table_6(frames.finals).groupby("condition", sort=False):
        done = seeds[seeds["outcome"] == Outcome.FINISHED]
        if done.empty:
            continue
        last, recalibrated = done[TEST].mean(), done["recalibrated_test_error_pct"].mean(skipna=False)
        rows.append(
            {
                "net": seeds["title"].iloc[0],
                "iterations": seeds["iterations"].iloc[0],
                "n": len(done),
                "last": last,
                "validated": done["validated_test_error_pct"].mean(),
                "best": done["best_test_error_pct"].mean(),
                "best_seed": done[TEST].min(),
                "best_of_all": done["best_test_error_pct"].min(),
                "selection_bias": last - done["best_test_error_pct"].min(),
                "recalibrated": recalibrated,
                "recalibrated_minus_last": recalibrated - last,
            }
        )
    headings = {
        "last": "last iterate",
        "validated": "best by validation",
        "best": "best by test",
        "best_seed": "best of n seeds",
        "best_of_all": "best of both",
        "selection_bias": "selection bias",
        "recalibrated": "last, recalibrated",
        "recalibrated_minus_last": "recalibrated minus last",
    }
    numbers = pd.DataFrame(rows, columns=["net", "iterations", "n", *headings])
    text = pd.DataFrame({"net": numbers["net"], "iterations": [f"{count:,}" for count in numbers["iterations"]]})
    text["n"] = numbers["n"].astype(str)
    for column, heading in headings.items():
        text[heading] = numbers[column].map(spread)
    notes = [
        "Test errors in percent. Only the last iterate's mean is a result. The columns from best by test to selection"
        " bias, which is last iterate minus best of both, chose with the test set.",
        "Best by validation needs held-out images: the option --held-out sets their number.",
        "The last iterate is evaluated as its recipe says: with BatchNorm's moving averages, unless it recalibrates."
        f" Recalibrated: with plain averages over at most {RECALIBRATION_BATCHES} batches of training images; a dash"
        " where a run is older than this measurement.",
    ]
    return Table("selection", "The same runs by other protocols", numbers, text, notes, Place.MEASURED)


def negative_controls(frames: Frames) -> Table:
    """What is found where there is nothing to find (`analysis.controls`), a row a control."""
    numbers = controls.measured(serving(frames.finals, controls_experiment.NAME))
    text = numbers[["control", "quantity"]].copy()
    rates = numbers["false_positives"].notna()
    text["expected"] = [f"{value:g}" for value in numbers["expected"]]
    text["found"] = [
        DASH if pd.isna(row["found"]) else f"{row['found']:.2f}" + (f" ({row['false_positives']:.0f})" if rate else "")
        for row, rate in zip(numbers.to_dict("records"), rates, strict=True)
    ]
    text["95 % interval"] = intervals(numbers)
    text["n"] = numbers["n"].astype(str)
    missed = numbers[~rates & ((numbers["low"] > numbers["expected"]) | (numbers["high"] < numbers["expected"]))]
    notes = [
        "Errors and their differences in percent and points, n seeds or pairs of seeds, 95 % t intervals. Verdicts:"
        " percent of n comparisons, and in brackets how many, in which the claim that the first has the larger error is"
        " supported or contradicted by the test of the paper's claims, alone, without Holm's correction. By chance"
        f" {controls.NOMINAL_PCT:g} % are.",
        "A/A: a net against itself. The splits pair its seeds in every way, in both orders, or in"
        f" {controls.MOST_SPLITS:,} ways if there are more. They share trials, as pairs of nets do, so verdicts are not"
        " independent: their interval (Clopper-Pearson) takes them as if they were, and is too narrow.",
        "Shuffled labels: each seed learns training labels in another order; test labels are true. Chance is that of"
        " test sets with equally many images of each class.",
        f"Expected error or difference outside the interval: {'; '.join(missed['quantity']) or 'none'}"
        f" (of {(~rates & numbers['low'].notna()).sum()}, of which one in twenty by chance).",
    ]
    return Table("controls", "Negative controls: where there is nothing to find", numbers, text, notes, Place.MEASURED)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """A table of this module as text, rounded, with a dash for every number that is not there.

    `also`: the letter of a row that departs from the paper in more than all rows do; a footnote explains it.
    """
    cells = []
    _, own = departures(table["deviations"])
    letters = _letters(own)
    for row, departed in zip(table.to_dict("records"), own, strict=True):
        training = spread(row["training_error_pct"], row["training_error_sd"])
        printed_error = f"{row['paper_test_error_pct']:.2f} ({row['paper_source']})"
        cells.append(
            {
                "net": row["net"],
                "params": f"{_short(row['params'])} ({row['params']:,})",
                "iterations": f"{row['iterations']:,}",
                "also": letters.get(departed, ""),
                "training error": training
                if row["n"] or not row["diverged"]
                else f"diverged ({row['diverged']} of {row['planned']})",
                "test error": spread(row["test_error_pct"], row["test_error_sd"]),
                "95 % interval": interval(row["test_error_low"], row["test_error_high"]),
                "n": str(row["n"]),
                "paper": DASH if pd.isna(row["paper_test_error_pct"]) else printed_error,
                "difference": DASH if pd.isna(row["difference_pct"]) else _difference(row),
                "note": row["note"],
            }
        )
    text = pd.DataFrame(cells, columns=list(cells[0]) if cells else ["net"])
    return text.drop(columns=[name for name in ("also", "note") if cells and not any(text[name])])


def _difference(row: Mapping[Hashable, Any]) -> str:
    """`+0.21 (-0.30 to 0.72)`; without the interval where one seed gives none."""
    shown = interval(row["difference_low"], row["difference_high"])
    return f"{row['difference_pct']:+.2f}" + ("" if shown == DASH else f" ({shown})")


def footnotes(table: pd.DataFrame) -> list[str]:
    """What a reader must know of this table, derived from what is in it."""
    shared, own = departures(table["deviations"])
    explained = [f"{letter}: also {_listed(departed)}." for departed, letter in _letters(own).items()]
    return [SPREAD, *caveats(table), *([shared_note(shared)] if len(table) else []), *explained]


def caveats(table: pd.DataFrame) -> list[str]:
    """What its numbers must not be taken for."""
    notes = []
    if (table["paper_source"] == Source.CURVE).any():
        notes.append(DIGITISED)
    if table["difference_low"].notna().any():
        notes.append(PREDICTED)
    if (table["paper_test_error_pct"].notna() & table["difference_pct"].isna() & (table["n"] > 0)).any():
        notes.append(COMPARABLE)
    return notes


def departures(deviations: Iterable[Deviations]) -> tuple[Deviations, list[Deviations]]:
    """Of rows' deviations: those that all rows share, and those that each row has besides."""
    rows = list(deviations)
    first = rows[0] if rows else ()
    shared = tuple(deviation for deviation in first if all(deviation in row for row in rows))
    return shared, [tuple(deviation for deviation in row if deviation not in shared) for row in rows]


def _letters(own: Iterable[Deviations]) -> dict[Deviations, str]:
    """a, b, c for the deviations that not all rows have, in the order of the rows."""
    return {departed: chr(ord("a") + i) for i, departed in enumerate(dict.fromkeys(filter(None, own)))}


def shared_note(shared: Deviations) -> str:
    return f"Deviations from the paper's recipe in all rows: {_listed(shared) or 'none'}."


def _listed(deviations: Deviations) -> str:
    return "; ".join(map(str, deviations))


def _conditions(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby("condition", sort=False)
    return pd.DataFrame([_condition(seeds) for _, seeds in groups], columns=_COLUMNS)


_COLUMNS = [
    "net",
    "layers",
    "params",
    "iterations",
    "planned",
    "n",
    "diverged",
    "training_error_pct",
    "training_error_sd",
    "test_error_pct",
    "test_error_sd",
    "test_error_low",
    "test_error_high",
    "paper_test_error_pct",
    "paper_source",
    "difference_pct",
    "difference_low",
    "difference_high",
    "deviations",
    "note",
]


def _condition(rows: pd.DataFrame) -> dict[str, object]:
    """One row: what the seeds of a condition measured, and the paper's number beside it."""
    first = rows.iloc[0]
    done = rows[rows["outcome"] == Outcome.FINISHED]
    diverged = int((rows["outcome"] == Outcome.DIVERGED).sum())
    image = one_image_pct(first["data"], TEST)
    training, test = estimate(done[TRAINING].dropna()), estimate(done[TEST].dropna(), image)
    printed_error, source = _paper(first)
    low, high = prediction_interval(test, PAPER_RUNS if source == Source.MEAN else 1)
    comparable = (first["data"], first["iterations"], first["width"]) == (
        PAPER_DATA.name,
        paper.ITERATIONS,
        PAPER_WIDTH,
    )
    return {
        "net": first["title"],
        "layers": first["depth"],
        "params": first["params"],
        "iterations": first["iterations"],
        "planned": len(rows),
        "n": len(done),
        "diverged": diverged,
        "training_error_pct": training.mean,
        "training_error_sd": training.sd,
        "test_error_pct": test.mean,
        "test_error_sd": test.sd,
        "test_error_low": max(test.low, 0.0) if test.n > 1 else test.low,  # no error is below 0
        "test_error_high": min(test.high, 100.0) if test.n > 1 else test.high,
        "paper_test_error_pct": printed_error,
        "paper_source": source,
        "difference_pct": test.mean - printed_error if comparable else float("nan"),
        "difference_low": low - printed_error if comparable else float("nan"),
        "difference_high": high - printed_error if comparable else float("nan"),
        "deviations": first["deviations"],
        "note": _note(rows, diverged),
    }


def _note(rows: pd.DataFrame, diverged: int) -> str:
    parts = [f"diverged ({diverged} of {len(rows)})"] if 0 < diverged < len(rows) else []
    undone = rows[~rows["outcome"].isin(RESULTS)].groupby("outcome").size()
    if len(undone):
        parts.append(", ".join(f"{count} of {len(rows)} {outcome}" for outcome, count in undone.items()))
    return "; ".join(parts)


def _paper(row: pd.Series) -> tuple[float, str]:
    """The paper's test error of this net on CIFAR-10 and its source; NaN and '' where it has none.

    The 110-layer ResNet's is the mean of five runs, because ours is a mean, too (the best of them has 6.43 %).
    """
    if row["block"] == "basic" and row["family"] == "residual" and row["shortcut"] == "A":
        for net in paper.table("table_6")["rows"]:
            if net["method"] == "ResNet" and net["layers"] == row["depth"]:
                return (net["mean"], Source.MEAN) if "mean" in net else (net["error"], Source.TABLE)
    if row["block"] == "basic" and row["family"] == "plain":
        curves = paper.curves(6)
        curve = curves[(curves["curve"] == f"plain-{row['depth']}") & (curves["series"] == "test")]
        if len(curve):
            return float(curve.sort_values("iteration")["value"].iloc[-1]), Source.CURVE
    return float("nan"), ""


def _plain_first(column: pd.Series) -> pd.Series:
    return column.replace("none", "")


def _short(params: int) -> str:
    """As the paper prints it: 0.27M, 1.7M, 19.4M."""
    return f"{params / 1e6:.2f}M" if params < 1e6 else f"{params / 1e6:.1f}M"


def _median(median: float, reached: float) -> str:
    """Iterations to a target, if it is known that the median trial got there."""
    return f"{reached:.0f} reached it" if pd.isna(median) else f"{median:,.0f} ({reached:.0f} reached it)"
