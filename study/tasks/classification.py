"""Training a classifier (Sec. 3.4 and 4): what differs from a detector, under the names of `study/tasks/task.py`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from study.data import arrays
from study.data.arrays import AnyDataset, Dataset
from study.data.photographs import Photographs
from study.nets import layers, resnet
from study.nets.evaluation import autocast, loss_and_error, recalibrated
from study.spec import Trial
from study.store import records
from study.store.records import RECALIBRATED, RECALIBRATION_BATCHES
from study.tasks import protocols
from study.tasks.names import CLASSIFIER_PROTOCOLS
from study.tasks.protocols import EVALUATION_BATCH
from study.tasks.task import Batches, Finals, Row, Trained, Values, evaluations

COLUMNS = records.COLUMNS
SUMMED = ("loss", "wrong")  # the mean cross-entropy of a batch, and how many of its images were classified wrong
RECORDS_UNTRAINED = False
DIVISIBLE = True
CLEAN_IMAGES = 10_000  # training images of the clean error before the last iteration; the last takes all
DRAWN_AHEAD = 64  # updates whose draws are brought to the device at once
Batch = tuple[Tensor, Tensor]  # images float32 [N, C, H, W], labels int64 [N]


def load(trial: Trial, root: Path, device: torch.device | str = "cpu") -> AnyDataset:
    return arrays.load(trial.data, root, device, trial.seed)


def build(trial: Trial) -> resnet.Net:
    return resnet.build(trial)


def batches(trial: Trial, data: AnyDataset, part: slice, updates: Tensor) -> Batches[Batch]:
    return Drawn(trial, data, part, updates) if isinstance(data, Dataset) else Decoded(trial, data, part)


class Drawn:
    """Batches of images that are on the device, picked there from a table of draws for many updates.

    The table keeps its place in memory and the row is found on the device, so that picking can be captured.
    """

    def __init__(self, trial: Trial, data: Dataset, part: slice, updates: Tensor) -> None:
        self.trial, self.data, self.part, self.updates = trial, data, part, updates
        count, device = len(range(trial.recipe.batch)[part]), updates.device
        self.images = torch.zeros((DRAWN_AHEAD, count), dtype=torch.int64, device=device)
        self.corners = torch.zeros((DRAWN_AHEAD, 2, count), dtype=torch.int64, device=device)
        self.flips = torch.zeros((DRAWN_AHEAD, count), dtype=torch.bool, device=device)
        self.first = torch.zeros_like(updates)  # iteration of the table's first row
        self.drawn = range(0)  # iterations that are in the table

    def bring(self, iteration: int) -> None:
        if iteration in self.drawn:
            return
        recipe = self.trial.recipe
        self.drawn = range(iteration, min(iteration + DRAWN_AHEAD, recipe.iterations))
        draws = [self.data.draws(self.trial.seed, i, recipe.batch) for i in self.drawn]
        for table, rows in (
            (self.images, [draw.images[self.part] for draw in draws]),
            (self.corners, [draw.corners[:, self.part] for draw in draws]),
            (self.flips, [draw.flips[self.part] for draw in draws]),
        ):
            table[: len(rows)].copy_(torch.stack(rows))
        self.first.fill_(iteration)

    def pick(self) -> Batch:
        row = (self.updates - self.first).view(1)
        return self.data.augmented(
            *(table.index_select(0, row)[0] for table in (self.images, self.corners, self.flips))
        )


class Decoded:
    """Batches of photographs, which the host decodes; they always lie at the same place on the device."""

    def __init__(self, trial: Trial, data: Photographs, part: slice) -> None:
        self.trial, self.data, self.part = trial, data, part
        self.batch: Batch | None = None

    def bring(self, iteration: int) -> None:
        batch = self.data.batch(self.trial.seed, iteration, self.trial.recipe.batch, self.part)
        if self.batch is None:
            self.batch = batch
        else:
            for place, tensor in zip(self.batch, batch, strict=True):
                place.copy_(tensor, non_blocking=True)

    def pick(self) -> Batch:
        assert self.batch is not None
        return self.batch


def loss(trial: Trial, forward: Callable[[Tensor], Tensor], batch: Batch, processes: int) -> tuple[Tensor, Tensor]:
    images, labels = batch
    with autocast(images.device, trial.recipe.precision):
        logits = forward(images.contiguous(memory_format=torch.channels_last)).float()
    mean = functional.cross_entropy(logits, labels) / processes  # of the whole batch: parts are equal
    wrong = (logits.detach().argmax(1) != labels).sum()
    return mean, torch.stack([mean.detach(), wrong.to(mean.dtype)])  # exact: a batch has less than 2^24 images


def trained(trial: Trial, means: Sequence[float]) -> dict[str, float]:
    mean, wrong = means
    return {"train_loss": mean, "train_error_pct": 100 * wrong / trial.recipe.batch}


class Evaluator:
    """Errors on training, validation and test images, and what is measured of the final net."""

    def __init__(
        self, trial: Trial, state: Trained, data: AnyDataset, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Evaluations are short beside training: they do not ask whether they are to stop."""
        self.trial, self.state, self.data = trial, state, data

    def record(self, last: bool) -> dict[str, float | None]:
        recipe, net = self.trial.recipe, self.state.net
        sample = self.data.mixed(recipe.bn_batch, recipe.recalibrate)
        columns: dict[str, float | None] = {}
        with recalibrated(net, sample, recipe.precision) if recipe.recalibrate else nullcontext():
            for split, prefix in (("train", "clean_train"), ("validation", "validation"), ("test", "test")):
                limit = CLEAN_IMAGES if split == "train" and not last else None
                errors = loss_and_error(net, self.data.clean(split, EVALUATION_BATCH, limit), recipe.precision)
                columns[f"{prefix}_loss"], columns[f"{prefix}_error_pct"] = errors
        return columns

    def finals(self) -> Finals:
        tags, tests = self._recalibrated(), self._tests()
        return Finals(tags, tests, self._layers())  # layers last: they give the net its initial weights again

    def _recalibrated(self) -> dict[str, str]:
        """Errors of the net with BatchNorm's statistics averaged anew, whatever the recipe evaluates with.

        Over batches as BatchNorm trained on, drawn from all training images; fewer where there are too few images.
        """
        size, precision, data = self.trial.recipe.bn_batch, self.trial.recipe.precision, self.data
        sample = data.mixed(size, min(data.count("train"), RECALIBRATION_BATCHES * size))
        with recalibrated(self.state.net, sample, precision):
            errors = [
                loss_and_error(self.state.net, data.clean(split, EVALUATION_BATCH), precision)[1]
                for split in ("train", "test")
            ]
        return dict(zip(RECALIBRATED, map(repr, errors), strict=True))

    def _tests(self) -> list[Row]:
        """What the net does by each of the paper's ways of testing, where its images are photographs."""
        rows: list[Row] = []
        for protocol in CLASSIFIER_PROTOCOLS if self.trial.data.photographs else ():
            (values, _), images = test({self.trial: self.state.net}, self.data, protocol)
            rows += evaluations(split(self.trial), protocol, values, images)
        return rows

    def _layers(self) -> list[Row]:
        """What the layers do at the end of training and, in the same net given its initial weights, at the start."""
        trial, state = self.trial, self.state
        images, labels = next(self.data.mixed(trial.recipe.batch, trial.recipe.batch))
        forward = state.net if state.compiled else state.forward
        end = layers.measure(state.net, images, labels, trial.recipe.precision, state.iteration, forward)
        state.net.load_state_dict(build(trial).state_dict())
        return layers.measure(state.net, images, labels, trial.recipe.precision, 0, forward) + end


def split(trial: Trial) -> str:
    return protocols.split_of(trial.data)


def measures(trial: Trial) -> tuple[str, ...]:
    return protocols.measures(trial.data.classes)


def test(nets: Mapping[Trial, Any], data: AnyDataset, protocol: str) -> tuple[list[Values], int]:
    device = next(next(iter(nets.values())).parameters()).device
    with ExitStack() as evaluated:
        forwards = [
            evaluated.enter_context(protocols.as_evaluated(net, trial.recipe, data)) for trial, net in nets.items()
        ]
        return protocols.errors_pct(protocols.probabilities(forwards, data, protocol, device))
