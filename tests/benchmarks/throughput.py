"""`make bench`: our training step beside a textbook script's, as a ratio within one run.

The textbook script is written as public ones are: fp32, NCHW, PIL transforms in two DataLoader workers, the loss read
on the host at every step. Both train ResNet-20, width 16, on 32x32 colour images in batches of 128, on all cores.
Writes results/bench/throughput.md and .json with hardware, versions and the command.
"""

import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

from experiments.profiles import PAPER
from experiments.recipes import paper_cifar
from study import provenance
from study.data import describe, load
from study.models import build
from study.spec import Trial
from study.training import TrainState, train

ROUNDS, STEPS = 5, 6
OUT = Path("results/bench")


class Pictures(Dataset):
    """The same images as PIL pictures, augmented one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        to_pil = transforms.ToPILImage()
        self.pictures, self.labels = [to_pil(image) for image in images], labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        index %= len(self.labels)
        return self.transform(self.pictures[index]), self.labels[index]


def textbook(trial: Trial, pictures: Pictures) -> Iterator[None]:
    net = build(trial)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for images, labels in DataLoader(pictures, batch_size=128, shuffle=True, num_workers=2):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


def seconds_a_step(steps: Iterator[object]) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    model = PAPER.model("residual", 20)
    spec = replace(describe("synthetic", Path()), channels=3, size=32, classes=10, padding=4, flip=True)
    recipe = replace(paper_cifar(model), bn_batch=128)
    trial = Trial(model=model, data=spec, recipe=recipe, seed=0)
    data = load(spec, Path())
    torch.set_num_threads(os.cpu_count() or 1)
    fast = replace(trial, recipe=replace(recipe, precision="bf16"))
    ways = {
        "textbook fp32": textbook(trial, Pictures(data.train_images, data.train_labels)),
        "ours fp32": train(trial, TrainState(trial, torch.device("cpu")), data),
        "ours bf16": train(fast, TrainState(fast, torch.device("cpu")), data),
    }
    for steps in ways.values():
        next(steps), next(steps)  # starting workers and choosing kernels is not what is measured
    rounds = [{way: seconds_a_step(steps) for way, steps in ways.items()} for _ in range(ROUNDS)]
    ratios = {way: statistics.median(r["textbook fp32"] / r[way] for r in rounds) for way in ways}
    rows = {
        way: {"images_a_second": 128 / statistics.median(r[way] for r in rounds), "times_the_textbook": ratio}
        for way, ratio in ratios.items()
    }
    result = {"what": "ResNet-20, width 16, 32x32, batch 128", "command": "make bench", "rows": rows}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "throughput.json").write_text(json.dumps({**result, **provenance.tags()}, indent=2) + "\n")
    lines = [f"{result['what']}, median of {ROUNDS} rounds in turn; `make bench`; {provenance.tags()['machine']}", ""]
    lines += ["| step | images/s | times the textbook |", "|---|---|---|"]
    lines += [f"| {way} | {r['images_a_second']:.0f} | {r['times_the_textbook']:.2f} |" for way, r in rows.items()]
    (OUT / "throughput.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
