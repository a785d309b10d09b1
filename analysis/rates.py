"""Each net at its best learning rate, chosen on held-out images by some seeds and judged by others.

Owns the choice. Pure functions of the frames of the experiment `rates`. Must not know how a table shows it.
"""

import pandas as pd

from analysis.comparisons import TEST, TRAIN
from analysis.nets import serving
from analysis.runs import Frames, one_image_pct
from analysis.statistics import estimate
from experiments import rates
from study.store.account import Outcome

ERRORS = ["validation_error_pct", "training_error_pct", "test_error_pct"]
COLUMNS = ["net", "learning_rate", "chose", "n", *ERRORS, "chosen"]
GAPS = ["quantity", "comparison", "rates", "n", "difference", "low", "high"]


def by_rate(frames: Frames) -> pd.DataFrame:
    """Each net and rate: validation error of the seeds that choose, and errors of those that judge, means over seeds.

    `chose` and `n` are how many seeds of either kind finished. `chosen`: the rate of least validation error of its net,
    among rates at which every choosing seed finished; of none where no rate has.
    """
    finals = serving(frames.finals, rates.NAME)
    if finals.empty:
        return pd.DataFrame(columns=COLUMNS)
    half = (finals["seed"].max() + 1) // 2
    validated = finals["id"].map(_last_validation(frames))
    finals = finals.assign(
        validation=validated, chooses=finals["seed"] < half, done=finals["outcome"] == Outcome.FINISHED
    )
    rows = []
    for (title, rate), of_rate in finals.groupby(["title", "learning_rate"], sort=False):
        choosing, judging = of_rate.query("chooses and done"), of_rate.query("not chooses and done")
        whole = len(choosing) == of_rate["chooses"].sum()
        validation = choosing["validation"].mean() if whole else float("nan")
        errors = validation, judging[TRAIN].mean(), judging[TEST].mean()
        rows.append([title, rate, len(choosing), len(judging), *errors, False])
    table = pd.DataFrame(rows, columns=COLUMNS)
    best = table.dropna(subset=["validation_error_pct"]).groupby("net")["validation_error_pct"].idxmin()
    table.loc[best, "chosen"] = True
    return table


def gaps(frames: Frames) -> pd.DataFrame:
    """Deepest minus shallowest net of each family, each at its chosen rate, over the seeds that judge: points."""
    finals, table = serving(frames.finals, rates.NAME), by_rate(frames)
    if finals.empty:
        return pd.DataFrame(columns=GAPS)
    chosen = table[table["chosen"]].set_index("net")["learning_rate"]
    rows = []
    for _, family in finals.groupby("family", sort=False):
        depths = sorted(family["depth"].unique())
        titles = [str(family[family["depth"] == depth]["title"].iloc[0]) for depth in (depths[0], depths[-1])]
        if len(depths) < 2 or not set(titles) <= set(chosen.index):
            continue
        half = (finals["seed"].max() + 1) // 2
        judged = family[(family["seed"] >= half) & (family["outcome"] == Outcome.FINISHED)]
        judged = judged[judged["learning_rate"] == judged["title"].map(chosen)]
        for measure in (TRAIN, TEST):
            shallow, deep = (judged[judged["title"] == title].set_index("seed")[measure] for title in titles)
            differences = (deep - shallow).dropna()
            found = estimate(differences, one_image_pct(finals["data"].iloc[0], measure))
            used = f"{chosen[titles[1]]:g} and {chosen[titles[0]]:g}"
            comparison = f"{titles[1]} minus {titles[0]}"
            rows.append([measure, comparison, used, found.n, found.mean, found.low, found.high])
    return pd.DataFrame(rows, columns=GAPS)


def _last_validation(frames: Frames) -> "pd.Series[float]":
    """The validation error of the last iterate, by trial."""
    curves = frames.curves.dropna(subset=["validation_error_pct"])
    return curves.groupby(curves["id"].astype(str))["validation_error_pct"].last()
