"""MLflow on PostgreSQL: a database that crashes and a server that is killed cost the study nothing."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from common import (
    MLflowServer,
    Results,
    Study,
    complete_and_equal,
    execution_of,
    free_port,
    go_on,
    stop,
    training,
    wait_for,
    wait_until_training,
    worker_of,
)

from study.execution import Execution

pytest.importorskip("psycopg2")
pytestmark = pytest.mark.slow
Start = Callable[..., Study]
DOES = "a test of PostgreSQL takes its programs"


def program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(found[-1]) if found else "")
    if not path:
        pytest.skip(f"{DOES}: there is no {name}")
    return path


class Postgres:
    """A PostgreSQL server on loopback with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port, self.user = folder / "data", free_port(), pwd.getpwuid(os.getuid()).pw_name
        self.other_user: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip(f"{DOES}, and to run as root the user postgres")
            if not shutil.which("setpriv"):
                pytest.skip(f"{DOES}, and to run as root setpriv")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self.other_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            self.user = "postgres"
        self.uri = f"postgresql+psycopg2://{self.user}@127.0.0.1:{self.port}/postgres"
        self.log = folder / "log"
        self._run("initdb", "--pgdata", str(self.data), "--auth=trust", f"--username={self.user}", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={folder}"
        self._control("start", "--options", options)

    def crash_and_restart(self) -> None:
        self._control("restart", "--mode=immediate")

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._control("stop", "--mode=immediate")

    def _control(self, what: str, *more: str) -> None:
        self._run("pg_ctl", what, "--pgdata", str(self.data), "--log", str(self.log), "--wait", *more)

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self.other_user, program(name), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not pytest's, which other users may not enter
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(postgres: Postgres, tmp_path: Path) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path / "server", postgres.uri)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def frozen(execution: Execution) -> Iterator[None]:
    """No trial comes to its end in this block."""
    workers = [worker_of(execution, trial) for trial in training(execution, least=0)]
    for worker in workers:
        stop(worker)
    try:
        yield
    finally:
        for worker in workers:
            go_on(worker)


def test_a_database_that_crashes_and_a_server_that_is_killed_cost_nothing(
    postgres: Postgres, server: MLflowServer, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    study = start(tmp_path / "store", tmp_path / "log", "--tracking-uri", server.uri)
    execution = execution_of(tmp_path / "store", server.uri)
    wait_until_training(execution, trials=2, least=20)
    postgres.crash_and_restart()
    server.kill()
    wait_for(lambda: "tracking is out of reach" in study.output(), "it says so")
    assert training(execution, least=0)  # which nothing waits for
    with frozen(execution):
        server.start()
    study.ends()
    assert "tracking is back" in study.output()
    assert complete_and_equal(execution, undisturbed)
    assert study.leave_nothing()


def test_a_study_that_writes_to_postgresql_itself_outlives_its_crash(
    postgres: Postgres, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    with database(postgres, "direct") as uri:
        study = start(tmp_path / "store", tmp_path / "log", "--tracking-uri", uri)
        execution = execution_of(tmp_path / "store", uri)
        wait_until_training(execution, trials=2, least=20)
        for _ in range(3):
            postgres.crash_and_restart()
        study.ends()
        assert complete_and_equal(execution, undisturbed)
        assert study.leave_nothing()


@contextmanager
def database(postgres: Postgres, name: str) -> Iterator[str]:
    """A database without any run in it yet."""
    import psycopg2

    connection = psycopg2.connect(postgres.uri.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    yield postgres.uri.rsplit("/", 1)[0] + f"/{name}"
