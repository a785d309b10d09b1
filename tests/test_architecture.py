"""One direction of imports, and one owner of each engine, read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("study", "experiments", "analysis", "dashboards", "commands")  # each may import itself and those before it
OWNERS = {"ray": ("study/run/ray_driver.py",), "mlflow": ("study/store/mlflow/",)}
READERS = ("pandas", "seaborn", "matplotlib", "scipy")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def test_there_are_files_in_every_layer() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_and_each_engine_has_one_owner(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name.endswith("__main__.py"):
        return  # an entry point into commands/
    layer = LAYERS.index(name.split("/")[0])
    for module in imports(path):
        package = module.split(".")[0]
        if package in LAYERS:
            assert LAYERS.index(package) <= layer, f"{name} imports upward: {module}"
        if package in OWNERS:
            assert name.startswith(OWNERS[package]), f"{name} imports {module}; only {OWNERS[package]} may"
        if package in READERS:
            assert LAYERS[layer] in ("analysis", "dashboards", "commands"), f"{name} imports {module}"
        assert package != "tests"


def test_identity_needs_the_standard_library_only() -> None:
    owned = ("spec.py", "execution.py", "cost.py", "tasks/names.py")
    for name in (*owned, "store/layout.py", "store/account.py", "store/heartbeat.py"):
        outside = {m.split(".")[0] for m in imports(ROOT / "study" / name)} & {"torch", "numpy", "ray", "mlflow"}
        assert not outside


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
