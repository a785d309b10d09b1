"""Tables of detectors: every one that was tested, and which normalisation is best. Empty where none is planned."""

from dataclasses import asdict

import pandas as pd

from analysis.nets import serving
from analysis.runs import DETECTION, Frames
from analysis.statistics import estimate
from analysis.tables.paper_tables import cell
from analysis.tables.printing import DASH, Place, Table, interval, spread
from experiments import detection_normalisation
from study.store.account import Outcome
from study.tasks import names

PRINTED = ["detector", "condition", "split", "protocol"]


def detectors(frames: Frames) -> list[Table]:
    """Every detector that was tested, with what its net did before training: a row a condition and protocol.

    Columns of the numbers, a row a measure: detector, condition, experiments, data, split, protocol, images, measure,
    n, mean, sd, low, high. No table where no detector is planned.
    """
    if not (frames.finals["task"] == DETECTION).any():
        return []
    condition_of = frames.finals.set_index("id")["condition"]
    measures = {name: names.WORDS[name] for name in (names.MAP, names.MAP_50, names.MAP_50_95)}
    rows = frames.evaluations[frames.evaluations["measure"].isin(measures)]
    order = rows["protocol"].map((names.UNTRAINED, *names.DETECTOR_PROTOCOLS).index)
    rows = rows.iloc[order.argsort(kind="stable")].sort_values(["title", "data"], kind="stable")
    rows = rows.assign(condition=[",".join(condition_of[id] for id in ids.split(",")) for ids in rows["ids"]])
    by, shown_of_net = ["title", "condition", "experiments", "data", "split", "protocol"], PRINTED[1:]
    numbers, text = [], []
    for key, tested in rows.groupby(by, sort=False):
        cells = {}
        net = dict(zip(by, key, strict=True))
        for measure, seeds in tested.groupby("measure", sort=False):
            measured = asdict(estimate(seeds["value"]))
            numbers.append({**net, "images": seeds["images"].min(), "measure": measure, **measured})
            cells[measures[str(measure)]] = cell(measured)
        text.append({"detector": net["title"], **{name: net[name] for name in shown_of_net}, **cells})
    notes = [
        "Average precision in percent at the last iterate: mean ± standard deviation over n seeds, 95 % t interval.",
        "Untrained: the detector before its first update, with the backbone's weights that it starts from.",
    ]
    columns = [*by, "images", "measure", "n", "mean", "sd", "low", "high"]
    table = pd.DataFrame(numbers, columns=columns).rename(columns={"title": "detector"})
    shown = pd.DataFrame(text, columns=None if text else PRINTED).fillna(DASH)
    return [Table("detectors", "Detectors", table, shown, notes, Place.MEASURED)]


def normalisation(frames: Frames) -> list[Table]:
    """What each normalisation of a detector gives, and how much more than the paper's, paired by seed.

    Columns of the numbers: detector, planned, n, mean, sd, diverged, difference, difference_low, difference_high. No
    table where the experiment is not planned.
    """
    planned = serving(frames.finals, detection_normalisation.NAME)
    planned = planned[planned["task"] == DETECTION]
    rows = frames.evaluations[frames.evaluations["ids"].isin(planned["id"])]
    rows = rows[(rows["protocol"] == names.SINGLE_SCALE) & rows["measure"].isin((names.MAP, names.MAP_50))]
    if planned.empty:
        return []
    values_of = {title: seeds.set_index("seed")["value"] for title, seeds in rows.groupby("title", sort=False)}
    first = min(planned["title"].unique(), key=len)  # the paper's, which no title names
    numbers = []
    for title, trials in sorted(planned.groupby("title", sort=False), key=lambda group: group[0] != first):
        values = values_of.get(title, pd.Series(dtype=float))
        own, more = estimate(values), estimate((values - values_of.get(first, values)).dropna())
        numbers.append(
            {
                "detector": title,
                "planned": len(trials),
                "n": own.n,
                "mean": own.mean,
                "sd": own.sd,
                "diverged": int((trials["outcome"] == Outcome.DIVERGED).sum()),
                "difference": more.mean,
                "difference_low": more.low,
                "difference_high": more.high,
            }
        )
    table = pd.DataFrame(numbers)
    table.loc[table["detector"] == first, ["difference", "difference_low", "difference_high"]] = float("nan")
    text = pd.DataFrame(
        {
            "detector": table["detector"],
            "detection mAP": list(map(spread, table["mean"], table["sd"])),
            "more than the paper's": list(map(spread, table["difference"])),
            "interval": list(map(interval, table["difference_low"], table["difference_high"])),
            "n": table["n"].astype(str) + " of " + table["planned"].astype(str),
            "diverged": table["diverged"].astype(str),
        }
    )
    notes = [
        f"Average precision in percent at IoU 0.5, {names.SINGLE_SCALE}; differences are paired by seed,"
        " with 95 % t intervals."
    ]
    return [Table("normalisation", "Which normalisation is best in a detector", table, text, notes, Place.MEASURED)]
