"""The training loop: one readable generator of records, and the state it works on.

Owns what an iteration does and what a trial's future depends on. Batches, augmentation and learning rate are pure
functions of (seed, iteration), so there is no loader, scheduler or generator state to save: a state restored from a
checkpoint continues bit for bit on a CPU. Does not know where records and checkpoints go.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from study.data.arrays import AnyDataset
from study.nets.resnet import Net, build
from study.spec import Recipe, Trial
from study.training import checkpoints
from study.training.distributed import ALONE, Group
from study.training.evaluation import autocast, loss_and_error, recalibrated

Record = dict[str, Any]
WARMUP_WINDOW = 50  # batches over which the running training error that ends a warm-up is taken
WARMUP_ERROR_PCT = 80.0  # Sec. 4.2
CHECK_EVERY = 10  # iterations between looks at whether the loss is finite: looking waits for the device
EVALUATION_BATCH = 500
CLEAN_IMAGES = 10_000  # training images of the clean error before the last iteration; the last takes all


def learning_rate(recipe: Recipe, iteration: int, warmed_at: int | None, plateaus: Sequence[int] = ()) -> float:
    """Learning rate of the update after `iteration` updates.

    `warmed_at`: the first update after warm-up, if known. `plateaus`: where schedule 'plateau' has dropped the rate.
    """
    if warmed_at is None or iteration < warmed_at:
        return recipe.warmup_learning_rate
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * iteration / recipe.iterations)) / 2
    return recipe.learning_rate / 10 ** sum(iteration >= drop for drop in (*recipe.drops, *plateaus))


class TrainState:
    """Everything a trial's future depends on, after `iteration` updates."""

    def __init__(self, trial: Trial, device: torch.device, net: Any = None, losses: int = 1) -> None:
        """`net`: what is trained where that is more than the trial's net, as a detector is, with so many `losses`."""
        recipe = trial.recipe
        self.net: Net = (net or build(trial)).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward: Callable[[Tensor], Tensor] = self.net  # of training passes; evaluations call the net itself
        self.optimizer = _sgd(self.net, recipe)
        self.iteration = 0
        self.warmed_at = {"none": 0, "fixed": recipe.warmup_iterations, "threshold": None}[recipe.warmup]
        self.recent: list[float] = []  # training errors of the last batches, while a threshold warm-up lasts
        # Losses and, of a classifier, wrong answers, added up since the last record.
        self.window = torch.zeros(losses + (net is None), dtype=torch.float64, device=device)
        self.window_batches = 0
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)  # first update of non-finite loss
        self.records: list[Record] = []
        self.plateaus: list[int] = []  # iterations at which schedule 'plateau' divided the learning rate

    @property
    def device(self) -> torch.device:
        return self.window.device

    def compile(self) -> None:
        """Let training passes run compiled; on a GPU they are replayed as CUDA graphs, which spares launches."""
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        torch.compiler.reset()  # of earlier trials in this process: dynamo runs the ninth net of one class uncompiled
        self.forward = torch.compile(self.net, mode=mode)

    @property
    def diverged_at(self) -> int | None:
        """The update at which the loss ceased to be finite. Reading it waits for the device."""
        bad = int(self.first_bad)
        return None if bad < 0 else bad

    def saved(self) -> dict[str, Any]:
        """What `restore` takes: its tensors are the state's own."""
        tensors = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return tensors | {name: getattr(self, name) for name in self._PLAIN}

    def restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in self._PLAIN:
            setattr(self, name, saved[name])

    def save(self, folder: Path, kept: int = checkpoints.KEPT) -> None:
        checkpoints.save(folder, self.iteration, self.saved(), kept)

    @classmethod
    def restore_or_create(cls, trial: Trial, folder: Path, device: torch.device) -> "TrainState":
        state = cls(trial, device)
        saved = checkpoints.load_newest(folder, device)
        if saved is not None:
            state.restore(saved)
        return state

    _PLAIN = ("iteration", "warmed_at", "recent", "window", "window_batches", "first_bad", "records", "plateaus")


def train(trial: Trial, state: TrainState, data: AnyDataset, group: Group = ALONE) -> Iterator[Record | None]:
    """Train from where `state` stands to the last iteration, or to divergence; one item an update.

    Yields the record where the update ends a window of `record_every`, else None, so that the caller can save the
    state between any two updates. Records are also appended to `state.records` before they are yielded. Of a group,
    every process does this with its part of each batch, and has the same state between updates; but only the first one
    evaluates, and the others go on, or end, when it does.
    """
    recipe = trial.recipe
    diverged = state.diverged_at is not None
    while group.goes_on(state.iteration < recipe.iterations and not diverged):
        images, labels = data.batch(trial.seed, state.iteration, recipe.batch, group.part(recipe.batch))
        rate = learning_rate(recipe, state.iteration, state.warmed_at, state.plateaus)
        set_learning_rate(state.optimizer, rate, recipe.momentum_rule)

        state.net.train()
        group.begin_pass(state.net)
        with autocast(state.device, recipe.precision):
            logits = state.forward(images.contiguous(memory_format=torch.channels_last)).float()
        loss = functional.cross_entropy(logits, labels) / group.size  # of the whole batch: parts are equal
        state.optimizer.zero_grad(set_to_none=False)  # the gradients keep their place in memory; see `_sgd`
        loss.backward()
        wrong = (logits.detach().argmax(1) != labels).sum()
        loss, wrong = group.add_up(state.net, loss.detach(), wrong, len(labels))
        state.optimizer.step()
        state.iteration += 1

        _observe(state, recipe, loss, wrong)
        last = state.iteration == recipe.iterations
        checked = last or state.iteration % CHECK_EVERY == 0 or state.iteration < CHECK_EVERY
        diverged = checked and state.diverged_at is not None
        record = None
        if last or diverged or state.iteration % recipe.record_every == 0:
            record = _record(trial, state, data, rate, diverged, group.first)
            state.records.append(record)
            if recipe.schedule == "plateau" and not diverged and reached_plateau(recipe, state.records, state.plateaus):
                state.plateaus.append(state.iteration)
        yield record


def reached_plateau(recipe: Recipe, records: Sequence[Record], plateaus: Sequence[int]) -> bool:
    """Whether `patience` records came without a new least running training error since that, and since the last drop.

    The paper drops the rate 'when the error plateaus' (Sec. 3.4), and does not say which, nor how it is seen.
    """
    least = min(records, key=lambda record: record["train_error_pct"])
    since = max([least["iteration"], *plateaus])
    return sum(record["iteration"] > since for record in records) >= recipe.patience


def _observe(state: TrainState, recipe: Recipe, loss: Tensor, wrong: Tensor) -> None:
    """Account for one batch without waiting for the device, except while a threshold warm-up lasts."""
    state.window += torch.stack([loss.double(), wrong.double()])
    state.window_batches += 1
    bad = ~torch.isfinite(loss) & (state.first_bad < 0)
    state.first_bad = torch.where(bad, state.iteration, state.first_bad)
    if state.warmed_at is None:
        state.recent = [*state.recent, 100 * wrong.item() / recipe.batch][-WARMUP_WINDOW:]
        error = sum(state.recent) / len(state.recent)
        learned = len(state.recent) == WARMUP_WINDOW and error < WARMUP_ERROR_PCT
        if learned or state.iteration >= recipe.warmup_iterations:
            state.warmed_at = state.iteration


def _record(trial: Trial, state: TrainState, data: AnyDataset, rate: float, diverged: bool, evaluates: bool) -> Record:
    """One row of measurements; evaluations are None where none is due, everything but the rate where it diverged."""
    recipe, last = trial.recipe, state.iteration == trial.recipe.iterations
    loss, wrong = (state.window / state.window_batches).tolist()
    state.window = torch.zeros_like(state.window)
    state.window_batches = 0
    record: Record = {"iteration": state.iteration, "learning_rate": rate}
    record["train_loss"] = None if diverged else loss
    record["train_error_pct"] = None if diverged else 100 * wrong / recipe.batch
    evaluate = evaluates and not diverged and (last or state.iteration % recipe.evaluate_every == 0)
    sample = data.mixed(recipe.bn_batch, recipe.recalibrate)
    anew = evaluate and recipe.recalibrate > 0
    with recalibrated(state.net, sample, recipe.precision) if anew else nullcontext():
        for split, prefix in (("train", "clean_train"), ("validation", "validation"), ("test", "test")):
            limit = CLEAN_IMAGES if split == "train" and not last else None
            batches = data.clean(split, EVALUATION_BATCH, limit) if evaluate else ()
            errors = loss_and_error(state.net, batches, recipe.precision)
            record[f"{prefix}_loss"], record[f"{prefix}_error_pct"] = errors
    return record


def _sgd(net: Net, recipe: Recipe) -> torch.optim.SGD:
    """The optimiser, with gradients and velocities in place before the first pass.

    Allocated later, one by one, they would lie between the activations and keep the memory of these from being used
    again: 1202 layers of width 16 would need about twice as much.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    weights = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]  # BatchNorm's scale and shift, the classifier's bias
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": recipe.weight_decay if recipe.decay == "all" else 0.0},
    ]
    nesterov = recipe.momentum_rule == "nesterov"
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=nesterov, foreach=True)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        if recipe.momentum:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.SGD, rate: float, momentum_rule: str) -> None:
    """Change the rate as PyTorch does or, by 'caffe', as Caffe, whose velocity v = momentum v + rate gradient holds it.

    PyTorch's holds gradients only, so to be Caffe's it is rescaled by old / new where the rate changes.
    """
    for group in optimizer.param_groups:
        if momentum_rule == "caffe" and group["momentum"] and group["lr"] not in (0.0, rate) and rate > 0:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"].mul_(group["lr"] / rate)
        group["lr"] = rate
