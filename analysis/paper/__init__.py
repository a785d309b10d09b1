"""The paper's tables, curves, claims and protocol as data, and what others report of its nets.

Provenance is in sources.yaml; nothing here was measured by us.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import pandas as pd
import yaml

from study.spec import check_choice

_FOLDER = Path(__file__).parent
ITERATIONS = 64_000  # of the CIFAR-10 nets, Sec. 4.2
IMAGENET_ITERATIONS = 600_000  # Sec. 3.4


@cache
def _yaml(name: str) -> Any:
    return yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))


Row = dict[str, Any]  # of a table of the paper: the columns that it prints, other ones in every table


class Table(TypedDict):
    """A table of the paper. `results` and `counts` are the columns that hold its numbers; the others name the net."""

    title: str
    section: str
    rows: list[Row]
    data: NotRequired[str]
    results: NotRequired[list[str]]
    counts: NotRequired[list[str]]
    classes: NotRequired[list[str]]
    testing: NotRequired[str]
    note: NotRequired[str]
    vgg: NotRequired[dict[str, Row]]
    counted: NotRequired[dict[str, dict[str, float]]]
    stages: NotRequired[Any]
    outputs: NotRequired[Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An empirical claim of the paper.

    `kind`: 'direct', 'derived' or 'conjecture'. `cost`: the nets that a test needs, 'free', 'cifar', 'cifar-heavy',
    'imagenet' or 'detection'. `paper`: the paper's own numbers by name, errors in percent, of which those `digitised`
    are read off its curves.
    """

    id: str
    section: str
    kind: str
    cost: str
    statement: str
    paper: Mapping[str, Any] = field(hash=False)
    digitised: tuple[str, ...] = ()


@cache
def claims() -> tuple[Claim, ...]:
    """All 74 claims in the paper's order."""
    return tuple(_claim(**row) for row in _yaml("claims.yaml")["claims"])


def _claim(paper: Mapping[str, Any], digitised: Sequence[str] = (), **fields: str) -> Claim:
    return Claim(paper=MappingProxyType(paper), digitised=tuple(digitised), **fields)


def table(name: str) -> Table:
    """One of 'table_1' to 'table_14' or 'cifar_architecture'."""
    check_choice("table", name, _yaml("tables.yaml"))
    table: Table = deepcopy(_yaml("tables.yaml")[name])
    return table


def protocol() -> dict[str, list[Row]]:
    """How the paper trains and tests, by topic: what, value, status, section, and a trial's fields that hold it."""
    return deepcopy(_yaml("protocol.yaml")["protocol"])


def ambiguities() -> list[Row]:
    """What the paper leaves open: id, question, section, readings, evidence, ours, the code (`where`) and fields."""
    return deepcopy(_yaml("protocol.yaml")["ambiguities"])


def replications(nets: str = "cifar10") -> list[Row]:
    """Others' errors of 'cifar10', 'cifar10_other_nets' or 'imagenet': name, source, read, recipe, results."""
    check_choice("nets", nets, _yaml("replications.yaml"))
    return deepcopy(_yaml("replications.yaml")[nets])


def coverage() -> dict[str, Row]:
    """By table or figure: `by` which experiments its results are reproduced, or the `reason` why by none."""
    return deepcopy(_yaml("coverage.yaml"))


def curves(figure: int) -> pd.DataFrame:
    """Digitised curves of Fig. 1, 4 or 6: figure, panel, curve, series, iteration, value (error, percent)."""
    everything = pd.read_csv(_FOLDER / "curves.csv")
    check_choice("figure", figure, everything["figure"].unique().tolist())
    return everything[everything["figure"] == figure].reset_index(drop=True)


def responses() -> pd.DataFrame:
    """Digitised Fig. 7: curve, layer (1 is the first 3x3 convolution), response_std."""
    return pd.read_csv(_FOLDER / "responses.csv")
