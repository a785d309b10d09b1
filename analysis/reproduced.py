"""What this study reproduces: every number that the paper's tables print, every curve that it draws, and by what.

Owns which net each value is of. The experiments that reproduce it, or the reason why none does, are the line of its
table or figure in paper/coverage.yaml. Knows plans, not runs: a reproduced value may not have been run yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis import paper
from analysis.paper import Row, Table
from experiments.recipes import COCO_DATA, VOC12_DATA
from study.spec import Trial

FIGURES = {1: "cifar10", 4: "imagenet", 6: "cifar10"}  # with curves of errors against iterations
QUOTED = "a result of others"
NEEDS = {
    "server": "is of a test set whose labels only its server has",
    "imagenet-detection": "needs detectors trained on ImageNet's detection set",
    "localisation": "needs nets trained to localise on ImageNet",
}
SERVER = "server"  # measured by a test server, in a table of which other values are measured here


@dataclass(frozen=True)
class Value:
    """A number of a table or a curve of a figure; `place` is its line in paper/coverage.yaml.

    `net`: family, depth and shortcut option, None where it is no single net of the paper's. `data`: what the net was
    trained on, '' for what is counted. `measured`: 'train', 'test' or 'response', '' for what is counted, or 'server'.
    """

    place: str
    what: str
    quoted: bool
    net: tuple[str, int, str] | None
    data: str
    measured: str


def values() -> Iterator[Value]:
    """Every value that the paper prints or draws, in its order; a cell that prints nothing has none."""
    for name in paper.coverage():
        if name.startswith("figure"):
            yield from _curves(int(name.removeprefix("figure_")))
        else:
            yield from _cells(name)


@dataclass(frozen=True)
class Coverage:
    """How a value is reproduced: `by` experiments in a column of the frames (`measure`), or what `counted` it.

    Otherwise the `reason` why it is not reproduced.
    """

    by: tuple[str, ...] = ()
    measure: str = ""
    counted: str = ""
    reason: str = ""


def covered(value: Value) -> Coverage:
    line = paper.coverage()[value.place]
    if value.quoted:
        return Coverage(reason=QUOTED)
    if not value.measured:
        return Coverage(counted=line["counted"])
    if "by" in line and value.measured != SERVER:
        return Coverage(by=tuple(line["by"]), measure=line["measure"][value.measured])
    return Coverage(reason=line.get("reason", SERVER))


def trains(trial: Trial, value: Value) -> bool:
    """Whether the trial is of the value's net, trained on the value's data; by which recipe is not asked."""
    model = trial.model
    return value.data == trial.data.name and value.net == (model.family, model.depth, model.shortcut)


def counts() -> pd.DataFrame:
    """A row a table and figure: place, values, planned, counted, quoted, not_planned, how.

    `how`: the experiments that reproduce it, and what the rest needs.
    """
    everything, rows = list(values()), []
    for place, line in paper.coverage().items():
        coverages = [covered(value) for value in everything if value.place == place]
        by = line.get("by", [])
        reasons = [coverage.reason for coverage in coverages if coverage.reason]
        needs = [NEEDS[reason] for reason in reasons if reason != QUOTED]
        rows.append(
            {
                "place": place,
                "values": len(coverages),
                "planned": sum(bool(coverage.by) for coverage in coverages),
                "counted": sum(bool(coverage.counted) for coverage in coverages),
                "quoted": reasons.count(QUOTED),
                "not_planned": len(needs),
                "how": "; ".join([*by, *(f"the rest {need}" if by else need for need in dict.fromkeys(needs))]),
            }
        )
    return pd.DataFrame(rows)


def _cells(name: str) -> Iterator[Value]:
    table = paper.table(name)
    for row in [*table["rows"], *table.get("vgg", {}).values()]:
        quoted = "ref" in row
        for column in (*table.get("counts", ()), *table.get("results", ())):
            if row.get(column) is None:
                continue
            result = column in table.get("results", ())
            net = _net(row) if result else None
            data, measured = (_data(row, table), _measured(row, column)) if result else ("", "")
            cells = table["classes"] if column == "ap" else [column]
            for cell in cells:
                yield Value(name, f"{_which(row, table)}: {cell}", quoted, net, data, measured)


def _curves(number: int) -> Iterator[Value]:
    if number not in FIGURES:
        for net in paper.responses()["curve"].drop_duplicates():
            yield Value(f"figure_{number}", net, False, _titled(net), "cifar10", "response")
        return
    for panel, net, series in paper.curves(number)[["panel", "curve", "series"]].drop_duplicates().values.tolist():
        measured = "train" if series == "train" else "test"
        yield Value(f"figure_{number}", f"{panel}, {net}, {series}", False, _titled(net), FIGURES[number], measured)


def _net(row: Row) -> tuple[str, int, str] | None:
    detector = f"{row.get('net', '')} {row.get('system', '')}"
    if "VGG-16" in detector:
        return "vgg", 16, "none"
    if "ResNet-101" in detector or row.get("system", "").startswith("+"):
        return "residual", 101, "B"
    if "shortcut" not in row:
        return None
    family = "plain" if row["shortcut"] == "none" else "residual"
    depth = row["depth"] if "depth" in row else row["layers"]
    return family, depth, row["shortcut"]


def _data(row: Row, table: Table) -> str:
    """The training set of the row's net: VOC's years without the COCO images before them; COCO's is that of 2014."""
    if table["data"] == "coco":
        return COCO_DATA.name
    return f"voc{_years(row)}" if table["data"] == "voc" else table["data"]


def _years(row: Row) -> str:
    printed: str = row["train"] if "train" in row else row.get("data", "")
    return printed.removeprefix("COCO+")


def _measured(row: Row, column: str) -> str:
    """VOC 2012's and COCO's test annotations are with their servers."""
    return SERVER if column.startswith("testdev") or f"voc{_years(row)}" == VOC12_DATA.name else "test"


def _titled(net: str) -> tuple[str, int, str]:
    """The net of a curve: residual ones have option A in every figure of the paper."""
    family, depth = net.split("-")
    return ("plain", int(depth), "none") if family == "plain" else ("residual", int(depth), "A")


def _which(row: Row, table: Table) -> str:
    """The cells of the row that say which net it is of."""
    results = (*table.get("results", ()), *table.get("counts", ()))
    return ", ".join(str(cell) for column, cell in row.items() if column not in results)
