"""The process that has Ray, as its launcher sees it: started early, given trials, started again when Ray dies.

Owns the process's life, its scratch folder and its environment. Does not import ray: `ray_driver`, which does, is
imported in that process alone.
"""

import ctypes
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from study.execution import EngineError, Execution
from study.printable import configure_logs, printable
from study.run import processes
from study.run.local import Tags
from study.run.processes import RayDied
from study.spec import InputError, Trial
from study.store import atomic, heartbeat
from study.store.account import Outcome, read_account
from study.store.layout import Store

RAY_DEATHS = 3  # of Ray in a row, without any trial having come further
SOCKET_BYTES = 107  # of a socket's path, as the system allows
SOCKET = "/ray/session_2026-11-28_14-08-36_123456_1234567/sockets/plasma_store"  # Ray's longest below its folder
SCRATCH_BYTES = 32 * 2**20  # that Ray's logs and Tune's state may need
SCRATCH_NAMES = 5  # that are tried in a place
LOG_LINES = 100  # of each of Ray's logs that are kept
END_RAY = signal.SIGUSR2  # from the launcher to the process that has Ray
GRACE_SECONDS = 60.0  # for trials to save when asked to stop
END_SECONDS = 30.0  # for Ray to end by itself
_ERROR = re.compile(r"^\[.*? [EFC] \d+ \d+\] (\(\S+\) )?(\S+:\d+: )?")  # how a line of Ray's of such a level begins
log = logging.getLogger(__name__)
Stopped = Callable[[], bool]


class RayProcess:
    """The process that has Ray. Leaving the block ends it."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.process: SpawnProcess | None = None

    def __enter__(self) -> "RayProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        """Start it without waiting: Ray takes seconds, in which the launcher can prepare.

        Raises `InputError` for what a machine must have for that.
        """
        if sys.flags.optimize > 1:
            raise InputError(
                "Python runs without docstrings (-OO, or PYTHONOPTIMIZE=2), which Ray reads when it is imported; run it"
                " without, or train without Ray with --local"
            )
        if not self.execution.address:
            check_loopback()
        set_environment(self.execution)
        self.scratch = make_scratch(self.execution.storage)
        self.process, self.pipe = processes.start(_main, self.execution, self.scratch)

    def run(self, trials: list[Trial], execution: Execution, tags: Tags, stopped: Stopped) -> None:
        """Run the trials; if Ray dies, start another one for those that are left."""
        if not self.process:
            self.start()
        left, deaths, progress = list(trials), 0, None
        while left and not stopped():
            death = self._run_once(left, execution, tags, stopped)
            if death is None:
                return self.end()
            left = [trial for trial in left if not _is_over(execution, trial)]
            before, progress = progress, [heartbeat.read(execution.trial_folder(trial.id)) for trial in left]
            deaths = deaths + 1 if progress == before else 0
            if deaths > RAY_DEATHS:
                often = f"Ray died {deaths} times before any trial came further"
                raise self._broken(f"{often}, at last with {death.reason}", with_error=True)
            if not death.started and deaths:
                raise self._broken(f"Ray cannot start here: {death.reason}", with_error=True)
            if left and not stopped():
                log.warning("Ray died (%s); starting it again for the %d trials that are left", death.reason, len(left))
                self.end()
                self.start()

    def _run_once(self, trials: list[Trial], execution: Execution, tags: Tags, stopped: Stopped) -> RayDied | None:
        """Until the trials, or Ray, came to an end. Raises the `InputError` that ended them."""
        with suppress(BrokenPipeError):
            self.pipe.send((trials, execution, dict(tags)))
        while not self.pipe.poll(0.5) and not stopped():  # the end of the process, too, ends a poll
            if not self.scratch.exists():
                return RayDied(f"its folder {self.scratch} was removed while it ran")
        if stopped():
            _wait_until_saved(trials, execution)
            return None
        try:
            end: RayDied | InputError | EngineError | None = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            assert self.process
            self.process.join(1)
            started = (self.scratch / processes.STARTED).exists()
            return RayDied(f"its driver ended with exit code {self.process.exitcode}", started)
        if isinstance(end, InputError):
            raise end
        if isinstance(end, EngineError):
            raise self._broken(str(end))
        return end

    def _broken(self, reason: str, with_error: bool = False) -> EngineError:
        """Why Ray cannot run the trials, where the ends of its logs are kept, and how to go on."""
        error, tails = last_words(self.scratch)
        kept = Store(self.execution.storage).ray_log
        with suppress(OSError):
            atomic.write(kept, printable(tails).encode(), durable=False)
        cause = f" ({error})" if with_error and error else ""
        return EngineError(
            f"{reason}{cause}; the ends of Ray's logs are in {kept}; --local trains without Ray, one trial at a time"
        )

    def end(self) -> None:
        """End it, with whatever it has started."""
        if not self.process:
            return
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, END_RAY)
        self.process.join(END_SECONDS)
        self.process.kill()
        self.process.join()
        self.process = None
        shutil.rmtree(self.scratch, ignore_errors=True)


def _main(execution: Execution, scratch: Path, launcher: Connection) -> None:
    """The whole life of the process."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # `ray job stop` and Slurm signal every process, too
    signal.signal(END_RAY, lambda *_: sys.exit(0))
    with suppress(OSError, AttributeError):  # Linux: end with the launcher, however it ends
        ctypes.CDLL(None).prctl(1, END_RAY)
    configure_logs()
    from study.run import ray_driver  # here: ray takes a second to import, and only this process needs it

    try:
        launcher.send(ray_driver.drive(execution, scratch, launcher))
    except (InputError, EngineError) as error:
        launcher.send(error)
    finally:
        signal.signal(END_RAY, signal.SIG_IGN)
        ray_driver.shut_down()
        launcher.close()
        os._exit(0)  # taking every module down in order would take another second


def _is_over(execution: Execution, trial: Trial) -> bool:
    """Whether this launch has nothing more to do for the trial."""
    account = read_account(execution.trial_folder(trial.id))
    failed = account.outcome == Outcome.FAILED and account.launch == execution.launch
    return account.has_result or (failed and account.failures > execution.retries)


def _wait_until_saved(trials: list[Trial], execution: Execution) -> None:
    """Until every trial that runs has saved, as it was asked to."""
    until = time.monotonic() + GRACE_SECONDS
    running = trials
    while running and time.monotonic() < until:
        accounts = {trial: read_account(execution.trial_folder(trial.id)) for trial in running}
        running = [trial for trial, account in accounts.items() if account.outcome == Outcome.RUNNING]
        time.sleep(0.2)


def check_loopback() -> None:
    """Raise `InputError` where Ray's processes could not reach each other: Ray would wait for minutes, then give up."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"Ray's processes reach each other over 127.0.0.1, which this machine lacks ({error.strerror or error});"
            " bring it up with `ip link set lo up`, or train without Ray with --local"
        ) from None


def make_scratch(root: Path) -> Path:
    """Ray's folder, empty: in TMPDIR, or where that does not do, in /tmp or /var/tmp.

    A killed launch leaves it behind; the next one on the same store clears it. Its path is short because Ray puts
    sockets there, and only its owner may enter. A name that something else has taken is passed over. Raises
    `InputError` where no place will do.
    """
    name = f"study-{os.getuid()}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:10]}"
    own = os.environ.get("TMPDIR", "")
    refused = []
    for place in dict.fromkeys(Path(one).absolute() for one in (own, "/tmp", "/var/tmp") if one):
        try:
            return _folder_in(place, name)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
            if own and len(refused) == 1:
                log.warning("TMPDIR %s cannot hold Ray's files (%s); another place is taken", place, error.strerror)
    raise InputError(
        f"no place for Ray's temporary files ({'; '.join(refused)}); name a folder in TMPDIR, or train without Ray"
        " with --local"
    )


def _folder_in(place: Path, name: str) -> Path:
    """A new folder of this user's. Raises `OSError` where the place cannot have it, or is too small."""
    most = SOCKET_BYTES - len(SOCKET) - len(name) - len("-0/")
    if len(os.fsencode(place)) > most:
        raise OSError(errno.ENAMETOOLONG, f"its path is longer than the {most} bytes that Ray's sockets leave")
    if (free := shutil.disk_usage(place).free) < SCRATCH_BYTES:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.1f} MiB are free, of {SCRATCH_BYTES >> 20} that Ray may need")
    for number in range(SCRATCH_NAMES):
        scratch = place / (f"{name}-{number}" if number else name)
        shutil.rmtree(scratch, ignore_errors=True)  # leaves files, links and others' folders
        with suppress(FileExistsError):
            scratch.mkdir(mode=0o700)
            return scratch
    raise OSError(errno.EEXIST, f"{name} and {SCRATCH_NAMES - 1} more names are taken")


def last_words(scratch: Path) -> tuple[str, str]:
    """The first error in the logs of Ray's own processes, which others follow from, and the ends of all of them."""
    errors, tails = [], []
    logs = [log for log in (scratch / "ray/session_latest/logs").glob("*.*") if log.suffix in (".out", ".err", ".log")]
    for path in sorted(logs):
        with suppress(OSError):
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            errors += [_ERROR.sub("", line) for line in lines if _ERROR.search(line)]
            tails += [f"==> {path.name}", *lines[-LOG_LINES:], ""]
    return (errors[0].strip()[:160] if errors else ""), "\n".join(tails)


def set_environment(execution: Execution) -> None:
    """Settings that Ray reads from the environment when it is imported, for this process and those it starts."""
    os.environ.update(
        MALLOC_ARENA_MAX="1",  # Tune runs each trial in a new thread, and glibc would keep what each one freed apart
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        TUNE_DISABLE_SIGINT_HANDLER="1",  # the launcher's asks trials to save first
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # MLflow has the results
        TUNE_GLOBAL_CHECKPOINT_S="1000000",  # nor is Tune's state of all trials ever restored
    )
    if execution.address:  # a cluster brings its own token
        return
    os.environ.update(
        {
            # Other users of this machine stay out.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # Other machines, too: Ray of one machine listens on loopback, which Ray has as a setting of desktops alone.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # The death of Ray's control service is final here; waiting a minute for another would be in vain.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
            # Tune's actors have an environment of their own, so they would never be idle workers started before.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            # Ray's control service would keep a history of tasks, which grows with every trial and nobody reads.
            "RAY_task_events_report_interval_ms": "0",
        }
    )
