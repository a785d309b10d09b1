"""What a few updates of a condition take on this hardware, and what a whole trial will therefore take.

Owns measuring and its cache, `probes.json` in the storage. A probe holds for one condition on one machine, device,
number of threads and versions of torch and Python. Imports torch only to measure.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from study.execution import Execution
from study.run import placement
from study.spec import InputError, Recipe, Trial
from study.store import atomic, provenance
from study.store.layout import Store

UPDATES = 5  # after the first, at least, unless they take longer than:
AT_MOST_SECONDS = 3.0
AT_LEAST_SECONDS = 2.0  # so that short updates are many: the speed of a busy machine varies
EVALUATION_SECONDS = 1.0  # about so long takes the longest pass over images
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured of one condition. Seconds are medians; bytes are above what the process held before."""

    condition: str
    machine: str
    device: str
    threads: int
    torch: str
    python: str
    updates: int  # that were measured
    first_seconds: float  # of the first update, which also allocates
    update_seconds: float
    evaluation_seconds: float  # of an evaluation within training
    last_evaluation_seconds: float  # of the one that ends it, on all training images
    memory_bytes: int
    diverged_at: int | None  # update at which the loss ceased to be finite, if it did so at once

    @property
    def key(self) -> tuple[Any, ...]:
        return self.condition, self.machine, self.device, self.threads, self.torch, self.python

    def seconds(self, recipe: Recipe) -> float:
        """Seconds that a trial of this condition takes; to its divergence, if the probe saw that."""
        if self.diverged_at:
            return self.first_seconds + (self.diverged_at - 1) * self.update_seconds
        evaluations = -(-recipe.iterations // recipe.evaluate_every)
        return (
            self.first_seconds
            + (recipe.iterations - 1) * self.update_seconds
            + (evaluations - 1) * self.evaluation_seconds
            + self.last_evaluation_seconds
        )


def key(trial: Trial, execution: Execution) -> tuple[Any, ...]:
    """What a probe of this trial on this machine is found by; `execution.threads` are the trial's own."""
    where = provenance.tags()
    device, versions = _device(execution.device), (where["torch"], where["python"])
    return trial.condition, where["machine"], device, execution.threads, *versions


@cache
def _device(device: str) -> str:
    """'cpu', or the GPU's name."""
    if device == "cpu" or not placement.gpus()[0]:
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


def measure(trial: Trial, execution: Execution) -> Probe:
    """Train the trial for a few updates in this process, and evaluate some images.

    Takes about `AT_MOST_SECONDS`, or one update where that is longer. The training pass is never compiled.
    Raises `InputError` for missing data or device, and what PyTorch raises when memory runs out.
    """

    from study.nets.evaluation import loss_and_error
    from study.run.machine import device_of, set_up_torch
    from study.run.worker import divide
    from study.tasks.classification import CLEAN_IMAGES
    from study.tasks.kinds import task_of
    from study.tasks.protocols import EVALUATION_BATCH
    from study.training import memory
    from study.training.loop import train
    from study.training.state import TrainState

    device, recipe = device_of(execution), trial.recipe
    set_up_torch(execution)
    data = task_of(trial).load(trial, execution.data_root, device)
    _load_kernels(trial, data, device)
    memory.release(device)
    held = memory.in_use(device)
    memory.reset_peak(device)

    endless = _endless(trial)
    state = TrainState(endless, device)
    divide(trial, state, replace(execution, compile=False))

    clock = _clock(device.type, execution.threads)
    took: list[float] = []
    began, before = time.perf_counter(), clock()
    for _ in train(endless, state, data):
        after = clock()
        took.append(after - before)
        before = after
        elapsed = time.perf_counter() - began
        if elapsed >= AT_MOST_SECONDS or (elapsed >= AT_LEAST_SECONDS and len(took) > UPDATES):
            break
    update = statistics.median(took[1:] or took)

    def evaluation(images: int) -> float:
        """Seconds, the better of two: the first one also compiles kernels."""
        took = []
        for _ in range(2):
            began = clock()
            loss_and_error(state.net, data.clean("train", images, images), recipe.precision)
            took.append(clock() - began)
        return min(took)

    a_batch, an_image = _evaluation_costs(evaluation, recipe.batch, min(EVALUATION_BATCH, data.count("train")))

    others = data.count("validation") + data.count("test") + recipe.recalibrate
    some, every = min(CLEAN_IMAGES, data.count("train")), data.count("train")
    condition, machine, name, threads, torch_version, python = key(trial, execution)
    return Probe(
        condition=condition,
        machine=machine,
        device=name,
        threads=threads,
        torch=torch_version,
        python=python,
        updates=len(took),
        first_seconds=took[0],
        update_seconds=update,
        evaluation_seconds=a_batch * math.ceil((some + others) / EVALUATION_BATCH) + an_image * (some + others),
        last_evaluation_seconds=a_batch * math.ceil((every + others) / EVALUATION_BATCH) + an_image * (every + others),
        memory_bytes=max(0, memory.peak(device) - held),
        diverged_at=state.diverged_at,
    )


def _clock(device: str, threads: int) -> Callable[[], float]:
    """Seconds since some instant. Of one CPU thread only its own: what else the machine does now is not the trial's."""
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def finished() -> float:
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    return finished


def _evaluation_costs(seconds: Callable[[int], float], few: int, most: int) -> tuple[float, float]:
    """Seconds of a batch and of each image in it, from batches that grow until they take long, or to the `most`.

    Each layer takes its time however small the batch is, so that few images alone would make many look dear.
    """
    images, took = min(few, most), seconds(min(few, most))
    smaller, shorter = 0, 0.0
    while images < most and took < EVALUATION_SECONDS / 4:
        smaller, shorter = images, took
        images = min(4 * images, most)
        took = seconds(images)
    an_image = max(0.0, (took - shorter) / (images - smaller))
    return max(0.0, took - an_image * images), an_image


def of_batch(trial: Trial, images: int) -> Trial:
    """The trial with batches of so many images: what is timed of one whose processes have so many each."""
    return replace(trial, recipe=replace(trial.recipe, batch=images))


def _endless(trial: Trial) -> Trial:
    """The trial without records or an end, which are no part of an update."""
    never = 10**9
    return replace(trial, recipe=replace(trial.recipe, iterations=never, record_every=never, evaluate_every=never))


def _load_kernels(trial: Trial, data: Any, device: Any) -> None:
    """One update of a shallow net: what PyTorch loads for it belongs to no trial's memory or seconds."""
    from study.training.loop import train
    from study.training.state import TrainState

    shallow = replace(trial.model, depth=2 + 3 * trial.model.convolutions_per_block)
    small = _endless(replace(trial, model=shallow))
    next(train(small, TrainState(small, device), data))


Work = Sequence[tuple[Trial, Execution]]


def in_processes(work: Work, at_once: int) -> Iterator[Future[Probe]]:
    """Measure each trial in one of `at_once` processes of this machine; futures as they are done."""
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as workers:
        try:
            yield from as_completed([workers.submit(measure, *arguments) for arguments in work])
        finally:
            workers.shutdown(cancel_futures=True)  # where the one who asks has seen enough


def lacking(work: Work, root: Path) -> list[tuple[Trial, Execution]]:
    """One trial of each condition that has no probe under `root`."""
    known = load(root)
    return list({key(*arguments): arguments for arguments in work if key(*arguments) not in known}.values())


def measure_all(
    work: Work, root: Path, at_once: int, fan_out: Callable[[Work, int], Iterable[Future[Probe]]] = in_processes
) -> None:
    """Probe these trials, so many at once as trials in the study, and keep the probes under `root`.

    Two busy cores are slower than one alone. What runs out of memory is left without a probe, with a warning.
    Raises `InputError` for missing data or device.
    """
    probes: list[Probe] = []
    try:
        for done in fan_out(work, at_once):
            try:
                probes.append(done.result())
            except InputError:
                raise
            except (RuntimeError, MemoryError) as error:  # a process that the system killed is a RuntimeError, too
                log.warning("a probe failed (%s); its condition is predicted without one", str(error).splitlines()[0])
    finally:
        if probes:
            save(root, probes)


def load(root: Path) -> dict[tuple[Any, ...], Probe]:
    """The probes under `root` by their keys. What cannot be read is measured anew."""
    content = atomic.read(Store(root).probes)
    try:
        return {probe.key: probe for probe in (Probe(**values) for values in json.loads(content or b"[]"))}
    except (ValueError, TypeError):
        log.warning("%s cannot be read; it is left out", Store(root).probes)
        return {}


def save(root: Path, probes: Iterable[Probe]) -> None:
    """Add probes to those under `root`."""
    every = {**load(root), **{probe.key: probe for probe in probes}}
    atomic.write(Store(root).probes, json.dumps([asdict(probe) for probe in every.values()], indent=1).encode())
