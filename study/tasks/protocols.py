"""How trained nets are tested (Sec. 3.4, Tables 2-5): centre crop, 10-crop, multi-scale, and ensembles of them.

Owns the views of an image, what is averaged over them, and top-1 and top-5 error. Knows neither trials nor where
images come from. Numbers of different protocols are not comparable: on ImageNet they differ by points.

What is averaged, over views, sides and nets alike, are softmax probabilities. The paper says 'scores', and does not
tell whether before or after the softmax (ambiguity averaged_scores). Within one view, that of a fully convolutional net
on a larger image, it is the scores before it, of every place: the net itself averages them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from study.data.arrays import AnyDataset, Dataset
from study.data.photographs import EVALUATION_SIDE, for_size
from study.nets.evaluation import autocast, recalibrated
from study.spec import Data, InputError, Recipe, check_choice
from study.tasks.names import CENTRE, CLASSIFIER_PROTOCOLS, MULTI_SCALE, TEST_SPLIT, TOP1, TOP5, VALIDATION

EVALUATION_BATCH = 500  # images of one size that a net sees at once when it is evaluated
SIDES = (224, 256, 384, 480, 640)  # Sec. 3.4, of nets trained on crops of 224
BLOCK = 256  # images whose probabilities are held at a time; at a shorter side of 640 they take 0.4 GB
BATCH_PIXELS = 2**21  # of views that a net sees at once: 41 of 224x224

Forward = Callable[[Tensor], Tensor]  # a net in evaluation mode: [N, C, H, W] -> scores [N, classes], before softmax
Tested = Iterator[tuple[Tensor, Tensor]]  # probabilities float64 [nets, N, classes] and labels [N], on the CPU


class Photographs(Protocol):
    """Images of any size, as testing needs them."""

    spec: Data

    def clean(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `size` centre crops as nets take them, with labels, in a fixed order."""

    def resized(self, split: str, side: int) -> Iterator[tuple[Tensor, int]]:
        """Images uint8 [3, H, W] whose shorter side is `side`, with labels, in a fixed order."""

    def normalised(self, images: Tensor) -> Tensor:
        """Uint8 [N, 3, H, W] as nets take them, float32; the mean image resized to H x W."""


def split_of(data: Data) -> str:
    """What the images that nets are tested on are called: ImageNet's are its validation set."""
    return VALIDATION if data.photographs else TEST_SPLIT


def check_protocol(protocol: str, data: Data) -> None:
    """Raise `InputError` for an unknown protocol, and for any but the single view of images that have one size."""
    check_choice("protocol", protocol, CLASSIFIER_PROTOCOLS)
    if protocol != CENTRE and not data.photographs:
        raise InputError(
            f"protocol {protocol!r} is for photographs, and {data.name} has images of one size; choose {CENTRE!r},"
            " their single view"
        )


def sides(protocol: str, size: int) -> tuple[int, ...]:
    """Shorter sides, in pixels, at which nets trained on crops of `size` are tested: in the paper's ratio to 224.

    The paper has no smaller nets; by the ratio, one sees as much more of an image as the paper's does.
    """
    return tuple(for_size(side, size) for side in (SIDES if protocol == MULTI_SCALE else (EVALUATION_SIDE,)))


def views(image: Tensor, protocol: str, size: int) -> Tensor:
    """What nets see of a whole image [C, H, W]: [views, C, height, width].

    10-crop: corners and centre, then their mirror images (AlexNet's). Multi-scale: the image. Whether the paper adds
    the image's mirror, as VGG does, it does not say; it is not added (ambiguity multi_scale_mirror).
    """
    if protocol == MULTI_SCALE:
        return image[None]
    right, bottom = image.shape[2] - size, image.shape[1] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [image[:, y : y + size, x : x + size] for y, x in (*corners, (round(bottom / 2), round(right / 2)))]
    crops += [crop.flip(2) for crop in crops]
    return torch.stack(crops)


@contextmanager
def as_evaluated(net: nn.Module, recipe: Recipe, data: AnyDataset) -> Iterator[Forward]:
    """The net with the precision and the BatchNorm statistics that its recipe evaluates with."""

    def forward(images: Tensor) -> Tensor:
        with autocast(images.device, recipe.precision):
            scores: Tensor = net(images).float()
            return scores

    net.eval()
    sample = data.mixed(recipe.bn_batch, recipe.recalibrate)
    with recalibrated(net, sample, recipe.precision) if recipe.recalibrate else nullcontext():
        yield forward


@torch.no_grad()
def probabilities(nets: Sequence[Forward], data: Dataset | Photographs, protocol: str, device: torch.device) -> Tested:
    """What each net makes of the test images, some at a time, in a fixed order: float64, mean over sides and views.

    The single view is that by which training evaluates, in the same batches: its error is the recorded one. Raises
    `InputError`; see `check_protocol`.
    """
    check_protocol(protocol, data.spec)
    if isinstance(data, Dataset) or protocol == CENTRE:
        for images, labels in data.clean("test", EVALUATION_BATCH):
            yield _softmax(nets, images), labels.cpu()
        return
    streams = [data.resized("test", side) for side in sides(protocol, data.spec.size)]
    while True:
        blocks = [_block(nets, islice(stream, BLOCK), data, protocol, device) for stream in streams]
        labels = blocks[0][1]
        if not len(labels):
            return
        assert all(torch.equal(labels, others) for _, others in blocks), "the order of images differs between sides"
        yield torch.stack([means for means, _ in blocks]).mean(0), labels


def _block(
    nets: Sequence[Forward],
    images: Iterable[tuple[Tensor, int]],
    data: Photographs,
    protocol: str,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Probabilities [nets, N, classes] and labels [N] of these images at one side; equal shapes go in one batch."""
    labels: list[int] = []
    means: dict[int, Tensor] = {}  # by image, [nets, classes]
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = {}

    def predict(images: list[tuple[int, Tensor]]) -> None:
        batch = torch.stack([seen for _, seen in images]).to(device)  # [images, views, C, H, W]
        by_view = _softmax(nets, data.normalised(batch.flatten(0, 1))).unflatten(1, batch.shape[:2])
        means.update(zip((index for index, _ in images), by_view.mean(2).unbind(1), strict=True))

    for index, (image, label) in enumerate(images):
        labels.append(label)
        seen = views(image, protocol, data.spec.size)
        alike = waiting.setdefault(seen.shape, [])
        alike.append((index, seen))
        pixels = len(seen) * seen.shape[-2] * seen.shape[-1]
        if (len(alike) + 1) * pixels > BATCH_PIXELS:
            predict(waiting.pop(seen.shape))
    for rest in waiting.values():
        predict(rest)
    rows = [means[index] for index in range(len(labels))]
    return torch.stack(rows, dim=1) if rows else torch.empty(len(nets), 0, data.spec.classes), torch.tensor(labels)


def _softmax(nets: Sequence[Forward], images: Tensor) -> Tensor:
    """[nets, N, classes], in float64: in float32 close scores become equal, and another class may come first.

    Of a net that overflows, what is no number is greatest, as for `argmax`, by which errors are counted in training.
    """
    scores = torch.stack([net(images) for net in nets]).double()
    return scores.nan_to_num(nan=torch.finfo(torch.float64).max).softmax(-1).cpu()


def errors_pct(tested: Tested) -> tuple[list[dict[str, float]], int]:
    """Errors of each net and, last, of their ensemble, by measure; and over how many images.

    An ensemble is the mean of its nets' probabilities.
    """
    wrong, images, classes = torch.zeros((), dtype=torch.int64), 0, 0
    for predicted, labels in tested:
        everyone = torch.cat([predicted, predicted.mean(0, keepdim=True)])
        order = everyone.argsort(dim=-1, descending=True, stable=True)  # of equals the first, as argmax
        hits = order[..., :5] == labels[:, None]
        missed = torch.stack([~hits[..., 0], ~hits.any(-1)]).sum(-1)  # [measures, nets + 1]
        wrong, images, classes = wrong + missed, images + len(labels), predicted.shape[-1]
    assert images, "there are no images to test on"
    by_net = zip(*(100 * wrong.double() / images).tolist(), strict=True)
    return [dict(zip(measures(classes), errors, strict=False)) for errors in by_net], images


def measures(classes: int) -> tuple[str, ...]:
    """What is measured where there are so many classes: the top 5 of 5 would be all."""
    return (TOP1, TOP5) if classes > 5 else (TOP1,)
