"""Evaluations beyond a trial's own records: which net, tested how, gives which number of the paper.

Owns the names of the ImageNet and detection experiments, and which evaluation each number of Tables 2-5 and 7-14 is.
The names of splits, protocols and measures are `study/tasks/names.py`. Numbers of different protocols are never
compared: a lookup names the protocol. Must not know claims, nor how a table is printed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from analysis import paper
from analysis.paper import Row
from experiments import (
    EXPERIMENTS,
    detection_coco,
    detection_voc,
    imagenet_depth,
    imagenet_longer,
    imagenet_plain_vs_residual,
    imagenet_shortcut_options,
    name_of,
)
from experiments.command import Command
from experiments.recipes import COCO_DATA, IMAGENET_DATA, VOC12_DATA, VOC_DATA
from study.spec import VOC_CLASSES, InputError
from study.tasks.names import (
    CENTRE,
    COCO_TEST_DEV,
    COCO_VAL,
    DENSE,
    LOCALISED,
    LOCALISED_CLASS,
    MAP,
    MAP_50,
    MAP_50_95,
    MULTI_SCALE,
    SINGLE_SCALE,
    TEN_CROP,
    TEST_SPLIT,
    TESTED_MULTI_SCALE,
    TOP1,
    TOP5,
    VALIDATION,
    WORDS,
)

PLAIN_RESIDUAL, OPTIONS = imagenet_plain_vs_residual.NAME, imagenet_shortcut_options.NAME
DEPTH, LONGER = imagenet_depth.NAME, imagenet_longer.NAME
VOC, COCO = detection_voc.NAME, detection_coco.NAME
DET, LOCALISATION = "detection-imagenet", "localisation-imagenet"  # experiments of the paper that this study lacks
PAPER_DATA_SETS = tuple(data.name for data in (IMAGENET_DATA, VOC_DATA, VOC12_DATA, COCO_DATA))

ENSEMBLES = {DEPTH: "ensemble of 6", COCO: "ensemble of 3", DET: "ensemble of 3"}
ENSEMBLES[LOCALISATION] = "ensemble of 3"  # Appendix C does not say of how many


@dataclass(frozen=True, kw_only=True)
class Number:
    """A quantity with a value a seed: of which net in which experiment, tested on which split, how, by what measure."""

    experiment: str
    title: str
    split: str
    protocol: str
    measure: str

    def by(self, protocol: str) -> "Number":
        """The same, tested in another way."""
        return replace(self, protocol=protocol)

    @property
    def ensemble(self) -> bool:
        """Whether it is of several nets together."""
        return self.title in ENSEMBLES.values()

    @property
    def words(self) -> str:
        return WORDS.get(self.measure, self.measure)

    def __str__(self) -> str:
        return f"{self.words} of {self.title} ({self.protocol}, {self.split})"


def rows_of(evaluations: pd.DataFrame, number: Number) -> pd.DataFrame:
    """The rows of the frame that are this number, one a seed.

    Raises `InputError` where a seed has several, as where nets of one name were trained on several data sets.
    """
    serves = evaluations["experiments"].map(lambda names: number.experiment in names.split(",")).astype(bool)
    rows = evaluations[serves]
    for column in ("title", "split", "protocol", "measure"):
        rows = rows[rows[column] == getattr(number, column)]
    if rows["seed"].duplicated().any():
        raise InputError(f"several nets have a {number}: {', '.join(rows['ids'])}; give them titles of their own")
    return rows.set_index("seed", drop=False).sort_index()


def takes(experiment: str) -> str:
    """What must be run for an experiment's numbers."""
    if experiment in map(name_of, EXPERIMENTS):
        return Command(profile="paper", experiments=experiment).make()
    return f"the experiment {experiment} in the profile paper, which this study does not have yet"


def imagenet(experiment: str, title: str, protocol: str = TEN_CROP, measure: str = TOP1) -> Number:
    return Number(experiment=experiment, title=title, split=VALIDATION, protocol=protocol, measure=measure)


def detector(net: str) -> str:
    """The title of a detector with this net in it."""
    return f"Faster R-CNN, {net}"


def coco(
    measure: str, protocol: str = SINGLE_SCALE, title: str = detector("ResNet-101"), split: str = COCO_VAL
) -> Number:
    return Number(experiment=COCO, title=title, split=split, protocol=protocol, measure=measure)


def voc(year: str, net: str = "ResNet-101", protocol: str = SINGLE_SCALE, measure: str = MAP) -> Number:
    """`year`: '07' or '12'."""
    split = f"VOC {year} test"
    return Number(experiment=VOC, title=detector(net), split=split, protocol=protocol, measure=measure)


def det(title: str, split: str = TEST_SPLIT) -> Number:
    return Number(experiment=DET, title=title, split=split, protocol=TESTED_MULTI_SCALE, measure=MAP)


def localised(title: str, protocol: str, measure: str, split: str = VALIDATION) -> Number:
    return Number(experiment=LOCALISATION, title=title, split=split, protocol=protocol, measure=measure)


def numbers(table: int, row: Row) -> dict[str, Number]:
    """Of a row of one of the paper's Tables 2-5 and 7-14: what each of its columns is here. {} for others' nets."""
    return _NUMBERS[table](row)


def _table_2(row: Row) -> dict[str, Number]:
    return {"top1": imagenet(PLAIN_RESIDUAL, f"{row['method']}-{row['depth']}")}


def _tables_3_and_4(protocol: str, row: Row) -> dict[str, Number]:
    """34 layers are of one experiment, options A, B and C and plain; 50 and more, with projections B, of another."""
    if "depth" not in row:
        return {}
    title = row["method"].replace(" A", "").replace(" B", " (B)").replace(" C", " (C)")
    experiment = OPTIONS if row["depth"] == 34 else DEPTH
    return {name: imagenet(experiment, title, protocol, measure) for name, measure in (("top1", TOP1), ("top5", TOP5))}


def _table_5(row: Row) -> dict[str, Number]:
    if "ensemble" not in row:
        return {}
    return {"top5_test": replace(imagenet(DEPTH, ENSEMBLES[DEPTH], MULTI_SCALE, TOP5), split=TEST_SPLIT)}


def _table_7(row: Row) -> dict[str, Number]:
    return {"map": voc(row["test"].split()[1], row["net"])}


def _table_8(row: Row) -> dict[str, Number]:
    return {measure: coco(measure, title=detector(row["net"])) for measure in (MAP_50, MAP_50_95)}


def _table_9(row: Row) -> dict[str, Number]:
    system = row["system"]
    title = ENSEMBLES[COCO] if system == "ensemble" else detector("VGG-16" if "VGG-16" in system else "ResNet-101")
    protocol = {"ensemble": TESTED_MULTI_SCALE}.get(system, SINGLE_SCALE if "baseline" in system else system)
    splits = {"val": COCO_VAL, "testdev": COCO_TEST_DEV}
    return {
        f"{name}_{measure}": coco(measure, protocol, title, split)
        for name, split in splits.items()
        for measure in (MAP_50, MAP_50_95)
    }


def _tables_10_and_11(year: str, row: Row) -> dict[str, Number]:
    """'baseline+++' has box refinement, context and multi-scale testing. Each class's AP is a measure of its own."""
    protocol = {"baseline": SINGLE_SCALE, "baseline+++": TESTED_MULTI_SCALE}[row["system"]]
    names = zip(paper.table("table_10")["classes"], VOC_CLASSES, strict=True)
    measures = {MAP: MAP} | {printed: f"ap_{name}" for printed, name in names}
    return {name: voc(year, row["net"], protocol, measure) for name, measure in measures.items()}


def _table_12(row: Row) -> dict[str, Number]:
    if "our" not in row["method"]:
        return {}
    title = ENSEMBLES[DET] if "ensemble" in row["method"] else detector("ResNet-101")
    return {split: det(title, split) for split in ("val2", "test")}


def _table_13(row: Row) -> dict[str, Number]:
    if row["loc_net"] == "VGG-16":
        return {}
    title = ENSEMBLES[LOCALISATION] if row["loc_net"] == "ensemble" else f"{row['loc_method']}, {row['loc_net']}"
    protocol: str = CENTRE if row["testing"] == "1-crop" else row["testing"]
    measures = {"loc_err_gt_cls": LOCALISED_CLASS, "top5_loc_err": LOCALISED}
    return {name: localised(title, protocol, measure) for name, measure in measures.items() if row[name] is not None}


def _table_14(row: Row) -> dict[str, Number]:
    if "ours" not in row["method"]:
        return {}
    splits = {"val": VALIDATION, "test": TEST_SPLIT}
    return {name: localised(ENSEMBLES[LOCALISATION], DENSE, LOCALISED, split) for name, split in splits.items()}


_NUMBERS: dict[int, Callable[[Row], dict[str, Number]]] = {
    2: _table_2,
    3: lambda row: _tables_3_and_4(TEN_CROP, row),
    4: lambda row: _tables_3_and_4(MULTI_SCALE, row),
    5: _table_5,
    7: _table_7,
    8: _table_8,
    9: _table_9,
    10: lambda row: _tables_10_and_11("07", row),
    11: lambda row: _tables_10_and_11("12", row),
    12: _table_12,
    13: _table_13,
    14: _table_14,
}
TABLES = tuple(_NUMBERS)
