"""Cores and memory: what a container, a batch system or an affinity leaves of the machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study import limits
from study.execution import Execution
from study.limits import cores, memory_limits
from study.run.forecast import node_of
from study.store import provenance

ROOT = Path(__file__).parents[1]
Groups = Callable[..., tuple[Path, Path]]


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """A tree of control groups, and the file that says which of them this process is in."""

    def make(membership: str, **files: str) -> tuple[Path, Path]:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content + "\n")
        return tmp_path, tmp_path / "membership"

    return make


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 16),
        ("50000 100000", 1),  # half a core is one
        ("100000 100000", 1),
        ("290000 100000", 2),  # rounded down
        ("25000 10000", 2),
        ("9900000 100000", 16),  # never more than there are
        ("0 100000", 1),
        ("max", 16),
        ("", 16),
        ("300000 0", 16),
    ],
)
def test_a_quota_is_rounded_down_to_whole_cores_and_at_least_one(
    sixteen_cores: None, groups: Groups, quota: str, count: int
) -> None:
    assert cores(*groups("0::/job\n", **{"job/cpu.max": quota})) == count


def test_the_smallest_quota_on_the_way_to_the_top_counts(sixteen_cores: None, groups: Groups) -> None:
    nested = {"slurm/cpu.max": "300000 100000", "slurm/job_7/cpu.max": "max 100000", "other/cpu.max": "100000 100000"}
    assert cores(*groups("0::/slurm/job_7/task\n", **nested)) == 3


def test_a_container_that_sees_only_the_top_has_the_tops_quota(sixteen_cores: None, groups: Groups) -> None:
    assert cores(*groups("0::/docker/7ab\n", **{"cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_quotas_of_version_1_are_read_under_either_name(sixteen_cores: None, groups: Groups, mount: str) -> None:
    files = {f"{mount}/job/cpu.cfs_quota_us": "450000", f"{mount}/job/cpu.cfs_period_us": "100000"}
    unlimited = {f"{mount}/cpu.cfs_quota_us": "-1", f"{mount}/cpu.cfs_period_us": "100000"}
    assert cores(*groups("5:cpuset:/\n4:cpu,cpuacct:/job\n0::/\n", **files, **unlimited)) == 4
    assert cores(*groups("4:cpu,cpuacct:/\n")) == 16


def test_without_control_groups_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert cores(tmp_path, tmp_path / "none") == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    assert cores(tmp_path, tmp_path / "none") == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path, tmp_path / "none") == 1


def test_an_affinity_of_one_core_reaches_the_plan(tmp_path: Path) -> None:
    """As under `taskset -c 0`."""
    script = (
        "import json, os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from commands.app import main; main('experiments')"
    )
    line = [sys.executable, "-c", script, "plan", "--profile", "smoke", "--json", "--storage", str(tmp_path / "none")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["makespan_seconds"] == pytest.approx(plan["total_seconds"], rel=1e-3)  # one after another


def test_trials_plan_and_provenance_count_the_same_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path, device="cpu")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(limits, "_quotas", lambda *_: [])
    assert execution.trials_at_once == node_of(execution).cpus == 3
    provenance.tags.cache_clear()
    assert ", 3 x " in provenance.tags()["machine"]
    provenance.tags.cache_clear()


def test_no_other_place_counts_cores() -> None:
    """A count of its own would let two trials share a core, or a plan promise cores that a launch does not use."""
    files = [
        path
        for folder in ("study", "experiments", "analysis", "dashboards", "commands")
        for path in (ROOT / folder).rglob("*.py")
    ]
    counting = [path.relative_to(ROOT).as_posix() for path in files if "cpu_count" in path.read_text()]
    assert counting == ["study/limits.py"]


def test_memory_limits_of_containers_and_batch_systems_are_read(groups: Groups) -> None:
    files = {
        "slurm/memory.max": "5000",
        "slurm/job_7/memory.max": "max",
        "memory/job/memory.limit_in_bytes": "4000",
    }
    root, membership = groups("0::/slurm/job_7/task\n4:memory:/job\n3:cpuset:/\n", **files)
    assert sorted(memory_limits(root, membership)) == [4000, 5000]
    assert memory_limits(root, root / "none") == []
