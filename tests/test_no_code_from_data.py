"""No data is ever executed, unpacked onto the disk, or written into a page as it is: read from the syntax trees."""

import ast
import re
from collections.abc import Iterator

from test_architecture import FILES, ROOT

# Calls, and the only files that may make them; where one must have a keyword, with which value.
CALLS: dict[str, tuple[str, ...]] = {
    "eval": (),
    "exec": (),
    "compile": (),
    "__import__": (),
    "os.system": (),
    "os.popen": (),
    "os.execv": ("commands/ui.py",),  # MLflow's server, of words that are its options
    "subprocess.run": ("study/store/provenance.py",),  # git
    "subprocess.Popen": ("commands/ui.py", "commands/screenshots.py"),
    "subprocess.call": (),
    "subprocess.check_call": (),
    "subprocess.check_output": (),
    "runpy.run_path": ("experiments/profiles.py",),  # of the file that --profile names, and no bundle can
    "importlib.import_module": ("commands/app.py",),
    "pickle.load": (),
    "pickle.loads": ("study/run/ray_driver.py",),  # what the same launch has pickled, as Ray does
    "yaml.load": (),
    "yaml.unsafe_load": (),
    "yaml.full_load": (),
    "shutil.unpack_archive": (),
    "tempfile.mktemp": (),
    "Image.open": ("study/data/decoding.py", "study/data/pictures.py"),  # the latter's pictures are of packages
    "pq.read_table": (),
    "pq.ParquetFile": ("study/store/records.py", "analysis/report.py"),  # the latter reads what it has written
    "jinja2.Environment": ("analysis/templates.py",),
    "socket.create_server": (
        "commands/ports.py",
        "commands/prometheus.py",
        "study/run/ray_process.py",
        "study/training/distributed.py",
    ),
}
METHODS = {"extractall": (), "extract": (), "to_pickle": (), "read_pickle": ()}
KEYWORDS = {"torch.load": ("weights_only", True), "jinja2.Environment": ("autoescape", True)}
MODULES = {  # packages whose every use runs what it reads, and the files that use them otherwise
    "pickle": ("study/data/sources.py", "study/run/ray_driver.py"),
    **dict.fromkeys(("marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "pty"), ()),
    "tarfile": ("study/data/sources.py", "study/data/indexes.py"),  # read member by member, in memory
    "xml": ("study/data/annotation_files.py",),  # its types; defusedxml parses
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call: in which file, of what, and the call."""
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


def test_nothing_runs_what_it_reads() -> None:
    assert [f"{name}: {call}" for name, call, _ in calls() if call in CALLS and name not in CALLS[call]] == []
    used = {(name, call) for name, call, _ in calls() if call in CALLS}
    assert {(name, call) for call, names in CALLS.items() for name in names} <= used, "the list names others"


def test_no_archive_is_unpacked_onto_the_disk() -> None:
    assert [f"{name}: {call}" for name, call, _ in calls() if call.rpartition(".")[2] in METHODS] == []


def test_weights_are_loaded_as_weights_only_and_pages_escape() -> None:
    found = [(name, call, node) for name, call, node in calls() if call in KEYWORDS]
    assert len(found) > 3
    for name, call, node in found:
        keyword, value = KEYWORDS[call]
        given = {one.arg: one.value for one in node.keywords}
        assert isinstance(given.get(keyword), ast.Constant) and given[keyword].value is value, f"{name}: {call}"


def test_no_call_asks_for_a_shell_for_pickles_or_for_no_certificates() -> None:
    forbidden = {"shell": True, "allow_pickle": True, "verify": False, "weights_only": False, "autoescape": False}
    for name, call, node in calls():
        for one in node.keywords:
            if one.arg in forbidden and isinstance(one.value, ast.Constant):
                assert one.value.value is not forbidden[one.arg], f"{name}: {call}({one.arg}={one.value.value})"


def test_packages_that_run_what_they_read_are_used_for_nothing_else() -> None:
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                package = module.partition(".")[0]
                assert name in MODULES.get(package, (name,)), f"{name} imports {module}"
    pickled = [ast.unparse(node) for node in ast.walk(FILES["study/data/sources.py"]) if _is_of(node, "pickle")]
    assert set(pickled) == {"pickle.Unpickler", "pickle.UnpicklingError"}  # the former with names of its own
    typed = [ast.unparse(node) for node in ast.walk(FILES["study/data/annotation_files.py"]) if _imports(node, "xml")]
    assert typed == ["from xml.etree.ElementTree import Element, ParseError"]


def _is_of(node: ast.AST, package: str) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == package


def _imports(node: ast.AST, package: str) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")


def test_templates_and_scripts_write_text_not_html() -> None:
    """But the pictures, which matplotlib escapes, and the lectures, which nbconvert does."""
    pages = [*(ROOT / "analysis/pages").iterdir(), *(ROOT / "dashboards/pages").iterdir()]
    unescaped = {page.name: re.findall(r"\{\{([^}]*)\|\s*safe", page.read_text()) for page in pages}
    kept = {name: [one.strip() for one in found] for name, found in unescaped.items() if found}
    assert kept == {"study.html": ["picture.svg"], "lecture.html": ["content"]}
    for page in pages:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", page.read_text()), page
    markup = [(name, ast.unparse(node.args[0])) for name, call, node in calls() if call in ("Markup", "mark_safe")]
    assert {name for name, _ in markup} == {"analysis/page.py"} and len(markup) == 2  # plotly, and JSON without `<`
