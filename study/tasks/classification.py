"""Training a classifier (Sec. 3.4 and 4): what differs from a detector, under the names of `study/tasks/task.py`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from study.data import arrays
from study.data.arrays import AnyDataset
from study.data.photographs import Photographs
from study.nets import layers, resnet
from study.nets.evaluation import autocast, loss_and_error, memory_format, recalibrated
from study.spec import Trial
from study.store import records
from study.store.records import RECALIBRATED, RECALIBRATION_BATCHES, Wrong
from study.tasks import protocols
from study.tasks.names import CLASSIFIER_PROTOCOLS
from study.tasks.protocols import EVALUATION_BATCH, Tested
from study.tasks.task import Batches, Finals, Row, Stopped, Trained, Values, evaluations

COLUMNS = records.COLUMNS
SUMMED = ("loss", "wrong")  # the mean cross-entropy of a batch, and how many of its images were classified wrong
RECORDS_UNTRAINED = False
DIVISIBLE = True
CLEAN_IMAGES = 10_000  # training images of the clean error before the last iteration; the last takes all
DRAWN_AHEAD = 64  # updates whose draws are brought to the device at once
Part = TypeVar("Part")
Batch = tuple[
    Tensor, Tensor
]  # images float32 [N, C, H, W], labels int64 [N]; of a cohort [N, members C, H, W], [members, N]


def load(trial: Trial, root: Path, device: torch.device | str = "cpu") -> AnyDataset:
    return arrays.load(trial.data, root, device, trial.seed)


def build(trial: Trial) -> resnet.Net:
    return resnet.build(trial)


def batches(trials: Sequence[Trial], data: Sequence[AnyDataset], part: slice, updates: Tensor) -> Batches[Batch]:
    if isinstance(data[0], Photographs):
        return Decoded(trials, data, part)
    return Drawn(trials, data, part, updates)


class Drawn:
    """Batches of images that are on the device, picked there from a table of draws for many updates.

    The table keeps its place in memory and the row is found on the device, so that picking can be captured. It is
    brought in one copy, which a GPU does not wait for: a thread has drawn it, and pinned its memory, before it is due.
    """

    def __init__(self, trials: Sequence[Trial], data: Sequence[Any], part: slice, updates: Tensor) -> None:
        """`updates` [] or [members]: the first row is that of the next update of each."""
        self.trials, self.data, self.part, self.updates = trials, data, part, updates.view(-1)[:1]
        count, device = len(range(trials[0].recipe.batch)[part]), updates.device
        # Of each update: images, corners' y and x, flips; of each member.
        self.table = torch.zeros((DRAWN_AHEAD, 4, len(trials), count), dtype=torch.int64, device=device)
        self.first = torch.zeros_like(self.updates)  # updates of the first member before the table's first row
        self.drawn = range(0)  # updates of the first member that are in the table
        self.ahead = ThreadPoolExecutor(1, "drawing") if device.type == "cuda" else None
        self.next: tuple[list[int], Future[Tensor]] | None = None  # a table that is drawn ahead, and where it begins

    def bring(self, iterations: Sequence[int]) -> None:
        now = list(iterations)
        if now[0] in self.drawn:
            return
        rows = self.next[1].result() if self.next and self.next[0] == now else self._draws(now)
        self.table[: len(rows)].copy_(rows, non_blocking=True)
        self.first.fill_(now[0])
        self.drawn = range(now[0], now[0] + len(rows))
        then = [iteration + len(rows) for iteration in now]
        if self.ahead and self._updates_left(then):
            self.next = then, self.ahead.submit(self._draws, then)

    def pick(self) -> Batch:
        drawn = self.table.index_select(0, self.updates - self.first)[0]  # [4, members, count]
        flat = drawn.flatten(1)
        pixels, labels = self.data[0].augmented(flat[0], flat[1:3], flat[3].bool())
        if len(self.trials) == 1:
            return pixels, labels
        by_member = pixels.unflatten(0, (len(self.trials), -1)).transpose(0, 1)
        chosen = zip(self.data, drawn[0], strict=True)  # labels may be shuffled, by seed
        return by_member.flatten(1, 2), torch.stack([data.train_labels[images] for data, images in chosen])

    def _updates_left(self, iterations: Sequence[int]) -> int:
        """Until the first of the members is at its end."""
        return min(trial.recipe.iterations - i for trial, i in zip(self.trials, iterations, strict=True))

    def _draws(self, iterations: Sequence[int]) -> Tensor:
        """Draws of the updates after so many of each member, int64 [updates, 4, members, count]."""
        rows = range(min(DRAWN_AHEAD, self._updates_left(iterations)))
        table = torch.stack(
            [torch.stack([self._draw(m, i + row) for m, i in enumerate(iterations)], dim=1) for row in rows]
        )
        return table.pin_memory() if self.ahead else table

    def _draw(self, member: int, iteration: int) -> Tensor:
        """int64 [4, count]"""
        trial = self.trials[member]
        draws = self.data[member].draws(trial.seed, iteration, trial.recipe.batch)
        return torch.stack([draws.images, *draws.corners, draws.flips.long()])[:, self.part]


class Decoded:
    """Batches of photographs, which the host decodes; they always lie at the same place on the device."""

    def __init__(self, trials: Sequence[Trial], data: Sequence[Any], part: slice) -> None:
        self.trials, self.data, self.part = trials, data, part
        self.batch: Batch | None = None

    def bring(self, iterations: Sequence[int]) -> None:
        brought = [
            data.batch(trial.seed, iteration, trial.recipe.batch, self.part)
            for trial, data, iteration in zip(self.trials, self.data, iterations, strict=True)
        ]
        batch = brought[0]
        if len(brought) > 1:
            batch = torch.cat([images for images, _ in brought], dim=1), torch.stack([labels for _, labels in brought])
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
    layout = memory_format(images.device, trial.recipe.precision)
    with autocast(images.device, trial.recipe.precision):
        scores = forward(images.contiguous(memory_format=layout))
    logits = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if labels.ndim == 1:
        mean = functional.cross_entropy(logits, labels) / processes  # of the whole batch: parts are equal
    else:
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        mean = losses.view_as(labels).mean(1)
    wrong = (logits.detach().argmax(-1) != labels).sum(-1)
    summed = torch.stack([mean.detach(), wrong.to(mean.dtype)], dim=-1)  # exact: a batch has less than 2^24 images
    return mean.sum(), summed  # the sum of the members' losses: the gradient of each is its own


def trained(trial: Trial, means: Sequence[float]) -> dict[str, float]:
    mean, wrong = means
    return {"train_loss": mean, "train_error_pct": 100 * wrong / trial.recipe.batch}


class Evaluator:
    """Errors on training, validation and test images, and what is measured of the final net."""

    def __init__(
        self,
        trial: Trial,
        state: Trained,
        data: AnyDataset,
        stopping: Callable[[], bool] = lambda: False,
        begin: Callable[[Any], object] = lambda net: None,
    ) -> None:
        """`begin`: gives the net, as it is built, what else it starts with."""
        self.trial, self.state, self.data, self.begin = trial, state, data, begin
        self.asking = partial(asking, stopping)

    def record(self, last: bool) -> dict[str, float | None]:
        recipe, net = self.trial.recipe, self.state.net
        sample = self.asking(self.data.mixed(recipe.bn_batch, recipe.recalibrate))
        columns: dict[str, float | None] = {}
        missed: list[Tensor] = []  # of the test images, whose single view this is
        with recalibrated(net, sample, recipe.precision) if recipe.recalibrate else nullcontext():
            for split, prefix in (("train", "clean_train"), ("validation", "validation"), ("test", "test")):
                limit = CLEAN_IMAGES if split == "train" and not last else None
                images = self.asking(self.data.clean(split, EVALUATION_BATCH, limit))
                errors = loss_and_error(net, images, recipe.precision, missed if split == "test" else None)
                columns[f"{prefix}_loss"], columns[f"{prefix}_error_pct"] = errors
        if last and missed:
            self.state.missed = torch.cat(missed)
        return columns

    def finals(self) -> Finals:
        missed = self.state.missed  # None of a state that older code saved
        wrong = None if missed is None else Wrong.of(missed.cpu().numpy())
        tags, tests = self._recalibrated(), self._tests()
        return Finals(tags, tests, self._layers(), wrong)  # layers last: they give the net its initial weights again

    def _recalibrated(self) -> dict[str, str]:
        """Errors of the net with BatchNorm's statistics averaged anew, whatever the recipe evaluates with.

        Over batches as BatchNorm trained on, drawn from all training images; fewer where there are too few images.
        """
        size, precision, data = self.trial.recipe.bn_batch, self.trial.recipe.precision, self.data
        sample = self.asking(data.mixed(size, min(data.count("train"), RECALIBRATION_BATCHES * size)))
        with recalibrated(self.state.net, sample, precision):
            errors = [
                loss_and_error(self.state.net, self.asking(data.clean(split, EVALUATION_BATCH)), precision)[1]
                for split in ("train", "test")
            ]
        return dict(zip(RECALIBRATED, map(repr, errors), strict=True))

    def _tests(self) -> list[Row]:
        """What the net does by each of the paper's ways of testing, where its images are photographs."""
        rows: list[Row] = []
        for protocol in CLASSIFIER_PROTOCOLS if self.trial.data.photographs else ():
            (values, _), images = test({self.trial: self.state.net}, self.data, protocol, self.asking)
            rows += evaluations(split(self.trial), protocol, values, images)
        return rows

    def _layers(self) -> list[Row]:
        """What the layers do at the end of training and, in the same net given its initial weights, at the start."""
        trial, state = self.trial, self.state
        images, labels = next(self.data.mixed(trial.recipe.batch, trial.recipe.batch))
        forward = state.net if state.compiled else state.forward
        end = layers.measure(state.net, images, labels, trial.recipe.precision, state.iteration, forward)
        state.net.load_state_dict(build(trial).state_dict())
        self.begin(state.net)
        return layers.measure(state.net, images, labels, trial.recipe.precision, 0, forward) + end


def asking(stopping: Callable[[], bool], batches: Iterable[Part]) -> Iterator[Part]:
    """The batches; raises `Stopped` between two of them where the trial is to stop: all of them can take minutes."""
    for batch in batches:
        if stopping():
            raise Stopped
        yield batch


def split(trial: Trial) -> str:
    return protocols.split_of(trial.data)


def measures(trial: Trial) -> tuple[str, ...]:
    return protocols.measures(trial.data.classes)


def test(
    nets: Mapping[Trial, Any], data: AnyDataset, protocol: str, asking: Callable[[Tested], Tested] = iter
) -> tuple[list[Values], int]:
    device = next(next(iter(nets.values())).parameters()).device
    with ExitStack() as evaluated:
        forwards = [
            evaluated.enter_context(protocols.as_evaluated(net, trial.recipe, data)) for trial, net in nets.items()
        ]
        return protocols.errors_pct(asking(protocols.probabilities(forwards, data, protocol, device)))
