"""A launch: everything between a list of trials and their results, but the training itself.

Owns the store's lock, the order of things, resumption and interruption. What is done is decided by accounts and MLflow
alone, so every launch works on what has no result yet. Trials run in Ray (`ray_process`) or one after another
(`local`). Does not know why a trial is run.
"""

import errno
import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from study.execution import Execution
from study.periodic import every
from study.run import cohorts, processes
from study.run.local import Tags, predicted_seconds, run_locally
from study.run.placement import waves
from study.run.ray_process import RayProcess
from study.spec import InputError, Trial
from study.store import atomic, heartbeat, layout
from study.store.account import Outcome, has_result, read_account, write_account
from study.store.layout import Store

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, 524)  # the last is ENOTSUPP, which network file systems let through
FULL = "is full: trials wait until there is room, and nothing is lost. Make room, or stop with Ctrl-C and go on later"
log = logging.getLogger(__name__)
OnStart = Callable[[list[Trial], Execution], Any]


def launch(trials: Sequence[Trial], execution: Execution, tags: Tags, on_start: OnStart) -> None:
    """Run every trial that has no result yet, longest first; `tags` of each id go to its run.

    Raises `InputError` if the store is in use, data are missing or cohorts impossible, before anything runs, and
    `KeyboardInterrupt` on SIGINT or SIGTERM, with everything resumable and no run left running. Trials that fail are
    retried, then left with outcome 'failed' while the rest goes on. Results that MLflow could not take are in the
    storage, for the next launch.
    """
    cohorts.check(trials, execution)
    layout.create(execution.storage)
    with only_launcher(execution.storage), RayProcess(execution) as ray:
        if not execution.local and any(not has_result(execution.trial_folder(trial.id)) for trial in trials):
            ray.start()  # takes seconds, and so does what follows
        from study.store.mlflow import client  # here, while Ray starts: mlflow takes seconds to import
        from study.store.mlflow.mirror import Mirror, mirroring

        client.create_store(execution)
        close_stale(execution, "its launcher was killed")
        mirror = Mirror(execution, trials)
        mirror.update()
        done = mirror.results() | {trial.id for trial in trials if has_result(execution.trial_folder(trial.id))}
        todo = [trial for trial in trials if trial.id not in done]
        if execution.profile_trace not in ("", "longest", *(trial.id for trial in todo)):
            raise InputError(
                f"profile-trace {execution.profile_trace!r} is no trial that is still to run;"
                " `python -m experiments plan` lists them"
            )
        if not todo:
            return
        todo.sort(key=lambda trial: -predicted_seconds(trial, tags))
        if execution.profile_trace == "longest":
            execution = replace(execution, profile_trace=todo[0].id)
        execution = replace(execution, launch=secrets.token_hex(4))
        try:
            with _launch_file(execution), mirroring(mirror):
                check(todo, execution)
                on_start(todo, execution)
                with _stopping_on_signals(execution) as stopped:
                    for wave in waves(todo):
                        if stopped():
                            break
                        if execution.local:
                            run_locally(wave, execution, tags, stopped)
                        else:
                            ray.run(wave, execution, tags, stopped)
        finally:
            ray.end()
            close_stale(execution, "interrupted")
            mirror.update()


def close_stale(execution: Execution, reason: str) -> None:
    """Mark every trial that no process runs any more as interrupted; for whoever holds the store's lock."""
    for folder in Store(execution.storage).begun():
        account = read_account(folder)
        if account.outcome != Outcome.RUNNING:
            continue
        try:
            write_account(folder, replace(account, outcome=Outcome.INTERRUPTED, reason=reason))
        except OSError as error:
            if not atomic.is_full(error):
                raise
            log.warning("%s stays 'running' on the full disk; the next launch mends that", folder.name)


def check(trials: Sequence[Trial], execution: Execution) -> None:
    """Raise `InputError` for what its user has to mend before any trial starts: processes, data, weights, machine."""
    for trial in trials:
        execution.batch_share(trial)
    if execution.local:
        return _check(trials, execution)
    # A process takes torch and the data out of memory at its end.
    process, answer = processes.start(_answer_check, trials, execution)
    try:
        problem = answer.recv()
    except EOFError:
        process.join()
        problem = InputError(f"the process that loads the data to check them ended with {process.exitcode}; try again")
    finally:
        process.kill()
        process.join()
    if problem:
        raise problem


def _check(trials: Sequence[Trial], execution: Execution) -> None:
    # Here: with torch, which a launcher need not load.
    from study.run.machine import check_machine
    from study.run.worker import check_data

    if not execution.address:  # a cluster's nodes are not this machine
        check_machine(execution, trials)
    check_data(trials, execution)


def _answer_check(trials: Sequence[Trial], execution: Execution, launcher: Connection) -> None:
    try:
        _check(trials, execution)
        launcher.send(None)
    except InputError as error:
        launcher.send(error)


@contextmanager
def _launch_file(execution: Execution) -> Iterator[None]:
    """Beat while the block runs, and warn when the disk is full: trials then wait for room."""
    file, full = heartbeat.Launch(execution), False

    def beat() -> None:
        nonlocal full
        if not file.path.exists():  # asked to stop
            return
        file.beat()
        before, full = full, _is_full(execution.storage)
        if full != before:
            log.warning("the disk of %s %s", execution.storage, FULL if full else "has room again; trials go on")

    file.begin()
    try:
        with every(heartbeat.BEAT_SECONDS, beat):
            yield
    finally:
        file.end()


def _is_full(root: Path) -> bool:
    probe = root / ".room"
    try:
        atomic.write(probe, bytes(4096), durable=False)
        probe.unlink(missing_ok=True)
    except OSError as error:
        return atomic.is_full(error)
    return False


@contextmanager
def only_launcher(root: Path) -> Iterator[None]:
    """Two launchers on one store would run trials twice: the second is refused with `InputError`."""
    refusal = InputError(f"store {root} is in use by another launch; wait for it, or choose another store")
    if not atomic.is_local(root):  # no locks there: a launch that lives is one whose file goes on changing
        seen = heartbeat.version(Store(root).launch)
        if seen is not None:
            time.sleep(3 * heartbeat.BEAT_SECONDS)
            if heartbeat.version(Store(root).launch) not in (None, seen):
                raise refusal
        yield
        return
    lock = FileLock(Store(root).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise refusal from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"store {root} is on a file system without locks ({error.strerror}), which launches and the tracking"
            " database need to stay apart; choose a folder of another file system with --storage"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stopping_on_signals(execution: Execution) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks every trial to save and stop; a second stops at once.

    Yields whether the first came; leaves the block with `KeyboardInterrupt` if it did.
    """
    file, signals, asked = heartbeat.Launch(execution), (signal.SIGINT, signal.SIGTERM), threading.Event()

    def handler(signum: int, frame: Any) -> None:
        asked.set()
        file.end()  # deleting it works on a full disk, too
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = [signal.signal(one, handler) for one in signals]
    try:
        yield asked.is_set
        if asked.is_set():
            raise KeyboardInterrupt
    finally:
        for one, previous in zip(signals, before, strict=True):
            signal.signal(one, previous)
