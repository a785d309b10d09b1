"""A small data set of scenes, generated: real handwritten digits on crops of real photographs, as VOC and as COCO.

Owns what is in a scene and how both formats are written. Every draw is from a named stream, so that the files are the
same on every machine with the same Pillow.
"""

import colorsys
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from study.data.detection_sets import COCO, DIGITS, MADE, VOC07
from study.data.pictures import picture
from study.data.sources import digits
from study.seeds import generator

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 exclusive
_PLACES = 50  # tried for an object, until one is nearly free


class Kind(StrEnum):
    """Of an object."""

    PLAIN = "plain"
    TRUNCATED = "truncated"  # by the right edge of the image
    FAINT = "faint"  # difficult in VOC
    GROUP = "group"  # three samples of one digit: a crowd in COCO, which VOC can only call difficult


@dataclass(frozen=True)
class Thing:
    """An object of a scene."""

    digit: int
    box: Box  # tight around the ink
    area: int  # pixels of ink
    kind: Kind


def write(name: str, folder: Path) -> None:
    """Write the scenes into `folder` as VOC and as COCO; `name` is what an error calls the data set."""
    voc, coco = folder / VOC07, folder / COCO
    for place in (voc / "JPEGImages", voc / "Annotations", voc / "ImageSets/Main", coco / "annotations"):
        place.mkdir(parents=True)
    first = 1
    for split, voc_split, coco_split in (("train", "trainval", "train2014"), ("test", "test", "val2014")):
        (coco / coco_split).mkdir()
        images, annotations = [], []
        for number, (image, things) in enumerate(scenes(name, split), first):
            path, file = voc / f"JPEGImages/{number:06d}.jpg", f"COCO_{coco_split}_{number:012d}.jpg"
            image.save(path, "JPEG", quality=90)
            shutil.copyfile(path, coco / coco_split / file)
            (voc / f"Annotations/{number:06d}.xml").write_text(_as_voc(path.name, image, things))
            images.append({"id": number, "file_name": file, "width": image.width, "height": image.height})
            annotations += [_as_coco(number, 100 * number + at, thing) for at, thing in enumerate(things)]
        (voc / f"ImageSets/Main/{voc_split}.txt").write_text("".join(f"{image['id']:06d}\n" for image in images))
        categories = [{"id": _category(digit), "name": label} for digit, label in DIGITS.items()]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (coco / f"annotations/instances_{coco_split}.json").write_text(json.dumps(whole))
        first += len(images)


def _as_voc(file: str, image: Image.Image, things: list[Thing]) -> str:
    lines = [f"<annotation>\n<folder>VOC2007</folder>\n<filename>{file}</filename>"]
    lines += [f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>"]
    for thing in things:
        x1, y1, x2, y2 = thing.box
        truncated, difficult = int(thing.kind is Kind.TRUNCATED), int(thing.kind in (Kind.FAINT, Kind.GROUP))
        lines += [
            f"<object><name>{DIGITS[thing.digit]}</name><pose>Unspecified</pose>",
            f"<truncated>{truncated}</truncated><difficult>{difficult}</difficult>",
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])


def _as_coco(image_id: int, annotation_id: int, thing: Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": _category(thing.digit),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": thing.area,
        "iscrowd": int(thing.kind is Kind.GROUP),
    }


def _category(digit: int) -> int:
    """Not contiguous, as COCO's."""
    return 3 * digit + 1


# ---------------------------------------------------------------- what is in a scene


def scenes(name: str, split: str) -> Iterator[tuple[Image.Image, list[Thing]]]:
    """Crops of about 160x128 pixels, one in four upright, with one to three digits; no sample of a digit that tests
    trains. The tenth scene has none; of every 20, one has a truncated digit, one a faint one and one a group.
    """
    draw = _Draw(name, split)
    for number in range(MADE[split]):
        image, things = draw.background(upright=number % 4 == 3), list[Thing]()
        for kind in draw.kinds(number):
            digit = list(DIGITS)[draw.below(len(DIGITS))]
            mask = draw.mask(digit, kind)
            box = draw.free_box(image, mask, kind, things)
            if box is not None:
                draw.paste(image, mask, box, kind)
                things.append(Thing(digit, box, int((mask > 0).sum()), kind))
        yield image, things


class _Draw:
    """The draws of a split, all from one stream: their order is part of the data set."""

    def __init__(self, name: str, split: str) -> None:
        self._generator = generator("pasted", split)
        train_images, train_labels, test_images, test_labels = digits()
        if split == "train":
            self._images, self._labels = train_images, train_labels
        else:
            self._images, self._labels = test_images, test_labels
        self._photographs = [picture(name, label) for label in ("china", "flower")]

    def below(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self._generator))

    def background(self, upright: bool) -> Image.Image:
        width, height = 144 + self.below(33), 112 + self.below(33)
        if upright:
            width, height = height, width
        photograph = self._photographs[self.below(2)]
        x, y = self.below(photograph.width - width + 1), self.below(photograph.height - height + 1)
        return photograph.crop((x, y, x + width, y + height))

    def kinds(self, number: int) -> list[Kind]:
        """Of the objects of the scene of that number."""
        if number == 9:
            return []
        kinds = [Kind.PLAIN] * (1 + self.below(3))
        special = {3: Kind.TRUNCATED, 8: Kind.FAINT, 13: Kind.GROUP}.get(number % 20)
        return kinds if special is None else [*kinds[:2], special]

    def mask(self, digit: int, kind: Kind) -> np.ndarray:
        """How much each pixel is covered by ink, int64 [H, W] in 0..255, cut tight around it."""
        if kind is Kind.GROUP:
            side = 24 + self.below(5)
            return _tight(np.hstack([self._ink(digit, side) for _ in range(3)]))
        side = 24 + self.below(41)
        mask = _tight(self._ink(digit, side))
        if kind is Kind.TRUNCATED:
            mask = _tight(mask[:, : 2 * mask.shape[1] // 3])
        return mask

    def free_box(self, image: Image.Image, mask: np.ndarray, kind: Kind, things: list[Thing]) -> Box | None:
        """A place for the object that no other covers by more than a tenth, or None if none was found."""
        rows, columns = mask.shape
        for _ in range(_PLACES):
            x, y = self.below(image.width - columns + 1), self.below(image.height - rows + 1)
            if kind is Kind.TRUNCATED:
                x = image.width - columns
            box = (x, y, x + columns, y + rows)
            if all(_overlap(box, thing.box) <= 0.1 for thing in things):
                return box
        return None

    def paste(self, image: Image.Image, mask: np.ndarray, box: Box, kind: Kind) -> None:
        """Paint the object into the image, in a colour of its own."""
        red, green, blue = colorsys.hsv_to_rgb(self.below(360) / 360, 1, 1)
        colour = round(255 * red), round(255 * green), round(255 * blue)
        alpha = mask * (0.4 if kind is Kind.FAINT else 1)
        image.paste(colour, box, Image.fromarray(alpha.astype(np.uint8)))

    def _ink(self, digit: int, side: int) -> np.ndarray:
        samples = self._images[self._labels == digit]
        return _enlarged(samples[self.below(len(samples)), 0], side)


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """How much each pixel is covered by ink, 0..255: of an 8x8 image enlarged to `side`, its edges sharpened."""
    large = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int64)
    return (2 * large - 120).clip(0, 255)


def _tight(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(a: Box, b: Box) -> float:
    """Share of the smaller box that is in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / area
