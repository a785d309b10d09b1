"""What a chart shows, in print: the rows of the tables under it. Numbers are text here, rounded once."""

from collections.abc import Iterable

import pandas as pd

from analysis.nets import TEST, TRAINING
from analysis.pictures.picture import TESTS, TRAINS, Estimates
from analysis.tables.printing import DASH

FINAL = {TRAINS: TRAINING, TESTS: TEST}


def by_trial(finals: pd.DataFrame) -> pd.DataFrame:
    """The final errors of every trial."""
    errors = {
        f"{name} (%)": [DASH if pd.isna(error) else f"{error:.2f}" for error in finals[column]]
        for name, column in FINAL.items()
    }
    return pd.DataFrame(
        {
            "net": list(finals["title"]),
            "seed": list(finals["seed"].astype(str)),
            "outcome": list(finals["outcome"]),
            **errors,
            "run": list(finals["run_id"]),
        }
    )


def by_estimate(series: Iterable[Estimates]) -> pd.DataFrame:
    """Every mean with its interval and its number of seeds."""
    rows = []
    for estimates in series:
        intervals = intervals_of(estimates)
        for place, mean, interval, n in zip(estimates.places, estimates.y, intervals, estimates.n, strict=True):
            rows.append(
                {
                    "quantity": estimates.net,
                    "error": estimates.measure,
                    "layers": place,
                    "mean": f"{mean:.2f}",
                    "95 % interval": interval,
                    "n": str(n),
                }
            )
    return pd.DataFrame(rows)


def intervals_of(estimates: Estimates) -> list[str]:
    """`0.52 to 1.30`; a dash where one seed gives none."""
    bounds = zip(estimates.low, estimates.high, strict=True)
    return [DASH if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in bounds]


def by_time(finals: pd.DataFrame) -> pd.DataFrame:
    """Seconds that each trial was predicted to take and took."""
    predicted, taken = finals["predicted_seconds"], finals["seconds"]
    return pd.DataFrame(
        {
            "trial": list(finals["id"]),
            "predicted (s)": [f"{seconds:,.1f}" for seconds in predicted],
            "taken (s)": [f"{seconds:,.1f}" for seconds in taken],
            "taken / predicted": [f"{ratio:.2f}" for ratio in taken / predicted],
            "run": list(finals["run_id"]),
        }
    )


def mean_of(measured: pd.Series) -> str:
    return f"{measured.mean():.3f}" if len(measured) else DASH
