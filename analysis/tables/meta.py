"""Tables about the study itself: deviations from the paper, what the paper leaves open, what is reproduced."""

import pandas as pd

from analysis import paper, reproduced
from analysis.tables.printing import DASH, Place, Table, headed
from analysis.tables.results import departures, shared_note
from experiments.recipes import DEVIATIONS


def deviations(finals: pd.DataFrame) -> Table:
    """What each condition departs from the paper in: the numbers have a row a field, the print one a set of deviations.

    Columns of the numbers: condition, net, experiments, field, ours, paper; a condition that departs in nothing is a
    row without a field.
    """
    conditions = finals.drop_duplicates("condition").reset_index(drop=True)
    rows = [
        (row["condition"], row["title"], row["experiments"], *fields)
        for row in conditions.to_dict("records")
        for fields in [(one.field, one.ours, one.paper) for one in row["deviations"]] or [("", "", "")]
    ]
    numbers = pd.DataFrame(rows, columns=["condition", "net", "experiments", "field", "ours", "paper"])
    shared, own = departures(conditions["deviations"])
    text = []
    for departed, group in conditions.groupby(pd.Series(own, dtype=object), sort=False):
        experiments = group["experiments"].str.split(",").explode()
        text.append(
            {
                "nets": ", ".join(group["title"].unique()),
                "experiments": ", ".join(experiments.unique()),
                "deviations": "; ".join(map(str, departed)) or DASH,
            }
        )
    return Table(
        name="deviations",
        title="Every net's deviations from the paper's recipe",
        numbers=numbers,
        text=pd.DataFrame(text, columns=["nets", "experiments", "deviations"]),
        notes=[shared_note(shared), *DEVIATIONS],
        place=Place.DEVIATIONS,
    )


def protocol() -> Table:
    """What the paper leaves open, how it can be read, and how this study reads it: paper/protocol.yaml."""
    columns = ["id", "question", "section", "readings", "evidence", "ours", "where"]
    numbers = pd.DataFrame(paper.ambiguities(), columns=columns)
    numbers = numbers.assign(**{name: numbers[name].str.join("; ") for name in ("readings", "where")})
    text = pd.DataFrame({"open in the paper": numbers["question"] + " (Sec. " + numbers["section"] + ")"})
    return Table(
        name="protocol",
        title="What the paper leaves open",
        numbers=numbers,
        text=text.assign(readings=numbers["readings"], here=numbers["ours"]),
        notes=["The evidence for each reading, and the code that does it, are in the CSV. Quotations are the paper's."],
        place=Place.DEVIATIONS,
    )


def coverage() -> Table:
    """Which of the paper's values this study reproduces, by table and figure (`analysis.reproduced`)."""
    numbers = reproduced.counts()
    text = (
        numbers.astype(str)
        .replace("0", DASH)
        .assign(
            place=[place.capitalize().replace("_", " ").replace("Cifar", "CIFAR") for place in numbers["place"]],
            how=[how or DASH for how in numbers["how"]],
        )
    )
    notes = [
        "Values are printed results and drawn curves. Planned: the paper profile plans trials of that net on that"
        " data, in the experiments named. Quoted: results of others, which the paper prints beside its own."
    ]
    shown = headed(text.rename(columns={"how": "by, and why not"}))
    return Table("coverage", "Which values of the paper are planned, counted or quoted", numbers, shown, notes)
