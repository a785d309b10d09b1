"""Where trials run: what each takes of a machine, and when it starts.

Owns shares and the order of starts. Small nets are packed, long trials go first, and no trial overtakes one that waits
for room; none is ever stopped early. Placing itself is the launcher's. Standard library only, but for asking PyTorch
about a GPU where there is one.
"""

import heapq
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from study import cost
from study.execution import Execution
from study.limits import cores, machine_bytes
from study.spec import InputError, Trial

MOST_ON_A_GPU = 8  # trials; more take turns rather than gain
BYTES_A_CONTEXT = 2**30  # of GPU memory beside a trial's tensors: CUDA's context, workspaces, the allocator's reserve
NO_GPU = ("", "-1", "none", "void", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that are meant to hide all GPUs
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # where none is, there is no GPU that PyTorch could use


Cohort = tuple[Trial, ...]  # seeds of one condition that one process trains together; one trial, if it is alone


@dataclass(frozen=True)
class Node:
    """A machine. 0 bytes of memory stand for an amount that is not known; a GPU's are those of each."""

    cpus: float
    gpus: float
    memory_bytes: int
    gpu_memory_bytes: int


@dataclass(frozen=True)
class Share:
    """What each process of a cohort takes of its node while it runs: CPU cores, and GPUs or a fraction of one."""

    cpus: int
    gpus: float
    processes: int = 1

    @property
    def all_cpus(self) -> int:
        return self.cpus * self.processes

    @property
    def all_gpus(self) -> float:
        return self.gpus * self.processes


@dataclass(frozen=True)
class Placed:
    """A trial from `start` to `end`, seconds after the first trial starts: those of its cohort.

    `node`: index of its first process's.
    """

    trial: Trial
    cohort: Cohort
    node: int
    start: float
    end: float


def this_machine(execution: Execution) -> Node:
    """The cores that the trials may fill, the GPUs if they may use them, and the memory. With `local`, one trial's.

    Raises `InputError` where CUDA_VISIBLE_DEVICES names GPUs, and CUDA finds none of them.
    """
    count, gpu_memory = (0, 0) if execution.device == "cpu" else gpus()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if execution.device != "cpu" and not count and named not in NO_GPU and _has_driver():
        raise InputError(  # on the CPU instead, trials might take days
            f"CUDA_VISIBLE_DEVICES={named} names no GPU that CUDA finds here (an index that there is not, or one"
            " that is named twice?); unset it, or say --device cpu"
        )
    if execution.local:
        return Node(
            execution.threads * execution.processes, min(count, execution.processes), machine_bytes(), gpu_memory
        )
    return Node(execution.cpus or cores(), count, machine_bytes(), gpu_memory)


def cohort_bytes(trial: Trial, images: int, size: int) -> int:
    """Bytes of tensors in a training step of so many seeds together, of which a process has `images` each."""
    return size * cost.net_bytes(trial, images)


def share(trial: Trial, execution: Execution, node: Node, gpu_bytes: int = 0, size: int = 1) -> Share:
    """What each process of a trial takes of such a node, or of a cohort of so many seeds.

    `gpu_bytes` is the measured need of GPU memory of one seed; 0 predicts it.

    It takes `threads` cores; more, where the memory that comes with so many, an equal share a core, does not hold its
    part of the trial even in segments. Of a GPU it takes `gpus_per_trial` or, where that is 0, as little as it needs.
    Raises `InputError` where the processes cannot share the trial's batches.
    """
    cpus, images = execution.threads, execution.batch_share(trial)
    if node.gpus and execution.device != "cpu":
        needed = size * gpu_bytes or cohort_bytes(trial, images, size)
        gpus = execution.gpus_per_trial or _fraction(needed, cpus, node)
        return Share(cpus, gpus, execution.processes)
    if node.memory_bytes and not execution.memory_gib and not execution.local:
        a_core = cost.MARGIN * node.memory_bytes / node.cpus
        cpus = max(cpus, min(int(node.cpus), math.ceil(cost.least_bytes(trial, size * images) / a_core)))
    return Share(cpus, 0.0, execution.processes)


def _fraction(needed: int, cpus: int, node: Node) -> float:
    """1/k where k processes that need so many bytes each fit on a GPU, in Ray's four digits.

    All of it where its memory is unknown.
    """
    room = cost.MARGIN * node.gpu_memory_bytes / (needed + BYTES_A_CONTEXT)
    fit = min(room, MOST_ON_A_GPU, node.cpus / node.gpus / cpus)
    return 10_000 // max(1, int(fit)) / 10_000


def allowed_bytes(share: Share, execution: Execution, node: Node) -> int:
    """Memory of the node that a process with this share may take without GPUs; 0 where it is not known."""
    return int(execution.memory_gib * 2**30) or int(node.memory_bytes * share.cpus / node.cpus)


@dataclass
class _Room:
    """What is free on one node."""

    cpus: float
    gpus: list[float] = field(default_factory=list)  # of each GPU

    def for_(self, share: Share) -> list[int] | None:
        """Indices of the GPUs on which the share fits, the fullest one first; None where it does not fit."""
        if share.cpus > self.cpus + 1e-6:
            return None
        fraction = min(1.0, share.gpus)
        fits = sorted((free, gpu) for gpu, free in enumerate(self.gpus) if free >= fraction - 1e-6) if fraction else []
        count = math.ceil(share.gpus)
        return [gpu for _, gpu in fits[:count]] if len(fits) >= count else None

    def take(self, share: Share, gpus: list[int], sign: int = 1) -> None:
        self.cpus -= sign * share.cpus
        for gpu in gpus:
            self.gpus[gpu] -= sign * min(1.0, share.gpus)


def schedule(order: Iterable[tuple[Cohort, float, Share]], nodes: Sequence[Node]) -> list[Placed]:
    """When and where each trial runs, from (cohort, its seconds, its share) in the order of their starts.

    Each cohort starts as soon as a node has room, the first one of those that have; none overtakes one that waits.
    Raises `InputError` for one that fits on no node.
    """
    rooms = [_Room(node.cpus, [1.0] * int(node.gpus)) for node in nodes]
    placed: list[Placed] = []
    running: list[tuple[float, int, Share, list[_Place]]] = []  # a heap: end, number, share, where its processes are
    now = 0.0
    for cohort, seconds, share in order:
        while not (places := _taken(rooms, share)):
            if not running:
                times = f"{share.processes} times " if share.processes > 1 else ""
                raise InputError(
                    f"{cohort[0].id} takes {times}{share.cpus} CPUs and {share.gpus:g} GPUs, and no node has as many:"
                    " choose fewer --threads or --gpus-per-trial, or more --cpus or --gpus"
                )
            now, _, ended, left = heapq.heappop(running)
            _leave(rooms, ended, left)
        heapq.heappush(running, (now + seconds, len(placed), share, places))
        placed += [Placed(trial, cohort, places[0][0], now, now + seconds) for trial in cohort]
    return placed


def waves(trials: Sequence[Trial]) -> Iterator[list[Trial]]:
    """The trials in their order, those that need others' final nets after those.

    What is not among them is not waited for.
    """
    left = list(trials)
    while left:
        waiting = {trial.id for trial in left}
        wave = [trial for trial in left if not waiting.intersection(trial.needs)]
        assert wave, "trials need each other"
        yield wave
        left = [trial for trial in left if waiting.intersection(trial.needs)]


_Place = tuple[int, list[int]]  # of a process: its node, and its GPUs there


def _taken(rooms: list[_Room], share: Share) -> list[_Place]:
    """Take room for every process, on one node if one has it, else on the first that have; [] where there is none."""
    for nodes in (*([node] for node in range(len(rooms))), range(len(rooms))):
        places: list[_Place] = []
        for node in nodes:
            while len(places) < share.processes and (gpus := rooms[node].for_(share)) is not None:
                rooms[node].take(share, gpus)
                places.append((node, gpus))
        if len(places) == share.processes:
            return places
        _leave(rooms, share, places)
    return []


def _leave(rooms: list[_Room], share: Share, places: list[_Place]) -> None:
    for node, gpus in places:
        rooms[node].take(share, gpus, sign=-1)


def makespan(placed: Iterable[Placed]) -> float:
    """Seconds until the last trial ends; 0 where there is none."""
    return max((one.end for one in placed), default=0.0)


def gpus() -> tuple[int, int]:
    """How many GPUs PyTorch can use here, and the bytes of the smallest."""
    if not _has_driver():
        return 0, 0
    import torch

    count = torch.cuda.device_count()
    return count, min((torch.cuda.get_device_properties(i).total_memory for i in range(count)), default=0)


def _has_driver() -> bool:
    return any(Path(driver).exists() for driver in DRIVERS)
