"""Batches of photographs, read and decoded while training, as pure functions of (seed, iteration).

Owns scale and colour augmentation (Sec. 3.4) and the mean image. Knows no nets and no training; where images lie is
`study.data.indexes`, and how they are decoded `study.data.decoding`. Threads decode a few batches ahead: JPEG libraries
run outside Python's lock, and no draw depends on which thread is first.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data import batches, indexes
from study.data.batches import AHEAD, Decoder, Epochs
from study.data.cache import cached, file_name
from study.data.constants import Constants
from study.data.decoding import cropped, whole
from study.data.indexes import Index
from study.data.sources import check_described
from study.seeds import generator
from study.spec import Data, InputError, check_at_least, check_choice

SIZE, SCALES, EVALUATION_SIDE = 224, (256, 480), 256  # Sec. 3.4; the side of single views is AlexNet's
SAMPLE = 10_000  # training images that the mean image and the colours are measured on, at most
SHARD_GROUP = 16  # shards that an epoch reads mixed with each other
COLOUR_DEVIATION = 0.1  # of AlexNet's factors
_WHOLE_AHEAD = 64  # whole images that are decoded before they are needed
Decode = Callable[[bytes], np.ndarray]


class Loaded(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    number: int  # in the index; not the one of its row if that one is damaged


class Draws(NamedTuple):
    """What is random in the augmentation of a batch."""

    sides: Tensor  # int64 [size]: the shorter side that an image is resized to
    corners: Tensor  # float64 [size, 2]: where it is cropped (y, x), as shares of the possible places
    flips: Tensor  # int64 [size], 0 or 1
    colours: Tensor  # float64 [size, 3]: standard normal


class _Wanted(NamedTuple):
    """Some rows of a batch."""

    seed: int
    iteration: int
    size: int  # of the whole batch
    rows: range


def for_size(length: int, size: int) -> int:
    """A length that the paper gives for crops of 224 pixels, for crops of `size`: 256 becomes 37 for crops of 32."""
    return round(length * size / SIZE)


class Photographs:
    """A data set of photographs, with the interface that training uses of `study.data.arrays.Dataset`.

    A training image is resized, its shorter side drawn from `spec.scales`; cropped at random to `spec.size`; flipped,
    if `spec.flip`; and normalised (see `batches.normalisation`). With colour 'pca', all its pixels get one shift: the
    eigenvectors of RGB times its eigenvalues (of pixels in 0..1) times draws of standard deviation 0.1. Mean image and
    colours are those of centre crops of a fixed sample of at most 10,000 training images.

    An image that cannot be decoded is replaced by the next of its split that can, and is named in `damaged`.
    """

    def __init__(self, spec: Data, root: Path, device: torch.device | str, seed: int, threads: int = 0) -> None:
        if spec.padding:
            raise InputError(f"padding {spec.padding} does not go with photographs, which are cropped; choose 0")
        folder, train, test, self.digest = indexes.load(spec.name, root)
        facts: dict[str, object] = {"channels": 3, "classes": int(train.labels.max()) + 1}
        if spec.digest:
            facts["digest"] = self.digest
        check_described(spec, root, facts)
        kept, held = batches.held_out(spec, len(train.labels))
        labels = _training_labels(spec, train, seed)

        self.spec, self.device = spec, torch.device(device)
        self.damaged: dict[str, str] = {}  # name of an image: why it is left out
        self._splits = {
            "train": _Split(folder, train, kept.numpy(), labels, self.damaged),
            "validation": _Split(folder, train, held.numpy(), labels, self.damaged),
            "test": _Split(folder, test, np.arange(len(test.labels)), test.labels, self.damaged),
        }
        self._epochs = Epochs(spec.name, self.count("train"), self._splits["train"].shuffled)
        self._turned = spec.name.startswith("images:")  # as EXIF says; the field reads ImageNet as it is stored
        self._decoder = Decoder(threads)
        sample = self._sample(root)
        mean, scale = batches.normalisation(spec, sample)
        shape = (3, spec.size, spec.size)
        self.mean = _channels_last(torch.tensor(np.broadcast_to(mean, shape), dtype=torch.float32)[None].to(device))
        self.scale = torch.tensor(np.broadcast_to(scale.ravel(), 3), dtype=torch.float32, device=device)
        self._colours = torch.from_numpy(sample.principal_colours() * 255 * scale.reshape(-1, 1))

    def for_seed(self, seed: int) -> "Photographs":
        """This data set for another seed: the same index, mean image and threads; own labels and batches ahead."""
        other = copy.copy(self)
        other.damaged = dict(self.damaged)
        labels = _training_labels(self.spec, self._splits["train"].index, seed)
        other._splits = {
            name: replace(split, labels=split.labels if name == "test" else labels, damaged=other.damaged)
            for name, split in self._splits.items()
        }
        other._epochs = Epochs(self.spec.name, self.count("train"), other._splits["train"].shuffled)
        other._decoder = Decoder(self._decoder.threads)
        return other

    def normalised_by(self, constants: Constants) -> "Photographs":
        """This data set for testing, with pixels normalised by constants."""
        other = copy.copy(self)
        mean, scale = constants.as_loaded(3)
        other.mean = torch.tensor(np.broadcast_to(mean, self.mean.shape), dtype=torch.float32, device=self.device)
        other.mean = _channels_last(other.mean)
        other.scale = torch.tensor(scale.ravel(), dtype=torch.float32, device=self.device)
        return other

    def count(self, split: str) -> int:
        """Number of images of 'train', 'validation' or 'test'."""
        return len(self._split(split))

    def batch(self, seed: int, iteration: int, size: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Augmented training images float32 [size, 3, S, S] and labels [size]: a pure function of the arguments.

        Every condition sees the same images, as the draws depend on seed and iteration only. `part` of the batch may be
        taken alone. The batches after it are decoded in the background. Raises `InputError` if `size` is not in
        1..count('train').
        """
        batches.check_batch(size, self.count("train"), self.spec.name)
        rows = range(size)[part]
        wanted = [_Wanted(seed, i, size, rows) for i in range(iteration, iteration + AHEAD + 1)]
        images, labels = self._stacked("train", self._decoder.batch(wanted, self._jobs))
        if self.spec.colour == "pca":
            factors = COLOUR_DEVIATION * self.draws(seed, iteration, size).colours[part]
            shift = (factors @ self._colours.T).float().to(self.device)
            _rows(images).add_(shift.repeat(1, self.spec.size)[:, None])
        return images, labels

    def clean(self, split: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of centre crops, of shorter side 256 / 224 S, in a fixed order: of `size`, `limit` images in all."""
        check_at_least("batch", size, 1)
        return self._batches(split, range(self.count(split))[:limit], size)

    def mixed(self, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of `size` training images as `clean` has them, of `limit` in all: see `batches.mixed`."""
        rows = batches.mixed(self.count("train"), limit)
        return self._batches("train", rows[: limit // size * size].tolist(), size)

    def resized(self, split: str, side: int, limit: int | None = None) -> Iterator[tuple[Tensor, int]]:
        """Whole images uint8 [3, H, W], of shorter side `side`, and their labels, in a fixed order."""
        labels = self._split(split).labels
        rows = range(self.count(split))[:limit]
        for image in self._loaded(split, rows, partial(whole, side=side, turned=self._turned), _WHOLE_AHEAD):
            yield torch.tensor(image.pixels).permute(2, 0, 1).to(self.device), int(labels[image.number])

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] as the net sees it, float32; the mean image is resized to H x W bilinearly."""
        shape, mean = images.shape[2:], self.mean
        if shape != mean.shape[2:]:
            mean = _channels_last(functional.interpolate(mean, shape, mode="bilinear", align_corners=False))
        pixels = images.to(torch.float32, memory_format=torch.channels_last) - mean
        _rows(pixels).mul_(self.scale.repeat(shape[1]))
        return pixels

    def draws(self, seed: int, iteration: int, size: int) -> Draws:
        """The augmentation of a batch: a pure function of the arguments."""
        draw, (low, high) = generator(seed, "augment", iteration), self.spec.scales
        return Draws(
            sides=torch.randint(low, high + 1, (size,), generator=draw),
            corners=torch.rand((size, 2), generator=draw, dtype=torch.float64),
            flips=torch.randint(2, (size,), generator=draw),
            colours=torch.randn((size, 3), generator=draw, dtype=torch.float64),
        )

    def _split(self, split: str) -> "_Split":
        check_choice("split", split, ("train", "validation", "test"))
        return self._splits[split]

    def _jobs(self, wanted: _Wanted) -> Iterator[Callable[[], Loaded]]:
        """The decoding of these rows of a batch. A job keeps the split, and not the data set, alive."""
        split, draws = self._split("train"), self.draws(wanted.seed, wanted.iteration, wanted.size)
        chosen = self._epochs.rows(wanted.seed, wanted.iteration, wanted.size).tolist()
        for row in wanted.rows:
            decode = partial(
                _augmented,
                side=int(draws.sides[row]),
                size=self.spec.size,
                corner=draws.corners[row].tolist(),
                flip=bool(draws.flips[row]) and self.spec.flip,
                turned=self._turned,
            )
            yield partial(split.load, chosen[row], decode)

    def _loaded(self, split: str, rows: Sequence[int], decode: Decode, ahead: int) -> Iterator[Loaded]:
        """Images in order, `ahead` of them decoded before they are needed."""
        load = self._split(split).load
        return self._decoder.stream((partial(load, row, decode) for row in rows), ahead)

    def _centre(self) -> Decode:
        side = for_size(EVALUATION_SIDE, self.spec.size)
        return partial(cropped, side=side, size=self.spec.size, turned=self._turned)

    def _batches(self, split: str, rows: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        images = self._loaded(split, rows, self._centre(), AHEAD * size)
        for start in range(0, len(rows), size):
            yield self._stacked(split, [next(images) for _ in rows[start : start + size]])

    def _stacked(self, split: str, images: Sequence[Loaded]) -> tuple[Tensor, Tensor]:
        """Pixels travel to the device as bytes, are normalised there all at once, and lie there channels last."""
        size = self.spec.size
        on_gpu = self.device.type == "cuda"  # which does not wait for what comes from pinned memory
        pixels = torch.empty((len(images), size, size, 3), dtype=torch.uint8, pin_memory=on_gpu)
        stacked = pixels.numpy()
        for row, image in enumerate(images):
            stacked[row] = image.pixels
        labels = torch.from_numpy(self._split(split).labels[[image.number for image in images]])
        labels = labels.pin_memory() if on_gpu else labels
        moved = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.normalised(moved), labels.to(self.device, non_blocking=True)

    def _sample(self, root: Path) -> "_Sample":
        """Measured once and kept in root/.cache."""
        size = self.spec.size

        def measure() -> dict[str, np.ndarray]:
            rows = batches.shuffled(self.count("train"), generator(self.spec.name, "sample"))[:SAMPLE].tolist()
            total, gram = np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64)
            for image in self._loaded("train", rows, self._centre(), _WHOLE_AHEAD):
                pixels = image.pixels.reshape(-1, 3).astype(np.float64)
                total += image.pixels
                gram += (pixels.T @ pixels).astype(np.int64)  # of integers below 2**53: exact
            return {"count": np.array(len(rows)), "sum": total, "gram": gram}

        file = f"{file_name(self.spec.name)}-mean-{self.digest[:16]}-{size}-{self.spec.held_out}"
        arrays = cached(self.spec.name, root, file, measure, needed=False)
        return _Sample(int(arrays["count"]), arrays["sum"], arrays["gram"])


@dataclass(frozen=True)
class _Sample:
    """Moments of the centre crops of a sample of training images, from exact integer sums: no order of summation can
    change a bit of what follows.
    """

    count: int  # images
    total: np.ndarray  # int64 [S, S, 3], the sum of the images
    gram: np.ndarray  # int64 [3, 3], sums over all pixels of the products of two channels

    @property
    def pixels(self) -> int:
        height, width, *_ = self.total.shape
        return int(self.count * height * width)

    @property
    def colour(self) -> np.ndarray:
        """The mean of each channel, [3]."""
        colour: np.ndarray = self.total.sum((0, 1)) / self.pixels
        return colour

    @property
    def covariance(self) -> np.ndarray:
        """Of two channels, [3, 3]."""
        return self.gram / self.pixels - np.outer(self.colour, self.colour)

    def mean_image(self) -> np.ndarray:
        return (self.total / self.count).transpose(2, 0, 1)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, second = self.colour.mean(), self.gram.trace() / self.pixels / 3
        return np.array([mean]), np.sqrt([second - mean**2])

    def moments_by_channel(self) -> tuple[np.ndarray, np.ndarray]:
        return self.colour, np.sqrt(self.covariance.diagonal())

    def principal_colours(self) -> np.ndarray:
        """Eigenvectors of RGB in columns, each times its eigenvalue, for pixels in 0..1: [3, 3]."""
        values, vectors = np.linalg.eigh(self.covariance / 255**2)
        vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)  # fixes the sign, which LAPACK chooses arbitrarily
        principal: np.ndarray = vectors * values
        return principal


def _training_labels(spec: Data, index: Index, seed: int) -> np.ndarray:
    return batches.training_labels(spec, torch.from_numpy(index.labels), seed).numpy()


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _rows(images: Tensor) -> Tensor:
    """[N, 3, H, W], channels last, seen as [N, H, 3 W]: long rows take a CPU a tenth of the time of three colours."""
    count, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).view(count, height, width * channels)


def _augmented(contents: bytes, side: int, size: int, corner: Sequence[float], flip: bool, turned: bool) -> np.ndarray:
    pixels = cropped(contents, side, size, corner, turned)
    return pixels[:, ::-1] if flip else pixels


@dataclass(eq=False)
class _Split:
    """Images of one split."""

    folder: Path  # that the index is relative to
    index: Index
    chosen: np.ndarray  # int64 [N]: which images of the index are in the split
    labels: np.ndarray  # int64, one for each image of the index
    damaged: dict[str, str]  # name of an image: why it cannot be decoded; filled by `load`

    def __len__(self) -> int:
        return len(self.chosen)

    def shuffled(self, draw: torch.Generator) -> Tensor:
        """An epoch's order of rows. Of shards, a few random ones are read at a time, so that these can be cached."""
        if len(self.index.archives) < 2:
            return batches.shuffled(len(self), draw)
        archive = self.index.archive[self.chosen]
        rows = np.split(np.argsort(archive, kind="stable"), np.cumsum(np.bincount(archive))[:-1])
        order = batches.shuffled(len(rows), draw).tolist()
        mixed = []
        for start in range(0, len(order), SHARD_GROUP):
            group = np.concatenate([rows[shard] for shard in order[start : start + SHARD_GROUP]])
            mixed.append(torch.from_numpy(group)[batches.shuffled(len(group), draw)])
        return torch.cat(mixed)

    def load(self, row: int, decode: Decode) -> Loaded:
        """The image of this row or, if it is damaged, of the next row that is not."""
        for offset in range(len(self)):
            number = int(self.chosen[(row + offset) % len(self)])
            name = self.index.name(number)
            # A file that is gone, or a disk, is no damaged image: it raises.
            contents = self.index.read(self.folder, number)
            try:
                if len(contents) != self.index.lengths[number]:
                    raise ValueError(f"has {len(contents)} bytes, not the {self.index.lengths[number]} of its index")
                return Loaded(decode(contents), number)
            except MemoryError:
                raise
            except Exception as error:  # decoders of damaged files raise nearly anything
                self.damaged[name] = f"{type(error).__name__}: {error}"
        raise InputError(f"no image below {self.folder} can be decoded: {next(iter(self.damaged.items()))}")
