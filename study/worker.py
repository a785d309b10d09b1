"""One trial from its start, or its newest checkpoint, to its end.

Owns the order of things: restore, train, checkpoint, heartbeat, log, seal. Runs in whatever process the launcher gives
it and knows no launcher.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from study import cost, memory, progress, tracking
from study.checkpoints import write_atomically
from study.data import Dataset, load
from study.spec import Execution, InputError, Trial
from study.training import Record, TrainState, train

HEARTBEAT_SECONDS = 1.0
log = logging.getLogger(__name__)


def device_of(execution: Execution) -> torch.device:
    """The device trials run on: a GPU where there is one, unless told otherwise."""
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available on this machine; choose cpu or auto")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if execution.device == "auto" else execution.device)


def check_machine(execution: Execution) -> None:
    """Raise `InputError` for what a user can get wrong about this machine: its device, memory and compiler."""
    device = device_of(execution)
    _memory_allowed(execution, device)
    if execution.compile and device.type == "cpu" and shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise InputError(f"--compile takes a C++ compiler, and {compiler!r} is not found; install one, or leave it out")


def run_trial(trial: Trial, execution: Execution, tags: dict[str, str]) -> str:
    """Run the trial to its end and seal its run; returns 'finished' or 'diverged'.

    Returns 'interrupted' if asked to stop, 'failed' if memory ran out twice. May be killed at any instant and called
    again: it goes on from the newest checkpoint and, on a CPU, ends with the same numbers bit for bit. Other exceptions
    are recorded as the run's outcome and raised again.
    """
    if progress.stop_file(execution.storage).exists():
        return "interrupted"
    device = device_of(execution)
    _set_up_torch(execution)
    folder = execution.trial_folder(trial.id)
    _check_folder(folder, trial)
    where = {"device": str(device), "threads": str(execution.threads), "deterministic": _yes(execution.deterministic)}
    run = tracking.OpenRun(execution, trial, {**tags, **where})
    try:
        data = load(trial.data, execution.data_root, device)
        memory.reset_peak(device)
        state, seconds, how = _train_in_memory(trial, data, device, execution, run)
        diverged_at = state.diverged_at
        if diverged_at is None and state.iteration < trial.recipe.iterations:
            state.save(folder / "checkpoints")
            run.stop("interrupted", "asked to stop")
            return "interrupted"
        state.save(folder / "checkpoints", kept=1)  # the final weights
        outcome = "finished" if diverged_at is None else "diverged"
        how |= {"seconds": f"{seconds:.2f}", "data_digest": data.digest}
        how["memory_mib"] = str(memory.peak(device) // 2**20)
        if diverged_at is not None:
            how["diverged_at"] = str(diverged_at)
        run.finish(outcome, state.records, how)
    except memory.OutOfMemory as error:  # not raised: launchers would try in vain
        run.stop("failed", str(error))
        return "failed"
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        run.stop("interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}")
        raise
    # Only now, outside the block that would call a sealed run failed if this small file cannot be written.
    error_pct = state.records[-1]["train_error_pct"]
    said = {"iteration": state.iteration, "train_error_pct": error_pct, "outcome": outcome}
    progress.write(folder, **said, seconds=seconds, seconds_left=0.0)
    return outcome


def _memory_allowed(execution: Execution, device: torch.device) -> int:
    return memory.allowed(device, execution.trials_at_once, execution.gpus_per_trial, execution.memory_gib)


def _set_up_torch(execution: Execution) -> None:
    torch.set_num_threads(execution.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cudnn.deterministic = execution.deterministic
    torch.backends.cudnn.benchmark = not execution.deterministic


def _train_in_memory(
    trial: Trial, data: Dataset, device: torch.device, execution: Execution, run: tracking.OpenRun
) -> tuple[TrainState, float, dict[str, str]]:
    """Train in as few segments as fit into memory, and once more with four times as many if it runs out nevertheless.

    Returns the state, the seconds that the trial took, and how it was run.
    """
    allowed = _memory_allowed(execution, device)
    needed, segments = cost.predicted_bytes(trial), 1
    how: dict[str, str] = {}

    def attempt(at_least: int) -> tuple[TrainState, float]:
        nonlocal needed, segments
        state = TrainState.restore_or_create(trial, execution.trial_folder(trial.id) / "checkpoints", device)
        shape = (trial.recipe.batch, trial.data.channels, trial.data.size, trial.data.size)
        needed = memory.fit(state.net, shape, trial.recipe.precision, allowed, at_least)
        segments = len(state.net.segments)
        memory.keep_freed(segments == 1)
        compiled = execution.compile and segments == 1
        if compiled:
            state.compile()
        elif execution.compile:
            log.warning("%s runs in %d segments to fit into memory, so it is not compiled", trial.id, segments)
        how.update(segments=str(segments), compiled=_yes(compiled), memory_predicted_mib=str(needed // 2**20))
        return state, _train(trial, state, data, execution, run)

    for again in (False, True):
        try:
            return *attempt(at_least=4 * segments if again else 1), how
        except (RuntimeError, MemoryError) as error:
            if not memory.is_exhausted(error):
                raise
        # Only here the failed attempt's tensors are gone. The newest checkpoint has what is needed.
        memory.release(device)
        how["out_of_memory"] = f"out of memory in {segments} segments: {memory.advice(needed, allowed)}"
        log.warning(
            "%s: %s", trial.id, how["out_of_memory"] + ("" if again else "; trying once more in four times as many")
        )
    raise memory.OutOfMemory(how["out_of_memory"])


def _train(trial: Trial, state: TrainState, data: Dataset, execution: Execution, run: tracking.OpenRun) -> float:
    """Drive the training generator to its end, or until asked to stop.

    Returns the seconds spent on this trial, earlier attempts included.
    """
    folder = execution.trial_folder(trial.id)
    before = progress.read(folder).get("seconds", 0.0) if state.iteration else 0.0
    started = checkpointed = time.monotonic()
    beaten, first, seconds = 0.0, state.iteration, before
    updates = train(trial, state, data)
    if execution.profile_trace == trial.id:
        updates = _profiled(updates, folder / "trace.json", run)
    for _ in updates:
        now = time.monotonic()
        seconds = before + now - started
        if now - beaten >= HEARTBEAT_SECONDS:
            pace = (now - started) / (state.iteration - first)
            error_pct = state.records[-1]["train_error_pct"] if state.records else None
            said = {"iteration": state.iteration, "train_error_pct": error_pct}
            left = pace * (trial.recipe.iterations - state.iteration)
            progress.write(folder, **said, seconds=seconds, seconds_left=left)
            beaten = now
            if progress.stop_file(execution.storage).exists():
                break
        if now - checkpointed >= execution.checkpoint_seconds:
            state.save(folder / "checkpoints")
            run.log(state.records)
            checkpointed = time.monotonic()
    return seconds


def _profiled(updates: Iterator[Record | None], path: Path, run: tracking.OpenRun) -> Iterator[Record | None]:
    """The same updates; where the time of the second to fourth goes becomes a Chrome trace, an artifact of the run."""
    yield from islice(updates, 1)
    profiled = 0
    with torch.profiler.profile() as profiler:
        for update in islice(updates, 3):
            profiled += 1
            yield update
    if profiled:
        profiler.export_chrome_trace(str(path))
        run.attach(path)
    yield from updates


def _check_folder(folder: Path, trial: Trial) -> None:
    """Refuse a folder that another specification wrote under this id."""
    path, spec = folder / "spec.json", json.dumps(trial.to_dict(), indent=2)
    if not path.exists():
        write_atomically(path, spec.encode())
    elif path.read_text() != spec:
        raise InputError(f"{path} holds another specification than {trial.id}; move {folder} away")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
