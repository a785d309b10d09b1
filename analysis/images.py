"""Intervals of test errors for new seeds and new test images: a bootstrap over both.

Owns how nets that were tested on the same images are resampled. A t interval over seeds is about new seeds on these
very images; of 360 images, others alone may move an error of 10 % by 3 points (Bouthillier et al., MLSys 2021, arXiv
2103.03098, take both as sources of variance). Must not know how a verdict is reached.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.comparisons import Part
from analysis.statistics import ALPHA, RESAMPLES, spread
from study.store.records import Wrong

LEAST_SEEDS = 3  # a net: two seeds have three resamples, whose extremes are only 0.7 of a t interval apart
Tested = Sequence[tuple[float, NDArray[np.bool_]]]  # weight, and which images its seeds classify wrong [seeds, images]


def interval(part: Part) -> tuple[float, float] | None:
    """The 95 % interval of the part's effect for new seeds and new images like these.

    None where the effect is not of test errors, a run has no bits, the test sets differ, or a net has fewer than
    `LEAST_SEEDS` seeds.
    """
    rows = pd.concat([rows for _, rows in part.on_test]) if part.on_test else pd.DataFrame()
    if rows.empty or min(len(rows) for _, rows in part.on_test) < LEAST_SEEDS:
        return None
    if not rows["test_images"].gt(0).all() or len(rows[["data", "labels", "test_images"]].drop_duplicates()) > 1:
        return None
    nets = [(weight, _wrong(rows)) for weight, rows in part.on_test]
    low, high = resampled(nets, part.resolution)
    constant = part.estimate().mean - 100 * sum(weight * float(wrong.mean()) for weight, wrong in nets)
    return low + constant, high + constant


def resampled(nets: Tested, resolution: float = 0.0, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Percentile interval of the weighted sum of the nets' mean errors, in points.

    Each net's seeds are resampled by themselves, the images once for all nets, because they share the test set. The
    deviations that both bring are added: resampled in one another, what belongs to neither a seed nor an image would
    count three times (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007), so it counts twice. A few
    resampled seeds vary too little, by (n - 1) / n, and have short tails: their deviations are multiplied by
    sqrt(n / (n - 1)) t / z, so that without a deviation of images the interval is about Welch's (Hesterberg, American
    Statistician 69, 2015, expands percentiles likewise). By `make bench BENCH=verdicts`, 1,000 planted studies a rate,
    equal nets at 10 % error on 360 images: it holds their difference in 99 % of studies of three seeds and 98 % of six
    where seeds differ by 1.0 points, in 97 % of both where they differ by 3.5. Welch's, which is about these images,
    holds it in 95 and 86 %, and in 96 and 95 %.
    """
    rng = np.random.default_rng(0)
    arms = [(weight, 100 * wrong.mean(axis=1)) for weight, wrong in nets]
    _, _, df = spread([(weight, list(errors)) for weight, errors in arms], resolution)
    wider = float(stats.t.ppf((1 + level) / 2, df) / stats.norm.ppf((1 + level) / 2))
    effects = np.zeros(RESAMPLES)
    for weight, errors in arms:
        n = len(errors)
        drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
        effects += weight * wider * math.sqrt(n / (n - 1)) * (drawn @ (errors - errors.mean())) / n
    by_image = 100 * sum(weight * wrong.mean(axis=0) for weight, wrong in nets)
    values, times = np.unique(by_image, return_counts=True)  # images that count alike are drawn together
    effects += rng.multinomial(len(by_image), times / len(by_image), RESAMPLES) @ values / len(by_image)
    low, high = np.quantile(effects, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _wrong(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """bool [seeds, images]"""
    pairs = zip(rows["test_images"], rows["test_wrong"], strict=True)
    return np.stack([Wrong(int(images), bits).flags() for images, bits in pairs])
