"""One trial, or a cohort of them, from its start, or its newest checkpoint, to its end.

Owns the order of things: `run_cohort` makes an attempt at each, `_train_test_seal` has `_Training` restore the states
and divide the net to fit into memory, and `_drive` draws its updates; then it tests and seals. Runs in whatever process
the launcher gives it and writes to the trials' folders alone: it knows neither launcher nor MLflow, and waits for
neither.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from study import cost
from study.execution import Execution
from study.run import starting_weights
from study.run.attempt import Attempt
from study.run.gpu_meter import GpuMeter, nvml
from study.run.machine import check_precision, device_of, memory_allowed, set_up_torch
from study.spec import InputError, Trial
from study.store import atomic, provenance
from study.store.account import OUT_OF_MEMORY, PROCESS_DIED, Outcome, keep_specification, read_account
from study.store.layout import Store
from study.tasks.kinds import task_of
from study.tasks.task import Evaluator, Finals, Stopped
from study.training import checkpoints, memory
from study.training.cohort import Cohort
from study.training.distributed import HERE, Meeting, Peers, assisting, joined, leading
from study.training.loop import is_over, train, train_cohort
from study.training.state import Passes, TrainState

DAMAGED_NAMED = 10  # images that a run's tag names, of those that could not be decoded
log = logging.getLogger(__name__)


def check_data(trials: Sequence[Trial], execution: Execution) -> None:
    """Raise `InputError` unless the trials' data are there, and as described, and what detectors start from."""
    sources = starting_weights.check(trials, execution)
    for trial in {trial.data: trial for trial in (*trials, *sources)}.values():
        task_of(trial).load(trial, execution.data_root)


def run_trial(trial: Trial, execution: Execution, tags: dict[str, str], peers: Peers = HERE) -> Outcome:
    """Run the trial to its end and seal it in its folder; returns its outcome. See `run_cohort`."""
    return run_cohort((trial,), execution, {trial.id: tags}, peers)[0]


def run_cohort(
    cohort: Sequence[Trial], execution: Execution, tags: Mapping[str, dict[str, str]], peers: Peers = HERE
) -> list[Outcome]:
    """Run a trial, or trials of one condition together, to their ends and seal each in its folder; their outcomes.

    Where a trial takes several processes this is the first of them, and starts the others.

    May be killed at any instant and called again: what has a result is left alone, and the others go on from their
    newest checkpoints. A trial alone ends on a CPU with the same numbers bit for bit; so does a cohort on the same
    device, as long as it has the same members. Outcomes are 'interrupted' if asked to stop, 'failed' if memory ran out
    twice, if the process died too often at one point, or if `execution.retries` are used up; until then, exceptions are
    raised again. Raises `InputError` at once for what another attempt cannot mend.
    """
    _check_storage(execution)
    for trial in cohort:
        execution.batch_share(trial)  # raises where the processes cannot share its batches
        keep_specification(execution.trial_folder(trial.id), trial)
    outcomes = {trial: read_account(execution.trial_folder(trial.id)).outcome for trial in cohort}
    # A result may be of an earlier attempt whose end its launcher did not see.
    todo = [trial for trial, outcome in outcomes.items() if not outcome.is_result]
    if todo:
        outcomes |= _attempted(todo, execution, tags, peers)
    return list(outcomes.values())


def _attempted(
    trials: Sequence[Trial], execution: Execution, tags: Mapping[str, dict[str, str]], peers: Peers
) -> dict[Trial, Outcome]:
    device = device_of(execution)
    for trial in trials:
        check_precision(trial, device)
    set_up_torch(execution)
    where = {
        "device": str(device),
        "processes": str(execution.processes),
        "threads": str(execution.threads),
        "deterministic": _yes(execution.deterministic),
    }
    with ExitStack() as stack:
        attempts = {
            trial: stack.enter_context(Attempt(trial, execution, {**tags[trial.id], **provenance.tags(), **where}))
            for trial in trials
        }
        for attempt in attempts.values():
            if attempt.stopping:
                attempt.end(Outcome.INTERRUPTED, "asked to stop")
            elif attempt.dies_here_too_often:
                attempt.end(Outcome.FAILED, attempt.dies_here_too_often, PROCESS_DIED)
        meter = stack.enter_context(GpuMeter(nvml(device)))
        try:
            _train_test_seal(attempts, execution, device, peers, meter)
        except memory.OutOfMemory as error:  # not raised: another attempt would run out, too
            _end(attempts, Outcome.FAILED, str(error), OUT_OF_MEMORY)
        except (KeyboardInterrupt, SystemExit) as error:
            _end(attempts, Outcome.INTERRUPTED, f"{type(error).__name__}: {error}")
            raise
        except InputError as error:
            _end(attempts, Outcome.FAILED, f"{type(error).__name__}: {error}", type(error).__name__)
            raise
        except Exception as error:
            number = min(attempt.number for attempt in attempts.values())
            names = " and ".join(trial.id for trial, attempt in attempts.items() if attempt.outcome is None)
            log.exception("trial %s failed (attempt %d of %d)", names, number, execution.retries + 1)
            _end(attempts, Outcome.FAILED, f"{type(error).__name__}: {error}", type(error).__name__)
            if number <= execution.retries:
                raise
        return {trial: attempt.outcome for trial, attempt in attempts.items() if attempt.outcome is not None}


def _end(attempts: Mapping[Trial, Attempt], outcome: Outcome, reason: str, cause: str = "") -> None:
    """End every attempt that has not ended."""
    for attempt in attempts.values():
        if attempt.outcome is None:
            attempt.end(outcome, reason, cause)


@dataclass
class _Member:
    """A trial that is being trained, alone or with others."""

    trial: Trial
    attempt: Attempt
    data: Any
    state: TrainState
    evaluator: Evaluator
    seconds: float = 0.0  # its share of the time of its process, earlier attempts included


def _train_test_seal(
    attempts: Mapping[Trial, Attempt], execution: Execution, device: torch.device, peers: Peers, meter: GpuMeter
) -> None:
    """Train, test and seal; whenever a member is over, the others go on as a smaller cohort."""
    data: dict[Trial, Any] = {}
    while going := {trial: attempt for trial, attempt in attempts.items() if attempt.outcome is None}:
        data = data or _loaded(list(going), execution, device)
        _train_until_one_is_over(_Training(going, data, device, execution, peers), meter)
        memory.release(device)  # the cohort that was


def _train_until_one_is_over(training: "_Training", meter: GpuMeter) -> None:
    memory.reset_peak(training.device)
    members = training.run()
    over = [member for member in members if is_over(member.trial, member.state)]
    others = [member for member in members if member not in over]
    if over:
        for member in others:  # so that they never go on with who is sealed
            member.attempt.checkpoint(member.state)
        for member in over:
            _test_and_seal(member, training.tags | meter.tags(member.seconds), training.device)
    if not over or any(member.attempt.stopping for member in others):
        for member in others:
            _interrupt(member)


def _loaded(trials: Sequence[Trial], execution: Execution, device: torch.device) -> dict[Trial, Any]:
    """The data of each trial; those of one condition share all but what depends on the seed."""
    first = task_of(trials[0]).load(trials[0], execution.data_root, device)
    return {trial: first.for_seed(trial.seed) if trial != trials[0] else first for trial in trials}


def _interrupt(member: _Member) -> None:
    if not member.attempt.orphaned:
        member.attempt.write(lambda: member.state.save(member.attempt.files.checkpoints))
    member.attempt.end(Outcome.INTERRUPTED, "asked to stop")


def _test_and_seal(member: _Member, how: dict[str, str], device: torch.device) -> None:
    attempt, state, data = member.attempt, member.state, member.data
    try:
        attempt.write(lambda: state.save(attempt.files.checkpoints, kept=1))  # the final weights
        tags = how | {
            "seconds": f"{member.seconds:.2f}",
            "data_digest": data.digest,
            "memory_mib": str(memory.peak(device) // 2**20),
        }
        diverged_at = state.diverged_at
        finals = member.evaluator.finals() if diverged_at is None else Finals()
    except Stopped:
        return _interrupt(member)
    if data.damaged:  # a finished trial has seen every image
        named = ", ".join(sorted(data.damaged)[:DAMAGED_NAMED])
        more = ", ..." if len(data.damaged) > DAMAGED_NAMED else ""
        tags["damaged_images"] = f"{len(data.damaged)}: {named}{more}"
    if seal := atomic.read(attempt.files.weights_seal):
        tags[starting_weights.SEAL] = seal.decode()
    if diverged_at is not None:
        attempt.seal(Outcome.DIVERGED, state, member.seconds, tags | {"diverged_at": str(diverged_at)}, None)
        return
    for protocol, files in finals.submissions.items():
        for name, content in files.items():
            attempt.write(partial(atomic.write, attempt.files.submission(protocol) / name, content))
    tags |= finals.tags
    attempt.seal(Outcome.FINISHED, state, member.seconds, tags, finals.layers, finals.evaluations, finals.wrong)


class _Training:
    """Training in as few segments as fit into memory, and once more in four times as many if it runs out nevertheless.

    Nets that cannot be divided get one try.
    """

    def __init__(
        self,
        attempts: Mapping[Trial, Attempt],
        data: Mapping[Trial, Any],
        device: torch.device,
        execution: Execution,
        peers: Peers,
    ) -> None:
        self.attempts, self.data, self.device = attempts, data, device
        self.execution, self.peers = execution, peers
        self.trial = next(iter(attempts))  # the others differ by seed alone
        images = execution.batch_share(self.trial)
        self.needed = cost.predicted_bytes(self.trial, len(attempts) * images)  # bytes
        self.segments = 1
        self.tags: dict[str, str] = {"cohort": str(len(attempts))}  # how the trials were run

    def run(self) -> list[_Member]:
        """Train until a member is over, or all are asked to stop. Raises `OutOfMemory`."""
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

    def _train(self, at_least: int) -> list[_Member]:
        trial, execution = self.trial, self.execution
        with leading(execution.processes, self.peers, partial(assist, trial, execution), self.device) as group:
            members = self._members()
            self.tags["captured"] = _yes(members[0].state.captures)
            states, trials = [member.state for member in members], [member.trial for member in members]
            state: Passes
            if len(members) == 1:
                (state,), (one,) = states, members
                group.share({"state": states[0].saved(), "segments": at_least}, self.device)
                self._divide(state, at_least)
                updates: Iterator[object] = train(trial, states[0], one.data, group, one.evaluator)
            else:
                state = Cohort(trial, states)
                self._divide(state, at_least)
                data, evaluators = [member.data for member in members], [member.evaluator for member in members]
                updates = train_cohort(trials, state, data, evaluators)
            _drive(members, updates, execution)
            return members

    def _members(self) -> list[_Member]:
        """Each with its state: from the newest checkpoint, or new."""
        folders = [attempt.files.checkpoints for attempt in self.attempts.values()]
        members = []
        for (trial, attempt), saved in zip(
            self.attempts.items(), checkpoints.load_together(folders, self.device), strict=True
        ):
            state = TrainState(trial, self.device, self.execution.capture)
            if saved is not None:
                state.restore(saved)
            elif seal := starting_weights.take(state.net, trial, self.execution, self.device, self.data[trial]):
                attempt.write(partial(atomic.write, attempt.files.weights_seal, seal.encode()))
            begin = partial(
                starting_weights.take, trial=trial, execution=self.execution, device=self.device, data=self.data[trial]
            )
            evaluator = state.task.Evaluator(trial, state, self.data[trial], partial(_is_stopping, attempt), begin)
            members.append(_Member(trial, attempt, self.data[trial], state, evaluator))
        return members

    def _divide(self, state: Passes, at_least: int) -> None:
        if task_of(self.trial).DIVISIBLE:
            division = divide(self.trial, state, self.execution, at_least, len(self.attempts))
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


def _is_stopping(attempt: Attempt) -> bool:
    return attempt.stopping


def divide(trial: Trial, state: Passes, execution: Execution, at_least: int = 1, members: int = 1) -> memory.Division:
    """Divide the net into so many segments or more that it fits, and compile it if it is whole and that is wanted.

    `members`: how many nets like the trial's it is.
    """
    allowed = memory_allowed(execution, state.device)
    shape = (execution.batch_share(trial), members * trial.data.channels, trial.data.size, trial.data.size)
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
        state = TrainState(trial, device, execution.capture)
        state.restore(shared["state"])
        divide(trial, state, execution, shared["segments"])
        for _ in train(trial, state, data, group):
            pass


def _drive(members: Sequence[_Member], updates: Iterator[object], execution: Execution) -> None:
    """Draw the updates of a training generator to their end, or until asked to stop."""
    before = [member.attempt.seconds_before if member.state.iteration else 0.0 for member in members]
    first = [member.state.iteration for member in members]
    for member in members:
        if execution.profile_trace == member.trial.id:
            updates = _profiled(updates, member.attempt.files.trace)
    started = checkpointed = time.monotonic()
    try:
        for _ in updates:
            now = time.monotonic()
            for member, earlier, begun in zip(members, before, first, strict=True):
                member.seconds = earlier + (now - started) / len(members)
                pace = (now - started) / max(1, member.state.iteration - begun)
                left = pace * (member.trial.recipe.iterations - member.state.iteration)
                member.attempt.reached(member.state, member.seconds, seconds_left=left)
            if any(member.attempt.stopping for member in members):
                break
            if now - checkpointed >= execution.checkpoint_seconds:
                for member in members:
                    member.attempt.checkpoint(member.state)
                checkpointed = time.monotonic()
    except Stopped:
        pass  # the record that was being made is made when the trial goes on
    for member, earlier in zip(members, before, strict=True):
        member.seconds = max(member.seconds, earlier)
        member.attempt.seconds_before = member.seconds


def _profiled(updates: Iterator[object], path: Path) -> Iterator[object]:
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
