"""Runs one input in a process of its own, in a sandbox, and judges how it ends.

A process is a fork of this one, which has imported the project, so that an input takes milliseconds. In it an audit
hook keeps every write inside the sandbox, refuses the network, and ends with Ctrl-C what would wait for ever: a server
that begins to serve, another process than git, a pause of a second. Owns the rules; knows no input.
"""

import atexit
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 30.0  # of computing, of an input; the slowest takes some seconds
WAIT_SECONDS = 180.0  # of an input that computes nothing
MEMORY_BYTES = 12 * 2**30  # of address space: an input that explodes gets no more
CODES = (0, 1, 2, 130)
INPUTS_A_PROCESS = 100
HUNG = -1000  # instead of an exit code
DEVICES = ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/proc/self/fd")
CALLED = "call"  # instead of an entry point: a function is called as a command would call it
PLACES = ("--storage", "--results", "--output", "--to", "--data-root", "--store")  # options whose value may be written
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events whose arguments so numbered are paths that change.
CHANGES = {
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "sqlite3.connect": (0,),
}
RELATIVE = (
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.link",
    "os.symlink",
)  # end with descriptors of folders
WARNING = r"WARNING|\d{4}/\d\d/\d\d [\d:]+ WARNING mlflow"
# Where Ray's files are if the path in TMPDIR is too long for its sockets, as a sandbox's is; and no file, but what
# resets the peak of a trial's own memory.
HARMLESS = re.compile(r"(/var)?/tmp/study-[^/]+|/proc/\d+/clear_refs")
# Where Python tries whether it may write, if TMPDIR is no folder.
TRIED = re.compile(r"((/var|/usr)?/tmp|\{root\}/cwd(/[^/]+)?)/[a-z0-9_]{8}")
PROBE = ".writable-"  # beside results that are not there yet: whether they could be


@dataclass(frozen=True)
class Case:
    """An input: what is put into a sandbox, and the command that then runs in its folder `cwd`."""

    words: tuple[str, ...] = ()  # entry point, subcommand, options
    call: Callable[[], object] | None = None  # instead of `words`
    files: Mapping[str, bytes | None] = field(default_factory=dict)  # by place in the sandbox; None: is removed
    edit: Callable[[Path], object] | None = None  # what else is done to the sandbox first
    environment: Mapping[str, str] = field(default_factory=dict)
    template: str = ""  # a folder of the templates whose content the sandbox begins with
    writes: tuple[str, ...] = ()  # places in the sandbox that may change, beside those that the words name

    def __str__(self) -> str:
        line = " ".join(map(repr, self.words)) or getattr(self.call, "__name__", str(self.call))
        files = ", ".join(f"{name}: {content and bytes(content[:300])!r}" for name, content in self.files.items())
        settings = " ".join(f"{name}={value!r}" for name, value in self.environment.items())
        edit = f" edit {self.edit}" if self.edit else ""
        return f"{settings} {line} {{{files}}}{edit}".strip()


@dataclass(frozen=True)
class Ending:
    """How a command ended, and what it is judged to be."""

    code: int
    out: str
    err: str
    seconds: float
    faults: tuple[str, ...]  # empty: as it must be

    @property
    def signature(self) -> str:
        """The same for faults that are likely the same."""
        return "; ".join(re.sub(r"0x[0-9a-f]+|\d+", "N", fault) for fault in self.faults)


class Sandbox:
    """Makes a sandbox for each input below `folder`, and removes it. `templates` are folders to begin with.

    A process takes many inputs, one after another, as a fork takes longer than most of them. An input that is judged
    wrong is judged again in a new process, which is what counts.
    """

    def __init__(self, folder: Path, templates: Mapping[str, Path] | None = None) -> None:
        self.folder, self.templates, self.count = folder.resolve(), dict(templates or {}), 0
        self.process: Process | None = None

    def run(self, case: Case, limit: float = LIMIT_SECONDS) -> Ending:
        ending = self._once(case, limit)
        if ending.faults and (self.process is None or self.process.taken > 1):
            self.close()
            ending = self._once(case, limit)
        if ending.faults or ending.code not in (0, 2) or (self.process and self.process.taken >= INPUTS_A_PROCESS):
            self.close()
        return ending

    def close(self) -> None:
        """End the process of inputs; the next one gets another."""
        if self.process is not None:
            self.process.end()
        self.process = None

    def _once(self, case: Case, limit: float) -> Ending:
        self.count += 1
        root = self.folder / f"{self.count}"
        try:
            self._fill(root, case)
            if self.process is None:
                self.process = Process()
            return _judged(self.process, root, case, limit)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _fill(self, root: Path, case: Case) -> None:
        if case.template:
            shutil.copytree(self.templates[case.template], root, symlinks=True)
        for name in ("cwd", "home", "tmp", "data"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for place, content in case.files.items():
            path = root / place
            if content is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if case.edit:
            case.edit(root)
        (root / "home/precious").write_bytes(b"nobody may touch it")


def _judged(process: "Process", root: Path, case: Case, limit: float) -> Ending:
    allowed = _allowed(root, case)
    before = _snapshot(root, allowed)
    began = time.monotonic()
    job = Job(root, case.words, case.call, case.environment, allowed)
    code, outside = process.run(job, limit)
    seconds = time.monotonic() - began
    out, err = (path.read_text(errors="replace") if path.exists() else "" for path in job.reports)
    for path in job.reports:
        path.unlink(missing_ok=True)
    harmless = [HARMLESS, TRIED] if "TMPDIR" in case.environment else [HARMLESS]
    outside = [one for one in outside if not any(known.fullmatch(one) for known in harmless)]
    faults = [*_faults(code, out, err), *(f"writes outside: {one}" for one in outside)]
    after = _snapshot(root, allowed)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Ending(code, out, err, seconds, (*faults, *(f"changed: {name}" for name in changed)))


def _faults(code: int, out: str, err: str) -> Iterator[str]:
    if code == HUNG:
        yield "hangs"
        return
    if "Traceback (most recent call last)" in out + err:
        yield f"traceback: {_where(err if 'Traceback' in err else out)}"
    elif code not in CODES:
        yield f"exit code {code}"
    if code == 2:
        lines = [line for line in err.splitlines() if not re.match(WARNING, line)]
        if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) < 20:
            yield f"code 2 without one clear line, but {len(lines)}: {lines[:1]}"
        elif re.search(r"\x1b|<[a-z_.]+ object at |\bNoneType\b|KeyError", lines[0]):
            yield f"an unclear line: {lines[0][:200]}"
    if code == 1 and not (out + err).strip():
        yield "code 1 without a word"


def _where(text: str) -> str:
    """The last place of this project in a traceback, and the exception."""
    places = re.findall(
        r'File ".*?((?:study|experiments|analysis|dashboards|commands)/\S+\.py)", line \d+, in (\S+)', text
    )
    last = (text.strip().splitlines() or [""])[-1]
    return f"{'/'.join(places[-1]) if places else '?'}: {last[:160]}"


def _allowed(root: Path, case: Case) -> tuple[str, ...]:
    """What may change: temporary files, data that are made or cached, and what the words name."""
    words, cwd = list(case.words), root / "cwd"
    places = [root / "tmp", root / "data", *(root / place for place in case.writes)]
    for name, default in (("--storage", "store"), ("--results", "results"), ("--data-root", "data")):
        if name not in words:
            places.append(cwd / default)
    for word, value in zip(words, [*words[1:], ""], strict=False):
        option, equals, attached = word.partition("=")
        if option in PLACES:
            given = attached if equals else value
            if given and "\0" not in given:
                places.append(cwd / given.replace("{root}", str(root)))
    return tuple(os.path.realpath(place) for place in places)


def _inside(path: str, allowed: tuple[str, ...]) -> bool:
    """Whether this may change: a place, what is in it, or a temporary name of it beside it."""
    return any(
        path == place or path.startswith((place + os.sep, f"{os.path.dirname(place)}/.{os.path.basename(place)}."))
        for place in allowed
    )


def _leads_to(path: str, allowed: tuple[str, ...]) -> bool:
    return any(place.startswith(path + os.sep) for place in allowed)


def _snapshot(root: Path, allowed: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Size and time of all files that may not change."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _inside(os.path.join(folder, name), allowed)]
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            if not _inside(path, allowed) and not _leads_to(path, allowed):
                status = os.lstat(path)
                found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns if name in files else 0)
    return found


# ---------------------------------------------------------------- the process of inputs


@dataclass(frozen=True)
class Job:
    """What a process is asked to run."""

    root: Path
    words: tuple[str, ...]
    call: Callable[[], object] | None
    environment: Mapping[str, str]
    allowed: tuple[str, ...]

    @property
    def reports(self) -> tuple[Path, Path]:
        """The files of standard output and error."""
        return self.root / ".out", self.root / ".err"


class Process:
    """A fork of this process that runs one input after another."""

    def __init__(self) -> None:
        self.taken = 0
        self.jobs, theirs = multiprocessing.Pipe()
        self.id = os.fork()
        if not self.id:
            self.jobs.close()
            _take(theirs)
        theirs.close()

    def run(self, job: Job, limit: float) -> tuple[int, list[str]]:
        """The exit code, negative for a signal, and places outside that were to be written."""
        self.taken += 1
        self.jobs.send(job)
        began, spent = time.monotonic(), self._cpu_seconds()
        while not self.jobs.poll(1.0):
            if time.monotonic() - began > WAIT_SECONDS or self._cpu_seconds() - spent > limit:
                os.killpg(self.id, signal.SIGKILL)
                return HUNG, []
        try:
            code, outside = self.jobs.recv()
        except EOFError:  # it died
            _, status = os.waitpid(self.id, 0)
            self.id = 0
            return os.waitstatus_to_exitcode(status), []
        return code, outside

    def _cpu_seconds(self) -> float:
        """What the process has computed so far: on a busy machine an input waits for long."""
        fields = Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.jobs.close()
        if self.id:
            with suppress(ProcessLookupError):
                os.killpg(self.id, signal.SIGKILL)
            os.waitpid(self.id, 0)


def _take(jobs: Connection) -> None:
    """Run what comes, each as Python would run it alone. Never returns."""
    try:
        os.setpgid(0, 0)
        atexit._clear()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        sys.dont_write_bytecode = True
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        inside, environment = Inside(), dict(os.environ)
        inside.keep()
        while True:
            job = jobs.recv()
            inside.begin(job)
            code = _command(job, environment)
            outside, inside.job = inside.outside, None
            jobs.send((code, outside))
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def _command(job: Job, environment: Mapping[str, str]) -> int:
    from commands.app import main

    os.chdir(job.root / "cwd")
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(_environment(job))
    tempfile.tempdir = None
    for number, path in enumerate(job.reports, 1):
        stream = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    entry, *words = job.words or (CALLED,)
    sys.argv = [entry, *(word.replace("{root}", str(job.root)) for word in words)]
    code: Any = 0
    try:
        if job.call is not None:
            _called(job.call)
        else:
            main(entry)
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code if isinstance(code, int) else 1


def _called(call: Callable[[], object]) -> None:
    """Call a function of the project as a command does: bad input is an `InputError`."""
    from study.spec import InputError

    try:
        call()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _environment(job: Job) -> dict[str, str]:
    root = str(job.root)
    plain = {"HOME": f"{root}/home", "TMPDIR": f"{root}/tmp", "STUDY_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return plain | {name: value.replace("{root}", root) for name, value in job.environment.items()}


class Inside:
    """Refuses, and notes, every write outside; refuses the network; ends what would wait."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.outside: list[str] = []
        self.stopping = False

    def begin(self, job: Job) -> None:
        self.job, self.outside, self.stopping = job, [], False

    def keep(self) -> None:
        """From now on, for the whole life of this process."""

        def sleep(seconds: float, pause: Callable[[float], None] = time.sleep) -> None:
            if seconds >= 1:
                raise KeyboardInterrupt
            pause(seconds)

        def wait(event: threading.Event, seconds: float | None = None, pause: Any = threading.Event.wait) -> bool:
            if seconds is not None and seconds >= 0.2 and threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return bool(pause(event, seconds))

        time.sleep = sleep
        threading.Event.wait = wait  # type: ignore[method-assign]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.job is None or self.stopping:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and isinstance(path, str | bytes | os.PathLike):
                self._check(path)
        elif event == "sqlite3.connect":
            database = os.fsdecode(arguments[0])
            if database != ":memory:" and "mode=ro" not in database:
                self._check(database.removeprefix("file:").partition("?")[0])
        elif event in CHANGES:
            numbers = CHANGES[event]
            folders = [one for one in arguments[1:] if isinstance(one, int)] if event in RELATIVE else []
            for number, folder in zip(numbers, folders[-len(numbers) :] or [-1, -1], strict=False):
                self._check(arguments[number], folder, made=event == "os.mkdir")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            if arguments[0] not in ("localhost", "127.0.0.1", None, ""):
                raise socket.gaierror(-2, "Name or service not known")
        elif event == "socket.connect":
            raise ConnectionRefusedError(111, "Connection refused")
        elif event == "socket.bind" or (event == "subprocess.Popen" and Path(os.fsdecode(arguments[0])).name != "git"):
            self.stopping = True
            raise KeyboardInterrupt

    def _check(self, path: Any, folder: int = -1, made: bool = False) -> None:
        if isinstance(path, int) or path is None:
            return
        assert self.job is not None
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
        place = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        if place.startswith(DEVICES) or _inside(place, (*self.job.allowed, *map(str, self.job.reports))):
            return
        if made and (os.path.isdir(place) or _leads_to(place, self.job.allowed)):
            return
        if not os.path.basename(place).startswith(PROBE):
            self.outside.append(place.replace(str(self.job.root), "{root}"))
            raise PermissionError(1, "outside of the sandbox", place)


@contextmanager
def sandboxes(templates: Mapping[str, Path] | None = None) -> Iterator[Sandbox]:
    """Sandboxes in a folder of their own, which is removed."""
    folder = Path(tempfile.mkdtemp(prefix="study-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    box = Sandbox(folder, templates)
    try:
        yield box
    finally:
        box.close()
        shutil.rmtree(folder, ignore_errors=True)


def alter_database(path: Path, statements: list[str]) -> None:
    """Run SQL on a database; what SQLite refuses is left out."""
    connection = sqlite3.connect(path)
    for statement in statements:
        try:
            connection.execute(statement)
        except sqlite3.Error:
            continue
    connection.commit()
    connection.close()
