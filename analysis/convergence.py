"""How iterations to a target grow with depth: exponentially, or as a power of it? Censored times, fitted by likelihood.

Owns a log-normal accelerated failure time model (Kalbfleisch and Prentice, The Statistical Analysis of Failure Time
Data, ch. 3) of times that are known to lie between two evaluations, or beyond the last. Pure functions of numbers.
Written here because lifelines 0.30, which has the same model, takes an older pandas; a test holds its numbers.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

SPREADS = (0.01, 5.0)  # of the logarithm of a time: less is beyond what an evaluation resolves


def log_likelihoods(after: np.ndarray, by: np.ndarray, covariate: np.ndarray) -> np.ndarray:
    """Of each time, at the best fit of log T = a + b covariate + s N(0, 1).

    after   # [times] the last evaluation before the target was reached, 0 for none
    by      # [times] the first at which it was; infinite where it never was
    """
    low, high = np.log(np.maximum(after, 1e-9)), np.log(by)
    middle = np.where(np.isfinite(high), (np.maximum(low, high - 1) + high) / 2, low)
    slope, start = np.polyfit(covariate, middle, 1) if np.ptp(covariate) else (0.0, float(middle.mean()))

    def each(parameters: np.ndarray) -> np.ndarray:
        a, b, log_spread = parameters
        expected, spread = a + b * covariate, np.exp(log_spread)
        inside: np.ndarray = ndtr((high - expected) / spread) - ndtr((low - expected) / spread)
        values: np.ndarray = np.log(np.maximum(inside, 1e-300))
        return values

    bounds = [(None, None), (None, None), (float(np.log(SPREADS[0])), float(np.log(SPREADS[1])))]
    first = np.array([start, slope, -1.0])

    def badness(parameters: np.ndarray) -> float:
        return -float(each(parameters).sum())

    best = minimize(badness, first, method="Nelder-Mead", bounds=bounds, options={"maxiter": 4000})
    return each(best.x)
