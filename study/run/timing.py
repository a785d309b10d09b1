"""What a few updates of a condition take on this hardware, and what a whole trial will therefore take.

Owns measuring and its cache, `probes.json` in the storage. A probe holds for one condition in cohorts of one size, on
one machine, device, number of threads and versions of torch and Python. Imports torch only to measure.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.execution import Execution
from study.run import placement
from study.spec import InputError, Recipe, Trial, is_of
from study.store import atomic, provenance
from study.store.layout import Store

if TYPE_CHECKING:
    from study.training.state import TrainState

UPDATES = 5  # after the first, at least, unless they take longer than:
AT_MOST_SECONDS = 3.0
AT_LEAST_SECONDS = 2.0  # so that short updates are many: the speed of a busy machine varies
EVALUATION_SECONDS = 1.0  # about so long takes the longest pass over images
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured of one condition, alone or of a cohort of several seeds.

    Seconds are medians; bytes are above what the process held before.
    """

    condition: str
    machine: str
    device: str
    threads: int
    torch: str
    python: str
    updates: int  # that were measured
    first_seconds: float  # of the cohort's first update, which also allocates, and on a GPU is captured
    update_seconds: float  # of the whole cohort's
    evaluation_seconds: float  # of an evaluation of one net within training
    last_evaluation_seconds: float  # of the one that ends it, on all training images
    memory_bytes: int  # of the whole cohort
    diverged_at: int | None  # update by which no seed's loss was finite, if that was at once
    # As in files of a time without them: one net, updates that were not captured.
    cohort: int = 1
    captured: bool = False
    deterministic: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        how = self.captured, self.deterministic, self.cohort
        return self.condition, self.machine, self.device, self.threads, self.torch, self.python, *how

    def seconds(self, recipe: Recipe) -> float:
        """Seconds that a trial of this condition takes, of its cohort's its share.

        To its divergence, if the probe saw that.
        """
        updates = self.diverged_at or recipe.iterations
        training = (self.first_seconds + (updates - 1) * self.update_seconds) / self.cohort
        if self.diverged_at:
            return training
        evaluations = -(-recipe.iterations // recipe.evaluate_every)
        return training + (evaluations - 1) * self.evaluation_seconds + self.last_evaluation_seconds


def key(trial: Trial, execution: Execution) -> tuple[Any, ...]:
    """What a probe of this trial on this machine is found by, last the size of its cohort.

    `execution.threads` and `execution.cohort` are the trial's own.
    """
    where = provenance.tags()
    device, versions = _device(execution.device), (where["torch"], where["python"])
    on_gpu = device != "cpu"
    how = on_gpu and execution.capture, execution.deterministic or not on_gpu, max(1, execution.cohort)
    return trial.condition, where["machine"], device, execution.threads, *versions, *how


def nearest(probes: Mapping[tuple[Any, ...], Probe], key: tuple[Any, ...]) -> Probe | None:
    """The probe of this key, else the one that differs from it by the size of its cohort alone, and least."""
    if key in probes:
        return probes[key]
    others = [probe for known, probe in probes.items() if known[:-1] == key[:-1]]
    return min(others, key=lambda probe: abs(probe.cohort - key[-1]), default=None)


@cache
def _device(device: str) -> str:
    """'cpu', or the GPU's name."""
    if device == "cpu" or not placement.gpus()[0]:
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


def measure(trial: Trial, execution: Execution) -> Probe:
    """Train the trial, or `execution.cohort` seeds of it together, for a few updates, and evaluate some images.

    Takes about `AT_MOST_SECONDS`, or one update where that is longer. The training pass is never compiled.
    Raises `InputError` for missing data or device, and what PyTorch raises when memory runs out.
    """

    from study.nets.evaluation import loss_and_error
    from study.run.machine import check_precision, device_of, set_up_torch
    from study.run.worker import divide
    from study.tasks.classification import CLEAN_IMAGES
    from study.tasks.kinds import task_of
    from study.tasks.protocols import EVALUATION_BATCH
    from study.training import memory
    from study.training.cohort import Cohort
    from study.training.loop import Updates
    from study.training.state import TrainState

    device, recipe = device_of(execution), trial.recipe
    check_precision(trial, device)
    set_up_torch(execution)
    data = task_of(trial).load(trial, execution.data_root, device)
    _load_kernels(trial, data, device)
    memory.release(device)
    held = memory.in_use(device)
    memory.reset_peak(device)

    size = max(1, execution.cohort)
    trials = [replace(_endless(trial), seed=trial.seed + member) for member in range(size)]
    states = [TrainState(one, device, execution.capture) for one in trials]
    state = states[0] if size == 1 else Cohort(trials[0], states)
    divide(trial, state, replace(execution, compile=False), members=size)
    updates = Updates(trials, state, [data.for_seed(one.seed) for one in trials])

    clock = _clock(device.type, execution.threads)
    took = _take(updates.make_one, lambda: _diverged_at(states) is not None, clock, states[0].captures)

    def evaluation(images: int) -> float:
        """Seconds, the better of two: the first one also compiles kernels."""
        took = []
        for _ in range(2):
            began = clock()
            loss_and_error(states[0].net, data.clean("train", images, images), recipe.precision)
            took.append(clock() - began)
        return min(took)

    a_batch, an_image = _evaluation_costs(evaluation, recipe.batch, min(EVALUATION_BATCH, data.count("train")))

    others = data.count("validation") + data.count("test") + recipe.recalibrate
    some, every = min(CLEAN_IMAGES, data.count("train")), data.count("train")
    condition, machine, name, threads, torch_version, python, captured, deterministic, _ = key(trial, execution)
    return Probe(
        condition=condition,
        machine=machine,
        device=name,
        threads=threads,
        torch=torch_version,
        python=python,
        updates=took.updates,
        first_seconds=took.first,
        update_seconds=took.later,
        evaluation_seconds=a_batch * math.ceil((some + others) / EVALUATION_BATCH) + an_image * (some + others),
        last_evaluation_seconds=a_batch * math.ceil((every + others) / EVALUATION_BATCH) + an_image * (every + others),
        memory_bytes=max(0, memory.peak(device) - held),
        diverged_at=_diverged_at(states),
        cohort=size,
        captured=captured,
        deterministic=deterministic,
    )


@dataclass(frozen=True)
class _Took:
    updates: int  # that were made
    first: float  # seconds
    later: float  # seconds, the median


def _take(
    make_one: Callable[[], object], ends: Callable[[], bool], clock: Callable[[], float], captured: bool
) -> _Took:
    """Make updates for about `AT_MOST_SECONDS`, or until training ends.

    The first of captured ones takes seconds for the capture, which do not count as time for others. Of these there are
    `CHECK_EVERY` between two looks at the clock, as in training, so that the GPU does not wait for the host.
    """
    from study.training.loop import CHECK_EVERY

    took: list[float] = []
    made, between = 0, 1
    began, before = time.perf_counter(), clock()
    while True:
        for _ in range(between):
            make_one()
        made += between
        after = clock()
        took.append((after - before) / between)
        if ends():
            break
        before = after
        if captured and made == 1:
            began = time.perf_counter()
        elif captured:
            between = CHECK_EVERY if took[-1] * CHECK_EVERY < AT_MOST_SECONDS else 1
        elapsed = time.perf_counter() - began
        if elapsed >= AT_MOST_SECONDS or (elapsed >= AT_LEAST_SECONDS and len(took) > UPDATES):
            break
    return _Took(made, took[0], statistics.median(took[1:] or took))


def _diverged_at(states: "Sequence[TrainState]") -> int | None:
    """The update by which all of them have diverged. Waits for the device."""
    ends = [state.diverged_at for state in states]
    known = [end for end in ends if end is not None]
    return max(known) if len(known) == len(ends) else None


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
    """One trial of each condition and size of cohort that has no probe under `root`."""
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
        probes = [Probe(**values) for values in atomic.decoded(content or b"[]")]
        if not all(is_of(field.type, getattr(probe, field.name)) for probe in probes for field in fields(probe)):
            raise ValueError("a value is of another type than a probe's")
        return {probe.key: probe for probe in probes}
    except (ValueError, TypeError):
        log.warning("%s cannot be read; it is left out", Store(root).probes)
        return {}


def save(root: Path, probes: Iterable[Probe]) -> None:
    """Add probes to those under `root`."""
    every = {**load(root), **{probe.key: probe for probe in probes}}
    atomic.write(Store(root).probes, json.dumps([asdict(probe) for probe in every.values()], indent=1).encode())
