"""The classes of ImageNet (ILSVRC 2012) by WNID, in the order in which nets have their outputs.

For folders that hold some of them: Imagenette, Imagewoof, a hundred classes of one's own.
"""

from collections.abc import Sequence
from pathlib import Path

# A WNID a line, ascending, as timm's imagenet_synsets.txt and the official folders of training images, sorted.
WNIDS = tuple(Path(__file__).with_name("wnids.txt").read_text(encoding="ascii").split())


def outputs_of(classes: Sequence[str]) -> list[int]:
    """Which outputs of a net of ImageNet's 1,000 classes these are; none unless all of them are its WNIDs."""
    number = {wnid: at for at, wnid in enumerate(WNIDS)}
    return [number[one] for one in classes] if set(classes) <= set(number) else []
