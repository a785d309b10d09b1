"""Whether the precision of arithmetic changes a number or a verdict: fp32 against TF32 and bf16, seed by seed.

Owns the comparisons of the experiment `precision`. Pure functions of its finals. Must not know how a table shows them.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.comparisons import TEST, TRAIN
from analysis.runs import one_image_pct
from analysis.statistics import ALPHA, estimate, holm, p_equivalent, p_greater, p_two_sided
from experiments.precision import MARGIN_PCT

REFERENCE = "fp32"
EQUAL, DIFFERENT, UNDECIDED, NOT_RUN = "equal", "different", "undecided", "not run"
LARGER, NOT_LARGER = "larger", "not larger"
DIFFERENCES = ["precision", "net", "quantity", "n", "difference", "low", "high", "p_equal", "p_different", "verdict"]
VERDICTS = ["quantity", "comparison", "precision", "n", "difference", "low", "high", "verdict", "same"]


def differences(finals: pd.DataFrame) -> pd.DataFrame:
    """Each net's error in a precision minus that in fp32, paired by seed: a row a precision, net and error.

    `low` and `high` are the interval of level 1 - 2 alpha, which lies within the margin exactly where the two one-sided
    tests reject. 'equal': they do, after Holm's correction over all rows; 'different': the two-sided test of 0 does.
    Where both reject, the difference is there and too small to matter: 'equal'.
    """
    rows = [
        [precision, title, measure, *_compared(values, finals, measure)]
        for (title, measure), by in _errors(finals)
        for precision, values in _minus_reference(by)
    ]
    table = pd.DataFrame([[*row, ""] for row in rows], columns=DIFFERENCES)
    run = table["n"] >= 2
    for name in ("p_equal", "p_different"):
        table.loc[run, name] = holm(table.loc[run, name].tolist())
    columns = (table[name].tolist() for name in ("n", "p_equal", "p_different"))
    table["verdict"] = [_kind(*row) for row in zip(*columns, strict=True)]
    return table


def _kind(n: int, p_equal: float, p_different: float) -> str:
    if n < 2:
        return NOT_RUN
    if p_equal < ALPHA:
        return EQUAL
    return DIFFERENT if p_different < ALPHA else UNDECIDED


def verdicts(finals: pd.DataFrame) -> pd.DataFrame:
    """Whether the deeper net has the larger error, within each precision, and whether that is as in fp32.

    A row an error, family and precision, with `same` None where either is not known. 'larger' by the one-sided paired
    test at alpha; 'not larger' where the test of the opposite rejects at alpha; 'undecided' otherwise.
    """
    rows = []
    for measure in (TRAIN, TEST):
        for _, of_family in finals.groupby("family", sort=False):
            depths = sorted(of_family["depth"].unique())
            if len(depths) < 2:
                continue
            shallow, deep = (of_family[of_family["depth"] == depth] for depth in (depths[0], depths[-1]))
            comparison = f"{deep['title'].iloc[0]} minus {shallow['title'].iloc[0]}"
            within = {name: _by_seed(deep, name, measure) - _by_seed(shallow, name, measure) for name in _names(finals)}
            found = {name: _verdict(values.dropna(), finals, measure) for name, values in within.items()}
            reference = found.get(REFERENCE, (0, NOT_RUN))[-1]
            for name, row in found.items():
                known = NOT_RUN not in (reference, row[-1])
                rows.append([measure, comparison, name, *row, row[-1] == reference if known else None])
    return pd.DataFrame(rows, columns=VERDICTS)


def _names(finals: pd.DataFrame) -> list[str]:
    """The precisions, fp32 first."""
    return sorted(finals["precision"].unique(), key=lambda name: (name != REFERENCE, name))


def _by_seed(rows: pd.DataFrame, precision: str, measure: str) -> "pd.Series[float]":
    """Errors by seed; NaN where a trial did not finish."""
    return rows[rows["precision"] == precision].set_index("seed")[measure]


def _errors(finals: pd.DataFrame) -> Iterator[tuple[tuple[str, str], dict[str, "pd.Series[float]"]]]:
    for title, rows in finals.groupby("title", sort=False):
        for measure in (TRAIN, TEST):
            yield (str(title), measure), {name: _by_seed(rows, name, measure) for name in _names(finals)}


def _minus_reference(by: dict[str, "pd.Series[float]"]) -> Iterator[tuple[str, "pd.Series[float]"]]:
    for name, values in by.items():
        if name != REFERENCE:
            yield name, (values - by[REFERENCE]).dropna()


def _compared(values: "pd.Series[float]", finals: pd.DataFrame, measure: str) -> tuple[float, ...]:
    image = one_image_pct(finals["data"].iloc[0], measure)
    interval = estimate(values, image, 1 - 2 * ALPHA)
    sample = values.tolist()
    p_equal, p_different = p_equivalent(sample, MARGIN_PCT, image), p_two_sided(sample, image)
    return interval.n, interval.mean, interval.low, interval.high, p_equal, p_different


def _verdict(values: "pd.Series[float]", finals: pd.DataFrame, measure: str) -> tuple[int, float, float, float, str]:
    image = one_image_pct(finals["data"].iloc[0], measure)
    interval = estimate(values, image)
    if interval.n < 2:
        verdict = NOT_RUN
    elif p_greater(values, 0.0, image) < ALPHA:
        verdict = LARGER
    else:
        verdict = NOT_LARGER if p_greater(-values, 0.0, image) < ALPHA else UNDECIDED
    return interval.n, interval.mean, interval.low, interval.high, verdict
