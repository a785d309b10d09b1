"""What batches of all data sets have in common, whether these are arrays, photographs or scenes.

Owns which images a batch has, which are held out, shuffled labels, how pixels are normalised, and the threads that
decode ahead. Every draw is from a named stream and depends on nothing but its name. Knows no file and no net.
"""

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from study.data.sources import refusal
from study.seeds import generator
from study.spec import Data, InputError, check_at_least

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in 0..1
AHEAD = 2  # batches that are decoded before they are needed

Decoded = TypeVar("Decoded")
Key = TypeVar("Key", bound=Hashable)


# ---------------------------------------------------------------- which images


def check_batch(size: int, count: int, name: str) -> None:
    """Raise `InputError` unless `size` is in 1..`count`, the number of training images of the data set `name`."""
    check_at_least("batch", size, 1)
    if size > count:
        raise InputError(f"batch {size} is larger than the {count} training images of {name}; choose at most {count}")


def shuffled(count: int, draw: torch.Generator) -> Tensor:
    """A random order of `count` images, int64 [count]."""
    return torch.randperm(count, generator=draw)


class Epochs:
    """Which training images each batch has. An epoch is count // size iterations; the images left over are dropped."""

    def __init__(self, name: str, count: int, shuffle: Callable[[torch.Generator], Tensor] | None = None) -> None:
        """`shuffle` draws an order of all images; by default, any order is as likely as another."""
        self.name, self.count = name, count
        self._shuffle = shuffle or partial(shuffled, count)
        self._order: tuple[int, int, Tensor] | None = None  # seed, epoch and its order: the last that was needed

    def rows(self, seed: int, iteration: int, size: int) -> Tensor:
        """int64 [size], on the CPU: a pure function of the arguments. Raises `InputError`, see `check_batch`."""
        check_batch(size, self.count, self.name)
        epoch, step = divmod(iteration, self.count // size)
        return self.order(seed, epoch)[step * size : (step + 1) * size]

    def order(self, seed: int, epoch: int) -> Tensor:
        """All images in the order of an epoch, int64 [count]."""
        if self._order is None or self._order[:2] != (seed, epoch):
            self._order = seed, epoch, self._shuffle(generator(seed, "order", epoch))
        return self._order[2]


def mixed(count: int, limit: int) -> Tensor:
    """`limit` of `count` training images at random, int64 [limit]: the same for every seed.

    They are drawn from the whole set, because files may lie in the order of their classes, and what BatchNorm measures
    on batches of one class is not what it measured while training. Raises `InputError` if there are fewer.
    """
    check_at_least("number of training images that recalibration draws from", count, limit)
    return shuffled(count, generator("mixed"))[:limit]


def held_out(spec: Data, count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` training images are trained on, and which are held out, each in ascending order.

    Held out are the last of a permutation that depends on the data set's name alone. Raises `InputError` if no image
    is left to train on.
    """
    kept = count - spec.held_out
    if kept < 1:
        raise InputError(
            f"held_out {spec.held_out} leaves no training image of {spec.name}; choose at most {count - 1}"
        )
    order = shuffled(count, generator(spec.name, "held-out"))
    return order[:kept].sort().values, order[kept:].sort().values


def training_labels(spec: Data, labels: Tensor, seed: int) -> Tensor:
    """Labels [N] as they are trained on: the true ones, or these in an order that depends on the seed alone.

    So every condition learns the same wrong labels, and no two seeds do: what one order happens to teach about the test
    set is noise between seeds.
    """
    return labels[shuffled(len(labels), generator(seed, "labels"))] if spec.labels == "shuffled" else labels


# ---------------------------------------------------------------- normalisation


class Pixels(Protocol):
    """Moments of the pixel values 0..255 of training images, in float64."""

    def mean_image(self) -> np.ndarray:
        """[C, H, W]"""

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of all values, both [1]."""

    def moments_by_channel(self) -> tuple[np.ndarray, np.ndarray]:
        """The same by channel, both [C]."""


def normalisation(spec: Data, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Mean [C, H, W], [C, 1, 1] or [1, 1, 1] and scale [C, 1, 1] or [1, 1, 1]: normalised = (pixel - mean) * scale.

    Pixels are divided by 255 ('pixel-mean-128': by 128). 'pixel-mean' and 'pixel-mean-128' subtract the mean training
    image; 'scalar' subtracts the mean of all training pixels and divides by their standard deviation, 'channel' does so
    channel by channel, 'imagenet' with the constants of that data set. Raises `InputError` for a deviation of 0.
    """
    if spec.normalise == "pixel-mean":
        return pixels.mean_image(), np.full((1, 1, 1), 1 / 255)
    if spec.normalise == "pixel-mean-128":
        return pixels.mean_image(), np.full((1, 1, 1), 1 / 128)
    if spec.normalise == "imagenet":
        mean, deviation = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    elif spec.normalise == "channel":
        mean, deviation = pixels.moments_by_channel()
    else:
        mean, deviation = pixels.moments()
    if not (deviation > 0).all():
        raise refusal(spec.name, f"has training images of one single value, which {spec.normalise!r} cannot normalise")
    return mean.reshape(-1, 1, 1), 1 / deviation.reshape(-1, 1, 1)


# ---------------------------------------------------------------- decoding ahead


class Threads:
    """Threads that end with the last decoder that has them."""

    def __init__(self, count: int) -> None:
        self.pool = ThreadPoolExecutor(count, "decoding")
        # Without this, a process would decode what is still queued before it ends.
        weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)


class Decoder:
    """Threads that decode images before they are needed. Results are in order, whichever thread is first."""

    def __init__(self, threads: "int | Threads" = 0) -> None:
        """By default, as many threads as PyTorch computes with; or the `threads` of another decoder."""
        self.threads = threads if isinstance(threads, Threads) else Threads(threads or torch.get_num_threads())
        self._ahead: dict[Hashable, list[Future[Any]]] = {}  # batches that are decoded or queued

    def batch(self, wanted: Sequence[Key], jobs: Callable[[Key], Iterable[Callable[[], Decoded]]]) -> list[Decoded]:
        """Images of the first batch in `wanted`, while those of the others are decoded in the background.

        `jobs` gives the decoding of each image of a batch. A batch that is no longer wanted is dropped.
        """
        for key in self._ahead.keys() - set(wanted):
            _cancel(self._ahead.pop(key))
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = [self.threads.pool.submit(job) for job in jobs(key)]
        return [future.result() for future in self._ahead.pop(wanted[0])]

    def stream(self, jobs: Iterable[Callable[[], Decoded]], ahead: int) -> Iterator[Decoded]:
        """Images one by one, `ahead` of them decoded before they are needed."""
        pending = deque[Future[Decoded]]()
        try:
            for job in jobs:
                pending.append(self.threads.pool.submit(job))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            _cancel(pending)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
