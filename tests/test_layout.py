"""One module knows every file name in a store, and a folder that is no store, or another version's, is refused."""

import ast
from pathlib import Path

import pytest

from study.spec import InputError
from study.store import layout
from study.store.layout import Store, TrialFolder

ROOT = Path(__file__).parents[1]


def test_every_trial_with_an_account_has_begun(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("one", "two"):
        store.trial(name).path.mkdir(parents=True)
    store.trial("one").account.write_text("{}")
    assert [folder.name for folder in store.begun()] == ["one"]


def test_a_trial_folder_has_a_checkpoint_once_there_is_one(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.checkpoints.mkdir()
    assert not folder.has_checkpoint
    folder.checkpoint(12).write_bytes(b"state")
    assert folder.has_checkpoint and folder.checkpoint(12).name == "000000012.checkpoint"


def test_a_store_is_made_once_and_known_again(tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert not layout.is_store(root)
    layout.create(root)
    layout.create(root)
    assert layout.is_store(root)


def test_what_is_no_store_or_another_versions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not a store .*; choose an empty or a new folder"):
        layout.create(tmp_path)
    Store(tmp_path).marker.write_text('{"version": 7}')
    with pytest.raises(InputError, match="has version 7, this code reads version 1; use the code that wrote it"):
        layout.is_store(tmp_path)
    Store(tmp_path).marker.write_text("{")
    with pytest.raises(InputError, match="cannot be read; restore it"):
        layout.is_store(tmp_path)


def test_no_other_module_spells_a_file_name_of_a_store() -> None:
    names = {layout.SPEC, layout.ACCOUNT, layout.PROGRESS, layout.RECORDS, layout.LAYERS, layout.EVALUATIONS}
    names |= {layout.PATCH, layout.TRACE, "store.json", "launch.json", "launch.lock", "probes.json", "mlflow.db"}
    for path in sorted((ROOT / "study").rglob("*.py")):
        if path.name in ("layout.py", "old_bundles.py"):
            continue
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not words & names, path
