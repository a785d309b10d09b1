"""What differs between training a classifier and a detector; everything else exists once.

Owns the names that the modules `classification` and `detection` share (which of them a trial's is: `kinds.py`). A task
knows data sets, nets and losses; it knows neither the loop nor files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import torch
from torch import Tensor, nn

from study.spec import Trial
from study.store.records import Wrong

Record = dict[str, Any]  # a row of a curve
Row = dict[str, Any]  # of another table: an evaluation, or a layer
Values = dict[str, float]  # by measure
Images = TypeVar("Images")  # a task's data set
Batch = TypeVar("Batch")
Picked = TypeVar("Picked", covariant=True)


class Stopped(Exception):
    """The trial is to stop: what was being measured is measured anew when it goes on."""


class Trained(Protocol):
    """What an evaluator reads of a state in training."""

    net: Any
    forward: Callable[..., Any]
    iteration: int
    records: list[Record]
    missed: Tensor | None

    @property
    def compiled(self) -> bool: ...


class Batches(Protocol[Picked]):
    """The batches of a trial, or of each member of a cohort, one an update."""

    def bring(self, iterations: Sequence[int]) -> None:
        """On the host, before each update: make sure that each trial's batch of this iteration can be picked."""

    def pick(self) -> Picked:
        """The batch of the next update, on the device."""


@dataclass(frozen=True)
class Finals:
    """What is known of a net when it is finished, beyond its curve."""

    tags: dict[str, str] = field(default_factory=dict)
    evaluations: list[Row] = field(default_factory=list)
    layers: list[Row] | None = None
    wrong: Wrong | None = None  # of classifiers: which test images
    submissions: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by protocol: names and contents of files


class Evaluator(Protocol):
    """Tests the net of a state while it is trained. Its methods may raise `Stopped`."""

    def record(self, last: bool) -> dict[str, float | None]:
        """The columns of a record that are evaluations of the net as it stands; `last`: of its last iterate."""

    def finals(self) -> Finals:
        """What is measured of the finished net; afterwards the net may have other weights."""


class Task(Protocol[Images, Batch]):
    """What training takes of a classifier or a detector."""

    COLUMNS: pa.Schema  # of a record
    SUMMED: tuple[str, ...]  # what `loss` returns of a batch, summed up from record to record; its sum is finite
    RECORDS_UNTRAINED: bool  # whether there is a record before the first update
    DIVISIBLE: bool  # whether the net can be run in segments, compiled, captured, in cohorts, and shared by processes

    def load(self, trial: Trial, root: Path, device: torch.device | str = "cpu") -> Images:
        """The trial's data. Raises `InputError` where they are missing, damaged or not as the trial describes them."""

    def build(self, trial: Trial) -> nn.Module:
        """The net with its initial weights, on the current default device (also 'meta')."""

    def batches(self, trials: Sequence[Trial], data: Sequence[Images], part: slice, updates: Tensor) -> Batches[Batch]:
        """The batches of a trial, or of each of a cohort, or that part of each.

        `updates`: int64 [] or [members], how many updates there were, on the device.
        """

    def loss(self, trial: Trial, forward: Callable[..., Any], batch: Batch, processes: int) -> tuple[Tensor, Tensor]:
        """The loss [] to differentiate, this process's part of the whole batch's; and SUMMED, float32, detached.

        Of a cohort it is the sum of the members' losses, and SUMMED has a row a member.
        """

    def trained(self, trial: Trial, means: Sequence[float]) -> dict[str, float]:
        """The columns of a record that follow from means of SUMMED over the batches since the last one."""

    def Evaluator(  # noqa: N802  # a class in each module
        self,
        trial: Trial,
        state: Trained,
        data: Images,
        stopping: Callable[[], bool] = ...,
        begin: Callable[[Any], object] = ...,
    ) -> Evaluator: ...

    def split(self, trial: Trial) -> str:
        """What the images are called that finished nets are tested on."""

    def measures(self, trial: Trial) -> tuple[str, ...]:
        """What a test measures at least."""

    def test(self, nets: Mapping[Trial, Any], data: Images, protocol: str) -> tuple[list[Values], int]:
        """What each net, in evaluation mode, and last all together, do by this protocol; on how many images."""


def evaluations(split: str, protocol: str, values: Values, images: int, nets: str = "") -> list[Row]:
    """Rows of the evaluations' table. `nets`: ids of an ensemble's trials, '' for the trial's own net."""
    about = {"split": split, "protocol": protocol, "nets": nets, "images": images}
    return [{**about, "measure": measure, "value": value} for measure, value in values.items()]
