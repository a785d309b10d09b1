"""Training steps on one GPU beside a textbook script's, and beside the card's own matrix product and copy.

Each row is a net and a way of training it; rates are of all its nets together, and ratios to the textbook's row of the
same depth, measured in the same run. A row that hangs, or does not fit, is named with its reason, and the next one is
measured in a new process. `DEVICE=cpu` tries the script where there is no GPU, `ROWS` (a regular expression) chooses
rows, `SECONDS` limits the whole.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import common

LIMIT = float(os.environ.get("SECONDS", "235"))
A_ROW = 75.0  # seconds after which a row has hung; compiling takes half a minute
MEASURED_SECONDS, MOST_UPDATES, FEWEST_UPDATES = 1.2, 400, 4
GEMM = 8192
COPIED = 2**30  # bytes


@dataclass(frozen=True)
class Row:
    """One measurement. `way`: textbook, eager (a step without a graph), captured, or compiled (and captured)."""

    way: str
    depth: int
    precision: str = "bf16"
    deterministic: bool = True
    cohort: int = 1
    family: str = "residual"
    at_least: float = 0.0  # times the textbook that is aimed at

    def __str__(self) -> str:
        kind = "" if self.deterministic else " not deterministic"
        return f"{self.way} {self.family} {self.depth} {self.precision}{kind} x{self.cohort}"


def textbook(depth: int) -> Row:
    return Row("textbook", depth, "tf32", deterministic=False)


ROWS = (
    *(textbook(depth) for depth in (20, 110, 1202)),
    Row("captured", 20, "bf16", at_least=6),
    Row("captured", 20, "tf32", at_least=4),
    Row("captured", 20, "fp32", at_least=2.5),
    Row("captured", 110, "bf16", at_least=5),
    Row("captured", 1202, "bf16", at_least=4.5),
    Row("captured", 20, cohort=8, at_least=16),
    textbook(56),
    Row("captured", 56, cohort=8, at_least=14),
    Row("captured", 110, cohort=8, at_least=12),
    Row("captured", 20, cohort=4),
    Row("captured", 20, cohort=16),
    Row("compiled", 20, at_least=6),
    Row("compiled", 20, cohort=8, at_least=16),
    Row("compiled", 110, at_least=5),
    Row("eager", 20),
    Row("eager", 20, "fp32"),
    Row("eager", 110),
    *(Row("captured", 20, precision, deterministic=False) for precision in ("bf16", "tf32", "fp32")),
    Row("captured", 20, cohort=8, deterministic=False),
    Row("captured", 56, family="plain"),
    Row("captured", 110, "fp32"),
    Row("captured", 20, "fp32", cohort=8),
    Row("captured", 56, "bf16"),
)


def updates_of(row: Row, device: Any) -> Callable[[], object]:
    """What makes one update of all nets of the row."""
    import textbook as script

    from study.data.arrays import load
    from study.execution import Execution
    from study.limits import cores
    from study.run.machine import set_up_torch
    from study.training.cohort import Cohort
    from study.training.loop import Updates
    from study.training.state import TrainState

    trial = common.trial(row.depth, row.precision, row.family)
    if row.way == "textbook":
        updates: Iterator[None] = script.train(trial, device, workers=min(14, cores()))
        return lambda: next(updates)
    set_up_torch(Execution(storage=common.OUT, data_root=common.OUT, threads=1, deterministic=row.deterministic))
    trials = [replace(trial, seed=seed) for seed in range(row.cohort)]
    states = [TrainState(one, device, capture=row.way != "eager") for one in trials]
    subject = Cohort(trial, states) if row.cohort > 1 else states[0]
    if row.way == "compiled":
        subject.compile()
    data = load(trial.data, Path(), device)
    return Updates(trials, subject, [data.for_seed(one.seed) for one in trials]).make_one


def measure(row: Row, device: str) -> dict[str, Any]:
    """Milliseconds an update, images a second, peak memory, and how busy the GPU was."""
    import torch

    from study.training import memory

    where = torch.device(device)
    memory.release(where)
    memory.reset_peak(where)
    one_update = updates_of(row, where)
    began = time.perf_counter()
    for _ in range(3):
        one_update()
    synchronise(where)
    first, count = time.perf_counter() - began, 0
    busy = Busy(where)
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < MEASURED_SECONDS and count < MOST_UPDATES or count < FEWEST_UPDATES:
        one_update()
        count += 1
        if count % 10 == 0:  # as often as training looks whether the loss is finite
            synchronise(where)
    synchronise(where)
    took = time.perf_counter() - began
    return {
        "ms an update": 1000 * took / count,
        "images/s": row.cohort * common.BATCH * count / took,
        "GiB": memory.peak(where) / 2**30,
        "GPU busy %": busy.percent(),
        "s to start": first,
    }


class Busy:
    """The share of time in which the GPU had work, by NVML; NaN where it cannot be read."""

    def __init__(self, device: Any) -> None:
        self.read: Callable[[], int] | None = None
        self.seen: list[int] = []
        self.ended = threading.Event()
        if device.type == "cuda":
            import torch

            try:
                torch.cuda.utilization()
                self.read = torch.cuda.utilization
            except Exception:  # no pynvml, or no permission
                return
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        time.sleep(0.3)  # NVML's own window
        while not self.ended.wait(0.1):
            assert self.read
            self.seen.append(self.read())

    def percent(self) -> float:
        self.ended.set()
        return sum(self.seen) / len(self.seen) if self.seen else float("nan")


def synchronise(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def ceilings(device: str) -> list[dict[str, Any]]:
    """The card's own rates: a matrix product in each precision, and a copy (bytes read and written)."""
    import torch

    rows, where = [], torch.device(device)
    size = GEMM if where.type == "cuda" else 512

    def rate(work: Callable[[], object], amount: float) -> float:
        for _ in range(3):
            work()
        synchronise(where)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 0.5:
            for _ in range(5):
                work()
            synchronise(where)
            count += 5
        return amount * count / (time.perf_counter() - began)

    for precision in ("fp32", "tf32", "bf16"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = torch.randn(2, size, size, device=where).to(dtype)
        products = rate(partial(torch.matmul, a, b), 2 * size**3)
        rows.append({"way": "matrix product", "precision": precision, "TFLOP/s": products / 1e12})
    count = (COPIED if where.type == "cuda" else 2**24) // 4
    source, target = torch.randn(2, count, device=where)
    rows.append({"way": "copy", "TB/s": rate(partial(target.copy_, source), 2 * 4 * count) / 1e12})
    return rows


def child(first: int, device: str) -> None:
    """Measure rows from the `first` on; one line of JSON each."""
    if first == 0:
        print(json.dumps({"ceilings": ceilings(device)}), flush=True)
    for index, row in list(enumerate(chosen()))[first:]:
        try:
            result: dict[str, Any] = measure(row, device)
        except Exception as error:  # the others are still worth measuring
            result = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        print(json.dumps({"index": index, "result": result}), flush=True)


def chosen() -> list[Row]:
    return [row for row in ROWS if re.search(os.environ.get("ROWS", ""), str(row))]


def answers(device: str) -> Iterator[dict[str, Any]]:
    """What children print; one that hangs is ended, and another one goes on with the row after."""
    until, next_row = time.monotonic() + LIMIT, 0
    while next_row < len(chosen()):
        command = [sys.executable, __file__, "child", str(next_row), device]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines: Queue[str | None] = Queue()
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
        line: str | None = ""
        try:
            while line is not None:
                left = until - time.monotonic()
                line = lines.get(timeout=max(0.1, min(A_ROW, left)))
                if line and line.startswith("{"):
                    answer = json.loads(line)
                    next_row = answer.get("index", next_row - 1) + 1
                    yield answer
            if next_row < len(chosen()):  # it died
                yield {"index": next_row, "result": {"failed": f"its process ended with {process.wait()}"}}
                next_row += 1
        except Empty:
            if time.monotonic() >= until:
                return
            yield {"index": next_row, "result": {"failed": f"nothing came in {A_ROW:.0f} s"}}
            next_row += 1
        finally:
            process.kill()
            process.wait()


def _pass_on(pipe: Any, lines: "Queue[str | None]") -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def main() -> None:
    device = os.environ.get("DEVICE", "cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print(
                "gpu: skipped, there is no GPU that PyTorch can use here (DEVICE=cpu tries the script)", file=sys.stderr
            )
            return
    results: dict[int, dict[str, Any]] = {}
    of_card: list[dict[str, Any]] = []
    for answer in answers(device):
        if "ceilings" in answer:
            of_card = answer["ceilings"]
        else:
            results[answer["index"]] = answer["result"]
            print(f"{chosen()[answer['index']]}: {answer['result']}", file=sys.stderr, flush=True)
    rows: list[dict[str, Any]] = []
    rates = {
        row.depth: results[index]["images/s"]
        for index, row in enumerate(chosen())
        if row.way == "textbook" and "images/s" in results.get(index, {})
    }
    for index, row in enumerate(chosen()):
        result = results.get(index, {"failed": f"not measured within {LIMIT:.0f} s"})
        times = result.get("images/s", float("nan")) / rates.get(row.depth, float("nan"))
        about = {key: value for key, value in asdict(row).items() if key != "at_least"}
        rows.append({**about, **result, "times the textbook": times, "aim": row.at_least or ""})
    common.write("gpu", f"width 16, 32x32, batch {common.BATCH} a net; images/s of all nets of a row", rows + of_card)


if __name__ == "__main__":
    child(int(sys.argv[2]), sys.argv[3])
