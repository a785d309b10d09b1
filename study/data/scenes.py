"""Batches of scenes: whole images and the boxes of their objects, as pure functions of (seed, iteration).

Owns which objects are trained on, the order of training and flips. Knows no nets and no metrics; where images and boxes
come from is `study.data.annotations`. Threads decode a few images ahead, and no draw depends on which comes first.
"""

import io
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from study.data.annotations import Annotated, Example
from study.data.annotations import load as load_annotations
from study.data.sources import refusal
from study.seeds import generator
from study.spec import Data, InputError, check_at_least, check_choice

Target = dict[str, Tensor]  # 'boxes' float32 [n, 4], 'labels' int64 [n]: what torchvision.models.detection takes
AHEAD = 2  # batches that are decoded before they are asked for
_TESTED_AHEAD = 16  # test images that are decoded before they are asked for


class Scenes:
    """A data set of scenes on one device; `load` makes it.

    Difficult objects and crowds are not trained on, nor boxes of which nothing lies in the image; the others are
    clipped to it. A training image without an object left is dropped, as the authors' code does. Examples, on which
    detections are scored, keep all their boxes as they are annotated.
    """

    def __init__(self, spec: Data, found: Annotated, device: torch.device | str) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.digest, self.classes, self.test_split = found.digest, found.classes, found.test_split
        self.labelled = found.labelled  # whether test examples have boxes
        self.damaged: dict[str, str] = {}  # none: an image that cannot be decoded is refused, see `study.data.arrays`
        targets = [(example, _trained(example)) for example in found.train]
        self._targets = [target for _, target in targets if len(target["labels"])]
        train = tuple(example for example, target in targets if len(target["labels"]))
        self._splits = {"train": train, "test": found.test}
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "decoding")
        # Without this, a process would decode what is still queued before it ends.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._ahead: dict[tuple[int, int, int], list[Future[np.ndarray]]] = {}
        self._order: tuple[tuple[int, int], list[int]] | None = None

    def count(self, split: str) -> int:
        """Number of images of 'train', of those that are trained on, or of 'test'."""
        return len(self.examples(split))

    def examples(self, split: str) -> tuple[Example, ...]:
        """Images of 'train', those that are trained on, or of 'test', in order, with all their objects."""
        check_choice("split", split, self._splits)
        return self._splits[split]

    def batch(self, seed: int, iteration: int, size: int) -> list[tuple[Tensor, Target]]:
        """Training images float32 [3, H, W] in 0..1, of their own sizes, and their objects: a pure function.

        An epoch is count('train') // size iterations; the images left over are dropped. Half of the images are flipped,
        if `spec.flip`. The batches after it are decoded in the background. Raises `InputError` if `size` is not in
        1..count('train'), or an image is damaged.
        """
        check_at_least("batch", size, 1)
        if size > self.count("train"):
            raise InputError(
                f"batch {size} is larger than the {self.count('train')} training images of {self.spec.name};"
                f" choose at most {self.count('train')}"
            )
        wanted = [(seed, i, size) for i in range(iteration, iteration + AHEAD + 1)]
        chosen = self._chosen(*wanted[0])
        for key in self._ahead.keys() - {*wanted}:
            for future in self._ahead.pop(key):
                future.cancel()
        for key in wanted:
            if key not in self._ahead:
                rows = self._chosen(*key)
                self._ahead[key] = [self._pool.submit(_decoded, self.spec.name, self._splits["train"][i]) for i in rows]
        flips = torch.randint(2, (size,), generator=generator(seed, "augment", iteration)).bool() & self.spec.flip
        batch = []
        for i, future, flip in zip(chosen, self._ahead.pop(wanted[0]), flips.tolist(), strict=True):
            image = self._image(future.result())
            target = {what: of_image.to(self.device) for what, of_image in self._targets[i].items()}
            batch.append(flipped(image, target) if flip else (image, target))
        return batch

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Example]]:
        """Test images float32 [3, H, W] in 0..1, of their own sizes, in order: the first `limit`, or all."""
        pending = deque[tuple[Future[np.ndarray], Example]]()
        try:
            for example in self._splits["test"][:limit]:
                pending.append((self._pool.submit(_decoded, self.spec.name, example), example))
                if len(pending) > _TESTED_AHEAD:
                    yield self._tested(*pending.popleft())
            while pending:
                yield self._tested(*pending.popleft())
        finally:
            for future, _ in pending:
                future.cancel()

    def _tested(self, future: Future[np.ndarray], example: Example) -> tuple[Tensor, Example]:
        return self._image(future.result()), example

    def _image(self, pixels: np.ndarray) -> Tensor:
        """Pixels travel to the device as bytes."""
        return torch.from_numpy(pixels).to(self.device).float() / 255

    def _chosen(self, seed: int, iteration: int, size: int) -> list[int]:
        """Rows of a batch."""
        epoch, step = divmod(iteration, self.count("train") // size)
        if self._order is None or self._order[0] != (seed, epoch):
            order = torch.randperm(self.count("train"), generator=generator(seed, "order", epoch))
            self._order = (seed, epoch), order.tolist()
        return self._order[1][step * size : (step + 1) * size]


def load(spec: Data, root: Path, device: torch.device | str = "cpu") -> Scenes:
    """The data set that `spec` says, from `root`; images are decoded by as many threads as PyTorch computes with.

    Raises `InputError` if the data are missing, malformed, or other than `spec` says, or if it says what detectors have
    not: held-out images, padding or shuffled labels.
    """
    of_detectors = {"channels": 3, "held_out": 0, "padding": 0, "scales": (0, 0), "colour": "none"}
    for what, value in {**of_detectors, "labels": "true"}.items():
        if getattr(spec, what) != value:
            raise InputError(f"{what} {getattr(spec, what)!r} does not go with scenes of {spec.name}; choose {value!r}")
    found = load_annotations(spec.name, root)
    for what, value in {"classes": len(found.classes), "digest": spec.digest and found.digest}.items():
        if getattr(spec, what) != value:
            there = getattr(spec, what)
            raise refusal(spec.name, f"in {root} has {what} {value}, not {there}; describe it anew")
    return Scenes(spec, found, device)


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
    contents = example.path.read_bytes()  # a file that is gone, or a disk, is no damaged image: it raises
    try:
        with Image.open(io.BytesIO(contents), formats=("JPEG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders of damaged files raise nearly anything
        if isinstance(error, MemoryError):
            raise
        raise refusal(name, f"has a damaged image: {example.path} ({error}); get it again") from error
    if pixels.shape[:2] != (example.height, example.width):
        sizes = f"{pixels.shape[1]}x{pixels.shape[0]} pixels, and {example.width}x{example.height} in its annotation"
        raise refusal(name, f"has a damaged image: {example.path} has {sizes}; get it again")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
