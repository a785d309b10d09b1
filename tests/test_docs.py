"""What README and documentation promise: their links lead somewhere, and their commands are commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from commands.app import analysis, dashboards, experiments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 150  # two screens
ENTRY_POINTS = {"experiments": experiments, "analysis": analysis, "dashboards": dashboards}
PYTHON = re.compile(r"python -m (experiments|analysis|dashboards) ([^`\n]+)")
MAKE = re.compile(r"`(make [a-z-]+[^`\n]*)`|^(make [a-z-]+[^#\n]*)", re.M)


def test_readme_has_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_links_between_pages_and_to_files_lead_somewhere() -> None:
    """Links to other sites are not followed: nothing here needs a network."""
    links = [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link
    ]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_documentation_are_commands_with_such_options(page: Path) -> None:
    """Blocks hold whole command lines, which click parses without running them; in a sentence a command is a name."""
    text = page.read_text()
    for entry, rest in PYTHON.findall(text):
        assert rest.split()[0] in ENTRY_POINTS[entry].modules
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```$", text, re.S | re.M))
    for entry, rest in PYTHON.findall(blocks):
        name, *options = shlex.split(rest.replace("NAMES", "plain-vs-residual"), comments=True)
        if "--bundle" not in options:  # an option that reads its file at once, and there is none here
            command = ENTRY_POINTS[entry].get_command(click.Context(ENTRY_POINTS[entry]), name)
            assert command is not None
            command.make_context(name, options)


def test_make_targets_of_the_readme_exist() -> None:
    targets = {re.split(r"\s", match[0] or match[1])[1] for match in MAKE.findall((ROOT / "README.md").read_text())}
    assert {"degradation-study", "test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_documentation_is_built_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "claims" / "index.html").read_text().count("S42-") >= 15
