"""The commit of a run is this checkout's, or unknown; never another repository's."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study.store import provenance

Repository = Callable[[str], Path]
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for remembered in (provenance.tags, provenance.committed):
        remembered.cache_clear()
    yield
    for remembered in (provenance.tags, provenance.committed):
        remembered.cache_clear()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit, of a file `study/store/text` too."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        (folder / "study/store").mkdir(parents=True)
        (folder / "study/store/text").write_text(name)
        for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", name]):
            git(folder, *words)
        return folder

    return make


def git(folder: Path, *words: str) -> str:
    line = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(line, cwd=folder, env=plain, capture_output=True, text=True, check=True, timeout=30).stdout


def test_variables_of_git_do_not_lead_to_another_repository(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook, where git sets them."""
    own, other = repository("own"), repository("other")
    monkeypatch.setattr(provenance, "CHECKOUT", own)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    tags = provenance.tags()
    assert (tags["git_commit"], tags["git_patch"]) == (git(own, "rev-parse", "HEAD").strip(), "clean")
    (own / "study/store/text").write_text("changed")
    assert "+changed" in provenance.patch()
    assert provenance.committed(own / "study/store/text") is None


def test_a_copy_inside_another_repository_has_no_commit(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = repository("outer")
    (outer / "copy/study").mkdir(parents=True)
    monkeypatch.setattr(provenance, "CHECKOUT", outer / "copy")
    monkeypatch.delenv("STUDY_COMMIT", raising=False)
    tags = provenance.tags()
    assert (tags["git_commit"], tags["git_patch"]) == ("unknown", "unknown") and provenance.patch() == ""


def test_a_patch_that_is_no_utf_8_and_settings_of_colour_are_no_hindrance(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = repository("own")
    monkeypatch.setattr(provenance, "CHECKOUT", own)
    git(own, "config", "color.diff", "always")
    (own / "study/store/text").write_bytes(b"Gr\xf6\xdfe\n")
    assert "\x1b" not in provenance.patch() and len(provenance.tags()["git_patch"]) == 12


def test_a_folder_that_git_distrusts_is_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = repository("own")
    refusing = tmp_path / "bin/git"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership in repository' >&2\nexit 128\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(provenance, "CHECKOUT", own)
    monkeypatch.setenv("PATH", str(refusing.parent))
    monkeypatch.setenv("STUDY_COMMIT", "abc")
    with caplog.at_level(logging.WARNING):
        assert provenance.tags()["git_commit"] == "abc"
    assert f"git does not tell the commit of {own}" in caplog.text and "safe.directory" in caplog.text


def test_the_commit_does_not_depend_on_the_current_folder(tmp_path: Path) -> None:
    script = "from study.store import provenance; print(provenance.tags()['git_commit'])"
    environment = os.environ | {"PYTHONPATH": str(provenance.CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == provenance.tags()["git_commit"]
