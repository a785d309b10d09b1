"""The numbers that a curve comes to, computed in one place for MLflow's columns and for tables."""

import numpy as np
from numpy.typing import ArrayLike

FINAL_FROM = 0.9  # of the iterations: running measures are averaged over the last tenth


def final_mean(values: ArrayLike, iteration: ArrayLike, iterations: int) -> float:
    """Mean of a running measure over the last tenth of the iterations; NaN if it was not measured there."""
    final = np.asarray(values, dtype=float)[np.asarray(iteration) > FINAL_FROM * iterations]
    measured = np.count_nonzero(~np.isnan(final))
    return float(np.nansum(final) / measured) if measured else float("nan")
