"""Batches as pure functions of (seed, iteration).

Owns the statistics that normalise images, their order and their augmentation (Sec. 4.2), on whatever device they are
held. Knows no nets and no training; where images come from is `study.data.sources`. Photographs, which are read while
training, are `study.data.photographs`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.data import batches, cache, indexes
from study.data.cache import Images
from study.data.constants import Constants
from study.data.folders import folder_of_images
from study.data.photographs import SCALES, SIZE, Photographs, for_size
from study.data.sources import SHAPES, check_described, checksum, decode
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


def _facts(images: Images, digest: str) -> dict[str, Any]:
    """What a specification says of decoded images; its `digest` is of the files that they come from."""
    _, channels, size, _ = images.train_images.shape
    return {"channels": channels, "size": size, "classes": int(images.train_labels.max()) + 1, "digest": digest}


class Draws(NamedTuple):
    """What a batch is made of, on the CPU."""

    images: Tensor  # which training images, int64 [size]
    corners: Tensor  # of the crop in the padded image (y, x), int64 [2, size]
    flips: Tensor  # whether it is flipped afterwards, bool [size]


@dataclass(eq=False)
class Dataset:
    """A data set on one device. Images are uint8 [N, C, H, W], labels int64 [N]; `load` makes it."""

    spec: Data
    digest: str  # SHA-256 of all decoded images and labels, whichever are held out or shuffled
    true_labels: Tensor  # of all training images, held out or not, in the order of their source; on the CPU
    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor  # the held-out training images; none if the specification holds none out
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor  # float32 [C, H, W], [C, 1, 1] or [1, 1, 1], in pixel values 0..255
    scale: Tensor  # float32 [C, 1, 1] or [1, 1, 1]; normalised = (pixel - mean) * scale, the same bits on every device
    damaged: dict[str, str] = field(default_factory=dict, init=False)  # none: such a set is refused, see `Photographs`
    epochs: batches.Epochs = field(init=False, repr=False)  # which training images each batch has

    def __post_init__(self) -> None:
        self.epochs = batches.Epochs(self.spec.name, self.count("train"))

    def for_seed(self, seed: int) -> "Dataset":
        """This data set as `load` gives it for another seed: the same tensors, but for labels that are shuffled."""
        if self.spec.labels == "true":
            return replace(self)
        kept, held = batches.held_out(self.spec, len(self.true_labels))
        labels, device = batches.training_labels(self.spec, self.true_labels, seed), self.train_labels.device
        return replace(self, train_labels=labels[kept].to(device), validation_labels=labels[held].to(device))

    def normalised_by(self, constants: Constants) -> "Dataset":
        """This data set with pixels normalised by constants. Raises `InputError` for those of other channels."""
        values = constants.as_loaded(self.spec.channels)
        mean, scale = (torch.tensor(value, dtype=torch.float32, device=self.mean.device) for value in values)
        return replace(self, mean=mean, scale=scale)

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
        draws = self.draws(seed, iteration, size)
        device = self.train_labels.device
        return self.augmented(
            draws.images[part].to(device), draws.corners[:, part].to(device), draws.flips[part].to(device)
        )

    def draws(self, seed: int, iteration: int, size: int) -> "Draws":
        """What the batch of an iteration is made of: a pure function of the arguments; see `batch`."""
        images = self.epochs.rows(seed, iteration, size)
        draw = generator(seed, "augment", iteration)
        flips = torch.randint(2, (size,), generator=draw).bool() & self.spec.flip
        corners = torch.randint(2 * self.spec.padding + 1, (2, size), generator=draw)
        return Draws(images, corners, flips)

    def augmented(self, images: Tensor, corners: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Training images float32 [B, C, H, W] and labels [B] of draws that are on the device of this data set.

        It waits for nothing and branches on no value, so that a GPU can replay it.
        """
        pixels = self._normalised(self.train_images[images])
        pixels = _augmented(pixels, self.spec.padding, corners, flips if self.spec.flip else None)
        return pixels, self.train_labels[images]

    def clean(self, split: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without augmentation in a fixed order, of `size` images (the last may have fewer), `limit` in all."""
        check_at_least("batch", size, 1)
        images, labels = (tensor[:limit] for tensor in self._split(split))
        return (
            (self._normalised(images[start : start + size]), labels[start : start + size])
            for start in range(0, len(labels), size)
        )

    def mixed(self, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of `size` training images without augmentation, of `limit` in all: see `batches.mixed`."""
        for chosen in batches.mixed(self.count("train"), limit).to(self.train_labels.device).split(size):
            if len(chosen) == size:
                yield self._normalised(self.train_images[chosen]), self.train_labels[chosen]

    def _split(self, split: str) -> tuple[Tensor, Tensor]:
        check_choice("split", split, ("train", "validation", "test"))
        return getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) * self.scale


def _augmented(images: Tensor, padding: int, corners: Tensor, flips: Tensor | None) -> Tensor:
    """Crop each image [B, C, H, W], zero-padded on each side, at its corner [2, B] (y, x); then flip some, [B]."""
    if not padding and flips is None:
        return images
    count, channels, height, width = images.shape
    rows = corners[0, :, None] + torch.arange(height, device=images.device)
    columns = corners[1, :, None] + torch.arange(width, device=images.device)
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    # Mean first, zeros second: the padding is the mean image's grey (ambiguity padding_order of the protocol).
    padded = functional.pad(images, (padding,) * 4)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


AnyDataset = Dataset | Photographs  # what training takes


def load(spec: Data, root: Path, device: torch.device | str = "cpu", seed: int = 0, threads: int = 0) -> AnyDataset:
    """The data set that `spec` describes, from `root`, downloaded if need be.

    Photographs are decoded by `threads` threads, by default as many as PyTorch computes with. Held-out images belong to
    no statistic. Labels may depend on the trial's `seed`, see `batches.training_labels`. Raises `InputError` if the
    data are missing, damaged, or not as `spec` describes them.
    """
    if spec.photographs:
        return Photographs(spec, root, device, seed, threads)
    digest = ""
    if spec.name.startswith("folder:"):
        decoded, digest = folder_of_images(spec.name, root)
    elif known := checksum(spec.name):
        file = f"{spec.name}-{known[:16]}"
        decoded = cache.images(spec.name, root, file, lambda: decode(spec, root), needed=False)
    else:
        decoded = Images.of(decode(spec, root))
    check_described(spec, root, _facts(decoded, digest))

    # Not copied, unless they cannot be written to: workers share the memory of what they map.
    train, labels, test, test_labels = (torch.from_numpy(np.require(array, None, ["C", "W"])) for array in decoded[:4])
    kept, held = batches.held_out(spec, len(labels))
    images = train[kept] if spec.held_out else train
    mean, scale = batches.normalisation(spec, _Pixels(images))
    dataset = Dataset(
        spec,
        decoded.digest,
        true_labels=labels,
        train_images=images.to(device),
        train_labels=labels[kept].to(device),
        validation_images=train[held].to(device),
        validation_labels=labels[held].to(device),
        test_images=test.to(device),
        test_labels=test_labels.to(device),
        mean=torch.tensor(mean, dtype=torch.float32, device=device),
        scale=torch.tensor(scale, dtype=torch.float32, device=device),
    )
    return dataset.for_seed(seed)


@dataclass(frozen=True)
class _Pixels:
    """Moments of images uint8 [N, C, H, W], from exact integer sums: no order of summation can change a bit."""

    images: Tensor

    def mean_image(self) -> np.ndarray:
        mean: np.ndarray = self.images.numpy().sum(axis=0, dtype=np.int64) / len(self.images)
        return mean

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        return _moments([self.images])

    def moments_by_channel(self) -> tuple[np.ndarray, np.ndarray]:
        return _moments(self.images.unbind(1))


def _moments(parts: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the uint8 values in each part, float64 [parts]."""
    values = torch.arange(256).double()
    means, deviations = [], []
    for part in parts:
        shares = torch.bincount(part.flatten(), minlength=256).double() / part.numel()
        mean = (shares * values).sum()
        means.append(mean)
        deviations.append((shares * (values - mean) ** 2).sum().sqrt())
    return torch.stack(means).numpy(), torch.stack(deviations).numpy()
