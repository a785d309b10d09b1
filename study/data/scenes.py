"""Batches of scenes: whole images and the boxes of their objects, as pure functions of (seed, iteration).

Owns which objects are trained on, the order of training and flips. Knows no nets and no metrics; where images and boxes
come from is `study.data.annotations`. Threads decode a few images ahead, and no draw depends on which comes first.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from study.data.annotation_files import Example
from study.data.annotations import Annotated
from study.data.annotations import load as load_annotations
from study.data.batches import AHEAD, Decoder, Epochs, check_batch
from study.data.decoding import eight_bits, fitting, opened
from study.data.detection_sets import is_own
from study.data.sources import check_described, refusal
from study.seeds import generator
from study.spec import Data, InputError, check_choice

Target = dict[str, Tensor]  # 'boxes' float32 [n, 4], 'labels' int64 [n]: what torchvision.models.detection takes
_TESTED_AHEAD = 16  # test images that are decoded before they are needed


class _Wanted(NamedTuple):
    """A batch."""

    seed: int
    iteration: int
    size: int


class Scenes:
    """A data set of scenes on one device; `load` makes it.

    Difficult objects and crowds are not trained on, nor boxes of which nothing lies in the image; the others are
    clipped to it. A training image without an object left is dropped, as the authors' code does. Examples, on which
    detections are scored, keep all their boxes as they are annotated.
    """

    def __init__(self, spec: Data, annotated: Annotated, device: torch.device | str) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.digest, self.classes, self.test_split = annotated.digest, annotated.classes, annotated.test_split
        self.metric = annotated.metric
        self.labelled = annotated.labelled  # whether test examples have boxes
        self.damaged: dict[str, str] = {}  # stays empty: an image that cannot be decoded is refused
        targets = [(example, _trained(example)) for example in annotated.train]
        self._targets = [target for _, target in targets if len(target["labels"])]
        train = tuple(example for example, target in targets if len(target["labels"]))
        self._splits = {"train": train, "test": annotated.test}
        self._epochs = Epochs(spec.name, len(train))
        self._decoder = Decoder()

    def count(self, split: str) -> int:
        """Number of images of 'train', of those that are trained on, or of 'test'."""
        return len(self.examples(split))

    def examples(self, split: str) -> tuple[Example, ...]:
        """Images of 'train', those that are trained on, or of 'test', in order, with all their objects."""
        check_choice("split", split, self._splits)
        return self._splits[split]

    def rows(self, seed: int, iteration: int, size: int) -> list[int]:
        """Which of the training examples a batch has."""
        return self._epochs.rows(seed, iteration, size).tolist()

    def batch(self, seed: int, iteration: int, size: int) -> list[tuple[Tensor, Target]]:
        """Training images float32 [3, H, W] in 0..1, of their own sizes, and their objects: a pure function.

        Half of the images are flipped, if `spec.flip`. The batches after it are decoded in the background. Raises
        `InputError` if `size` is not in 1..count('train'), or an image is damaged.
        """
        check_batch(size, self.count("train"), self.spec.name)
        rows = self.rows(seed, iteration, size)
        wanted = [_Wanted(seed, i, size) for i in range(iteration, iteration + AHEAD + 1)]
        decoded = self._decoder.batch(wanted, self._jobs)
        flips = torch.randint(2, (size,), generator=generator(seed, "augment", iteration)).bool() & self.spec.flip
        batch = []
        for row, pixels, flip in zip(rows, decoded, flips.tolist(), strict=True):
            image = self._image(pixels)
            target = {what: tensor.to(self.device) for what, tensor in self._targets[row].items()}
            batch.append(flipped(image, target) if flip else (image, target))
        return batch

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Example]]:
        """Test images float32 [3, H, W] in 0..1, of their own sizes, in order: the first `limit`, or all."""
        examples = self._splits["test"][:limit]
        jobs = (partial(_decoded, self.spec.name, example) for example in examples)
        for pixels, example in zip(self._decoder.stream(jobs, _TESTED_AHEAD), examples, strict=True):
            yield self._image(pixels), example

    def _jobs(self, wanted: _Wanted) -> Iterator[Callable[[], np.ndarray]]:
        """The decoding of the images of a batch. A job keeps an example, and not the data set, alive."""
        for row in self.rows(*wanted):
            yield partial(_decoded, self.spec.name, self._splits["train"][row])

    def _image(self, pixels: np.ndarray) -> Tensor:
        """Pixels travel to the device as bytes."""
        return torch.from_numpy(pixels).to(self.device).float() / 255


def load(spec: Data, root: Path, device: torch.device | str = "cpu") -> Scenes:
    """The data set that `spec` describes, from `root`; images are decoded by as many threads as PyTorch computes with.

    Raises `InputError` if the data are missing, malformed, or not as `spec` describes them, or if it asks for what
    detectors do not have: held-out images, padding, scales, colour augmentation or shuffled labels.
    """
    required: dict[str, object] = {
        "channels": 3,
        "held_out": 0,
        "padding": 0,
        "scales": (0, 0),
        "colour": "none",
        "labels": "true",
    }
    for what, value in required.items():
        if getattr(spec, what) != value:
            raise InputError(f"{what} {getattr(spec, what)!r} does not go with scenes of {spec.name}; choose {value!r}")
    annotated = load_annotations(spec.name, root)
    facts: dict[str, object] = {"classes": len(annotated.classes)}
    if spec.digest:
        facts["digest"] = annotated.digest
    check_described(spec, root, facts)
    return Scenes(spec, annotated, device)


def describe(name: str, root: Path, like: Data) -> Data:
    """The specification of a data set of scenes by name, an own or a known one, seen as `like` sees its own."""
    annotated = load_annotations(name, root)
    digest = annotated.digest if is_own(name) else ""
    return replace(like, name=name, classes=len(annotated.classes), digest=digest)


def flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """The mirror image of [C, H, W], left and right exchanged, with its boxes."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    return image.flip(2), {**target, "boxes": torch.stack((width - x2, y1, width - x1, y2), 1)}


def _trained(example: Example) -> Target:
    """The objects that are trained on."""
    boxes = example.boxes.clip(0, np.array([example.width, example.height] * 2, np.float32))
    kept = ~(example.difficult | example.crowd) & (boxes[:, :2] < boxes[:, 2:]).all(1)
    return {"boxes": torch.from_numpy(boxes[kept]), "labels": torch.from_numpy(example.labels[kept])}


def _decoded(name: str, example: Example) -> np.ndarray:
    """uint8 [3, H, W]."""
    # A file that is gone, or a disk, is no damaged image: it raises.
    contents = example.path.read_bytes()
    try:
        if is_own(name):
            with opened(io.BytesIO(contents)) as image:
                pixels = np.asarray(eight_bits(fitting(image, example.width, example.height)).convert("RGB"))
        else:
            with opened(io.BytesIO(contents), ("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {example.path} ({error}); get it again") from error
    if pixels.shape[:2] != (example.height, example.width):
        sizes = f"{pixels.shape[1]}x{pixels.shape[0]} pixels, and {example.width}x{example.height} in its annotation"
        raise refusal(name, f"has a damaged image: {example.path} has {sizes}; get it again")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
