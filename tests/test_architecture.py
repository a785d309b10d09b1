"""One direction of imports, no cycle, one owner of each engine: read from the syntax trees, late imports counted."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("study", "experiments", "analysis", "dashboards", "commands")  # each may import itself and those before it
OWNERS = {  # packages, and the only files or folders that may import them
    "ray": ("study/run/ray_driver.py",),
    "mlflow": ("study/store/mlflow/",),
    "pandas": ("analysis/", "commands/"),
    "scipy": ("analysis/",),
    "seaborn": ("analysis/",),
    "matplotlib": ("analysis/", "commands/mlflow_report.py"),
    "plotly": ("analysis/",),
    "click": ("commands/",),
    "starlette": ("commands/",),
    "uvicorn": ("commands/",),
}
# Imported by light commands and by every process: none of these may load a package that takes seconds.
LIGHT = (
    "study/spec.py",
    "study/execution.py",
    "study/limits.py",
    "study/printable.py",
    "study/addresses.py",
    "study/cost.py",
    "study/tasks/names.py",
    "study/store/layout.py",
    "study/store/atomic.py",
    "study/store/account.py",
    "study/store/heartbeat.py",
)
HEAVY = {"torch", "torchvision", "numpy", "pandas", "pyarrow", "ray", "mlflow"}
FILES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in FILES}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, at its top or inside a function: `study.spec`, `torch.nn`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            submodules = [f"{node.module}.{name.name}" for name in node.names]
            yield from (each if each in MODULES else str(node.module) for each in submodules)


def layer(module: str) -> int:
    """Position among the layers; -1 for packages of others."""
    package = module.split(".")[0]
    return LAYERS.index(package) if package in LAYERS else -1


def is_entry_point(name: str) -> bool:
    """`python -m experiments` and its like, which call into `commands/` from below."""
    return name.endswith("/__main__.py")


def test_every_layer_has_files() -> None:
    assert {name.split("/")[0] for name in FILES} == set(LAYERS)


def test_imports_point_down() -> None:
    upward = [
        f"{name} imports {module}"
        for name, tree in FILES.items()
        if not is_entry_point(name)
        for module in imported(tree)
        if layer(module) > layer(name.replace("/", "."))
    ]
    assert not upward


def without_leaves(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without modules that import none of the others, and without those that this leaves so."""
    left = dict(arrows)
    while leaves := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in leaves}
    return left


def test_there_is_no_import_cycle() -> None:
    """Not even one that a late import hides."""
    arrows = {
        module: {other for other in imported(FILES[name]) if other in MODULES and other != module}
        for module, name in MODULES.items()
    }
    importing = without_leaves(arrows)
    backwards = {module: {other for other in importing if module in importing[other]} for module in importing}
    assert not sorted(without_leaves(backwards)), "modules of import cycles, and those between them"


def test_each_engine_has_one_owner() -> None:
    strangers = [
        f"{name} imports {module}; only {', '.join(owners)} may"
        for name, tree in FILES.items()
        for module in imported(tree)
        if (owners := OWNERS.get(module.split(".")[0])) and not name.startswith(owners)
    ]
    assert not strangers


def test_nothing_imports_an_entry_point_or_the_tests() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, tree in FILES.items()
        for module in imported(tree)
        if module.endswith("__main__") or module.split(".")[0] == "tests"
    ]
    assert not wrong


def test_identity_and_plans_need_the_standard_library_only() -> None:
    outside = [
        f"{name} imports {module}"
        for name in LIGHT
        for module in imported(FILES[name])
        if module.split(".")[0] in HEAVY or (module.startswith("study") and MODULES[module] not in LIGHT)
    ]
    assert not outside


def test_every_file_states_what_it_owns() -> None:
    assert [name for name, tree in FILES.items() if not ast.get_docstring(tree)] == []
