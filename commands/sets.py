"""The data sets of a selection, before anything trains: how many images, and whether the test set decides anything.

Owns the sentences. What lies in a folder is `study/data/summary.py`.
"""

from dataclasses import asdict
from typing import Any

from commands.options import Selection
from study.data.counts import IMAGES, Summary
from study.data.detection_sets import is_own
from study.spec import Data

MARGIN_PCT = 0.5  # within which claims call two test errors equal
FEWEST = 6  # images that two nets must differ in, all one way, for p < .05: by the sign test 2 / 2**6 = .03


def summaries(selected: Selection) -> list[Summary]:
    """Of the data sets of the selected trials: of those known by name, and of that which was chosen."""
    by_name: dict[str, Data] = {}
    for trial in selected.trials:
        if trial.data.name in IMAGES or trial.data.name == selected.choice.data:
            by_name.setdefault(trial.data.name, trial.data)
    if by_name.keys() <= IMAGES.keys():
        return [Summary(name, *IMAGES[name], data.classes) for name, data in by_name.items()]
    from study.data.summary import summary  # with torch

    found = (summary(data, selected.execution.data_root) for data in by_name.values())
    return [one for one in found if one]


def set_lines(selected: Selection) -> list[str]:
    """What is printed of the data sets: a line of counts, one of what is passed over, and a warning."""
    return [line for one in summaries(selected) for line in (*counted(one), *warnings(one))]


def counted(one: Summary) -> list[str]:
    """The counts of a data set, and what of it is passed over or read in a way of its own."""
    names = ", ".join(one.labels[:10]) + (", ..." if len(one.labels) > 10 else "")
    line = f"{one.name}: {one.train:,} train, {one.test:,} test, {one.classes} classes"
    lines = [f"{line} ({names})" if names else line]
    return lines + ([f"{one.name}: {'; '.join(one.notes)}"] if one.notes else [])


def warnings(one: Summary) -> list[str]:
    """A warning where one test image is more than the margin of claims about test errors."""
    image = 100 / one.test
    if image <= MARGIN_PCT or is_own(one.name):  # of which no error is counted
        return []
    return [
        f"warning: {one.test} test images decide little: one of them is {image:.2g} % of test error, two nets differ"
        f" (p < .05) only from {FEWEST} on, {min(100, FEWEST * image):.2g} %, and claims call errors equal within"
        f" {MARGIN_PCT:g} %; {round(100 / MARGIN_PCT)} images and more could tell that"
    ]


def as_json(selected: Selection) -> list[dict[str, Any]]:
    """The same for programs."""
    return [{**asdict(one), "warnings": warnings(one)} for one in summaries(selected)]
