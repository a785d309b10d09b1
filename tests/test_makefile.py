"""The Makefile sets up the project's own environment, and touches no other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and what it depends on, without an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    line = [str(shutil.which("make")), "--no-print-directory", *words]
    return subprocess.run(line, cwd=folder, env=plain | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [("plan",), ("-n", "plan")])
def test_make_without_any_python_is_refused_in_one_line(checkout: Path, words: tuple[str, ...]) -> None:
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("sh", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = make(checkout, *words, PATH=str(tools))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "no Python was found; name one: make PYTHON=/path/to/python3.11" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("python", ["", "  "])
def test_an_empty_python_is_refused_in_one_line(checkout: Path, python: str) -> None:
    for done in (make(checkout, "test", f"PYTHON={python}"), make(checkout, "test", PYTHON=python)):
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no Python was found" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("python", ["/none/python", "false", "two words"])
def test_what_is_no_python_is_named_and_makes_nothing(checkout: Path, python: str) -> None:
    done = make(checkout, "plan", f"PYTHON={python}")
    assert done.returncode == 2 and f"error: {python} is no Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_nothing_is_installed_into_another_environment(checkout: Path) -> None:
    """A `.venv` behind which another Python stands is refused before pip runs."""
    log = checkout / "pip was here"
    other = checkout / "other"
    (other / "bin").mkdir(parents=True)
    python = other / "bin" / "python"
    own = Path(sys.executable).resolve()  # not of a virtual environment
    python.write_text(f'#!/bin/sh\ncase "$*" in *pip*) touch "{log}";; "-m venv"*) ;; *) exec "{own}" "$@";; esac\n')
    python.chmod(0o755)
    (checkout / ".venv").symlink_to(other)
    done = make(checkout, "plan", f"PYTHON={python}")
    assert done.returncode == 2 and ".venv is no virtual environment of this folder" in done.stderr
    assert not log.exists() and not (checkout / ".venv" / "ready").exists()


def test_settings_of_pip_do_not_lead_it_elsewhere(checkout: Path) -> None:
    printed = make(checkout, "-n", "plan", f"PYTHON={sys.executable}").stdout
    install = next(line for line in printed.replace("\\\n", " ").splitlines() if "pip install" in line)
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON"):
        assert f"-u {name}" in install
    assert "PIP_REQUIRE_VIRTUALENV=1" in install
