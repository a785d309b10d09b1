"""A Ray cluster of several nodes on this machine: nodes that die, join, are cut off, or do not see the storage."""

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from common import (
    Processes,
    Results,
    Study,
    complete_and_equal,
    execution_of,
    free_port,
    go_on,
    seconds_until_it_goes_on,
    stop,
    wait_for,
    wait_until_training,
    worker_of,
)

from study.execution import Execution
from study.run.worker import run_trial
from study.spec import InputError, Trial

pytestmark = pytest.mark.slow
Start = Callable[..., Study]
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
RAY += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--include-log-monitor=false"]
RAY += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
# Ray takes a node that does not answer for dead after 65 s; with these settings of the head, after 15 s.
IMPATIENT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}


class Cluster:
    """A head without CPUs, and nodes of one CPU: Ray's real processes, all on loopback, behind a token."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **IMPATIENT}
        self.nodes: list[Processes] = []
        port = self.address.split(":")[1]
        head = ["--head", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=0", "--include-dashboard=false"]
        self._start([*RAY, *head])

    def add(self, before: str = "", name: str = "") -> Processes:
        """A node, once it is up. `before` is what its machine does first, in mount and host names of its own."""
        command = [*RAY, f"--address={self.address}", "--num-cpus=1"]
        if before:
            own = f'hostname {name} && {before} && exec "$@"'
            command = ["unshare", "--mount", "--uts", "bash", "-c", own, "node", *command]
        return self._start(command)

    def _start(self, command: list[str]) -> Processes:
        log = self.folder / f"node-{len(self.nodes)}.log"
        node = Processes(command, log, **self.environment)
        self.nodes.append(node)
        wait_for(lambda: "Ray runtime started" in node.output(), "a node starts")
        return node

    def node_of(self, pid: int) -> Processes:
        return next(node for node in self.nodes if pid in [process.pid for process in node.alive()])

    def trains(self, pid: int) -> bool:
        """Whether the worker's process is in its trial, and not waiting for one."""
        return any(pid == process.pid for node in self.nodes for process in node.named("ImplicitFunc.train"))

    def has_no_workers(self) -> bool:
        return not any(node.named("ImplicitFunc") for node in self.nodes)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: Ray puts sockets there
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def on(cluster: Cluster, tmp_path: Path, start: Start) -> Study:
    return start(tmp_path / "store", tmp_path / "log", "--address", cluster.address, **cluster.environment)


def raylet_of(node: Processes) -> psutil.Process:
    (raylet,) = node.named("raylet/raylet ")
    return raylet


def ended_well(study: Study, cluster: Cluster, execution: Execution, undisturbed: Results) -> bool:
    study.ends()
    assert complete_and_equal(execution, undisturbed)
    wait_for(cluster.has_no_workers, "the workers leave the cluster")
    return study.leave_nothing()


def test_a_study_whose_node_dies_completes_on_the_one_that_is_left(
    cluster: Cluster, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    for _ in "ab":
        cluster.add()
    study, execution = on(cluster, tmp_path, start), execution_of(tmp_path / "store")
    trial = wait_until_training(execution, trials=2, least=30)[0]
    node = cluster.node_of(worker_of(execution, trial))
    raylet_of(node).kill()
    wait_for(lambda: not node.alive(), "the worker of a dead node ends")
    assert ended_well(study, cluster, execution, undisturbed)


def test_a_node_that_joins_takes_the_trial_of_one_that_dies_within_30_seconds(
    cluster: Cluster, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    for _ in "ab":
        cluster.add()
    study, execution = on(cluster, tmp_path, start), execution_of(tmp_path / "store")
    trial, other = wait_until_training(execution, trials=2, least=1)
    killed, waits = worker_of(execution, trial), worker_of(execution, other)
    for worker in (killed, waits):  # so that neither ends while a node starts
        stop(worker)
    joined = cluster.add()
    cluster.node_of(killed).kill_all()
    seconds = seconds_until_it_goes_on(execution, trial, killed)
    print(f"from the death of a node to its trial's next heartbeat on another: {seconds:.1f} s")
    assert cluster.node_of(worker_of(execution, trial)) is joined
    go_on(waits)
    assert ended_well(study, cluster, execution, undisturbed)
    assert seconds < 30


@pytest.mark.parametrize("wakes", ["while the other trains", "when all is over"])
def test_a_worker_that_ray_lost_sight_of_loses_and_doubles_nothing(
    wakes: str, cluster: Cluster, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    for _ in "abc":
        cluster.add()
    study, execution = on(cluster, tmp_path, start), execution_of(tmp_path / "store")
    trial = wait_until_training(execution, trials=2, least=1)[0]
    lost = worker_of(execution, trial)
    raylet = raylet_of(cluster.node_of(lost))
    for process in (lost, raylet.pid):  # Ray takes the node for dead, as one that is cut off
        stop(process)
    seconds = seconds_until_it_goes_on(execution, trial, lost)
    print(f"from cutting a node off to its trial's next heartbeat on another: {seconds:.1f} s")
    if wakes == "while the other trains":
        go_on(lost)  # now two processes run one trial
    study.ends()
    assert complete_and_equal(execution, undisturbed)
    go_on(lost)
    wait_for(lambda: not cluster.trains(lost), "the lost worker ends the trial")
    go_on(raylet.pid)
    wait_for(cluster.has_no_workers, "the workers leave the cluster")
    assert complete_and_equal(execution, undisturbed)  # whatever the lost one said last
    assert study.leave_nothing()


def can_hide_folders(folder: Path) -> bool:
    hide = ["unshare", "--mount", "--uts", "bash", "-c", 'hostname x && mount -t tmpfs tmpfs "$0"', str(folder)]
    with suppress(FileNotFoundError):
        return subprocess.run(hide, capture_output=True, check=False).returncode == 0
    return False


def test_nodes_that_do_not_see_the_storage_are_named_before_anything_trains(
    cluster: Cluster, tmp_path: Path, start: Start
) -> None:
    storage = tmp_path / "store"
    storage.mkdir()
    if not can_hide_folders(storage):
        pytest.skip("hiding a folder from a node takes a mount namespace: unshare, and the right to use it")
    cluster.add()
    cluster.add(f"mount -t tmpfs tmpfs {storage}", name="blind")
    cluster.add(f"mount --bind {storage} {storage} && mount -o remount,bind,ro {storage}", name="read-only")
    study = on(cluster, tmp_path, start)
    *_, said = study.ends(code=2).splitlines()
    assert said.startswith(f"error: storage {storage} is not seen by ")
    assert "'blind': 'there is no store.json'" in said and "'read-only': " in said and "Read-only file system" in said
    assert "mount it at the same path on every node" in said and "Traceback" not in study.output()
    assert not list(storage.glob("trials/*/run.json")) and not list(storage.glob("trials/*/progress.json"))
    assert not list(storage.glob(".seen-by-*"))
    assert study.leave_nothing()


def test_a_node_that_loses_the_storage_trains_nothing_into_a_folder_of_its_own(
    store: Execution, small: Callable[..., Trial]
) -> None:
    (store.storage / "store.json").unlink()  # as where a mount went away
    launched = replace(store, launch="this")
    with pytest.raises(InputError, match="does not see the storage"):
        run_trial(small(), launched, {"profile": "test"})
    assert not launched.trial_folder(small().id).exists()
