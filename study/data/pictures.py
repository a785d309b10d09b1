"""Photographs that installed packages ship, and the small data set of 200 crops of them that is made once.

Every draw is from a named stream, so that the files are the same on every machine with the same Pillow.
"""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from study.data.cache import made
from study.data.sources import refusal
from study.seeds import generator

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = {  # class of 'photographs': package that ships the picture, and where
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "minduka": ("matplotlib", "mpl-data/sample_data/Minduka_Present_Blue_Pack.png"),
}
MADE = {"train": 40, "val": 10}  # images of each class of 'photographs'


def photographs(name: str, root: Path) -> Path:
    """root/photographs, made if it is not there: seeded crops, 80 to 240 pixels wide and high, of four pictures."""

    def write(folder: Path) -> None:
        for label in PICTURES:
            _crops(name, label, folder)

    return made(name, root, "photographs", write)


def _crops(name: str, label: str, folder: Path) -> None:
    whole, draw = picture(name, label), generator("photographs", label)
    for split, count in MADE.items():
        (folder / split / label).mkdir(parents=True)
        for number in range(count):
            width, height = torch.randint(80, 241, (2,), generator=draw).tolist()
            x, y = torch.rand(2, generator=draw).tolist()
            x, y = int(x * (whole.width - width)), int(y * (whole.height - height))
            stored = io.BytesIO()
            whole.crop((x, y, x + width, y + height)).save(stored, "JPEG", quality=90)
            (folder / split / label / f"{number:03d}.jpg").write_bytes(stored.getvalue())


def picture(name: str, label: str) -> "Image":
    """The picture, in RGB, that the images of a class of 'photographs' are cropped from."""
    from PIL import Image

    package, file = PICTURES[label]
    spec = find_spec(package)  # its files alone: importing the package would take a second
    path = Path(spec.origin).parent / file if spec and spec.origin else Path(file)
    if not path.is_file():
        raise refusal(name, f"is made of a picture that {package} ships, {path}, which is missing; install {package}")
    with Image.open(path) as opened:
        whole = opened.convert("RGB")
    return whole if min(whole.size) >= 256 else whole.resize((384, 384))
