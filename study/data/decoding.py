"""Decoding photographs: JPEG or PNG bytes become RGB pixels of the size that is wanted.

Owns resizing and cropping (Sec. 3.4), and which files are opened as images at all. Draws nothing, and does not know
batches. What cannot be decoded raises whatever Pillow raises, which may be nearly any exception.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOGRAPHS = ("JPEG", "PNG")
FORMATS = (*PHOTOGRAPHS, "BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow has more: for EPS it starts another program
MOST_PIXELS = 2**26  # of an image: a file of kilobytes may claim any number, which are gigabytes once decoded


def opened(source: Path | io.BytesIO, formats: tuple[str, ...] = FORMATS) -> "Image":
    """An image, of which no pixel is decoded yet; whatever its file is called, it has one of these formats.

    Raises `ValueError` for more than `MOST_PIXELS`, and what Pillow raises.
    """
    from PIL import Image

    image: Image.Image = Image.open(source, formats=formats)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are decoded")
    return image


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


def _opened(contents: bytes, side: int) -> tuple["Image", tuple[int, int]]:
    """The image in RGB, and the size to resize it to, the longer side rounded down, as torchvision's Resize has it.

    A JPEG of four times that size and more is decoded at a half, quarter or eighth, still twice too large or more:
    resizing from there differs from resizing from all pixels by a level or so of 255, and takes a fraction of the time.
    """
    from PIL import Image

    image = opened(io.BytesIO(contents), PHOTOGRAPHS)
    shorter, longer = min(image.size), int(side * max(image.size) / min(image.size))
    size = (side, longer) if image.width == shorter else (longer, side)
    image.draft(None, (2 * size[0], 2 * size[1]))
    if image.mode.startswith("I"):  # 16 bits, of which RGB would take the lower eight
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB"), size


def _pixels(image: "Image", size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize(size, Resampling.BILINEAR, box=box))
