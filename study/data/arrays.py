"""Batches as pure functions of (seed, iteration).

Owns the statistics that normalise images, their order and their augmentation (Sec. 4.2), on whatever device they are
held. Knows no nets and no training; where images come from is `study.data.sources`. Photographs, which are read while
training, are `study.data.photographs`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data import indexes
from study.data.photographs import IMAGENET_MEAN, IMAGENET_STD, SCALES, SIZE, Photographs, for_size
from study.data.sources import SHAPES, decode, folder_of_images, refusal
from study.seeds import generator
from study.spec import Data, InputError, check_at_least, check_choice


def describe(
    name: str,
    root: Path,
    *,
    held_out: int = 0,
    padding: int = 0,
    flip: bool = False,
    normalise: str = "pixel-mean",
    size: int = 0,
    colour: str = "none",
) -> Data:
    """The specification of a data set by name, with true labels.

    Reads nothing, except what 'folder:NAME', 'images:NAME' and 'shards:NAME' have under `root`, and makes 'photographs'
    there. `size` is that of crops of photographs, 224 if it is 0; their scales are in proportion to the paper's.
    """
    facts: dict[str, Any] = {"scales": (0, 0)}
    if name.partition(":")[0] in {known.partition(":")[0] for known in indexes.NAMES}:
        size = size or SIZE
        facts = {"channels": 3, "size": size, "scales": tuple(for_size(side, size) for side in SCALES)}
        facts |= {"classes": indexes.CLASSES, "digest": ""}
        if name != "imagenet":
            _, train, _, digest = indexes.load(name, root)
            facts |= {"classes": int(train.labels.max()) + 1, "digest": digest}
    elif size:
        raise InputError(f"size {size} is for photographs; images of {name} have one size, so leave it out")
    elif name.startswith("folder:"):
        facts |= _facts(*folder_of_images(name, root))
    else:
        check_choice("data set", name, [*SHAPES, "folder:NAME", *indexes.NAMES])
        facts |= zip(("channels", "size", "classes", "digest"), (*SHAPES[name], ""), strict=True)
    facts |= {"colour": colour, "labels": "true"}
    return Data(name=name, held_out=held_out, padding=padding, flip=flip, normalise=normalise, **facts)


def _facts(arrays: list[np.ndarray], digest: str) -> dict[str, Any]:
    """What a specification says of decoded images."""
    _, channels, size, _ = arrays[0].shape
    return {"channels": channels, "size": size, "classes": int(arrays[1].max()) + 1, "digest": digest}


@dataclass(eq=False)
class Dataset:
    """A data set on one device. Images are uint8 [N, C, H, W], labels int64 [N]; `load` makes it."""

    spec: Data
    digest: str  # SHA-256 of all decoded images and labels, whichever are held out or shuffled
    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor  # the held-out training images; none if the specification holds none out
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor  # float32 [C, H, W], [C, 1, 1] or [1, 1, 1], in pixel values 0..255
    scale: Tensor  # float32 [C, 1, 1] or [1, 1, 1]; normalised = (pixel - mean) * scale, the same bits on every device
    damaged: dict[str, str] = field(default_factory=dict, init=False)  # none: such a set is refused, see `Photographs`
    _order: tuple[tuple[int, int], Tensor] | None = field(default=None, init=False, repr=False)

    def count(self, split: str) -> int:
        """Number of images of 'train', 'validation' or 'test'."""
        return len(self._split(split)[1])

    def batch(self, seed: int, iteration: int, size: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Augmented training images float32 [size, C, H, W] and labels [size]: a pure function of the arguments.

        An epoch is count('train') // size iterations; the images left over are dropped. No draw depends on the device
        or on anything but the seed and the iteration, so every condition sees the same images (paired seeds). `part` of
        the batch may be asked for alone: the same bits as in the whole. Raises `InputError` if `size` is not in
        1..count('train').
        """
        check_at_least("batch", size, 1)
        if size > self.count("train"):
            raise InputError(
                f"batch {size} is larger than the {self.count('train')} training images of {self.spec.name};"
                f" choose at most {self.count('train')}"
            )
        epoch, step = divmod(iteration, self.count("train") // size)
        if self._order is None or self._order[0] != (seed, epoch):
            order = torch.randperm(self.count("train"), generator=generator(seed, "order", epoch))
            self._order = (seed, epoch), order.to(self.train_labels.device)
        chosen = self._order[1][step * size : (step + 1) * size][part]
        draw = generator(seed, "augment", iteration)
        flipped = torch.randint(2, (size,), generator=draw).bool()[part] & self.spec.flip
        corners = torch.randint(2 * self.spec.padding + 1, (2, size), generator=draw)[:, part]
        images = self._normalised(self.train_images[chosen])
        return _augmented(images, self.spec.padding, corners, flipped), self.train_labels[chosen]

    def clean(self, split: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without augmentation in a fixed order, of `size` images (the last may have fewer), `limit` in all."""
        check_at_least("batch", size, 1)
        images, labels = (tensor[:limit] for tensor in self._split(split))
        return (
            (self._normalised(images[start : start + size]), labels[start : start + size])
            for start in range(0, len(labels), size)
        )

    def mixed(self, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of `size` training images without augmentation, of `limit` in all: the same for every seed.

        Drawn from the whole set, because files may lie in the order of their classes, and what BatchNorm measures of
        batches of one class is not what it measured while training.
        """
        check_at_least("number of training images that recalibration draws from", self.count("train"), limit)
        order = torch.randperm(self.count("train"), generator=generator("mixed"))[:limit]
        for chosen in order.to(self.train_labels.device).split(size):
            if len(chosen) == size:
                yield self._normalised(self.train_images[chosen]), self.train_labels[chosen]

    def _split(self, split: str) -> tuple[Tensor, Tensor]:
        check_choice("split", split, ("train", "validation", "test"))
        return getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) * self.scale


def _augmented(images: Tensor, padding: int, corners: Tensor, flipped: Tensor) -> Tensor:
    """Crop each image [B, C, H, W], zero-padded on each side, at its corner [2, B] (y, x); then flip some, [B]."""
    if not padding and not flipped.any():
        return images
    count, channels, height, width = images.shape
    rows = corners[0, :, None] + torch.arange(height)
    columns = corners[1, :, None] + torch.arange(width)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    # Mean first, zeros second: the padding is the mean image's grey (ambiguity padding_order of the protocol).
    padded = functional.pad(images, (padding,) * 4)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


AnyDataset = Dataset | Photographs  # what training takes


def load(spec: Data, root: Path, device: torch.device | str = "cpu", seed: int = 0, threads: int = 0) -> AnyDataset:
    """The data set that `spec` says, from `root`, downloaded if need be.

    Photographs are decoded by `threads` threads, by default as many as PyTorch computes with.

    Pixels are divided by 255 ('pixel-mean-128': by 128). Then 'pixel-mean' and 'pixel-mean-128' subtract the mean
    training image; 'scalar' subtracts the mean of all training pixels and divides by their standard deviation,
    'channel' does so channel by channel, 'imagenet' with that set's constants. Held-out images belong to no statistic.
    They are the last of a permutation that depends on the data set alone. Shuffled labels are the training labels, held
    out or not, in an order that depends on the trial's `seed` alone: every condition learns the same wrong labels, and
    no two seeds do, so that what one order happens to teach of the test set is noise between seeds. Raises `InputError`
    if the data are missing, damaged, or other than `spec` says.
    """
    if spec.photographs:
        return Photographs(spec, root, device, seed, threads)
    arrays, digest = folder_of_images(spec.name, root) if spec.name.startswith("folder:") else (decode(spec, root), "")
    for what, value in _facts(arrays, digest).items():
        if value != getattr(spec, what):
            raise refusal(spec.name, f"in {root} has {what} {value}, not {getattr(spec, what)}; describe it anew")

    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    images, labels, test_images, test_labels = (torch.tensor(array) for array in arrays)
    if spec.held_out >= len(labels):
        raise InputError(
            f"held_out {spec.held_out} leaves no training image of {spec.name}; choose at most {len(labels) - 1}"
        )
    if spec.labels == "shuffled":
        labels = labels[torch.randperm(len(labels), generator=generator(seed, "labels"))]
    order = torch.randperm(len(labels), generator=generator(spec.name, "held-out"))
    kept, held = order[: len(labels) - spec.held_out].sort().values, order[len(labels) - spec.held_out :].sort().values
    mean, scale = _statistics(images[kept], spec)
    tensors = (images[kept], labels[kept], images[held], labels[held], test_images, test_labels, mean, scale)
    return Dataset(spec, sha.hexdigest(), *(tensor.to(device) for tensor in tensors))


def _statistics(images: Tensor, spec: Data) -> tuple[Tensor, Tensor]:
    """Mean in pixel values and scale, from exact integer sums: no order of summation can change a bit of them."""
    if spec.normalise in ("pixel-mean", "pixel-mean-128"):
        mean = torch.from_numpy(images.numpy().sum(axis=0, dtype=np.int64)).double() / len(images)
        return mean.float(), torch.full((1, 1, 1), 1 / (255 if spec.normalise == "pixel-mean" else 128))
    if spec.normalise == "imagenet":
        centres, deviations = 255 * torch.tensor((IMAGENET_MEAN, IMAGENET_STD), dtype=torch.float64)
    else:
        parts = [images] if spec.normalise == "scalar" else list(images.unbind(1))
        centres, deviations = (torch.stack(moments) for moments in zip(*map(_moments, parts), strict=True))
    if not deviations.all():
        raise refusal(spec.name, f"has training images of one single value, which {spec.normalise!r} cannot normalise")
    return centres.float().reshape(-1, 1, 1), (1 / deviations).float().reshape(-1, 1, 1)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of uint8 values."""
    counts = torch.bincount(pixels.flatten(), minlength=256).double() / pixels.numel()
    values = torch.arange(256).double()
    centre = (counts * values).sum()
    return centre, (counts * (values - centre) ** 2).sum().sqrt()
