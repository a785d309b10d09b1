"""What this process may use of its machine: cores and memory.

Owns how cores are counted. A container, a batch system or `taskset` may allow less than the machine has. Knows nothing
of trials. Standard library only.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")  # names the control groups that this process is in


def cores(root: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> int:
    """How many cores this process may use, at least one.

    The machine's, or fewer: those of its affinity, and as many as the CPU quotas of its control groups (versions 1 and
    2) are worth, rounded down.
    """
    counts: list[float] = [os.cpu_count() or 1, *_quotas(root, membership)]
    with suppress(OSError, AttributeError):  # Linux has it
        counts.append(len(os.sched_getaffinity(0)))
    return max(1, int(min(counts)))


def machine_bytes() -> int:
    """Memory of this machine, or of the container or batch job that this process is in."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *memory_limits()])


def memory_limits(root: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> list[int]:
    """Memory limits of the control groups this process is in, versions 1 and 2; bytes."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    limits = [_content(group / names[version]) for version, group in _groups("memory", root, membership)]
    return [int(limit) for limit in limits if limit.isdigit()]


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """CPU quotas of the control groups this process is in; cores. No quota is 'max' or -1."""
    for version, group in _groups("cpu", root, membership):
        if version == 2:
            quota, _, period = _content(group / "cpu.max").partition(" ")
        else:
            quota, period = _content(group / "cpu.cfs_quota_us"), _content(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """Version and folder of every control group that can limit this process, from its own to the top.

    A container may see only the top, and that is then its own.
    """
    for line in _content(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        if controllers and not top.exists():
            top = root / controllers  # 'cpu,cpuacct', where it has no link 'cpu'
        group = top / path.lstrip("/")
        yield from ((1 if controllers else 2, one) for one in (group, *group.parents) if one.is_relative_to(top))


def _content(file: Path) -> str:
    """What the kernel has in the file; '' where there is none, or it must not be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
