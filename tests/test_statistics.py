"""Statistics agree with scipy and with examples worked by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from analysis.statistics import (
    RESAMPLED,
    believed_sd,
    bootstrap_interval,
    contrast,
    estimate,
    false_discovery,
    further_seeds,
    holm,
    p_contrast_greater,
    p_equivalent,
    p_greater,
    p_sign_flips,
    p_two_sided,
    power,
    proportion_interval,
    sd_range,
    spread,
)

FIVE = [6.43, 6.77, 6.55, 6.71, 6.59]
OTHER = [6.90, 7.10, 6.80, 7.30, 6.95]
DIFFERENCES = [b - a for a, b in zip(FIVE, OTHER, strict=True)]


def test_the_interval_is_scipys_t_interval():
    found = estimate(FIVE)
    low, high = stats.t.interval(0.95, 4, loc=found.mean, scale=stats.sem(FIVE))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.sd == pytest.approx(stats.tstd(FIVE))


def test_the_paired_test_is_scipys():
    assert p_two_sided(DIFFERENCES) == pytest.approx(stats.ttest_rel(OTHER, FIVE).pvalue)
    assert p_greater(DIFFERENCES) == pytest.approx(stats.ttest_rel(OTHER, FIVE, alternative="greater").pvalue)
    assert p_greater([-d for d in DIFFERENCES]) == pytest.approx(1 - p_greater(DIFFERENCES))


def test_one_seed_has_a_mean_but_no_interval_and_no_p():
    found = estimate([6.43])
    assert found.mean == 6.43
    assert math.isnan(found.sd) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(p_greater([6.43]))


def test_a_missing_value_is_never_averaged():
    with pytest.raises(ValueError, match="missing"):
        estimate([1.0, math.nan, 2.0])


def test_holm_and_equivalence_agree_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 9):
        ps = rng.uniform(size=n) ** 3
        assert holm(list(ps)) == pytest.approx(multipletests(ps, method="holm")[1])
        values = rng.normal(0.2, 1.0, n + 1)
        assert p_equivalent(list(values), 0.7) == pytest.approx(DescrStatsW(values).ttost_mean(-0.7, 0.7)[0])


def test_holm_agrees_with_an_example_worked_by_hand():
    # sorted: .005*4 = .02, .01*3 = .03, .03*2 = .06, .04*1 = .04 which may not fall below .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_differences_are_no_surer_than_one_image():
    resolution = 100 / 360
    assert p_two_sided([resolution] * 2, resolution) > 0.05  # one image of 360, twice: nothing
    assert p_two_sided([40.0] * 3, resolution) < 0.001  # 144 images, three times
    assert believed_sd([40.0] * 3, resolution) == pytest.approx(resolution / math.sqrt(6))


def test_without_a_resolution_equal_differences_are_certain_and_zero_is_no_effect():
    assert p_two_sided([1.0, 1.0]) == 0.0
    assert p_two_sided([0.0, 0.0]) == 1.0


def test_equivalence_needs_a_small_difference_and_a_small_error():
    assert p_equivalent([0.1, -0.1, 0.05, 0.0], 0.5) < 0.05
    assert p_equivalent([0.9, 1.1, 1.0, 1.0], 0.5) > 0.95
    assert p_equivalent([2.0, -2.0, 1.5, -1.5], 0.5) > 0.05  # no mean difference, but far too uncertain
    upper = stats.ttest_1samp(DIFFERENCES, 0.5, alternative="less").pvalue
    lower = stats.ttest_1samp(DIFFERENCES, -0.5, alternative="greater").pvalue
    assert p_equivalent(DIFFERENCES, 0.5) == pytest.approx(max(upper, lower))


def test_sign_flips_count_every_pattern():
    values = [0.4, -0.1, 0.3, 0.2, 0.6]
    means = [np.mean([sign * value for sign, value in zip(signs, values, strict=True)]) for signs in
             product((1, -1), repeat=5)]  # fmt: skip
    assert p_sign_flips(values) == sum(mean >= np.mean(values) - 1e-12 for mean in means) / 32
    assert p_sign_flips(DIFFERENCES[:3]) == 1 / 8  # all of one sign: the least that three can give
    assert p_sign_flips([value + 0.5 for value in values], 0.5) == pytest.approx(p_sign_flips(values))
    assert math.isnan(p_sign_flips([1.0]))
    assert p_sign_flips([1.0 + 0.1 * i for i in range(20)]) == 1e-4  # of more than 13, patterns are drawn


def test_equivalence_can_be_tested_by_sign_flips():
    assert p_equivalent([0.1, -0.1, 0.05, 0.0], 0.5, greater=p_sign_flips) == 1 / 16
    assert p_equivalent([0.9, 1.1, 1.0, 1.0], 0.5, greater=p_sign_flips) == 1.0


def test_the_bootstrap_is_asked_of_enough_values_and_agrees_where_they_are_normal():
    normal = [float(x) for x in stats.norm.ppf((np.arange(40) + 0.5) / 40)]
    assert bootstrap_interval(normal[: RESAMPLED - 1]) is None
    assert bootstrap_interval([1.0] * RESAMPLED) is None
    low, high = bootstrap_interval(normal)
    assert (low, high) == pytest.approx((estimate(normal).low, estimate(normal).high), abs=0.02)
    assert bootstrap_interval(normal) == (low, high)  # its draws are fixed
    skewed = [math.exp(2 * x) for x in normal]
    low, high = bootstrap_interval(skewed)
    assert high - np.mean(skewed) > 1.2 * (np.mean(skewed) - low)


def test_power_is_the_share_of_samples_that_pass():
    assert power(0.0, 1.0, 5, 0.05) == pytest.approx(0.05)
    samples = np.random.default_rng(0).normal(1.0, 1.0, (4000, 5))
    passed = stats.ttest_1samp(samples, 0, axis=1, alternative="greater").pvalue < 0.01
    assert power(1.0, 1.0, 5, 0.01) == pytest.approx(passed.mean(), abs=0.02)
    assert power(2.0, 2.0, 5, 0.01) == power(1.0, 1.0, 5, 0.01) < power(1.0, 1.0, 9, 0.01)


def test_further_seeds_are_the_fewest_with_80_percent_power():
    k = further_seeds([0.5], sd=1.0, n=5, alpha=0.025)
    assert k is not None and power(0.5, 1.0, 5 + k, 0.025) >= 0.8 > power(0.5, 1.0, 4 + k, 0.025)
    assert 5 + k == 34  # G*Power's example of a one-sample t test, d = 0.5, two-sided 5 %
    stricter = further_seeds([0.5], sd=1.0, n=5, alpha=0.0025)
    assert stricter is not None and stricter > k
    both = further_seeds([0.5, 0.5], sd=1.0, n=5, alpha=0.025)  # equivalence excludes two bounds
    assert both is not None and both > k


def test_no_number_of_seeds_finds_an_absent_effect():
    assert further_seeds([0.0], sd=1.0, n=5) is None
    assert further_seeds([0.001], sd=1.0, n=5) is None


def test_independent_nets_are_compared_by_welchs_test():
    arms = [(1.0, OTHER), (-1.0, FIVE[:4])]
    theirs = stats.ttest_ind(OTHER, FIVE[:4], equal_var=False)
    interval = theirs.confidence_interval(0.9)
    assert 2 * p_contrast_greater(arms) == pytest.approx(theirs.pvalue)
    assert (contrast(arms, level=0.9).low, contrast(arms, level=0.9).high) == pytest.approx(tuple(interval))
    assert contrast(arms).n == 4 and spread(arms)[2] == pytest.approx(theirs.df)


def test_the_range_of_a_deviation_is_that_of_chi_squared():
    low, high = sd_range(1.0, 2.0)
    assert (low, high) == pytest.approx((0.5207, 6.2847), abs=1e-4)  # of three values


def test_false_discovery_is_benjamini_and_yekutielis():
    # times 1 + 1/2 + 1/3: .01*3*1.8333 = .055, .04*3/2*1.8333 = .11 and .03*3/2, sorted .01 .03 .04
    assert false_discovery([0.04, 0.01, 0.03]) == pytest.approx([0.04 * 11 / 6, 0.055, 0.04 * 11 / 6])
    assert false_discovery([]) == []


def test_the_interval_of_a_proportion_is_clopper_and_pearsons():
    low, high = proportion_interval(5, 100)
    assert (low, high) == (pytest.approx(0.01643, abs=1e-5), pytest.approx(0.11283, abs=1e-5))  # R's binom.test(5, 100)
    assert proportion_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert all(math.isnan(end) for end in proportion_interval(0, 0))
