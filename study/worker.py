"""One trial from its start, or its newest checkpoint, to its end.

Owns the order of things: restore, train, checkpoint, heartbeat, log, seal. Runs in whatever process the launcher gives
it and knows no launcher.
"""

import json
import logging
import resource
import time
from pathlib import Path

import torch

from study import progress, tracking
from study.checkpoints import write_atomically
from study.data import Dataset, load
from study.spec import Execution, InputError, Trial
from study.training import TrainState, train

HEARTBEAT_SECONDS = 1.0
log = logging.getLogger(__name__)


def device_of(execution: Execution) -> torch.device:
    """The device trials run on: a GPU where there is one, unless told otherwise."""
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available on this machine; choose cpu or auto")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if execution.device == "auto" else execution.device)


def run_trial(trial: Trial, execution: Execution, tags: dict[str, str]) -> str:
    """Run the trial to its end and seal its run; returns 'finished', 'diverged', or 'interrupted' if asked to stop.

    May be killed at any instant and called again: it goes on from the newest checkpoint and, on a CPU, ends with the
    same numbers bit for bit. Exceptions are recorded as the run's outcome and raised again.
    """
    if progress.stop_file(execution.storage).exists():
        return "interrupted"
    device = device_of(execution)
    torch.set_num_threads(execution.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cudnn.deterministic = True
    folder = execution.trial_folder(trial.id)
    _check_folder(folder, trial)
    how = {"device": str(device), "threads": str(execution.threads)}
    run = tracking.OpenRun(execution, trial, {**tags, **how})
    try:
        data = load(trial.data, execution.data_root, device)
        state = TrainState.restore_or_create(trial, folder / "checkpoints", device)
        seconds = _train(trial, state, data, folder, execution, run)
        diverged_at = state.diverged_at
        if diverged_at is None and state.iteration < trial.recipe.iterations:
            state.save(folder / "checkpoints")
            run.stop("interrupted", "asked to stop")
            return "interrupted"
        state.save(folder / "checkpoints", kept=1)  # the final weights
        outcome = "finished" if diverged_at is None else "diverged"
        how = {"seconds": f"{seconds:.2f}", "memory_mib": str(_peak_memory_mib(device)), "data_digest": data.digest}
        if diverged_at is not None:
            how["diverged_at"] = str(diverged_at)
        run.finish(outcome, state.records, how)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        run.stop("interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}")
        raise
    # Only now, outside the block that would call a sealed run failed if this small file cannot be written.
    error_pct = state.records[-1]["train_error_pct"]
    said = {"iteration": state.iteration, "train_error_pct": error_pct, "outcome": outcome}
    progress.write(folder, **said, seconds=seconds, seconds_left=0.0)
    return outcome


def _train(
    trial: Trial, state: TrainState, data: Dataset, folder: Path, execution: Execution, run: tracking.OpenRun
) -> float:
    """Drive the training generator to its end, or until asked to stop.

    Returns the seconds spent on this trial, earlier attempts included.
    """
    before = progress.read(folder).get("seconds", 0.0) if state.iteration else 0.0
    started = checkpointed = time.monotonic()
    beaten, first, seconds = 0.0, state.iteration, before
    for _ in train(trial, state, data):
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


def _check_folder(folder: Path, trial: Trial) -> None:
    """Refuse a folder that another specification wrote under this id."""
    path, spec = folder / "spec.json", json.dumps(trial.to_dict(), indent=2)
    if not path.exists():
        write_atomically(path, spec.encode())
    elif path.read_text() != spec:
        raise InputError(f"{path} holds another specification than {trial.id}; move {folder} away")


def _peak_memory_mib(device: torch.device) -> int:
    """Peak memory of the device, or of this process where the device is the CPU (its earlier trials included)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
