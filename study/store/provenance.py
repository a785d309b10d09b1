"""Which code, on what, made a number. Owns the tags that trace a run to its commit, versions and machine."""

import hashlib
import os
import platform
import subprocess
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy")


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # not a checkout, or no git
        return ""
    return done.stdout


def _processor() -> str:
    """The processor's name; Linux has it in a file, others where Python looks."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or "CPU"


def _version(package: str) -> str:
    """Reading a bundle takes none of these packages."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def committed(path: Path) -> datetime | None:
    """When the present content of a file was committed; None where git does not know."""
    if _git("status", "--porcelain", "--", str(path)):
        return None
    when = _git("log", "-1", "--format=%cI", "--", str(path)).strip()
    return datetime.fromisoformat(when) if when else None


def patch() -> str:
    """What the working tree adds to its commit, tracked files only; '' when clean."""
    return _git("diff", "HEAD", "--", ":/")


@cache
def tags() -> dict[str, str]:
    """Commit, digest of the dirty patch or 'clean', versions and machine.

    Outside a checkout the commit is STUDY_COMMIT, which an image is built with, or 'unknown', and the patch 'unknown'.
    """
    commit, changed = _git("rev-parse", "HEAD").strip(), patch()
    clean = "clean" if commit else "unknown"
    return {
        "git_commit": commit or os.environ.get("STUDY_COMMIT", "unknown"),
        "git_patch": hashlib.sha256(changed.encode()).hexdigest()[:12] if changed else clean,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {_processor()}",
    }
