"""Which code, on what, made a number. Owns the tags that trace a run to its commit, versions and machine."""

import hashlib
import logging
import os
import platform
import subprocess
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from study.limits import cores

CHECKOUT = Path(__file__).resolve().parents[2]
KEPT = (
    "GIT_EXEC_PATH",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
)  # git's own place and settings
PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy")
log = logging.getLogger(__name__)


def _git(*arguments: str) -> str:
    """What git prints of this checkout; '' where it is none, or git does not tell.

    Variables such as GIT_DIR, which hooks have, would lead to another repository, and so would a repository around
    this folder.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in KEPT}
    environment["GIT_CEILING_DIRECTORIES"] = str(CHECKOUT.parent)
    line = ["git", *arguments]
    try:
        done = subprocess.run(line, cwd=CHECKOUT, env=environment, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        problem = getattr(error, "stderr", None) or str(error).encode()
        log.debug("git %s: %s", arguments[0], problem.decode(errors="replace"))
        return ""
    return done.stdout.decode(errors="replace")


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
    return _git("diff", "--no-ext-diff", "--no-color", "HEAD", "--", ":/")


@cache
def tags() -> dict[str, str]:
    """Commit, digest of the dirty patch or 'clean', versions and machine.

    Outside a checkout the commit is STUDY_COMMIT, which an image is built with, or 'unknown', and the patch 'unknown'.
    """
    commit, changed = _git("rev-parse", "HEAD").strip(), patch()
    clean = "clean" if commit else "unknown"
    if not commit and (CHECKOUT / ".git").exists():
        log.warning(
            "git does not tell the commit of %s (is git installed, and the folder a safe.directory of it?): runs are"
            " recorded as of commit '%s'",
            CHECKOUT,
            os.environ.get("STUDY_COMMIT", "unknown"),
        )
    return {
        "git_commit": commit or os.environ.get("STUDY_COMMIT", "unknown"),
        "git_patch": hashlib.sha256(changed.encode()).hexdigest()[:12] if changed else clean,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {cores()} x {_processor()}",
    }
