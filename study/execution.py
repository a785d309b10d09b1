"""How trials are run: device, processes, memory, storage. Recorded as tags, never part of an id.

Standard library only, as `study/spec.py`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from study.addresses import ELSEWHERE, check_bare
from study.limits import cores
from study.spec import InputError, Trial, check_at_least, check_choice, detection_of
from study.store.layout import Store


class EngineError(Exception):
    """Trials cannot run as they were asked to, for a reason that is no user's input: one line."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How trials are run: recorded as tags, never part of an id."""

    storage: Path  # holds the store: tracking database, artifacts, a folder a trial; see `storage.place` for URLs
    data_root: Path  # where data sets are looked for and downloaded to
    tracking_uri: str = ""  # '' is the sqlite database inside the storage
    device: str = "auto"  # 'auto', 'cpu' or 'cuda'
    cohort: int = 0  # seeds of one condition that a process trains together; 0 is as many as a GPU gains by, else one
    processes: int = 1  # that share the batches of one trial, each with its own GPU or threads
    threads: int = 1  # CPU threads of each; small nets want one thread each and several trials at a time
    cpus: int = 0  # cores to fill; 0 is all that this process may use
    gpus_per_trial: float = 1.0  # share of a GPU that each process takes where there are GPUs; 0 is what it needs
    retries: int = 2  # further attempts at a trial that failed; processes that die of something else do not count
    checkpoint_seconds: float = 30.0  # at most so much work is lost when a trial is killed
    memory_gib: float = 0.0  # memory each process may take; 0 is an equal share of the machine's, or of its GPU's
    compile: bool = False  # torch.compile the training pass, on a GPU block by block
    capture: bool = True  # on a GPU: capture an update as a CUDA graph, and replay it
    deterministic: bool = True  # on a GPU: choose kernels whose results repeat; CPUs always do
    profile_trace: str = ""  # id of a trial to profile; 'longest' is the one that is started first
    address: str = ""  # of a running Ray cluster; '' starts Ray on this machine
    local: bool = False  # a plain for-loop instead of Ray Tune
    launch: str = ""  # name of the launch that a worker belongs to; its launcher sets it

    def __post_init__(self) -> None:
        check_bare("tracking-uri", self.tracking_uri, ELSEWHERE)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_at_least("cohort", self.cohort, 0)
        check_at_least("processes", self.processes, 1)
        check_at_least("threads", self.threads, 1)
        check_at_least("cpus", self.cpus, 0)
        check_at_least("retries", self.retries, 0)
        check_at_least("checkpoint-seconds", self.checkpoint_seconds, 0)
        check_at_least("memory-gib", self.memory_gib, 0)
        if not 0 <= self.gpus_per_trial < math.inf or self.memory_gib == math.inf:
            raise InputError(
                f"gpus-per-trial {self.gpus_per_trial} must be 0 (as measured) or more,"
                f" and memory-gib {self.memory_gib} finite"
            )

    @property
    def trials_at_once(self) -> int:
        """How many trials run at a time on this machine's cores; where there are GPUs, their shares may allow fewer."""
        return 1 if self.local else max(1, (self.cpus or cores()) // (self.threads * self.processes))

    def batch_share(self, trial: Trial) -> int:
        """How many images of a batch each of the trial's processes has.

        Raises `InputError` for a detector, whose batches are not shared, and unless BatchNorm's sub-batches can be
        shared equally.
        """
        recipe, parts = trial.recipe, trial.recipe.batch // trial.recipe.bn_batch
        if self.processes > 1 and detection_of(trial):
            raise InputError(f"processes {self.processes} cannot share {trial.id}, a detector; choose 1")
        if parts % self.processes:
            raise InputError(
                f"processes {self.processes} cannot share batch {recipe.batch} of {trial.id}, which BatchNorm"
                f" normalises in {parts} parts of {recipe.bn_batch} images; choose a divisor of {parts}"
            )
        return recipe.batch // self.processes

    def trial_folder(self, trial_id: str) -> Path:
        return Store(self.storage).trial(trial_id).path
