"""How somebody's images are read where that is not plain: turned, of one of several pictures, without transparency.

Owns the words for it, and the counts of a data set, from the first bytes of each file. Decodes nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from study.data.decoding import opened, orientation

TURNED = "turned as EXIF says"
ALPHA = "with an alpha channel, which is left out"
DEEP = "of 16 bits, of which the upper 8 are taken"
SEVERAL = "of several pictures, of which the first is taken"
OTHERWISE = "of another format than the name says"
UNREADABLE = "unreadable"
_FORMATS = {  # by ending, where that is not the format in lower case
    **dict.fromkeys((".jpg", ".jpe", ".jfif"), "JPEG"),
    ".tif": "TIFF",
    **dict.fromkeys((".pgm", ".pbm"), "PPM"),
}


def looks(paths: Iterable[Path]) -> dict[str, int]:
    """How many of the images are read otherwise than plainly, by how."""
    counts: Counter[str] = Counter()
    for path in paths:
        try:
            with path.open("rb") as file, opened(file) as image:
                suffix = path.suffix.lower()
                alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
                counts[TURNED] += orientation(image) > 1
                counts[ALPHA] += alpha
                counts[DEEP] += image.mode.startswith("I")
                counts[SEVERAL] += getattr(image, "n_frames", 1) > 1
                counts[OTHERWISE] += _FORMATS.get(suffix, suffix[1:].upper()) not in (image.format, "MPO")
        except Exception:  # of damaged files decoders raise nearly anything
            counts[UNREADABLE] += 1
    return {what: count for what, count in counts.items() if count}


def looks_to_bytes(counts: dict[str, int]) -> np.ndarray:
    """As a cache of arrays keeps them."""
    return np.frombuffer(json.dumps(counts).encode(), np.uint8)


def looks_of_bytes(kept: np.ndarray) -> dict[str, int]:
    """The inverse of `looks_to_bytes`."""
    counts: dict[str, int] = json.loads(bytes(kept))
    return counts
