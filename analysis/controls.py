"""Negative controls: the test of the paper's claims, applied where there is nothing to find.

Owns which comparisons are controls and what a false positive is: a verdict, either way, on the claim that the first of
two nets has the larger error. Pure functions of the finals of the experiment `controls`. Must not know how a table
shows them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, permutations
from typing import TypeVar

import numpy as np
import pandas as pd

from analysis.comparisons import TEST, TRAIN, WORDS, Part
from analysis.runs import one_image_pct
from analysis.statistics import ALPHA, estimate, proportion_interval

NOMINAL_PCT = 100 * ALPHA  # two-sided, whichever the direction
MOST_SPLITS = 1000
SAME, SHUFFLED = "A/A", "shuffled labels"
Error = TypeVar("Error")
Row = tuple[str, str, float, float, float, float, int, float]  # a value a column of `COLUMNS`
COLUMNS = ["control", "quantity", "expected", "found", "low", "high", "n", "false_positives"]


def measured(finals: pd.DataFrame) -> pd.DataFrame:
    """Every control, a row each: what was expected, and what was found with its 95 % interval.

    Differences of errors in points over n pairs, errors in percent over n seeds, and rates of false positives in
    percent of n comparisons; `false_positives`, their number, is NaN in all other rows.
    """
    same, shuffled = (finals[finals["labels"] == labels] for labels in ("true", "shuffled"))
    rows = chain(_same_condition(same) if len(same) else (), _shuffled(shuffled) if len(shuffled) else ())
    return pd.DataFrame(list(rows), columns=COLUMNS)


def splits(errors: Sequence[Error]) -> list[list[tuple[Error, Error]]]:
    """The ways to split errors into pairs, each pair in both orders; of an odd number the last is left out.

    Where there are more than `MOST_SPLITS`, that many random draws, the same at every call.
    """
    k = len(errors) // 2
    orders: Iterable[Sequence[int]] = permutations(range(2 * k))
    if math.perm(2 * k, k) > MOST_SPLITS:
        random = np.random.default_rng(0)
        orders = (random.permutation(2 * k).tolist() for _ in range(MOST_SPLITS))
    pairings = {tuple(sorted(zip(order[:k], order[k:], strict=True))) for order in orders}
    return [[(errors[first], errors[second]) for first, second in pairs] for pairs in sorted(pairings)]


def _same_condition(finals: pd.DataFrame) -> Iterator[Row]:
    """A/A: the first half of a net's seeds against the second half, then every split of those that finished."""
    for measure in (TRAIN, TEST):
        image = one_image_pct(finals["data"].iloc[0], measure)
        verdicts: list[bool] = []
        for title, errors in _by_net(finals, measure).items():
            k = len(errors) // 2
            first, second = errors.iloc[:k], errors.iloc[k : 2 * k]
            which = f"seeds {_range(first)} minus {_range(second)}"
            yield _estimated(SAME, f"{WORDS[measure]} of {title}, {which}", 0.0, first - second.to_numpy(), image)
            done = errors.dropna().tolist()
            if len(done) >= 4:  # two pairs are the least that can be tested
                verdicts += [_verdict([a - b for a, b in split], image) for split in splits(done)]
        yield _rate(SAME, f"verdicts on {WORDS[measure]}, over splits of each net's seeds", verdicts)


def _shuffled(finals: pd.DataFrame) -> Iterator[Row]:
    """Test errors against chance, and every net against every other, paired by seed, in both orders."""
    nets, verdicts = _by_net(finals, TEST), []
    image, chance = one_image_pct(finals["data"].iloc[0], TEST), 100 * (1 - 1 / finals["classes"].iloc[0])
    for title, errors in nets.items():
        yield _estimated(SHUFFLED, f"test error of {title}", chance, errors, image)
    for first, second in combinations(nets, 2):
        differences = (nets[second] - nets[first]).dropna()
        yield _estimated(SHUFFLED, f"test error of {second} minus {first}", 0.0, differences, image)
        if len(differences) >= 2:
            verdicts += [_verdict(differences, image), _verdict(-differences, image)]
    yield _rate(SHUFFLED, "verdicts on test error, over pairs of nets", verdicts)


def _by_net(finals: pd.DataFrame, measure: str) -> dict[str, pd.Series]:
    """Errors by seed, of each net; NaN where a trial did not finish."""
    nets = finals.groupby("title", sort=False)
    return {str(title): rows.set_index("seed")[measure].sort_index() for title, rows in nets}


def _verdict(differences: Iterable[float], image: float) -> bool:
    """Whether a claim that these are above 0 would be supported or contradicted, were it the only one."""
    part = Part(what="", values=pd.Series(differences, dtype=float), direction=1, nets=(), resolution=image)
    return part.p_for() < ALPHA or part.p_against() < ALPHA


def _estimated(control: str, quantity: str, expected: float, values: Iterable[float], image: float) -> Row:
    measured = estimate([value for value in values if not math.isnan(value)], image)
    return control, quantity, expected, measured.mean, measured.low, measured.high, measured.n, math.nan


def _rate(control: str, quantity: str, verdicts: Sequence[bool]) -> Row:
    count, n = sum(verdicts), len(verdicts)
    low, high = proportion_interval(count, n)
    rate = 100 * count / n if n else math.nan
    return control, quantity, NOMINAL_PCT, rate, 100 * low, 100 * high, n, count


def _range(errors: pd.Series) -> str:
    seeds = errors.index
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
