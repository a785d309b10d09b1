"""How many images the named data sets have. Standard library only: plans and frames ask.

What somebody's own folder has, and how it is read, is `study/data/summary.py`.
"""

from dataclasses import dataclass

# By name: training and test images.
IMAGES = {
    "digits": (1437, 360),
    "fashion-mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "imagenet": (1_281_167, 50_000),
}


@dataclass(frozen=True)
class Summary:
    """Numbers of a data set, and what of its files is passed over or read in a way of its own."""

    name: str
    train: int  # images, of which some may be held out
    test: int
    classes: int
    labels: tuple[str, ...] = ()  # names of the classes in the order of their numbers, where files tell them
    notes: tuple[str, ...] = ()
