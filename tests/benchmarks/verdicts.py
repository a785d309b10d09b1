"""How often verdicts are right: planted studies of which the truth is known, through the same functions as real ones.

Null studies have equal nets, so every verdict is wrong: how many have one in the family of degradation claims, which
Holm's correction is to keep at 5 %. In the others plain-56 is worse than plain-20 by so many standard deviations of a
seed: how often S1-1 is contradicted, and how often supported. The power of that is stated as between those of a
two-sided Welch test at 5 % over the number of claims, the least that Holm guarantees, with the fewest degrees of
freedom, and at 5 % with the most. Two depths of quick's nets, noise of one point.

Nets that are equal on average over seeds and test images are to have a difference of 0 within the interval for new
seeds and new images (`analysis.images`) in 95 % of studies or more. The t interval over seeds alone, beside which it
stands, is about these images, and nothing is stated of it.

Of 1 to 8 independent claims on equal nets, how often Holm's correction lets any be decided; and how often Welch's test
of three seeds passes at 5 % where the two nets' deviations differ or are as small as one image of the error.

Then on differences alone: how often a sequence of looks (`run --until-decided`) is decided, with a most of seeds and
without; how often 95 % intervals hold the mean, and sign flips pass at 5 %, of normal differences and of skewed ones.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import frames

from analysis import claims, images
from analysis.comparisons import Part
from analysis.decision import evaluate, weigh
from analysis.pictures import static
from analysis.sequential import looks
from analysis.statistics import ALPHA, bootstrap_interval, contrast, estimate, holm, p_sign_flips
from analysis.verdicts import Kind
from experiments import (
    budget,
    controls,
    depth_scaling,
    learning_rate,
    placebo,
    plain_vs_residual,
    shortcut_options,
    starts,
)
from experiments.profiles import QUICK, Depths, Nets, Profile
from study.spec import Trial

STUDIES = int(os.environ.get("STUDIES", "1000"))
SEEDS = (3, 6)
MOST_SEEDS = 24  # of a sequence
RESAMPLED = (8, 12)  # seeds
IMAGES_SEEDS = (3, 6)
SEED_SDS = {0.05: "differ little", 0.5: "differ much"}  # of 360 images: errors by 1.0 and 3.5 points
EFFECTS = (2.0, 4.0)  # standard deviations of a seed; a paired difference has the square root of 2 of them
FOUND = {0.5: 0.5, 1.0: 0.95}  # deviations of a difference, and the least share of sequences that 24 seeds decide
CLAIMS = 8
WELCH = {(1.0, 1.0): 0.0, (1.0, 4.0): 0.0, (1.0, 100.0): 0.0, (0.3, 0.3): 1.0, (0.3, 3.0): 1.0}  # sds, and one image
LEVEL_PCT = 30.0  # of errors, far from 0, where noise would be cut off
TRUE_OF_ANY_NET = "S1-4"  # that learns
Row = dict[str, Any]


def study(number: int, seeds: int) -> Profile:
    """The profile with other ids, hence other noise, for each number; it tests the claims on degradation alone."""
    small = replace(
        QUICK,
        recipe=lambda model: replace(QUICK.recipe(model), record_every=180, evaluate_every=360),
        untestable=dict.fromkeys(set(claims.MEASURED) - set(claims.FAMILIES["degradation"]), "not asked"),
    )
    small = small.on_scales(
        {
            plain_vs_residual.NAME: Depths(depths=(20, 56), seeds=3),
            shortcut_options.NAME: None,
            depth_scaling.NAME: None,
            learning_rate.NAME: None,
            **dict.fromkeys((placebo.NAME, budget.NAME, starts.NAME)),
            controls.NAME: Nets(nets=(), seeds=3),
        }
    )
    return small.with_data(replace(QUICK.data, digest=str(number))).with_seeds(seeds)


def verdicts(number: int, seeds: int, effect: float) -> dict[str, Kind]:
    """The verdicts on the claims that one planted study tests."""
    profile = study(number, seeds)

    def error(trial: Trial) -> float:
        return LEVEL_PCT + effect * (trial.model.depth == 56)

    def plain(trial: Trial) -> str:
        return "finished" if trial.model.family == "plain" else "missing"

    judged = evaluate(frames(profile, error=error, test_error=error, noise=1.0, outcomes=plain), profile)
    return {verdict.claim.id: verdict.kind for verdict in judged if verdict.p_permutation is not None}


def normal(number: int, effect: float, n: int) -> np.ndarray:
    return np.random.default_rng([number, n]).normal(effect / np.sqrt(2), 1.0, n)


def skewed(number: int, effect: float, n: int) -> np.ndarray:
    return effect / np.sqrt(2) + np.random.default_rng([number, n]).exponential(1.0, n) - 1.0


def sequences(effect: float, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The sign of the mean at which each sequence is decided, 0 where it is not, and the seeds at its end.

    By the t test of all sequences at once. The effect is in deviations of a difference.
    """
    x = np.random.default_rng(0).normal(effect, 1.0, (STUDIES, MOST_SEEDS))
    signs, seeds = np.zeros(STUDIES), np.full(STUDIES, MOST_SEEDS)
    for look in looks(most, MOST_SEEDS):
        found = stats.ttest_1samp(x[:, : look.seeds], 0.0, axis=1)
        passed = (found.pvalue < look.level()) & (signs == 0)
        signs[passed], seeds[passed] = np.sign(found.statistic[passed]), look.seeds
    return signs, seeds


def p_of_equal_nets(number: int, times: int, sds: tuple[float, float], image: float, n: int) -> list[float]:
    """The p values of so many independent comparisons of two nets that differ in their deviations alone."""
    rng, ps = np.random.default_rng([number, n]), []
    for _ in range(times):
        errors = rng.uniform() * image + rng.normal(0, 1, (2, n)) * np.array(sds)[:, None]
        errors = np.round(errors / image) * image if image else errors
        arms = (1.0, pd.Series(errors[0])), (-1.0, pd.Series(errors[1]))
        part = Part(what="", values=arms[0][1] - arms[1][1], direction=1, nets=(), resolution=image, arms=arms)
        ps.append(weigh([part]).p)
    return ps


def resampled(number: int, draw: Callable[..., np.ndarray], n: int) -> tuple[bool, bool, bool]:
    """Does the t interval hold the mean, does the bootstrap's, and do sign flips pass at 5 %? The mean is 0."""
    values = draw(number, 0.0, n)
    found, resamples = estimate(values), bootstrap_interval(values)
    assert resamples is not None
    return found.low < 0 < found.high, resamples[0] < 0 < resamples[1], p_sign_flips(values) < ALPHA


def row(what: str, seeds: int | str, effect: float, least: float, most: float, times: int) -> Row:
    """One rate, between which percentages it is to be, and the 95 % interval of what was observed (Clopper-Pearson)."""
    interval = stats.binomtest(times, STUDIES).proportion_ci()
    return {
        **{"what": what, "seeds": seeds, "effect (sd of a seed)": effect},
        **{"least %": 100 * least, "most %": 100 * most, "observed %": 100 * times / STUDIES},
        **{"low %": 100 * interval.low, "high %": 100 * interval.high},
    }


def welch_power(effect: float, n: int, level: float, df: float) -> float:
    """Chance that the two-sided test of n seeds a net finds the effect, in deviations of a seed, on its own side."""
    return float(stats.nct.sf(stats.t.ppf(1 - level / 2, df), df, effect * np.sqrt(n / 2)))


def in_reports(pool: Executor) -> Iterator[Row]:
    for seeds, effect in product(SEEDS, (0.0, *EFFECTS)):
        found = list(pool.map(partial(verdicts, seeds=seeds, effect=effect), range(STUDIES), chunksize=10))
        tested = [name for name in found[0] if name not in claims.SAME]
        decisions = [{name for name in tested if each[name] in (Kind.SUPPORTED, Kind.CONTRADICTED)} for each in found]
        if not effect:
            wrong = sum(bool(names - {TRUE_OF_ANY_NET}) for names in decisions)
            yield row("any wrong verdict in the family", seeds, effect, 0, ALPHA, wrong)
            continue
        # Welch's degrees of freedom lie between those of one net and those of both.
        least = welch_power(effect, seeds, ALPHA / len(tested), seeds - 1)
        most = welch_power(effect, seeds, ALPHA, 2 * seeds - 2)
        yield row("S1-1 supported", seeds, effect, least, most, sum(one["S1-1"] == Kind.SUPPORTED for one in found))
        yield row(
            "S1-1 contradicted", seeds, effect, 0, ALPHA / 2, sum(one["S1-1"] == Kind.CONTRADICTED for one in found)
        )


def in_families(pool: Executor) -> Iterator[Row]:
    for (sds, image), n in product(WELCH.items(), (3, 6)):
        times = CLAIMS if sds == (1.0, 1.0) else 1
        one = partial(p_of_equal_nets, times=times, sds=sds, image=image, n=n)
        ps = list(pool.map(one, range(STUDIES), chunksize=20))
        rounded = ", rounded to 1" if image else ""
        passed = sum(each[0] < ALPHA for each in ps)
        yield row(f"Welch passes at 5 %, deviations {sds[0]:g} and {sds[1]:g}{rounded}", n, 0.0, 0, ALPHA, passed)
        for m in range(1, times + 1) if times > 1 else ():
            wrong = sum(min(holm(each[:m])) < ALPHA for each in ps)
            yield row(f"any of {m} independent claims decided", n, 0.0, 0, ALPHA, wrong)


def in_sequences() -> Iterator[Row]:
    for most, effect in product((MOST_SEEDS, None), (0.0, *FOUND, 2.0)):
        signs, ends = sequences(effect, most)
        seeds = f"up to {MOST_SEEDS} (mean {ends.mean():.1f})"
        name = f"sequence with {'a' if most else 'no'} most ends"
        if effect:
            least = FOUND.get(effect, 0.95) if most else 0.0
            yield row(f"{name} supported", seeds, round(effect * np.sqrt(2), 2), least, 1, int((signs > 0).sum()))
        else:
            yield row(f"{name} decided", seeds, effect, 0, ALPHA, int((signs != 0).sum()))


def in_resampling(pool: Executor) -> Iterator[Row]:
    for draw, n in product((normal, skewed), RESAMPLED):
        found = pool.map(partial(resampled, draw=draw, n=n), range(STUDIES), chunksize=50)
        t, bootstrap, flips = (sum(column) for column in zip(*found, strict=True))
        kind, level = draw.__name__, 1 - ALPHA
        yield row(f"t interval holds the mean, {kind}", n, 0.0, level, level, t)
        yield row(f"bootstrap interval holds the mean, {kind}", n, 0.0, level, level, bootstrap)
        yield row(f"sign flips pass at 5 %, {kind}", n, 0.0, 0, ALPHA, flips)


def of_images(number: int, n: int, seed_sd: float) -> tuple[bool, bool]:
    """Does the interval for new seeds and images, and does the t interval, hold the difference of equal nets, 0?

    Two nets of n seeds, 10 % error on 360 images. An image is wrong where the sum of normal scores of the image, for
    all nets, of the net and the image, of the seed, and of the seed and the image is above a bound.
    """
    rng, variances = np.random.default_rng([number, n]), (2.0**2, 0.7**2, seed_sd**2, 1.0)
    bound, easy, shape = stats.norm.isf(0.1) * np.sqrt(sum(variances)), 2.0 * rng.standard_normal(360), (n, 360)
    nets = []
    for weight in (1.0, -1.0):
        own = easy + 0.7 * rng.standard_normal(360) + seed_sd * rng.standard_normal((n, 1))
        nets.append((weight, own + rng.standard_normal(shape) > bound))
    low, high = images.resampled(nets)
    over_seeds = contrast([(weight, list(100 * wrong.mean(axis=1))) for weight, wrong in nets])
    return low <= 0 <= high, over_seeds.low <= 0 <= over_seeds.high


def in_images(pool: Executor) -> Iterator[Row]:
    for n, seed_sd in product(IMAGES_SEEDS, SEED_SDS):
        found = pool.map(partial(of_images, n=n, seed_sd=seed_sd), range(STUDIES), chunksize=10)
        both, over_seeds = (sum(column) for column in zip(*found, strict=True))
        about = f"holds 0 of equal nets, seeds {SEED_SDS[seed_sd]}"
        yield row(f"interval of seeds and images {about}", n, 0.0, 1 - ALPHA, 1, both)
        yield row(f"t interval of seeds alone {about}", n, 0.0, 0, 1, over_seeds)


@static.styled
def drawn(rows: list[Row]) -> Figure:
    """Each rate with its interval, over the range that it is to be in."""
    figure = Figure(figsize=(8, 1 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, each in enumerate(rows):
        middle, width = (each["least %"] + each["most %"]) / 2, max(each["most %"] - each["least %"], 0.6)
        axes.barh(y, width, left=middle - width / 2, height=0.7, color="#a9c9e2")
        observed = each["observed %"]
        error = [[observed - each["low %"]], [each["high %"] - observed]]
        axes.errorbar(observed, y, xerr=error, fmt="o", color="#333333", markersize=3.5, capsize=2, linewidth=1)
    labels = [f"{each['what']}; {each['effect (sd of a seed)']:g} sd, {each['seeds']} seeds" for each in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlim=(-2, 102), ylim=(len(rows) - 0.4, -0.6), xlabel="planted studies (%)")
    axes.set_title(
        f"Stated (bars) and observed rates with 95 % intervals, {STUDIES:,} planted studies a row", loc="right"
    )
    axes.grid(axis="y", visible=False)
    return figure


def main() -> None:
    with ProcessPoolExecutor() as pool:
        rows = [*in_reports(pool), *in_families(pool), *in_sequences(), *in_resampling(pool), *in_images(pool)]
    common.write("verdicts", f"{STUDIES:,} planted studies a row, 95 % intervals of the observed rate", rows)
    static.save(drawn(rows), common.OUT, "verdicts")


if __name__ == "__main__":
    main()
