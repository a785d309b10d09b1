"""1202 layers at full width, batch 128: peak memory and seconds a step, naive against ours.

Naive is what autograd keeps by itself, with images that lie ready; ours may take 5 GiB in fp32 and 4 GiB in bf16.
"""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import common
import psutil
import torch
from torch.nn import functional

from study.data.arrays import load
from study.limits import cores
from study.nets.evaluation import autocast
from study.nets.resnet import build
from study.spec import Trial
from study.training import memory
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")
DEPTH, STEPS = 1202, 4
ALLOWED_GIB = {"fp32": 5, "bf16": 4}


def naive(trial: Trial) -> Iterator[None]:
    net = build(trial)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    data = load(trial.data, common.OUT)
    for iteration in itertools.count():
        images, labels = data.batch(0, iteration, common.BATCH)
        with autocast(CPU, trial.recipe.precision):
            logits = net(images.contiguous()).float()
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        yield


def one(way: str, precision: str) -> None:
    """Print segments, predicted and reached peak (GiB), and the median seconds of the steps after the first."""
    torch.set_num_threads(cores())
    trial, segments, predicted = common.trial(DEPTH, precision), 1, 0.0
    if way == "naive":
        updates = naive(trial)
    else:
        state = TrainState(trial, CPU)
        shape = (common.BATCH, trial.data.channels, trial.data.size, trial.data.size)
        division = memory.fit(state.net, shape, precision, ALLOWED_GIB[precision] * 2**30)
        state.divide(division.ends)
        segments, predicted = len(division.ends), division.needed / 2**30
        updates = train(trial, state, load(trial.data, common.OUT))
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        next(updates)
        seconds.append(time.perf_counter() - started)
    print(segments, predicted, memory.peak(CPU) / 2**30, statistics.median(seconds[1:]))


def main() -> None:
    if psutil.virtual_memory().total < 18 * 2**30:
        print("depth: skipped, the naive way takes 17 GiB, and this machine has less than 18", file=sys.stderr)
        return
    rows = []
    for precision in ("fp32", "bf16"):
        for way in ("naive", "ours"):
            command = [sys.executable, __file__, way, precision]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            segments, predicted, peak, seconds = map(float, said)
            step = {"step": f"{way} {precision}", "segments": int(segments), "peak GiB": peak}
            rows.append({**step, "predicted GiB": predicted or "", "seconds a step": seconds})
        rows[-1]["times naive's seconds"] = rows[-1]["seconds a step"] / rows[-2]["seconds a step"]
    common.write("depth", f"ResNet-{DEPTH}, width 16, 32x32, batch {common.BATCH}, 1 process on all cores", rows)


if __name__ == "__main__":
    one(*sys.argv[1:])
