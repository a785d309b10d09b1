"""What a process of this machine trains with: its device, PyTorch's settings, the memory that a trial may take.

Knows nothing of a trial.
"""

import gc
import os
import shutil
from collections.abc import Iterable
from functools import cache

import torch

from study.execution import Execution
from study.limits import machine_bytes
from study.spec import InputError, Trial

TF32 = (8, 0)  # the compute capability from which on GPUs have it


def device_of(execution: Execution) -> torch.device:
    """The device trials run on: by default a GPU where there is one. Raises `InputError` for a missing one."""
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available on this machine; choose cpu or auto")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if execution.device == "auto" else execution.device)


def check_machine(execution: Execution, trials: Iterable[Trial]) -> None:
    """Raise `InputError` for what this machine lacks: a device, its precisions, memory, a compiler."""
    device = device_of(execution)
    memory_allowed(execution, device)
    for trial in trials:
        check_precision(trial, device)
    if execution.compile and device.type == "cpu" and shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise InputError(f"--compile takes a C++ compiler, and {compiler!r} is not found; install one, or leave it out")


def check_precision(trial: Trial, device: torch.device) -> None:
    """Raise `InputError` where the device does not have the precision that the trial's recipe names."""
    if trial.recipe.precision != "tf32" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32):
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    raise InputError(
        f"precision 'tf32' of {trial.id} takes a GPU of compute capability {TF32[0]}.{TF32[1]} or more, which {name} is"
        " not; run trials of fp32 or bf16 (--experiments), or run it elsewhere"
    )


def memory_allowed(execution: Execution, device: torch.device) -> int:
    """Bytes that one process of a trial may take: `memory_gib`, or an equal share of the machine's memory or its GPU's.

    Raises `InputError` where `memory_gib` is more than there is.
    """
    if device.type == "cuda":
        available, gpus = torch.cuda.get_device_properties(device).total_memory, execution.gpus_per_trial
        if execution.local:  # there may be fewer GPUs than processes
            gpus = min(gpus, torch.cuda.device_count() / execution.processes)
        share = int(available * min(1.0, gpus))
    else:
        available = machine_bytes()
        share = available // (execution.trials_at_once * execution.processes)
    wanted = int(execution.memory_gib * 2**30)
    if wanted > available:
        raise InputError(
            f"memory-gib {execution.memory_gib} is more than the {available / 2**30:.1f} GiB of {device}; choose less,"
            " or 0"
        )
    return wanted or share


def set_up_torch(execution: Execution) -> None:
    """Threads, precision and kernels of this process."""
    _set_up_process()
    torch.set_num_threads(execution.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cudnn.deterministic = execution.deterministic
    torch.backends.cudnn.benchmark = not execution.deterministic


@cache
def _set_up_process() -> None:
    gc.freeze()  # what was imported stays: looking through it for garbage would take half a second a trial
