"""One trial from its start, or its newest checkpoint, to its end.

Owns the order of things: `run_trial` makes an attempt, `_train_test_seal` has `_Training` restore the state and divide
the net to fit into memory, and `_drive` draws its updates; then it tests and seals. Runs in whatever process the
launcher gives it and writes to the trial's folder alone: it knows neither launcher nor MLflow, and waits for neither.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from study import cost
from study.execution import Execution
from study.run import starting_weights
from study.run.attempt import Attempt
from study.run.machine import device_of, memory_allowed, set_up_torch
from study.spec import InputError, Trial
from study.store import atomic, provenance
from study.store.account import OUT_OF_MEMORY, PROCESS_DIED, Outcome, keep_specification, read_account
from study.store.layout import Store
from study.tasks.kinds import task_of
from study.tasks.task import Evaluator, Finals, Record, Stopped
from study.training import checkpoints, memory
from study.training.distributed import HERE, Meeting, Peers, assisting, joined, leading
from study.training.loop import is_over, train
from study.training.state import TrainState

DAMAGED_NAMED = 10  # images that a run's tag names, of those that could not be decoded
log = logging.getLogger(__name__)


def check_data(trials: Sequence[Trial], execution: Execution) -> None:
    """Raise `InputError` unless the trials' data are there, and as described, and what detectors start from."""
    sources = starting_weights.check(trials, execution)
    for trial in {trial.data: trial for trial in (*trials, *sources)}.values():
        task_of(trial).load(trial, execution.data_root)


def run_trial(trial: Trial, execution: Execution, tags: dict[str, str], peers: Peers = HERE) -> Outcome:
    """Run the trial to its end and seal it in its folder; returns its outcome.

    Where it takes several processes this is the first of them, and starts the others.

    May be killed at any instant and called again: it goes on from the newest checkpoint and, on a CPU, ends with the
    same numbers bit for bit. Returns 'interrupted' if asked to stop, 'failed' if memory ran out twice, if the process
    died too often at one point, or if `execution.retries` are used up; until then, exceptions are raised again.
    Raises `InputError` at once for what another attempt cannot mend.
    """
    folder = execution.trial_folder(trial.id)
    execution.batch_share(trial)  # raises where the processes cannot share its batches
    _check_storage(execution)
    keep_specification(folder, trial)
    outcome = read_account(folder).outcome
    if outcome.is_result:  # of an earlier attempt whose end its launcher did not see
        return outcome
    device = device_of(execution)
    set_up_torch(execution)
    where = {
        "device": str(device),
        "processes": str(execution.processes),
        "threads": str(execution.threads),
        "deterministic": _yes(execution.deterministic),
    }
    with Attempt(trial, execution, {**tags, **provenance.tags(), **where}) as attempt:
        if attempt.stopping:
            return attempt.end(Outcome.INTERRUPTED, "asked to stop")
        if attempt.dies_here_too_often:
            return attempt.end(Outcome.FAILED, attempt.dies_here_too_often, PROCESS_DIED)
        try:
            return _train_test_seal(trial, execution, device, attempt, peers)
        except memory.OutOfMemory as error:  # not raised: another attempt would run out, too
            return attempt.end(Outcome.FAILED, str(error), OUT_OF_MEMORY)
        except (KeyboardInterrupt, SystemExit) as error:
            attempt.end(Outcome.INTERRUPTED, f"{type(error).__name__}: {error}")
            raise
        except InputError as error:
            attempt.end(Outcome.FAILED, f"{type(error).__name__}: {error}", type(error).__name__)
            raise
        except Exception as error:
            log.exception("trial %s failed (attempt %d of %d)", trial.id, attempt.number, execution.retries + 1)
            attempt.end(Outcome.FAILED, f"{type(error).__name__}: {error}", type(error).__name__)
            if attempt.number <= execution.retries:
                raise
            return Outcome.FAILED


def run_cohort(
    cohort: Sequence[Trial], execution: Execution, tags: Mapping[str, dict[str, str]], peers: Peers = HERE
) -> list[Outcome]:
    """Run the trials one after another; their outcomes."""
    return [run_trial(trial, execution, tags[trial.id] | {"cohort": "1"}, peers) for trial in cohort]


def _train_test_seal(
    trial: Trial, execution: Execution, device: torch.device, attempt: Attempt, peers: Peers
) -> Outcome:
    """Train, test and seal."""
    data = task_of(trial).load(trial, execution.data_root, device)
    memory.reset_peak(device)
    training = _Training(trial, data, device, execution, attempt, peers)
    state, evaluator, seconds = training.run()
    try:
        if not is_over(trial, state):
            raise Stopped
        attempt.write(lambda: state.save(attempt.files.checkpoints, kept=1))  # the final weights
        tags = training.tags | {
            "seconds": f"{seconds:.2f}",
            "data_digest": data.digest,
            "memory_mib": str(memory.peak(device) // 2**20),
        }
        diverged_at = state.diverged_at
        finals = evaluator.finals() if diverged_at is None else Finals()
    except Stopped:
        if not attempt.orphaned:
            attempt.write(lambda: state.save(attempt.files.checkpoints))
        return attempt.end(Outcome.INTERRUPTED, "asked to stop")
    if data.damaged:  # a finished trial has seen every image
        named = ", ".join(sorted(data.damaged)[:DAMAGED_NAMED])
        more = ", ..." if len(data.damaged) > DAMAGED_NAMED else ""
        tags["damaged_images"] = f"{len(data.damaged)}: {named}{more}"
    if seal := atomic.read(attempt.files.weights_seal):
        tags[starting_weights.SEAL] = seal.decode()
    if diverged_at is not None:
        return attempt.seal(Outcome.DIVERGED, state, seconds, tags | {"diverged_at": str(diverged_at)}, None)
    for protocol, files in finals.submissions.items():
        for name, content in files.items():
            attempt.write(partial(atomic.write, attempt.files.submission(protocol) / name, content))
    return attempt.seal(Outcome.FINISHED, state, seconds, tags | finals.tags, finals.layers, finals.evaluations)


class _Training:
    """Training in as few segments as fit into memory, and once more in four times as many if it runs out nevertheless.

    Nets that cannot be divided get one try.
    """

    def __init__(
        self, trial: Trial, data: Any, device: torch.device, execution: Execution, attempt: Attempt, peers: Peers
    ) -> None:
        self.trial, self.data, self.device = trial, data, device
        self.execution, self.attempt, self.peers = execution, attempt, peers
        self.needed = cost.predicted_bytes(trial, execution.batch_share(trial))  # bytes
        self.segments = 1
        self.tags: dict[str, str] = {}  # how the trial was run

    def run(self) -> tuple[TrainState, Evaluator, float]:
        """Returns the state, what tests it, and the seconds that the trial took, earlier attempts included.

        Raises `OutOfMemory`.
        """
        divisible = task_of(self.trial).DIVISIBLE
        at_least = 1
        for last_try in (False, True) if divisible else (True,):
            try:
                return self._train(at_least)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_exhausted(error):
                    raise
            # Only here the failed attempt's tensors are gone. The newest checkpoint has what is needed.
            memory.release(self.device)
            advice = memory.advice(self.needed, memory_allowed(self.execution, self.device))
            where = f" in {self.segments} segments" if divisible else ""
            message = self.tags["out_of_memory"] = f"out of memory{where}: {advice}"
            if last_try:
                break
            log.warning("%s: %s; trying once more in four times as many", self.trial.id, message)
            at_least = 4 * self.segments
        log.warning("%s: %s", self.trial.id, message)
        raise memory.OutOfMemory(message)

    def _train(self, at_least: int) -> tuple[TrainState, Evaluator, float]:
        trial, execution, attempt = self.trial, self.execution, self.attempt
        with leading(execution.processes, self.peers, partial(assist, trial, execution), self.device) as group:
            state = self._restored_or_new()
            group.share({"state": state.saved(), "segments": at_least}, self.device)
            self._divide(state, at_least)
            evaluator = state.task.Evaluator(trial, state, self.data, lambda: attempt.stopping)
            updates = train(trial, state, self.data, group, evaluator)
            seconds = _drive(trial, state, updates, execution, attempt)
            return state, evaluator, seconds

    def _restored_or_new(self) -> TrainState:
        state = TrainState(self.trial, self.device)
        saved = checkpoints.load_newest(self.attempt.files.checkpoints, self.device)
        if saved is not None:
            state.restore(saved)
        elif seal := starting_weights.take(state.net, self.trial, self.execution, self.device):
            self.attempt.write(lambda: atomic.write(self.attempt.files.weights_seal, seal.encode()))
        return state

    def _divide(self, state: TrainState, at_least: int) -> None:
        if state.task.DIVISIBLE:
            division = divide(self.trial, state, self.execution, at_least)
            self.needed, self.segments = division.needed, len(division.ends)
            self.tags["segments"] = str(self.segments)
            reason = f"runs in {self.segments} segments to fit into memory"
        else:
            allowed = memory_allowed(self.execution, self.device)
            if self.needed > cost.MARGIN * allowed:  # a prediction is no reason to refuse
                advice = memory.advice(self.needed, allowed)
                log.warning("memory may not suffice for %s: %s", self.trial.id, advice)
            reason = "is a detector"
        if self.execution.compile and not state.compiled:
            log.warning("%s %s, so it is not compiled", self.trial.id, reason)
        self.tags |= {"compiled": _yes(state.compiled), "memory_predicted_mib": str(self.needed // 2**20)}


def divide(trial: Trial, state: TrainState, execution: Execution, at_least: int = 1) -> memory.Division:
    """Divide the net into so many segments or more that it fits, and compile it if it is whole and that is wanted."""
    allowed = memory_allowed(execution, state.device)
    shape = (execution.batch_share(trial), trial.data.channels, trial.data.size, trial.data.size)
    division = memory.fit(state.net, shape, trial.recipe.precision, allowed, at_least)
    memory.keep_freed(division.whole)
    state.divide(division.ends)
    if execution.compile and division.whole:
        state.compile()
    return division


def assist(trial: Trial, execution: Execution, meeting: Meeting, rank: int, address: str) -> None:
    """In another process: train with the one that runs the trial, until that has no more to do, or ends."""
    device = device_of(execution)
    if device.type == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    set_up_torch(execution)
    with assisting(meeting, rank) as store:
        data = task_of(trial).load(trial, execution.data_root, device)
        group = joined(store, rank, execution.processes, address, device)
        shared = group.share(None, device)
        state = TrainState(trial, device)
        state.restore(shared["state"])
        divide(trial, state, execution, shared["segments"])
        for _ in train(trial, state, data, group):
            pass


def _drive(
    trial: Trial, state: TrainState, updates: Iterator[Record | None], execution: Execution, attempt: Attempt
) -> float:
    """Draw the updates of a training generator to their end, or until asked to stop.

    Returns the seconds spent on this trial, earlier attempts included.
    """
    before = attempt.seconds_before if state.iteration else 0.0
    started = checkpointed = time.monotonic()
    first, seconds = state.iteration, before
    if execution.profile_trace == trial.id:
        updates = _profiled(updates, attempt.files.trace)
    try:
        for _ in updates:
            now = time.monotonic()
            seconds = before + now - started
            pace = (now - started) / max(1, state.iteration - first)
            attempt.reached(state, seconds, seconds_left=pace * (trial.recipe.iterations - state.iteration))
            if attempt.stopping:
                break
            if now - checkpointed >= execution.checkpoint_seconds:
                attempt.checkpoint(state)
                checkpointed = time.monotonic()
    except Stopped:
        pass  # the record that was being made is made when the trial goes on
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
    if execution.launch and not Store(execution.storage).marker.exists():
        raise InputError(
            f"{platform.node()} does not see the storage {execution.storage}; mount it at the same path on every node,"
            " or choose a storage that all of them see"
        )


def _yes(value: bool) -> str:
    return "yes" if value else "no"
