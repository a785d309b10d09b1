"""`verify` tells a file that is as it was rendered, and shows what the store holds, from one that is or does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from planted import planted

from analysis import report
from analysis.runs import load
from experiments import planned
from experiments.profiles import SMOKE
from study.store.account import Account, Outcome
from study.store.records import Run, add_evaluations, seal_result, table_digest

Verify = Callable[..., tuple[int, dict[str, Any]]]


def outcome(trial) -> str:
    return "missing" if trial.model.title == "plain-56" else "finished"


def fill(store: Path, runs: list[Run]) -> None:
    for run in runs:
        seal_result(store / "trials" / run.trial.id, run.outcome, run.records, Account(tags=dict(run.tags)))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`store`, and `results/smoke` rendered from it, before plain-56 was run."""
    where = tmp_path_factory.mktemp("verify")
    runs = planted(SMOKE, outcomes=outcome)
    for run in runs:
        run.tags["records_sha256"] = table_digest(run.records)
    fill(where / "store", runs)
    report.write(load(planned(SMOKE), runs), SMOKE, where / "results" / "smoke", {"git_commit": "abc"}, lecture=False)
    return where


@pytest.fixture
def verify(command: Callable[..., Any]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def run(file: Path, store: Path) -> tuple[int, dict[str, Any]]:
        code, out, err = command("verify", file, "--storage", store, "--json")
        return code, json.loads(out) if out else {"error": err}

    return run


def test_a_file_as_it_was_rendered_is_current_and_its_code_is_named(verify: Verify, rendered: Path) -> None:
    for name in ("figures/figure_6.png", "tables/table_6.md", "index.html"):
        code, said = verify(rendered / "results" / "smoke" / name, rendered / "store")
        assert (code, said["verdict"]) == (0, "current")
        assert "sealed results" in said["reasons"][0] and "rendered by commit abc" in said["reasons"][1]


def test_a_changed_or_a_foreign_file_is_altered(verify: Verify, rendered: Path) -> None:
    folder = rendered / "results" / "smoke"
    path = folder / "tables" / "table_1.md"
    before = path.read_text()
    path.write_text(before.replace("3.6e9", "3.5e9"))
    assert verify(path, rendered / "store")[1]["verdict"] == "altered"
    path.write_text(before)
    assert verify(path, rendered / "store")[1]["verdict"] == "current"
    (folder / "figures" / "mine.png").write_bytes(b"")
    code, said = verify(folder / "figures" / "mine.png", rendered / "store")
    assert (code, said["verdict"]) == (1, "altered") and "did not write it" in said["reasons"][0]


def test_new_other_and_lost_results_make_a_file_stale(verify: Verify, rendered: Path, tmp_path: Path) -> None:
    runs = planted(SMOKE)
    lost, other, *_ = (run for run in runs if run.trial.model.title == "ResNet-56")
    records = other.records.set_column(
        0, "iteration", pa.array([1 + i for i in other.records["iteration"].to_pylist()])
    )
    fill(tmp_path, [run for run in runs if run not in (lost, other)])
    seal_result(tmp_path / "trials" / other.trial.id, Outcome.FINISHED, records, Account())
    code, said = verify(rendered / "results" / "smoke" / "figures" / "figure_6.svg", tmp_path)
    assert (code, said["verdict"]) == (1, "stale")
    new, changed, gone = said["reasons"]
    assert new.startswith("results that it does not show: 2 (plain56")
    assert changed == f"other results than it shows: 1 ({other.trial.id})"
    assert gone == f"results that it shows and the store lacks: 1 ({lost.trial.id})"


def test_an_evaluation_that_came_later_makes_a_file_stale(verify: Verify, rendered: Path, tmp_path: Path) -> None:
    runs = planted(SMOKE, outcomes=outcome)
    fill(tmp_path, runs)
    assert verify(rendered / "results" / "smoke" / "tables" / "table_2.md", tmp_path)[1]["verdict"] == "current"
    row = {"split": "test", "protocol": "10-crop", "measure": "top1_error_pct", "value": 3.0, "images": 360}
    add_evaluations(tmp_path / "trials" / runs[0].trial.id, [row])
    code, said = verify(rendered / "results" / "smoke" / "tables" / "table_2.md", tmp_path)
    assert (code, said["verdict"]) == (1, "stale")
    assert said["reasons"] == [f"other evaluations than it shows: 1 ({runs[0].trial.id})"]


def test_what_is_no_rendered_file_is_refused_in_one_line(verify: Verify, rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.png").touch()
    for file, why in ((tmp_path / "none.png", "there is no file"), (tmp_path / "mine.png", "is in no results folder")):
        code, said = verify(file, rendered / "store")
        assert code == 2 and why in said["error"] and said["error"].count("\n") == 1


@pytest.mark.parametrize(
    "written",
    [
        None,
        [],
        {"files": []},
        {"results": {"x": 1}},
        {"plan": 3},
        {"plan": {"file": "a", "sha256": "b", "dated": "never", "code_unchanged": True}},
        "[" * 20_000,
    ],
    ids=str,
)
def test_a_manifest_that_no_report_writes_is_refused_in_one_line(
    verify: Verify, rendered: Path, tmp_path: Path, written: Any
) -> None:
    page = tmp_path / "index.html"
    page.write_text("a page")
    own = json.loads((rendered / "results" / "smoke" / "manifest.json").read_bytes())
    text = written if isinstance(written, str) else json.dumps(own | written if isinstance(written, dict) else written)
    (tmp_path / "manifest.json").write_text(text)
    code, said = verify(page, rendered / "store")
    assert code == 2 and "is not as a report writes it; render the report again" in said["error"]
