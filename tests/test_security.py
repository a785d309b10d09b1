"""SECURITY.md names a test beside each threat: it exists, and fails where the defence is taken away."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [line.split(" | ") for line in TEXT.splitlines() if re.search(r"`test_\w+\.py::", line)]
# A defence: its file, what stands there, what stands there without it, and a test that must then fail.
TAKEN_AWAY = {
    "profile": ("study/store/bundle.py", "if not NAME.fullmatch", "if False and not NAME.fullmatch"),
    "names": ("study/store/bundle.py", "if not ID.fullmatch(id)", "if False"),
    "zip": ("study/store/bundle.py", "    _check_sizes(archive, path)\n", ""),
    "many": ("study/store/bundle.py", "if together > MOST_GROWTH * stored", "if False"),
    "table": ("study/store/records.py", "    if count > MOST_BYTES:", "    if False:"),
    "checkpoint": ("study/training/checkpoints.py", " and not _expands(payload)", ""),
    "pickle": ("study/training/checkpoints.py", "weights_only=True", "weights_only=False"),
    "weights": ("study/nets/weight_files.py", "weights_only=True", "weights_only=False"),
    "cifar": ("study/data/sources.py", "            raise pickle.UnpicklingError", "            str"),
    "pixels": ("study/data/decoding.py", "if image.width * image.height > MOST_PIXELS", "if False"),
    "eps": ("study/data/decoding.py", '"WEBP")', '"WEBP", "EPS")'),
    "entities": ("study/data/annotation_files.py", "forbid_dtd=True", "forbid_entities=False"),
    "nested": ("study/store/atomic.py", "except RecursionError:", "except ZeroDivisionError:"),
    "bring": ("study/store/mlflow/client.py", "if old.resolve().parts[-3:] != new.parts[-3:]", "if False"),
    "links": ("study/store/mlflow/client.py", " and not path.is_symlink()", ""),
    "escapes": ("study/printable.py", "_harmless(one) else", "True else"),
    "markdown": ("study/printable.py", "return _MARKDOWN.sub(", "return re.compile('never').sub("),
    "formulas": ("analysis/tables/printing.py", ".map(_no_formula)", ""),
    "rebinding": ("commands/server.py", "if self.knows(host)", "if True"),
    "metrics": (
        "commands/prometheus.py",
        "ThisMachine(make_asgi_app(registry), (host, *allowed_hosts))",
        "make_asgi_app(registry)",
    ),
    "folder": ("commands/watch.py", "if target.is_relative_to(self.folder.resolve())", "if True"),
    "umask": ("commands/app.py", "    os.umask(os.umask(0) | 0o002)", "    os.umask(os.umask(0))"),
    "password": ("commands/options.py", "    address, variables = apart(value)", "    address, variables = value, {}"),
    "kept": ("study/execution.py", '        check_bare("tracking-uri", self.tracking_uri, ELSEWHERE)\n', ""),
    "mirrors": (
        "study/data/sources.py",
        'InputError(bare(" ".join(line.split())))',
        'InputError(" ".join(line.split()))',
    ),
    "logs": ("study/printable.py", "return printable(super().format(record))", "return super().format(record)"),
    "reason": ("study/store/account.py", ' | {"reason": printable(account.reason)}', ""),
}
FAILING = {
    "profile": "test_hostile_files.py::test_rendering_a_bundle_executes_no_file_that_it_names",
    "names": "test_hostile_files.py::test_a_bundle_names_nothing_outside_itself",
    "zip": "test_hostile_files.py::test_a_zip_bomb_is_refused_before_it_is_unpacked",
    "many": "test_hostile_files.py::test_many_small_bombs_are_refused_together",
    "table": "test_hostile_files.py::test_a_table_that_expands_is_refused",
    "checkpoint": "test_checkpoints.py::test_a_checkpoint_that_claims_more_than_it_has_is_set_aside",
    "pickle": "test_checkpoints.py::test_pickled_code_is_not_executed",
    "weights": "test_foreign_weights.py::test_what_is_pickled_is_never_run",
    "cifar": "test_hostile_files.py::test_a_pickle_of_cifar_makes_arrays_and_nothing_else",
    "pixels": "test_hostile_files.py::test_an_image_of_too_many_pixels_is_refused_before_any_is_decoded",
    "eps": "test_hostile_files.py::test_a_file_that_would_start_another_program_is_no_image",
    "entities": "test_hostile_files.py::test_an_annotation_with_entities_or_of_megabytes_is_refused",
    "nested": "test_hostile_files.py::test_an_account_that_cannot_be_one_is_none",
    "bring": "test_client.py::test_a_database_that_names_other_places_lets_nothing_of_them_into_the_store",
    "links": "test_client.py::test_a_database_that_names_other_places_lets_nothing_of_them_into_the_store",
    "escapes": "test_printable.py::test_an_error_names_a_folder_without_its_escapes",
    "markdown": "test_printable.py::test_markdown_shows_the_text_itself",
    "formulas": "test_tables.py::test_names_are_text_in_every_form_of_a_table",
    "rebinding": "test_watch.py::test_it_answers_to_the_names_of_this_machine_only",
    "metrics": "test_prometheus.py::test_metrics_are_told_to_allowed_names_alone",
    "folder": "test_watch.py::test_only_rendered_files_are_served",
    "umask": "test_hostile_files.py::test_nothing_that_a_command_writes_can_be_written_by_everybody",
    "password": "test_addresses.py::test_no_command_prints_the_password_of_an_address",
    "kept": "test_addresses.py::test_a_password_that_no_variable_can_have_is_refused_without_showing_it",
    "mirrors": "test_addresses.py::test_the_passwords_of_mirrors_are_in_no_message",
    "logs": "test_printable.py::test_logs_have_neither_escapes_nor_passwords",
    "reason": "test_hostile_files.py::test_a_reason_is_kept_without_passwords",
}


def named(text: str) -> list[str]:
    return re.findall(r"`(test_\w+\.py::test_\w+)`", text)


def path_of(name: str) -> Path:
    (path,) = (ROOT / "tests").rglob(name)
    return path


def test_every_threat_has_tests_that_exist() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        assert len(row) == 4 and named(row[3]), row[0]
    for name in named(TEXT):
        file, _, test = name.partition("::")
        functions = {
            node.name for node in ast.walk(ast.parse(path_of(file).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, name


def test_every_defence_that_is_taken_away_stands_where_it_is_said_to() -> None:
    assert TAKEN_AWAY.keys() == FAILING.keys() and set(FAILING.values()) <= set(named(TEXT))
    for file, defence, _ in TAKEN_AWAY.values():
        assert (ROOT / file).read_text().count(defence) >= 1, (file, defence)


@pytest.mark.slow
@pytest.mark.parametrize("threat", TAKEN_AWAY)
def test_a_test_of_each_threat_fails_without_its_defence(tmp_path: Path, threat: str) -> None:
    file, defence, without = TAKEN_AWAY[threat]
    for folder in ("study", "experiments", "analysis", "dashboards", "commands", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / folder).is_dir() else shutil.copy
        copy(ROOT / folder, tmp_path / folder)
    (tmp_path / file).write_text((ROOT / file).read_text().replace(defence, without))
    name, _, test = FAILING[threat].partition("::")
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    where = f"{path_of(name).relative_to(ROOT)}::{test}"
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*words, where], cwd=tmp_path, env=there, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "FAILED " in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
