"""Claims about decoding photographs, against torchvision's transforms."""

import io

import numpy as np
import pytest
from pictures import jpeg
from PIL import Image
from torchvision.transforms import functional as reference

from study.data import decoding


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (33, 33), (16, 90)])
def test_a_crop_is_what_resizing_the_whole_image_and_cropping_gives(size: tuple[int, int]) -> None:
    """But for a level of 255 where a value lies between two: Pillow takes the box in single precision."""
    contents = jpeg(3, size)
    for side in (16, 20, 31, 60):
        resized = reference.resize(Image.open(io.BytesIO(contents)), side)
        centre = np.asarray(reference.center_crop(resized, [16, 16]))
        crops = [(decoding.cropped(contents, side, 16), centre)]
        for corner in ((0.0, 0.0), (0.3, 0.99), (0.999, 0.5)):
            y, x = int(corner[0] * (resized.height - 15)), int(corner[1] * (resized.width - 15))
            expected = np.asarray(resized)[y : y + 16, x : x + 16]
            crops.append((decoding.cropped(contents, side, 16, corner), expected))
        for ours, theirs in crops:
            assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours == theirs).mean() > 0.8


def test_a_large_jpeg_is_decoded_smaller_and_hardly_differs() -> None:
    contents = jpeg(3, (640, 480))
    expected = np.asarray(reference.resize(Image.open(io.BytesIO(contents)), 60), int)
    assert np.abs(decoding.whole(contents, 60) - expected).max() <= 3


def test_every_mode_and_size_of_image_becomes_rgb() -> None:
    grey = decoding.whole(jpeg(1, mode="L"), 20)
    assert grey.shape == (20, 26, 3) and np.array_equal(grey[..., 0], grey[..., 2])
    colour = decoding.whole(jpeg(1), 20).astype(int)
    for other in (jpeg(1, mode="CMYK"), jpeg(1, mode="P", kind="PNG"), jpeg(1, mode="RGBA", kind="PNG")):
        assert np.abs(decoding.whole(other, 20) - colour).mean() < 20
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200 * 256 + 99, np.uint16)).save(deep, "PNG")
    assert (decoding.whole(deep.getvalue(), 20) == 200).all()
    dot = jpeg(1, (1, 1))
    assert decoding.cropped(dot, 18, 16, (0.5, 0.5)).shape == (16, 16, 3)
    assert decoding.cropped(jpeg(1, (300, 1)), 18, 16).shape == (16, 16, 3)
