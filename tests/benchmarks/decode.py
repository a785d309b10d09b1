"""Decoding and augmenting photographs on one core, beside torchvision's reference pipeline on the same files.

JPEGs of ImageNet's commonest size, 500x375 at quality 90, cropped from the pictures that installed packages ship. Both
decode with Pillow, resize to the same shorter sides (256 to 480), crop to 224, flip and normalise; a batch ends as one
float32 tensor. Ours once with the colour shift of Sec. 3.4, which the reference lacks.
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import common
import torch
from PIL import Image
from torchvision import transforms

from study.data.arrays import AnyDataset, describe, load
from study.data.pictures import PICTURES, picture
from study.seeds import generator

ROUNDS, IMAGES, BATCH = int(os.environ.get("ROUNDS", "5")), 128, 32


def make(root: Path) -> list[Path]:
    """Folders of photographs as large as ImageNet's: images:bench below `root`."""
    draw = generator("benchmark", "decode")
    for split, count in (("train", IMAGES), ("val", 4)):
        for number in range(count):
            label = sorted(PICTURES)[number % len(PICTURES)]
            source = picture("benchmark", label)
            source = source.resize((640, round(640 * source.height / source.width)))
            x, y = (float(share) for share in torch.rand(2, generator=draw))
            x, y = int(x * (source.width - 500)), int(y * (source.height - 375))
            stored = io.BytesIO()
            source.crop((x, y, x + 500, y + 375)).save(stored, "JPEG", quality=90)
            path = root / "bench" / split / label / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stored.getvalue())
    return sorted((root / "bench" / "train").rglob("*.jpg"))


def reference(files: list[Path], sides: list[int]) -> torch.Tensor:
    """One batch, as torchvision's references/classification train; only the shorter side is jittered as in Sec. 3.4."""
    images = []
    for file, side in zip(files, sides, strict=True):
        pipeline = transforms.Compose(
            [
                transforms.Resize(side),
                transforms.RandomCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        with Image.open(file) as image:
            images.append(pipeline(image.convert("RGB")))
    return torch.stack(images)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = make(root)
        spec = replace(describe("images:bench", root), flip=True)
        ours = load(spec, root, threads=1)
        coloured = load(replace(spec, colour="pca"), root, threads=1)
        batches = IMAGES // BATCH
        sides = torch.randint(256, 481, (IMAGES,), generator=generator("benchmark", "sides")).tolist()

        def mine(data: AnyDataset, i: int) -> None:
            """One batch, and one more ahead: no decoding is left to be counted against another way."""
            data.batch(0, i, BATCH)
            wait([future for futures in data._decoder._ahead.values() for future in futures])

        ways: dict[str, Callable[[int], object]] = {
            "torchvision": lambda i: reference(
                files[i % batches * BATCH :][:BATCH], sides[i % batches * BATCH :][:BATCH]
            ),
            "ours": lambda i: mine(ours, i),
            "ours, colour shifted": lambda i: mine(coloured, i),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for round_ in range(ROUNDS + 1):  # the first warms up, and lets ours fetch as far ahead as it will
            for way, batch in ways.items():
                started = time.process_time()  # of all threads: what a core does, whoever else is on the machine
                for i in range(batches):
                    batch(round_ * batches + i)
                if round_:
                    rates[way].append(IMAGES / (time.process_time() - started))
    rows = [
        {
            "pipeline": way,
            "images/s per core": statistics.median(rates[way]),
            "times torchvision": statistics.median(
                a / b for a, b in zip(rates[way], rates["torchvision"], strict=True)
            ),
        }
        for way in ways
    ]
    common.write("decode", f"500x375 JPEGs of quality 90, crops of 224; medians of {ROUNDS} rounds on one core", rows)
