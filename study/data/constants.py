"""Constants by which others normalise images: by name, or as numbers.

Owns what a name means, and whose it is; `normalisations.yaml` has the values. What is measured on a data set is
`study/data/batches.py`.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from study.spec import InputError

TABLE = Path(__file__).with_name("normalisations.yaml")
MEASURED = {  # `Data.normalise` of these names: of this data set's own training images
    "pixel-mean": "the mean image of this data set's training images is subtracted (He et al.), of pixels in 0..1",
    "pixel-mean-128": "the mean image of this data set's training images is subtracted; divided by 128/255",
    "scalar": "mean and deviation of all pixels of this data set's training images",
    "channel": "mean and deviation by channel of this data set's training images",
}


@dataclass(frozen=True)
class Constants:
    """(pixel - mean) / std of pixels in 0..1, red first; `mean` and `std` have a value a channel, or one for all."""

    name: str
    whose: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blue_first: bool = False  # whether nets take their colours in that order

    def as_loaded(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale, both [C, 1, 1], as data sets have them: (pixel - mean) * scale of pixels in 0..255.

        Raises `InputError` for images of another number of channels.
        """
        for values in (self.mean, self.std):
            if len(values) not in (1, channels):
                raise InputError(
                    f"normalise {self.name!r} has {len(values)} channels, and the images have {channels}; choose one of"
                    f" {', '.join(MEASURED)}, none, or MEAN/STD with one number or {channels}"
                )
        mean, std = (np.broadcast_to(np.array(values), channels) for values in (self.mean, self.std))
        return (255 * mean).reshape(-1, 1, 1), (1 / (255 * std)).reshape(-1, 1, 1)


@cache
def _known() -> dict[str, Constants]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text())
    return {name: _constants(name, **values) for name, values in table.items()}


def _constants(
    name: str, whose: str, mean: list[float], std: list[float], pixels: float = 1, order: str = "RGB"
) -> Constants:
    mean_std = [tuple(value / pixels for value in channels) for channels in (mean, std)]
    return Constants(name, whose, mean=mean_std[0], std=mean_std[1], blue_first=order == "BGR")


def names() -> list[str]:
    """All that `normalise` may be called, but for numbers."""
    return [*_known(), *MEASURED]


def constants(text: str) -> Constants | None:
    """The constants of a name or of numbers, MEAN/STD or MEAN/STD/255; None if they are measured on the data set.

    Numbers are of pixels in 0..1, or with /255 in 0..255; one, or red, green and blue with commas between them. Raises
    `InputError` for what is neither.
    """
    if text in MEASURED:
        return None
    if text in _known():
        return _known()[text]
    numbers = r"[-+.\deE]+(?:,[-+.\deE]+)*"
    match = re.fullmatch(rf"({numbers})/({numbers})(/255)?", "".join(text.split()))
    try:
        mean, std = ([float(value) for value in match[part].split(",")] for part in (1, 2)) if match else ([], [])
    except ValueError:
        mean, std = [], []
    if not mean or len(mean) not in (1, 3) or len(std) not in (1, 3):
        raise InputError(
            f"normalise {text!r} is unknown; choose one of {', '.join(names())}, or numbers as"
            " 0.4914,0.4822,0.4465/0.2023,0.1994,0.2010 (MEAN/STD; of pixels in 0..255 MEAN/STD/255)"
        )
    pixels = 255 if match and match[3] else 1
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise InputError(f"normalise {text!r} has a deviation that is not above 0, or a number that is not finite")
    if pixels == 1 and max(map(abs, mean)) > 1:
        raise InputError(
            f"normalise {text!r} has a mean above 1, and is of pixels in 0..1; of pixels in 0..255 write {text}/255"
        )
    return _constants(text, "numbers as given", mean, std, pixels)
