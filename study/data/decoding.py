"""Decoding images: bytes become grey or RGB pixels; of photographs, of the size that is wanted.

Owns resizing and cropping (Sec. 3.4), and which files are opened as images at all. Draws nothing, and does not know
batches. What cannot be decoded raises whatever Pillow raises, which may be nearly any exception.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # EXIF's tag: how a camera was held
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")  # modes of Pillow
# What a file is, its first bytes tell, not its name. Pillow has more formats: for EPS it starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 2**26  # of an image: a file of kilobytes may claim any number, which are gigabytes once decoded


def opened(source: Path | BinaryIO, formats: tuple[str, ...] = FORMATS) -> "Image":
    """An image, of which no pixel is decoded yet, the first of several; whatever its file is called, it has one of
    these formats.

    Raises `ValueError` for more than `MOST_PIXELS`, and what Pillow raises.
    """
    from PIL import Image

    image: Image.Image = Image.open(source, formats=formats)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are decoded")
    return image


def orientation(image: "Image") -> int:
    """EXIF's, 1 to 8; 1 is upright. An entry that cannot be read is none."""
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all of it to look behind the pixels
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of damaged entries, which viewers pass over
        return 1
    return found if found in range(2, 9) else 1


def eight_bits(image: "Image") -> "Image":
    """The image in grey ('L') or RGB, 8 bits each: of 16 bits the upper ones, of transparency nothing.

    As Pillow's `convert` has it, and with it torchvision's ImageFolder, but for 16 bits, which that cuts at 255.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range nobody knows; save it with 8 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min(initial=0) < 0 or levels.max(initial=0) > 65535:
            raise ValueError("its pixels have more than 16 bits; save it with 8")
        return Image.fromarray((levels >> 8).astype(np.uint8))
    mode = "L" if image.mode in _GREY else "RGB"
    return image if image.mode == mode else image.convert(mode)


def upright(image: "Image") -> "Image":
    """The image turned as its EXIF entry says, as viewers show it."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if orientation(image) > 1 else image


def fitting(image: "Image", width: int, height: int) -> "Image":
    """The image turned as EXIF says, or as it is stored if only that has this size: as its annotation sees it."""
    turned = upright(image)
    return image if image.size == (width, height) != turned.size else turned


def whole(contents: bytes, side: int, turned: bool = False) -> np.ndarray:
    """uint8 [H, W, 3] of shorter side `side`; `turned`: as EXIF says."""
    image, (width, height) = _opened(contents, side, turned)
    return _pixels(image, (width, height), (0, 0, image.width, image.height))


def cropped(
    contents: bytes, side: int, size: int, corner: Sequence[float] | None = None, turned: bool = False
) -> np.ndarray:
    """uint8 [size, size, 3] of the image resized to shorter side `side`, at a corner (y, x in 0..1), or the centre.

    Only the crop is resized. It is what resizing all and then cropping gives, but for a level of 255 where a value lies
    between two: Pillow takes the box in single precision.
    """
    image, (width, height) = _opened(contents, side, turned)
    x, y = round((width - size) / 2), round((height - size) / 2)
    if corner is not None:
        y, x = int(corner[0] * (height - size + 1)), int(corner[1] * (width - size + 1))
    across, down = image.width / width, image.height / height
    right, bottom = min((x + size) * across, image.width), min((y + size) * down, image.height)
    return _pixels(image, (size, size), (x * across, y * down, right, bottom))


def _opened(contents: bytes, side: int, turned: bool) -> tuple["Image", tuple[int, int]]:
    """The image in RGB, and the size to resize it to, the longer side rounded down, as torchvision's Resize has it.

    A JPEG of four times that size and more is decoded at a half, quarter or eighth, still twice too large or more:
    resizing from there differs from resizing from all pixels by a level or so of 255, and takes a fraction of the time.
    """
    image = opened(io.BytesIO(contents))
    shorter, longer = min(image.size), int(side * max(image.size) / min(image.size))
    size = (side, longer) if image.width == shorter else (longer, side)
    image.draft(None, (2 * size[0], 2 * size[1]))
    if turned and orientation(image) > 1:
        size = size[::-1] if orientation(image) > 4 else size
        image = upright(image)
    image = eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB"), size


def _pixels(image: "Image", size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize(size, Resampling.BILINEAR, box=box))
