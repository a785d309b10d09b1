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
import torch

from study import cost, memory
from study.data import load
from study.training import TrainState, train

ROUNDS, SECONDS = 3, 6.0
WARM_STEPS = 6  # more than the textbook's workers have fetched ahead
WAYS = (("textbook", "fp32"), ("ours", "fp32"), ("ours", "bf16"), ("ours compiled", "fp32"), ("ours compiled", "bf16"))
GEMM = 2048


def steps(way: str, depth: int, precision: str) -> Iterator[object]:
    trial = common.trial(depth, precision)
    if way == "textbook":
        return common.textbook(trial)
    if way == "gemm":
        return gemms(torch.float32 if precision == "fp32" else torch.bfloat16)
    state = TrainState(trial, common.CPU)
    if way == "ours compiled":
        state.compile()
    memory.keep_freed()
    return train(trial, state, load(trial.data, common.OUT))


def gemms(dtype: torch.dtype) -> Iterator[None]:
    a, b = torch.randn(2, GEMM, GEMM).to(dtype)
    while True:
        _ = a @ b
        yield


def one_process(way: str, depth: int, precision: str, threads: int, together: Any, results: Any) -> None:
    torch.set_num_threads(threads)
    updates = steps(way, depth, precision)
    for _ in range(WARM_STEPS):
        next(updates)
    together.wait()
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS or count < 3:
        next(updates)
        count += 1
    together.wait()  # the others are not to get the whole machine before all are measured
    results.put(count / seconds)


def steps_a_second(way: str, depth: int, precision: str, processes: int, threads: int) -> float:
    """Steps a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=one_process, args=(way, depth, precision, threads, together, results))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    total = sum(results.get() for _ in started)
    for process in started:
        process.join()
    return total


def main() -> None:
    cores = os.cpu_count() or 1
    rows = []
    for processes, threads in ((1, cores), (cores, 1)):
        for depth in (20, 110):
            ways = [way for way in WAYS if depth == 20 or way[0] != "ours compiled"]  # 110 layers compile for minutes
            measured = []
            for _ in range(ROUNDS):
                rates = {way: steps_a_second(way[0], depth, way[1], processes, threads) for way in ways}
                gemm = {p: steps_a_second("gemm", depth, p, processes, threads) for p in ("fp32", "bf16")}
                measured.append((rates, gemm))
            trial = common.trial(depth, "fp32")
            arithmetic = 6 * cost.multiply_adds(trial.model, trial.data) * common.BATCH
            for way in ways:
                kind, precision = way
                fraction = statistics.median(
                    rates[way] * arithmetic / (gemm[precision] * 2 * GEMM**3) for rates, gemm in measured
                )
                rows.append(
                    {
                        "net": f"ResNet-{depth}",
                        "processes x threads": f"{processes} x {threads}",
                        "step": f"{kind} {precision}",
                        "images/s": common.BATCH * statistics.median(rates[way] for rates, _ in measured),
                        "times the textbook": statistics.median(r[way] / r["textbook", "fp32"] for r, _ in measured),
                        "of GEMM rate": fraction,
                    }
                )
    common.write("throughput", f"width 16, 32x32, batch {common.BATCH}; medians of {ROUNDS} rounds", rows)
