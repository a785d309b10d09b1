"""One trial from its start, or its newest checkpoint, to its end.

Owns the order of things: restore, train, checkpoint, heartbeat, seal. Runs in whatever process the launcher gives it
and writes to the trial's folder alone: it knows neither launcher nor MLflow, and waits for neither.
"""

import gc
import json
import logging
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch

from study import cost
from study.data.arrays import AnyDataset, load
from study.execution import Execution
from study.nets import layers
from study.nets.resnet import build
from study.spec import DetectionTrial, InputError, Trial
from study.store import atomic, heartbeat, ledger, provenance
from study.tasks.names import CLASSIFIER_PROTOCOLS
from study.tasks.protocols import as_evaluated, errors_pct, probabilities, split_of
from study.training import memory
from study.training.checkpoints import newest_iteration
from study.training.distributed import HERE, Meeting, Peers, assisting, joined, leading
from study.nets.evaluation import loss_and_error, recalibrated
from study.training.loop import EVALUATION_BATCH, Record, TrainState, train

HEARTBEAT_SECONDS = 1.0  # ten times as long where the storage is an object store
ROOM_SECONDS = 2.0  # between looks whether a full disk has room again
DEATHS = 3  # deaths at one and the same point that are forgiven beyond the retries
DAMAGED_NAMED = 10  # images that a run's tag names, of those that could not be decoded
log = logging.getLogger(__name__)


def device_of(execution: Execution) -> torch.device:
    """The device trials run on: a GPU where there is one, unless told otherwise."""
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available on this machine; choose cpu or auto")
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if execution.device == "auto" else execution.device)


def check_data(trials: Sequence[Trial], execution: Execution) -> None:
    """Raise `InputError` unless the trials' data are there, and what they say, and what detectors start from."""
    sources: list[Trial] = []
    if detectors := [trial for trial in trials if isinstance(trial, DetectionTrial)]:
        from study.data import scenes
        from study.run.detection_worker import check_weights  # which knows this module

        sources = check_weights(detectors, {trial.id for trial in trials}, execution)
    for trial in {trial.data: trial for trial in (*trials, *sources)}.values():
        if isinstance(trial, DetectionTrial):
            scenes.load(trial.data, execution.data_root)
        else:
            load(trial.data, execution.data_root, seed=trial.seed)


def check_machine(execution: Execution) -> None:
    """Raise `InputError` for what a user can get wrong about this machine: its device, memory and compiler."""
    device = device_of(execution)
    memory_allowed(execution, device)
    if execution.compile and device.type == "cpu" and shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise InputError(f"--compile takes a C++ compiler, and {compiler!r} is not found; install one, or leave it out")


def run_trial(trial: Trial, execution: Execution, tags: dict[str, str], peers: Peers = HERE) -> str:
    """Run the trial to its end and seal it in the ledger; returns its outcome.

    Where it takes several processes this is the first of them, and starts the others.

    May be killed at any instant and called again: it goes on from the newest checkpoint and, on a CPU, ends with the
    same numbers bit for bit. Returns 'interrupted' if asked to stop, 'failed' if memory ran out twice, if the process
    died too often at one point, or if `execution.retries` are used up; until then, exceptions are raised again.
    Raises `InputError` at once for what another attempt cannot mend.
    """
    folder = execution.trial_folder(trial.id)
    execution.part(trial)
    _check_storage(execution)
    _check_folder(folder, trial)
    sealed = ledger.account(folder).get("outcome")
    if sealed in ledger.RESULTS:  # by an attempt whose end its launcher did not see
        return sealed
    device = device_of(execution)
    set_up_torch(execution)
    where = {"device": str(device), "processes": str(execution.processes), "threads": str(execution.threads)}
    where["deterministic"] = _yes(execution.deterministic)
    with Attempt(trial, execution, {**tags, **provenance.tags(), **where}) as attempt:
        if attempt.stopping:
            return attempt.ended("interrupted", "asked to stop")
        if attempt.dies_here_too_often:
            return attempt.ended("failed", attempt.dies_here_too_often)
        try:
            if isinstance(trial, DetectionTrial):
                from study.run.detection_worker import run  # which knows this module

                return run(trial, execution, device, attempt)
            return _run(trial, execution, device, attempt, peers)
        except memory.OutOfMemory as error:  # not raised: another attempt would run out, too
            return attempt.ended("failed", str(error))
        except (KeyboardInterrupt, SystemExit) as error:
            attempt.ended("interrupted", f"{type(error).__name__}: {error}")
            raise
        except InputError as error:
            attempt.ended("failed", f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            log.exception("trial %s failed (attempt %d of %d)", trial.id, attempt.number, execution.retries + 1)
            attempt.ended("failed", f"{type(error).__name__}: {error}")
            if attempt.number <= execution.retries:
                raise
            return "failed"


def assist(trial: Trial, execution: Execution, meeting: Meeting, rank: int, address: str) -> None:
    """Train with the process that runs the trial, until it says that there is no more to do, or ends."""
    device = device_of(execution)
    if device.type == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    set_up_torch(execution)
    with assisting(meeting, rank) as store:
        data = load(trial.data, execution.data_root, device, trial.seed)
        group = joined(store, rank, execution.processes, address, device)
        told = group.share(None, device)
        state = TrainState(trial, device)
        state.restore(told["state"])
        _fit(trial, state, execution, told["segments"])
        for _ in train(trial, state, data, group):
            pass


def _run(trial: Trial, execution: Execution, device: torch.device, attempt: "Attempt", peers: Peers) -> str:
    checkpoints = attempt.folder / "checkpoints"
    data = load(trial.data, execution.data_root, device, trial.seed)
    memory.reset_peak(device)
    state, seconds, how = _train_in_memory(trial, data, device, execution, attempt, peers)
    diverged_at = state.diverged_at
    if diverged_at is None and state.iteration < trial.recipe.iterations:
        if not attempt.orphaned:
            attempt.write(lambda: state.save(checkpoints))
        return attempt.ended("interrupted", "asked to stop")
    attempt.write(lambda: state.save(checkpoints, kept=1))  # the final weights
    how |= {"seconds": f"{seconds:.2f}", "data_digest": data.digest}
    how["memory_mib"] = str(memory.peak(device) // 2**20)
    if data.damaged:  # a finished trial has seen every image
        named = ", ".join(sorted(data.damaged)[:DAMAGED_NAMED])
        how["damaged_images"] = f"{len(data.damaged)}: {named}" + ", ..." * (len(data.damaged) > DAMAGED_NAMED)
    if diverged_at is not None:
        return attempt.seal("diverged", state, seconds, how | {"diverged_at": str(diverged_at)}, None)
    how |= _recalibrated(trial, state, data)
    evaluations = _tested(trial, state, data)  # before the layers, which give the net its initial weights again
    return attempt.seal("finished", state, seconds, how, _layers(trial, state, data), evaluations)


def _recalibrated(trial: Trial, state: TrainState, data: AnyDataset) -> dict[str, str]:
    """Errors of the final net with BatchNorm's statistics averaged anew, whatever the recipe evaluates with.

    Over batches as BatchNorm trained on, drawn from all training images; fewer where there are too few images.
    """
    size, precision = trial.recipe.bn_batch, trial.recipe.precision
    sample = data.mixed(size, min(data.count("train"), ledger.RECALIBRATION_BATCHES * size))
    with recalibrated(state.net, sample, precision):
        errors = [loss_and_error(state.net, data.clean(s, EVALUATION_BATCH), precision)[1] for s in ("train", "test")]
    return dict(zip(ledger.RECALIBRATED, map(repr, errors), strict=True))


def _tested(trial: Trial, state: TrainState, data: AnyDataset) -> list[dict[str, Any]]:
    """What the final net does by each of the paper's ways of testing, where its images are photographs."""
    rows: list[dict[str, Any]] = []
    for protocol in CLASSIFIER_PROTOCOLS if trial.data.photographs else ():
        with as_evaluated(state.net, trial.recipe, data) as net:
            (errors, _), images = errors_pct(probabilities([net], data, protocol, state.device))
        of = {"split": split_of(trial.data), "protocol": protocol, "nets": "", "images": images}
        rows += [{**of, "measure": measure, "value": value} for measure, value in errors.items()]
    return rows


def _layers(trial: Trial, state: TrainState, data: AnyDataset) -> list[dict[str, Any]]:
    """What the layers do at the end of training and, in the same net given its initial weights again, at the start."""
    images, labels = next(data.mixed(trial.recipe.batch, trial.recipe.batch))
    end = layers.measure(state.net, images, labels, trial.recipe.precision, state.iteration)
    state.net.load_state_dict(build(trial).state_dict())
    return layers.measure(state.net, images, labels, trial.recipe.precision, 0) + end


class Attempt:
    """One attempt at a trial: what it says in the ledger, its heartbeat, and whether it is to stop.

    A thread beats, because one update of a deep net may take a minute. The first beat comes before the account says
    'running', so that a trial that runs and is silent was heard in this attempt.
    """

    def __init__(self, trial: Trial, execution: Execution, tags: dict[str, str]) -> None:
        self.folder, self.execution = execution.trial_folder(trial.id), execution
        self.schema = ledger.columns(trial)
        self.leash = heartbeat.Leash(execution) if execution.launch else None
        self.stopping = self.orphaned = False
        self._look()
        before = ledger.account(self.folder)
        same_launch = before.get("launch") == execution.launch and bool(execution.launch)
        failures = before.get("failures", 0) if same_launch else 0
        self.number = failures + 1
        deaths, at = (before.get("deaths", 0), before.get("died_at")) if same_launch else (0, None)
        if same_launch and before.get("outcome") == "running":  # it did not live to say how it ended
            reached = newest_iteration(self.folder / "checkpoints")
            deaths, at = (deaths + 1 if at == reached else 1), reached
        self.dies_here_too_often = (
            f"its process died {deaths} times in a row after iteration {at}, without a word: killed from outside, or by"
            " the system because memory ran out"
            if deaths > execution.retries + DEATHS
            else ""
        )
        self.said: dict[str, Any] = {
            **{"launch": execution.launch, "started": before.get("started") or int(time.time() * 1000)},
            **{"failures": failures, "deaths": deaths, "died_at": at, "outcome": "running", "reason": ""},
            **{"host": platform.node(), "pid": os.getpid(), "process_started": psutil.Process().create_time()},
            "tags": {**tags, "storage": str(execution.storage.absolute())},
        }
        last = heartbeat.read(self.folder)
        self.seconds_before: float = last.get("seconds", 0.0)
        self._now: dict[str, Any] = {
            **{"iteration": last.get("iteration", 0), "train_error_pct": last.get("train_error_pct")},
            **{"seconds": self.seconds_before, "seconds_left": None},
        }
        self._say_now()
        self.write(lambda: ledger.say(self.folder, self.said))
        if provenance.patch():
            self.write(lambda: atomic.write(self.folder / "uncommitted.patch", provenance.patch().encode()))
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Attempt":
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()

    def now(self, state: TrainState, seconds: float, **more: Any) -> None:
        """What the next heartbeat says."""
        error_pct = state.records[-1].get("train_error_pct") if state.records else None
        self._now = {"iteration": state.iteration, "train_error_pct": error_pct, "seconds": seconds, **more}

    def checkpoint(self, state: TrainState) -> None:
        """Keep the state and the records so far."""
        self.write(lambda: state.save(self.folder / "checkpoints"))
        self.write(lambda: ledger.write_records(self.folder, state.records, self.schema))

    def seal(
        self,
        outcome: str,
        state: TrainState,
        seconds: float,
        tags: dict[str, str],
        layers: list[dict[str, Any]] | None,
        evaluations: Sequence[dict[str, Any]] = (),
    ) -> str:
        """Make the outcome a result."""
        self.said["tags"] |= tags
        self.now(state, seconds, seconds_left=0.0, outcome=outcome)
        self.write(
            lambda: ledger.seal(self.folder, outcome, state.records, self.said, layers, evaluations, self.schema)
        )
        return outcome

    def ended(self, outcome: str, reason: str) -> str:
        """Say why there is no result. An attempt that another one has replaced says nothing more."""
        there = ledger.account(self.folder)
        ours = all(there.get(name) == self.said[name] for name in ("launch", "host", "pid", "process_started"))
        self.said |= {"outcome": outcome, "reason": reason[:5000]}
        self.said["failures"] += outcome == "failed"
        if ours and not self.orphaned:
            self.write(lambda: ledger.say(self.folder, self.said))
        return outcome

    def write(self, write: Callable[[], object]) -> None:
        """Write. While the disk is full, wait for room, or for being asked to stop."""
        warned = False
        while True:
            try:
                write()
                return
            except OSError as error:
                if not atomic.is_full(error):
                    raise
                if not warned:
                    log.warning("the disk of %s is full; the trial goes on when there is room", self.folder)
                    warned = True
                if self.stopping:
                    return
                time.sleep(ROOM_SECONDS)

    def _beat(self) -> None:
        rest = HEARTBEAT_SECONDS if atomic.is_local(self.folder) else 10 * HEARTBEAT_SECONDS
        while not self._over.wait(rest):
            self._say_now()
            self._look()
        self._say_now()

    def _say_now(self) -> None:
        try:
            heartbeat.write(self.folder, launch=self.execution.launch, **self._now)
        except OSError as error:  # of a network's file system, for a moment
            log.warning("no heartbeat: %s", error)

    def _look(self) -> None:
        pull = self.leash.pulled() if self.leash else ""
        self.orphaned = self.orphaned or pull == "replaced"
        self.stopping = self.stopping or bool(pull)


def memory_allowed(execution: Execution, device: torch.device) -> int:
    """Bytes that one process of a trial may take, of the machine or of its GPU."""
    at_once = execution.trials_at_once * execution.processes
    gpus = execution.gpus_per_trial
    if execution.local and device.type == "cuda":  # there may be fewer GPUs than processes
        gpus = min(gpus, torch.cuda.device_count() / execution.processes)
    return memory.allowed(device, at_once, gpus, execution.memory_gib)


@cache
def _set_up_process() -> None:
    gc.freeze()  # what was imported stays: looking through it for garbage would take half a second a trial


def set_up_torch(execution: Execution) -> None:
    """Threads, precision and kernels of this process, as the execution asks for them."""
    _set_up_process()
    torch.set_num_threads(execution.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cudnn.deterministic = execution.deterministic
    torch.backends.cudnn.benchmark = not execution.deterministic


def _train_in_memory(
    trial: Trial, data: AnyDataset, device: torch.device, execution: Execution, attempt: Attempt, peers: Peers
) -> tuple[TrainState, float, dict[str, str]]:
    """Train in as few segments as fit into memory, and once more with four times as many if it runs out nevertheless.

    Returns the state, the seconds that the trial took, and how it was run.
    """
    allowed = memory_allowed(execution, device)
    needed, segments = cost.predicted_bytes(execution.part(trial)), 1
    how: dict[str, str] = {}

    def once(at_least: int) -> tuple[TrainState, float]:
        nonlocal needed, segments
        with leading(execution.processes, peers, partial(assist, trial, execution), device) as group:
            state = TrainState.restore_or_create(trial, execution.trial_folder(trial.id) / "checkpoints", device)
            group.share({"state": state.saved(), "segments": at_least}, device)
            needed = _fit(trial, state, execution, at_least)
            segments = len(state.net.segments)
            compiled = state.forward is not state.net
            if execution.compile and not compiled:
                log.warning("%s runs in %d segments to fit into memory, so it is not compiled", trial.id, segments)
            how.update(segments=str(segments), compiled=_yes(compiled), memory_predicted_mib=str(needed // 2**20))
            return state, drive(trial, state, train(trial, state, data, group), execution, attempt)

    for again in (False, True):
        try:
            return *once(at_least=4 * segments if again else 1), how
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


def _fit(trial: Trial, state: TrainState, execution: Execution, segments: int) -> int:
    """Divide the net into so many segments or more that it fits, and compile it if it is whole; the bytes needed."""
    part, allowed = execution.part(trial), memory_allowed(execution, state.device)
    shape = (part.recipe.batch, trial.data.channels, trial.data.size, trial.data.size)
    needed = memory.fit(state.net, shape, trial.recipe.precision, allowed, segments)
    whole = len(state.net.segments) == 1
    memory.keep_freed(whole)
    if execution.compile and whole:
        state.compile()
    return needed


def drive(
    trial: Trial, state: TrainState, updates: Iterator[Record | None], execution: Execution, attempt: Attempt
) -> float:
    """Draw the updates of a training generator to their end, or until asked to stop.

    Returns the seconds spent on this trial, earlier attempts included.
    """
    before = attempt.seconds_before if state.iteration else 0.0
    started = checkpointed = time.monotonic()
    first, seconds = state.iteration, before
    if execution.profile_trace == trial.id:
        updates = _profiled(updates, attempt.folder / "trace.json")
    for _ in updates:
        now = time.monotonic()
        seconds = before + now - started
        pace = (now - started) / max(1, state.iteration - first)
        attempt.now(state, seconds, seconds_left=pace * (trial.recipe.iterations - state.iteration))
        if attempt.stopping:
            break
        if now - checkpointed >= execution.checkpoint_seconds:
            attempt.checkpoint(state)
            checkpointed = time.monotonic()
    return seconds


def _profiled(updates: Iterator[Record | None], path: Path) -> Iterator[Record | None]:
    """The same updates; where the time of the second to fourth goes becomes a Chrome trace in the trial's folder."""
    yield from islice(updates, 1)
    profiled = 0
    with torch.profiler.profile() as profiler:
        for update in islice(updates, 3):
            profiled += 1
            yield update
    if profiled:
        with tempfile.TemporaryDirectory() as folder:
            profiler.export_chrome_trace(str(Path(folder) / path.name))
            atomic.write(path, (Path(folder) / path.name).read_bytes())
    yield from updates


def _check_storage(execution: Execution) -> None:
    """A node that does not see the launcher's storage would train into a folder of its own."""
    if execution.launch and not (execution.storage / "store.json").exists():
        raise InputError(
            f"{platform.node()} does not see the storage {execution.storage}; mount it at the same path on every node,"
            " or choose a storage that all of them see"
        )


def _check_folder(folder: Path, trial: Trial) -> None:
    """Refuse a folder that another specification wrote under this id."""
    path, spec = folder / "spec.json", json.dumps(trial.to_dict(), indent=2).encode()
    there = atomic.read(path)
    if there is None:
        atomic.write(path, spec)
    elif there != spec:
        raise InputError(f"{path} holds another specification than {trial.id}; move {folder} away")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
