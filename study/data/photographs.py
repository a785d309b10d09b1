"""Batches of photographs, read and decoded while training, as pure functions of (seed, iteration).

Owns decoding, scale and colour augmentation (Sec. 3.4) and the mean image. Knows no nets and no training; where images
lie is `study.data.indexes`. Threads decode a few batches ahead: JPEG libraries run outside Python's lock, and no draw
depends on which thread comes first.
"""

import io
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data import indexes
from study.data.indexes import Index
from study.data.sources import refusal
from study.seeds import generator
from study.spec import Data, InputError, check_at_least, check_choice

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in 0..1
SIZE, SCALES, EVALUATION_SIDE = 224, (256, 480), 256  # Sec. 3.4; the side of single views is AlexNet's
SAMPLE = 10_000  # training images that the mean image and the colours are measured on, at most
SHARD_GROUP = 16  # shards that an epoch reads mixed with each other
COLOUR_DEVIATION = 0.1  # of AlexNet's factors
AHEAD = 2  # batches that are decoded before they are asked for
_WHOLE_AHEAD = 64  # whole images that are decoded before they are asked for
Loaded = tuple[np.ndarray, int]  # pixels uint8 [H, W, 3], and which image of the index they are of
Decode = Callable[[bytes], np.ndarray]


def for_size(length: int, size: int) -> int:
    """A length that the paper gives for crops of 224 pixels, for crops of `size`: 256 becomes 37 for crops of 32."""
    return round(length * size / SIZE)


class Photographs:
    """A data set of photographs, with the interface that training uses of `study.data.arrays.Dataset`.

    A training image is resized, its shorter side drawn from `spec.scales`; cropped at random to `spec.size`; flipped,
    if `spec.flip`; its pixels are divided by 255, less the mean image (or as `spec.normalise` says); and, with colour
    'pca', all get one shift: the eigenvectors of RGB times its eigenvalues (of pixels in 0..1) times draws of standard
    deviation 0.1. Mean image and colours are of centre crops of a fixed sample of at most 10,000 training images.

    An image that cannot be decoded gives its place to the next of its split that can, and is named in `damaged`.
    """

    def __init__(self, spec: Data, root: Path, device: torch.device | str, seed: int, threads: int = 0) -> None:
        if spec.padding:
            raise InputError(f"padding {spec.padding} does not go with photographs, which are cropped; choose 0")
        folder, train, test, self.digest = indexes.load(spec.name, root)
        expected: dict[str, object] = {"channels": 3, "classes": int(train.labels.max()) + 1}
        expected |= {"digest": self.digest} if spec.digest else {}
        for what, value in expected.items():
            if value != getattr(spec, what):
                there = getattr(spec, what)
                raise refusal(spec.name, f"in {root} has {what} {value}, not {there}; describe it anew")
        count = len(train.labels)
        if spec.held_out >= count:
            raise InputError(f"held_out {spec.held_out} leaves no training image of {spec.name}; choose below {count}")
        labels = torch.from_numpy(train.labels)
        if spec.labels == "shuffled":
            labels = labels[torch.randperm(count, generator=generator(seed, "labels"))]
        order = torch.randperm(count, generator=generator(spec.name, "held-out")).numpy()
        kept, held = np.sort(order[: count - spec.held_out]), np.sort(order[count - spec.held_out :])

        self.spec, self.device = spec, torch.device(device)
        self.damaged: dict[str, str] = {}  # name of an image: why it is left out
        self._splits = {
            "train": _Split(folder, train, kept, labels.numpy(), self.damaged),
            "validation": _Split(folder, train, held, labels.numpy(), self.damaged),
            "test": _Split(folder, test, np.arange(len(test.labels)), test.labels, self.damaged),
        }
        self._side = for_size(EVALUATION_SIDE, spec.size)
        self._pool = ThreadPoolExecutor(threads or torch.get_num_threads(), "decoding")
        # Without this, a process would decode what is still queued before it ends.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._ahead: dict[tuple[int, int, int, int, int, int], list[Future[Loaded]]] = {}
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        self._count, self._sum, self._gram = self._moments(root)
        self._mean, self._scale, self._colours = self._statistics()

    def count(self, split: str) -> int:
        """Number of images of 'train', 'validation' or 'test'."""
        return len(self._split(split))

    def batch(self, seed: int, iteration: int, size: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Augmented training images float32 [size, 3, S, S] and labels [size]: a pure function of the arguments.

        An epoch is count('train') // size iterations; the images left over are dropped. `part` of the batch may be
        asked for alone. Every condition sees the same images, as the draws depend on seed and iteration only. The
        batches after it are decoded in the background. Raises `InputError` if `size` is not in 1..count('train').
        """
        check_at_least("batch", size, 1)
        if size > self.count("train"):
            raise InputError(
                f"batch {size} is larger than the {self.count('train')} training images of {self.spec.name};"
                f" choose at most {self.count('train')}"
            )
        rows = range(size)[part]
        wanted = {(seed, i, size, rows.start, rows.stop, rows.step): i for i in range(iteration, iteration + AHEAD + 1)}
        for key in self._ahead.keys() - wanted.keys():
            for future in self._ahead.pop(key):
                future.cancel()
        for key, i in wanted.items():
            if key not in self._ahead:
                self._ahead[key] = self._submit(seed, i, size, rows)
        images, labels = self._stacked("train", self._ahead.pop(next(iter(wanted))))
        if self.spec.colour == "pca":
            factors = COLOUR_DEVIATION * self._draws(seed, iteration, size)[3][part]
            shift = (factors @ self._colours.T).float().to(self.device)
            _rows(images).add_(shift.repeat(1, self.spec.size)[:, None])
        return images, labels

    def clean(self, split: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of centre crops, of shorter side 256 / 224 S, in a fixed order: of `size`, `limit` images in all."""
        check_at_least("batch", size, 1)
        return self._batches(split, range(self.count(split))[:limit], size)

    def mixed(self, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of `size` training images as `clean` has them, of `limit` in all: the same for every seed."""
        check_at_least("number of training images that recalibration draws from", self.count("train"), limit)
        order = torch.randperm(self.count("train"), generator=generator("mixed"))[: limit // size * size]
        return self._batches("train", order.tolist(), size)

    def resized(self, split: str, side: int, limit: int | None = None) -> Iterator[tuple[Tensor, int]]:
        """Whole images uint8 [3, H, W], of shorter side `side`, and their labels, in a fixed order."""
        labels = self._split(split).labels
        rows = range(self.count(split))[:limit]
        for pixels, i in self._loaded(split, rows, lambda contents: whole(contents, side), _WHOLE_AHEAD):
            yield torch.tensor(pixels).permute(2, 0, 1).to(self.device), int(labels[i])

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] as the net sees it, float32; the mean image is resized to H x W bilinearly."""
        shape, mean = images.shape[2:], self._mean
        if shape != mean.shape[2:]:
            mean = functional.interpolate(mean, shape, mode="bilinear", align_corners=False)
            mean = mean.contiguous(memory_format=torch.channels_last)
        pixels = images.to(torch.float32, memory_format=torch.channels_last) - mean
        _rows(pixels).mul_(self._scale.repeat(shape[1]))
        return pixels

    def _split(self, split: str) -> "_Split":
        check_choice("split", split, ("train", "validation", "test"))
        return self._splits[split]

    def _submit(self, seed: int, iteration: int, size: int, rows: range) -> list[Future[Loaded]]:
        """Let threads decode these rows of a batch."""
        split, crop = self._split("train"), self.spec.size
        epoch, step = divmod(iteration, len(split) // size)
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), split.shuffled(generator(seed, "order", epoch))
        chosen = self._order[1][step * size : (step + 1) * size]
        sides, corners, flips, _ = self._draws(seed, iteration, size)

        def decode_as(row: int) -> Decode:
            side, corner, flip = int(sides[row]), corners[row].tolist(), bool(flips[row]) and self.spec.flip
            return _augmenting(side, crop, corner, flip)

        return [self._pool.submit(split.load, int(chosen[row]), decode_as(row)) for row in rows]

    def _draws(self, seed: int, iteration: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shorter sides [size], corners [size, 2] as shares of what is left (y, x), flips [size], colours [size, 3]."""
        draw, (low, high) = generator(seed, "augment", iteration), self.spec.scales
        return (
            torch.randint(low, high + 1, (size,), generator=draw),
            torch.rand((size, 2), generator=draw, dtype=torch.float64),
            torch.randint(2, (size,), generator=draw),
            torch.randn((size, 3), generator=draw, dtype=torch.float64),
        )

    def _loaded(self, split: str, rows: Sequence[int], decode: Decode, ahead: int) -> Iterator[Loaded]:
        """Images in order, `ahead` of them decoded before they are asked for."""
        its, pending = self._split(split), deque[Future[Loaded]]()
        try:
            for row in rows:
                pending.append(self._pool.submit(its.load, row, decode))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _batches(self, split: str, rows: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        loaded = self._loaded(split, rows, _centring(self._side, self.spec.size), AHEAD * size)
        for start in range(0, len(rows), size):
            yield self._finished(split, [next(loaded) for _ in rows[start : start + size]])

    def _stacked(self, split: str, futures: list[Future[Loaded]]) -> tuple[Tensor, Tensor]:
        return self._finished(split, [future.result() for future in futures])

    def _finished(self, split: str, loaded: list[Loaded]) -> tuple[Tensor, Tensor]:
        """Pixels travel to the device as bytes, are normalised there all at once, and lie there channels last."""
        size = self.spec.size
        pixels = torch.empty((len(loaded), size, size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        stacked = pixels.numpy()
        for row, (image, _) in enumerate(loaded):
            stacked[row] = image
        labels = torch.from_numpy(self._split(split).labels[[i for _, i in loaded]])
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.normalised(images), labels.to(self.device)

    def _moments(self, root: Path) -> tuple[int, np.ndarray, np.ndarray]:
        """Of the sample: images, sum of their pixels [S, S, 3] and sum of the products of two channels [3, 3].

        Exact integers, so that no order of summation can change a bit of what follows.
        """
        size = self.spec.size

        def measure() -> dict[str, np.ndarray]:
            order = torch.randperm(self.count("train"), generator=generator(self.spec.name, "sample"))[:SAMPLE]
            total, gram = np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64)
            for image, _ in self._loaded("train", order.tolist(), _centring(self._side, size), _WHOLE_AHEAD):
                pixels = image.reshape(-1, 3).astype(np.float64)
                total += image
                gram += (pixels.T @ pixels).astype(np.int64)  # of integers below 2**53: exact
            return {"count": np.array(len(order)), "sum": total, "gram": gram}

        what = f"mean-{self.digest[:16]}-{size}-{self.spec.held_out}"
        found = indexes.cached(self.spec.name, root, what, measure)
        return int(found["count"]), found["sum"], found["gram"]

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean float32 [1, 3, S, S] in 0..255; scale [3]; eigenvectors [3, 3] in columns times eigenvalues."""
        how, size = self.spec.normalise, self.spec.size
        pixels = self._count * size**2
        colour = self._sum.sum((0, 1)) / pixels
        covariance = self._gram / pixels - np.outer(colour, colour)
        deviation = np.sqrt(covariance.diagonal())
        mean, scale = self._sum / self._count, np.full(3, 1 / (128 if how == "pixel-mean-128" else 255))
        if how == "channel":
            mean, scale = np.broadcast_to(colour, mean.shape), 1 / deviation
        elif how == "scalar":
            second = self._gram.trace() / pixels / 3
            mean, scale = np.full(mean.shape, colour.mean()), np.full(3, 1 / np.sqrt(second - colour.mean() ** 2))
        elif how == "imagenet":
            mean = np.broadcast_to(255 * np.array(IMAGENET_MEAN), mean.shape)
            scale = 1 / (255 * np.array(IMAGENET_STD))
        if not np.isfinite(scale).all():
            raise refusal(self.spec.name, f"has training images of one single value, which {how!r} cannot normalise")
        values, vectors = np.linalg.eigh(covariance / 255**2)
        vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)  # an eigenvector's sign is the library's whim
        as_seen = vectors * values * 255 * scale[:, None]
        return (
            torch.tensor(mean.transpose(2, 0, 1)[None], dtype=torch.float32)
            .contiguous(memory_format=torch.channels_last)
            .to(self.device),
            torch.tensor(scale, dtype=torch.float32).to(self.device),
            torch.from_numpy(as_seen),
        )


def _rows(images: Tensor) -> Tensor:
    """[N, 3, H, W], channels last, seen as [N, H, 3 W]: long rows take a CPU a tenth of the time of three colours."""
    count, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).view(count, height, width * channels)


class _Split:
    """Images of one split: which of the index they are, and their labels, which are by the index."""

    def __init__(
        self, folder: Path, index: Index, chosen: np.ndarray, labels: np.ndarray, damaged: dict[str, str]
    ) -> None:
        self.folder, self.index, self.chosen, self.labels, self.damaged = folder, index, chosen, labels, damaged

    def __len__(self) -> int:
        return len(self.chosen)

    def shuffled(self, draw: torch.Generator) -> np.ndarray:
        """An epoch's order of rows: of shards, images of a few random ones at a time, so that these can be cached."""
        if len(self.index.archives) < 2:
            return torch.randperm(len(self), generator=draw).numpy()
        archive = self.index.archive[self.chosen]
        rows = np.split(np.argsort(archive, kind="stable"), np.cumsum(np.bincount(archive))[:-1])
        order = torch.randperm(len(rows), generator=draw).tolist()
        groups = [
            np.concatenate([rows[i] for i in order[at : at + SHARD_GROUP]]) for at in range(0, len(order), SHARD_GROUP)
        ]
        return np.concatenate([group[torch.randperm(len(group), generator=draw).numpy()] for group in groups])

    def load(self, row: int, decode: Decode) -> Loaded:
        """The image of this row or, if it is damaged, of the next row that is not."""
        for offset in range(len(self)):
            i = int(self.chosen[(row + offset) % len(self)])
            name = self.index.name(i)
            contents = self.index.read(self.folder, i)  # a file that is gone, or a disk, is no damaged image: it raises
            try:
                if len(contents) != self.index.lengths[i]:
                    raise ValueError(f"has {len(contents)} bytes, not the {self.index.lengths[i]} of its index")
                return decode(contents), i
            except Exception as error:  # decoders of damaged files raise nearly anything
                if isinstance(error, MemoryError):
                    raise
                self.damaged[name] = f"{type(error).__name__}: {error}"
        raise InputError(f"no image below {self.folder} can be decoded: {next(iter(self.damaged.items()))}")


# ---------------------------------------------------------------- decoding


def whole(contents: bytes, side: int) -> np.ndarray:
    """uint8 [H, W, 3] of shorter side `side`."""
    image, (width, height) = _opened(contents, side)
    return _pixels(image, (width, height), (0, 0, image.width, image.height))


def cropped(contents: bytes, side: int, size: int, corner: Sequence[float] | None = None) -> np.ndarray:
    """uint8 [size, size, 3] of the image resized to shorter side `side`, at a corner (y, x in 0..1), or the centre.

    Only the crop is resized. It is what resizing all and then cropping gives, but for a level of 255 where a value lies
    between two: Pillow takes the box in single precision.
    """
    image, (width, height) = _opened(contents, side)
    x, y = round((width - size) / 2), round((height - size) / 2)
    if corner is not None:
        y, x = int(corner[0] * (height - size + 1)), int(corner[1] * (width - size + 1))
    across, down = image.width / width, image.height / height
    right, bottom = min((x + size) * across, image.width), min((y + size) * down, image.height)
    return _pixels(image, (size, size), (x * across, y * down, right, bottom))


def _augmenting(side: int, size: int, corner: Sequence[float], flip: bool) -> Decode:
    def decode(contents: bytes) -> np.ndarray:
        pixels = cropped(contents, side, size, corner)
        return pixels[:, ::-1] if flip else pixels

    return decode


def _centring(side: int, size: int) -> Decode:
    return lambda contents: cropped(contents, side, size)


def _opened(contents: bytes, side: int) -> tuple["Image", tuple[int, int]]:
    """The image in RGB, and the size to resize it to, the longer side rounded down, as torchvision's Resize has it.

    A JPEG of four times that size and more is decoded at a half, quarter or eighth, still twice too large or more:
    resizing from there differs from resizing from all pixels by a level or so of 255, and takes a fraction of the time.
    """
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(contents), formats=("JPEG", "PNG"))
    shorter, longer = min(image.size), int(side * max(image.size) / min(image.size))
    size = (side, longer) if image.width == shorter else (longer, side)
    image.draft(None, (2 * size[0], 2 * size[1]))
    if image.mode.startswith("I"):  # 16 bits, of which RGB would take the lower eight
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB"), size


def _pixels(image: "Image", size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize(size, Resampling.BILINEAR, box=box))
