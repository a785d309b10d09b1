"""Training steps beside a textbook script's, alone on all cores and one a core, and beside the machine's own GEMM.

Every figure is a ratio to what was measured in the same round: the textbook script, and matrix products of the same
precision started in as many processes. A step's arithmetic is three times the forward pass's multiply-adds, as 2 each.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import common
import textbook
import torch

from study import cost
from study.data.arrays import load
from study.limits import cores
from study.training import memory
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")
ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "2")), 6.0
WARM_STEPS = 5  # more batches than the textbook's workers have fetched ahead
WAYS = (("textbook", "fp32"), ("ours", "fp32"), ("ours", "bf16"), ("ours compiled", "fp32"), ("ours compiled", "bf16"))
GEMM = 2048


def steps(depth: int, way: str, precision: str) -> Iterator[object]:
    if way == "gemm":
        return gemms(torch.float32 if precision == "fp32" else torch.bfloat16)
    trial = common.trial(depth, precision)
    if way == "textbook":
        return textbook.train(trial)
    state = TrainState(trial, CPU)
    if way == "ours compiled":
        state.compile()
    memory.keep_freed(True)
    return train(trial, state, load(trial.data, common.OUT))


def gemms(dtype: torch.dtype) -> Iterator[None]:
    a, b = torch.randn(2, GEMM, GEMM).to(dtype)
    while True:
        _ = a @ b
        yield


def one_process(depth: int, way: str, precision: str, threads: int, together: Any, results: Any) -> None:
    torch.set_num_threads(threads)
    updates = steps(depth, way, precision)
    for _ in range(WARM_STEPS):
        next(updates)
    together.wait(timeout=600)
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS or count < 3:
        next(updates)
        count += 1
    together.wait(timeout=600)  # the others are not to get the whole machine before all are measured
    results.put(count / seconds)


def steps_a_second(depth: int, way: str, precision: str, processes: int, threads: int) -> float:
    """Steps a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=one_process, args=(depth, way, precision, threads, together, results))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RuntimeError(f"{way} {precision} failed")
    return sum(results.get() for _ in started)


def main() -> None:
    count = cores()
    rows = []
    for processes, threads in ((1, count), (count, 1)):
        # 110 layers compile for minutes, and one process on all cores is not how small nets are run
        ways = [
            (d, *way) for d in (20, 110) for way in WAYS if "compiled" not in way[0] or (d, processes) == (20, count)
        ]
        rounds = []
        for _ in range(ROUNDS):
            rates = {way: steps_a_second(*way, processes, threads) for way in ways}
            gemm = {p: steps_a_second(0, "gemm", p, processes, threads) * 2 * GEMM**3 for p in ("fp32", "bf16")}
            rounds.append((rates, gemm))
        for way in ways:
            depth, kind, precision = way
            trial = common.trial(depth, precision)
            arithmetic = 6 * cost.multiply_adds(trial.model, trial.data) * common.BATCH
            book = (depth, "textbook", "fp32")
            rows.append(
                {
                    "net": f"ResNet-{depth}",
                    "processes x threads": f"{processes} x {threads}",
                    "step": f"{kind} {precision}",
                    "images/s": common.BATCH * statistics.mean(rates[way] for rates, _ in rounds),
                    "times the textbook": statistics.mean(rates[way] / rates[book] for rates, _ in rounds),
                    "of GEMM rate": statistics.mean(rates[way] * arithmetic / g[precision] for rates, g in rounds),
                }
            )
    common.write("throughput", f"width 16, 32x32, batch {common.BATCH}; means of {ROUNDS} rounds", rows)
