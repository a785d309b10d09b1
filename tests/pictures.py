"""Small data sets of photographs: folders and shards of pictures that are made here."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from study.data import arrays
from study.data.photographs import Photographs
from study.spec import Data, InputError


def jpeg(seed: int, size: tuple[int, int] = (60, 45), mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """A smooth picture of its own."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stored, kind, quality=90)
    return stored.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def zoo(root: Path, train: int = 8, test: int = 3) -> Data:
    """images:zoo, of two classes and images of several shapes."""
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            for at, label in enumerate(("cat", "dog")):
                size = (40 + 5 * number, 60 - 3 * number)
                write(root / "zoo" / split / label / f"{number}.jpg", jpeg(1000 * at + 100 * len(split) + number, size))
    return arrays.describe("images:zoo", root, size=16)


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def shards(root: Path, count: int, images: int) -> Data:
    """shards:many: `count` training shards of `images` each, and one for validation."""
    for split, number in [("train", n) for n in range(count)] + [("val", 0)]:
        members = {}
        for i in range(images):
            key = f"{number * images + i:05d}"
            members |= {f"{key}.cls": str(i % 2).encode(), f"{key}.jpg": jpeg(number * images + i, (20, 20))}
        write(root / "many" / f"{split}-{number:06d}.tar", tar(members))
    return arrays.describe("shards:many", root, size=16)


def load(spec: Data, root: Path, **more: int) -> Photographs:
    found = arrays.load(spec, root, **more)  # type: ignore[arg-type]
    assert isinstance(found, Photographs)
    return found


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def refused(spec: Data | str, root: Path, *parts: str) -> None:
    """Refused in one line that has all of `parts`."""
    with pytest.raises(InputError) as error:
        arrays.describe(spec, root) if isinstance(spec, str) else arrays.load(spec, root)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
