"""Censored times against depth: the likelihoods are those of an independent implementation."""

import numpy as np
import pytest

from analysis.convergence import log_likelihoods

DEPTHS = np.repeat([20.0, 32.0, 44.0, 56.0, 110.0], 3)
AFTER = np.array([300, 400, 400, 700, 800, 600, 1500, 1400, 1600, 3100, 2900, 3300, 64000, 64000, 50000.0])
BY = np.array([400, 500, 500, 800, 900, 700, 1600, 1500, 1700, 3200, 3000, 3400, np.inf, np.inf, 52000.0])


@pytest.mark.parametrize(
    ("covariate", "expected"),
    # log_likelihood_ of lifelines 0.30.3: LogNormalAFTFitter().fit_interval_censoring(frame, "after", "by"), where the
    # frame has the columns after, by and the covariate.
    [(DEPTHS, -23.191468122856893), (np.log(DEPTHS), -44.05796403869346)],
    ids=["depth", "log depth"],
)
def test_the_likelihood_of_censored_times_is_that_of_lifelines(covariate: np.ndarray, expected: float) -> None:
    each = log_likelihoods(AFTER, BY, covariate)
    assert len(each) == len(DEPTHS) and each.sum() == pytest.approx(expected, abs=1e-4)


def test_times_that_are_never_reached_fit_any_growth() -> None:
    never = np.full(6, np.inf)
    depths = np.repeat([20.0, 56.0, 110.0], 2)
    assert log_likelihoods(np.full(6, 360.0), never, depths).sum() == pytest.approx(0.0, abs=1e-3)
