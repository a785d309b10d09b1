"""The launcher's side of Ray: its temporary folder, and what is said when it cannot run."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from study.execution import EngineError, Execution
from study.run import processes, ray_process
from study.run.ray_process import RayProcess, check_loopback, last_words, make_scratch
from study.spec import InputError, Trial
from study.store.account import Account


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path as short as those of batch systems."""
    folder = Path(f"/tmp/s{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def places(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(short))
    return short


def test_the_scratch_folder_is_in_tmpdir_empty_and_its_owners_alone(places: Path, tmp_path: Path) -> None:
    scratch = make_scratch(tmp_path)
    assert scratch.parent == places and scratch.stat().st_mode & 0o777 == 0o700
    (scratch / "left").write_text("by a killed launch")
    assert make_scratch(tmp_path) == scratch and not list(scratch.iterdir())
    assert make_scratch(tmp_path / "other") != scratch


def test_rays_longest_socket_fits_into_a_scratch_folder(places: Path, tmp_path: Path) -> None:
    address = str(make_scratch(tmp_path)) + ray_process.SOCKET
    Path(address).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(address)


def test_a_name_that_something_else_has_taken_is_passed_over(places: Path, tmp_path: Path) -> None:
    scratch = make_scratch(tmp_path)
    scratch.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("data")
    scratch.symlink_to(elsewhere)
    second = make_scratch(tmp_path)
    assert second != scratch and second.parent == places and (elsewhere / "precious").exists()
    second.rmdir()
    second.write_text("a file")
    third = make_scratch(tmp_path)
    assert third not in (scratch, second) and second.read_text() == "a file" and scratch.is_symlink()


def test_another_users_folder_is_passed_over(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = make_scratch(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as in a folder with the sticky bit
    assert make_scratch(tmp_path).name == f"{others.name}-1"


def test_a_tmpdir_that_will_not_do_gives_way_and_is_named(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = short / ("long" * 20)
    long.mkdir()
    for own, reason in ((long, "its path is longer than the"), (short / "none", "No such file or directory")):
        caplog.clear()
        monkeypatch.setenv("TMPDIR", str(own))
        scratch = make_scratch(tmp_path)
        assert scratch.parent == Path("/tmp")
        assert f"TMPDIR {own} cannot hold Ray's files ({reason}" in caplog.text
        scratch.rmdir()


def test_where_no_place_has_room_each_is_named_with_the_way_out(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**16, 0, 2**16))  # type: ignore[attr-defined]
    with pytest.raises(InputError) as refused:
        make_scratch(tmp_path)
    for part in (f"{places}: 0.1 MiB are free", "/tmp: ", "/var/tmp: ", "TMPDIR", "--local"):
        assert part in str(refused.value)
    assert not list(places.iterdir())


def test_the_first_error_and_the_ends_of_rays_logs_are_kept(tmp_path: Path) -> None:
    logs = tmp_path / "ray/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(
        "".join(f"[2026-11-28 14:00:00,{n:03} I 12 12] (gcs_server) a.cc:{n}: line {n}\n" for n in range(200))
        + "[2026-11-28 14:00:01,123 C 12 12] (gcs_server) thread.cc:7: Resource temporarily unavailable\n"
        + "[2026-11-28 14:00:01,130 E 12 12] (gcs_server) logging.cc:125: Stack trace:\n"
        + "[2026-11-28 14:00:02,000 I 12 12] (gcs_server) a.cc:9: the end\n"
    )
    (logs / "raylet.err").write_text("")
    error, tails = last_words(tmp_path)
    assert error == "Resource temporarily unavailable"
    assert "==> gcs_server.out" in tails and "the end" in tails and "line 10\n" not in tails
    assert last_words(tmp_path / "none") == ("", "")


def test_a_machine_without_loopback_is_refused_at_once(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    check_loopback()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(
        InputError, match=r"127.0.0.1, which this machine lacks \(Network is unreachable\); .* `ip link set lo up`, or"
    ):
        RayProcess(execution).start()


def test_python_without_docstrings_is_refused_at_once(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process, "sys", SimpleNamespace(flags=SimpleNamespace(optimize=2)))
    with pytest.raises(InputError, match=r"PYTHONOPTIMIZE=2\), which Ray reads .*; run it without, or .* --local"):
        RayProcess(execution).start()


def die(execution: Execution, scratch: Path, launcher: Connection) -> None:
    """Ray's driver where its own processes cannot start."""
    logs = scratch / "ray/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("[2026-11-28 14:00:01,123 C 12 12] (raylet) a.cc:7: too few threads\n")
    if execution.device == "cpu":  # of the test in which it starts
        (scratch / processes.STARTED).touch()
        launcher.recv()
    os._exit(7)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("auto", "Ray cannot start here: its driver ended"),
        ("cpu", "Ray died 4 times before any trial came further, at"),
    ],
)
def test_a_ray_that_dies_ends_the_launch_with_its_cause_and_the_way_out(
    execution: Execution, small: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch, device: str, reason: str
) -> None:
    execution = replace(execution, local=False, device=device)
    execution.storage.mkdir()
    monkeypatch.setattr(ray_process, "_main", die)
    trial = small()
    with RayProcess(execution) as ray, pytest.raises(EngineError) as ended:
        ray.run([trial], execution, {trial.id: {}}, lambda: False)
    kept = execution.storage / "ray.log"
    for part in (reason, "with exit code 7", "(too few threads)", f"the ends of Ray's logs are in {kept}", "--local"):
        assert part in str(ended.value)
    assert "==> raylet.out" in kept.read_text()


def sleep(execution: Execution, scratch: Path, launcher: Connection) -> None:
    (scratch / processes.STARTED).touch()
    trials, _, _ = launcher.recv()
    if (execution.storage / "again").exists():
        (execution.storage / "again").unlink()
        launcher.send(None)
        return
    (execution.storage / "again").touch()
    shutil.rmtree(scratch)  # as whoever cleans temporary folders does
    time.sleep(60)


def test_ray_is_started_again_where_its_folder_was_removed(
    execution: Execution, small: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    execution = replace(execution, local=False)
    execution.storage.mkdir()
    monkeypatch.setattr(ray_process, "_main", sleep)
    monkeypatch.setattr(ray_process, "END_RAY", signal.SIGKILL)
    trial = small()
    with RayProcess(execution) as ray:
        ray.run([trial], execution, {trial.id: {}}, lambda: False)
    assert "was removed while it ran); starting it again for the 1 trials that are left" in caplog.text
    assert not (execution.storage / "again").exists()


def node(cpus: float, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": f"{cpus}-{alive}", "Alive": alive, "Resources": {"CPU": cpus} if cpus else {}}


def test_a_launch_waits_for_nodes_that_join_after_the_head(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from study.run import ray_driver

    head, gone, joined = node(0), node(2, alive=False), node(2)
    answers = iter([[head], [head, gone], [head, gone, joined]])
    monkeypatch.setattr(ray_driver.ray, "nodes", lambda: next(answers))
    monkeypatch.setattr(ray_driver, "NODE_POLL_SECONDS", 0.0)
    assert ray_driver._able_nodes() == [joined]
    assert caplog.text.count("waiting up to 120 s for one") == 1
    monkeypatch.setattr(ray_driver.ray, "nodes", lambda: [head, gone])
    monkeypatch.setattr(ray_driver, "NODE_SECONDS", 0.0)
    with pytest.raises(InputError, match="no node of the cluster has a CPU for trials; start one"):
        ray_driver._able_nodes()


def test_a_silent_process_is_killed_whichever_host_of_its_name_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.run import ray_driver

    asked: list[str] = []

    class Here:
        """A function that Ray is to run on a node, run here."""

        def __init__(self, function: Callable[[], None]) -> None:
            self.function = function

        def options(self, scheduling_strategy: Any, **more: Any) -> "Here":
            asked.append(scheduling_strategy.node_id)
            return self

        def remote(self) -> None:
            self.function()

    ids = [f"{number:056x}" for number in range(4)]
    names, lives = ["copy", "copy", "other", "copy"], [True, True, True, False]
    nodes = [
        {"NodeID": id, "Alive": alive, "NodeManagerHostname": host}
        for id, host, alive in zip(ids, names, lives, strict=True)
    ]
    monkeypatch.setattr(ray_driver, "ray", SimpleNamespace(nodes=lambda: nodes, remote=Here))
    process = subprocess.Popen(["sleep", "60"])
    started = psutil.Process(process.pid).create_time()
    ray_driver._kill(Account(host="copy", pid=process.pid, process_started=started - 1))  # of that number, another
    assert process.poll() is None
    ray_driver._kill(Account(host="copy", pid=process.pid, process_started=started))
    assert process.wait(10) == -signal.SIGKILL and asked == 2 * ids[:2]
