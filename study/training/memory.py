"""What training keeps in memory, and how a net is run so that it fits.

Owns bytes: what autograd keeps of each block (measured on the net itself, with a few images), the number of segments
that follows, and the peak that was reached. Knows no recipe, no data set, and not what a trial may take.
"""

import contextlib
import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from study.cost import LOST_OF_ALL, LOST_OF_SEGMENT, MARGIN, WORKING_TENSORS
from study.nets.evaluation import autocast, memory_format
from study.nets.resnet import Net, without_observing

log = logging.getLogger(__name__)


class OutOfMemory(RuntimeError):
    """A trial needs more memory than it may take; the message says how much, and what to change."""


@dataclass(frozen=True)
class Kept:
    """Bytes of one block for a batch: all that autograd keeps for its backward pass, and its output alone."""

    all: int
    output: int


def kept_by_block(net: Net, shape: tuple[int, ...], precision: str) -> list[Kept]:
    """What training keeps of each block (the stem counts to the first) for a batch of `shape` [N, C, H, W].

    Measured on two and on four images; what a block keeps is linear in their number.
    """
    device = next(net.parameters()).device
    few, more = (_measure(net, torch.zeros(n, *shape[1:], device=device), precision) for n in (2, 4))
    return [
        Kept(*(a + (b - a) // 2 * (shape[0] - 2) for a, b in ((x.all, y.all), (x.output, y.output))))
        for x, y in zip(few, more, strict=True)
    ]


def _measure(net: Net, images: Tensor, precision: str) -> list[Kept]:
    known = {tensor.untyped_storage().data_ptr() for tensor in chain(net.parameters(), net.buffers())}
    so_far, outputs = 0, []

    def see(tensor: Tensor) -> Tensor:
        nonlocal so_far
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:  # the storage lives on with the graph, so its address names it
            known.add(storage.data_ptr())
            so_far += storage.nbytes()
        return tensor.detach()  # the tensor itself would be a cycle that keeps the graph for ever

    def after_block(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        outputs.append((so_far, output.nbytes))

    hooks = [block.register_forward_hook(after_block) for block in net.blocks]
    was_training = net.training
    try:
        net.train()
        with without_observing(net), autocast(images.device, precision), saved_tensors_hooks(see, lambda kept: kept):
            net(images.contiguous(memory_format=memory_format(images.device, precision)))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return [Kept(after - before, size) for (before, _), (after, size) in pairwise([(0, 0), *outputs])]


def segment_ends(kept: list[Kept], count: int) -> list[int]:
    """Where each of at most `count` segments of about equal bytes ends; every block is in exactly one."""
    total = sum(block.all for block in kept)
    middles = [end - block.all / 2 for block, end in zip(kept, accumulate(block.all for block in kept), strict=True)]
    segment = [min(count - 1, int(middle * count / total)) for middle in middles]
    return [i + 1 for i in range(len(kept)) if i + 1 == len(kept) or segment[i] != segment[i + 1]]


def activations(kept: list[Kept], ends: list[int], device: torch.device) -> int:
    """Peak bytes of activations: while a segment is worked on it is whole, of those before it there is the input."""
    segments = [sum(block.all for block in kept[start:end]) for start, end in pairwise([0, *ends])]
    inputs = accumulate((kept[end - 1].output for end in ends[:-1]), initial=0)
    peak = max(segment + before for segment, before in zip(segments, inputs, strict=True))
    if len(ends) > 1 and device.type == "cpu":
        peak += int(LOST_OF_ALL * sum(segments) + LOST_OF_SEGMENT * max(segments))
    return peak + WORKING_TENSORS * max(block.output for block in kept)


@dataclass(frozen=True)
class Division:
    """How a net is run: after which block each of its segments ends, and the bytes that training then needs."""

    ends: tuple[int, ...]
    needed: int

    @property
    def whole(self) -> bool:
        return len(self.ends) == 1


def fit(net: Net, shape: tuple[int, ...], precision: str, allowed: int, at_least: int = 1) -> Division:
    """The fewest segments, but `at_least` so many, that fit into the `allowed` bytes for a batch of `shape`.

    Where none fits, it warns and takes the division that needs least: a prediction is no reason to refuse.
    """
    device = next(net.parameters()).device
    release(device)
    kept = kept_by_block(net, shape, precision)
    fixed = in_use(device)  # with weights, gradients and velocities
    divisions: list[Division] = []
    for count in range(min(at_least, len(kept)), len(kept) + 1):
        ends = segment_ends(kept, count)
        divisions.append(Division(tuple(ends), fixed + activations(kept, ends, device)))
        if divisions[-1].needed <= MARGIN * allowed:
            return divisions[-1]
    least = min(division.needed for division in divisions)
    division = next(one for one in divisions if one.needed <= 1.05 * least)  # more segments would hardly help
    log.warning("memory may not suffice: %s", advice(division.needed, allowed))
    return division


class Segmented:
    """A net run in segments: the backward pass computes all but the last again, so that only their inputs are kept.

    The numbers are those of the whole net, bit for bit.
    """

    def __init__(self, net: Net, ends: Sequence[int]) -> None:
        """`ends`: after which block each segment ends."""
        self.net = net
        self.segments = [nn.Sequential(*net.blocks[start:end]) for start, end in pairwise([0, *ends])]

    def __call__(self, images: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = self.net.begin(images)
        for segment in self.segments[:-1]:
            x = _recomputed(segment, x)
        return self.net.score(self.segments[-1](x))


def _recomputed(segment: nn.Module, x: Tensor) -> Tensor:
    """The same numbers, keeping only `x`: the rest is computed again when the backward pass needs it.

    The second time must not move BatchNorm's running averages again (pytorch issue 96136).
    """
    maps: Tensor = checkpoint(
        segment,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing in a net is random
        context_fn=lambda: (contextlib.nullcontext(), without_observing(segment)),
    )
    return maps


def advice(needed: int, allowed: int) -> str:
    """One line: what is needed, what there is, what to change."""
    return (
        f"about {needed / 2**30:.1f} GiB are needed, and a trial may take {allowed / 2**30:.1f} GiB;"
        " let fewer trials run at once (--threads, --cpus, --gpus-per-trial), allow more (--memory-gib),"
        " or take a smaller batch, width or precision bf16"
    )


def in_use(device: torch.device) -> int:
    """Bytes this process holds now on the device, or in memory where the device is the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def reset_peak(device: torch.device) -> None:
    """Let `peak` count from now: a process runs many trials."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not Linux, or a kernel without it
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """The most bytes this process held since `reset_peak` (where it cannot be reset: since it began)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 2**10


def keep_freed(keep: bool) -> None:
    """Tell glibc whether to keep freed activations: handing them back to the system and getting them again takes time.

    Not for nets that are run in segments: there it would cost memory. Does nothing with other C libraries.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc raises it to by itself
    libc.mallopt(trim_threshold, 2**31 - 1 if keep else 64 * 2**20)


def release(device: torch.device) -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def is_exhausted(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch's allocator for CUDA has a type for it, others have only words."""
    reported = ("OutOfMemoryError", "MemoryError")  # by another process of the trial
    words = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED", *reported)
    message = str(error)
    without_room = "could not create a primitive" in message and "descriptor" not in message  # oneDNN
    typed = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    # A capture that runs out of memory fails a second time where it ends.
    before = error.__context__ is not None and is_exhausted(error.__context__)
    return typed or without_room or before or any(word in message for word in words)
