"""Claims about the report: complete, traceable, self-contained, and honest about what is not there."""

import hashlib
import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import DAMAGES, FIVE_DEPTHS, frames, planted, tabled

from analysis import files, paper, report
from analysis.gaps import Kind as Gap
from analysis.gaps import problems
from analysis.qualified import judge
from analysis.runs import load
from analysis.tables import claims, results
from analysis.verdicts import Kind, Verdict, entry
from commands.app import analysis as cli
from experiments import planned
from experiments.profiles import SMOKE
from study.spec import InputError, Trial
from study.store.account import Account
from study.store.mlflow import client, mirror, reader
from study.store.records import seal_result


def outcomes(trial: Trial) -> str:
    if trial.model.title == "plain-1202":
        return "diverged"
    return "missing" if trial.model.title == "plain-44" and trial.seed == 2 else "finished"


@pytest.fixture(scope="module")
def study():
    return frames(FIVE_DEPTHS, outcomes=outcomes)


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    where = tmp_path_factory.mktemp("results") / "quick"
    report.write(study, FIVE_DEPTHS, where, {"git_commit": "abc123"}, lecture=False)
    return where


def test_everything_the_contract_names_is_written(folder):
    names = [
        "shortcut_options",
        "quantities",
        "selection",
        "controls",
        "cifar_architecture",
        *("deviations", "protocol", "replications", "coverage"),
        *(f"table_{number}" for number in range(1, 15)),
    ]
    pictures = [
        "figure_1",
        "figure_4",
        "figure_6",
        "figure_7",
        "error_against_depth",
        "gaps_against_depth",
        "generalisation_gap",
        "iterations_to_target",
        "shortcut_options",
        "shortcut_differences",
    ]
    expected = {"claims.json", "runs.parquet", "curves.parquet", "layers.parquet", "evaluations.parquet"}
    expected |= {"manifest.json", "index.html", "referee.html", "verdicts.json"}
    expected |= {f"tables/{name}.{kind}" for name in names for kind in ("md", "csv", "tex")}
    expected |= {f"figures/{name}.{kind}" for name in pictures for kind in ("svg", "pdf", "png")}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == expected


def test_the_manifest_traces_every_file_and_every_run(folder, study):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["git_commit"] == "abc123"
    assert manifest["planned"] == sum(manifest["outcomes"].values()) == len(study.finals)
    assert (manifest["outcomes"]["diverged"], manifest["outcomes"]["missing"]) == (1, 1)
    assert [re.sub("-[0-9a-f]{10}-", "-", name) for name in manifest["without_a_result"]] == ["plain44-digits-s2"]
    assert len(manifest["runs"]) == len(study.finals) - 1
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_claims_have_an_entry_each_with_the_contracts_keys(folder):
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 74
    keys = {"id", "section", "statement", "verdict", "effect", "interval", "n", "runs", "reason"}
    assert all(keys <= set(claim) for claim in claims)


@pytest.mark.slow
def test_rendering_twice_gives_equal_files(folder, study, tmp_path):
    report.write(study, FIVE_DEPTHS, tmp_path / "quick", {"git_commit": "abc123"}, lecture=False)
    again = json.loads((tmp_path / "quick" / "manifest.json").read_text())
    assert again == json.loads((folder / "manifest.json").read_text())


def test_frames_survive_the_trip_through_the_report(folder, study):
    back = report.read(folder)
    pd.testing.assert_frame_equal(back.finals, study.finals, check_dtype=False)
    pd.testing.assert_frame_equal(back.curves, study.curves, check_dtype=False)


@pytest.mark.slow
def test_evaluations_read_back_as_they_were(study, tmp_path):
    whole = tabled(study)
    report.write(whole, FIVE_DEPTHS, tmp_path / "quick", lecture=False)
    pd.testing.assert_frame_equal(report.read(tmp_path / "quick").evaluations, whole.evaluations)


def test_reading_where_there_is_no_report_names_the_command(tmp_path):
    with pytest.raises(InputError, match="make report PROFILE=class"):
        report.read(tmp_path / "class")


def test_the_page_needs_nothing_but_itself(folder):
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", (folder / "index.html").read_text(), flags=re.DOTALL)
    links = set(re.findall(r'(?:href|src)="([^"#]+)"', page)) - {"data:,", "http://127.0.0.1:5000/"}  # of runs
    assert links and all((folder / link).exists() for link in links)
    assert "src=" not in page and "@import" not in page
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_the_page_puts_verdicts_before_pictures_before_tables(folder):
    page = (folder / "index.html").read_text()
    names = ("verdicts", "problems", "figures", "tables", "depth", "plan", "deviations", "provenance")
    places = [page.index(f'id="{name}"') for name in names]
    assert places == sorted(places)


def test_the_page_names_the_trials_without_a_result(folder, study):
    (missing,) = study.finals.query("outcome == 'missing'")["id"]
    assert f"{missing} (missing)" in (folder / "index.html").read_text()


def test_the_page_has_deviations_and_what_the_paper_leaves_open_in_one_place(folder):
    page = (folder / "index.html").read_text()
    place = page[page.index('id="deviations"') : page.index('id="provenance"')]
    assert "Every net&#39;s deviations from the paper&#39;s recipe" in place
    assert "Are the reported CIFAR nets trained on 45,000 or on all 50,000 images?" in place
    assert "a: also iterations: 360 (paper: 64000)" in page[: page.index('id="deviations"')]  # under Table 6


OLD = {"schema 1, protocol 1": [f"plain{n}-digits-0123456789-s0" for n in range(20)]}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A report of a study with a run damaged in each of the ways there are, in which learning-rate was never run."""
    runs = [run for run in planted(FIVE_DEPTHS) if "learning-rate" not in planned(FIVE_DEPTHS)[run.trial]]
    three = [run for run in runs if run.trial.recipe.iterations == 360 and run.trial.recipe.learning_rate == 0.005]
    chosen = np.random.default_rng(0).choice(len(three), len(DAMAGES), replace=False)
    hit = {three[place].trial.id: kind for place, kind in zip(chosen, DAMAGES, strict=True)}
    bad = [one for run in runs if run.trial.id in hit for one in DAMAGES[hit[run.trial.id]][0](run)]
    good = [run for run in runs if run.trial.id not in hit]
    where = tmp_path_factory.mktemp("damaged") / "quick"
    study = load(planned(FIVE_DEPTHS), [*bad, *good])
    report.write(study, FIVE_DEPTHS, where, others=OLD, lecture=False)
    return where, study, load(planned(FIVE_DEPTHS), good), hit


def test_damaged_runs_are_named_with_their_reason_on_the_page_the_terminal_and_in_the_manifest(damaged):
    where, study, _, hit = damaged
    table, known = results.table_6(study), problems(study.finals, FIVE_DEPTHS, OLD)
    page = " ".join(html.unescape((where / "index.html").read_text()).split())
    terminal = " ".join(report.summary(VERDICTS, table, where, known=known).split())
    manifest = json.loads((where / "manifest.json").read_text())
    for name, kind in hit.items():
        (reason,) = study.finals.loc[study.finals["id"] == name, "problem"]
        assert DAMAGES[kind][1] in reason and "delete" in reason or kind == "found unusable"
        for text in (page, terminal, json.dumps(manifest["problems"])):
            assert f"{name} is unusable: {reason}" in text
    assert manifest["outcomes"]["unusable"] == len(hit)
    assert set(hit) <= set(manifest["without_a_result"]) and not set(hit) & set(manifest["results"])


def test_no_mean_verdict_or_curve_knows_of_a_damaged_run(damaged):
    where, study, without, _ = damaged
    for draw in (results.table_6, results.shortcut_table):
        seen, expected = draw(study), draw(without)
        pd.testing.assert_frame_equal(seen.drop(columns="note"), expected.drop(columns="note"))
    numbers = ("verdict", "effect", "interval", "n")
    entries = json.loads((where / "claims.json").read_text())
    expected = json.loads(json.dumps([entry(verdict) for verdict in judge(without, FIVE_DEPTHS)]))
    assert [[one[name] for name in numbers] for one in entries] == [[one[name] for name in numbers] for one in expected]


def test_gaps_single_seeds_and_other_versions_are_named(damaged):
    where, study, *_ = damaged
    page = " ".join(html.unescape((where / "index.html").read_text()).split())
    known = [str(problem) for problem in problems(study.finals, FIVE_DEPTHS, OLD)]
    terminal = " ".join(report.summary([], results.table_6(study), where, known=known).split())
    for text in (page, terminal):
        assert "learning-rate has no run; make degradation-study PROFILE=quick EXPERIMENTS=learning-rate" in text
        assert "20 runs of schema 1, protocol 1 are not shown: this code has schema" in text
        assert "one finished seed only, hence no deviation, interval or test" in text and "(depth-scaling)" in text
    assert OLD["schema 1, protocol 1"][-1] in page and "and 12 more" in terminal


def test_the_command_renders_past_a_damaged_run_names_it_and_exits_with_1(store, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(report, "write", lambda *_: [])  # spares half a minute
    runs = planted(SMOKE)
    for run in runs:
        account = Account(started=1, tags=run.tags | {"profile": "smoke"})
        seal_result(store.trial_folder(run.trial.id), run.outcome, run.records, account)
    mirror.publish(store, [run.trial for run in runs])
    study = ["study", "--profile", "smoke", "--storage", str(store.storage), "--results", str(tmp_path)]
    assert cli.main(study, standalone_mode=False) == 0 and "unusable" not in capsys.readouterr().out
    (hit,) = reader.read(store, [runs[0].trial])
    (store.storage / "artifacts" / hit.run_id / "artifacts" / "records.parquet").unlink()
    assert cli.main(study, standalone_mode=False) == 1
    terminal = " ".join(capsys.readouterr().out.split())
    assert f"{hit.trial.id} is unusable: records.parquet of run {hit.run_id} cannot be read" in terminal
    client.connect(store).delete_run(hit.run_id)  # what it says is to be done
    assert cli.main(study, standalone_mode=False) == 0


def test_a_selection_names_the_experiments_that_it_left_out():
    chosen = planned(FIVE_DEPTHS, ["depth-scaling"])
    finals = load(chosen, [run for run in planted(FIVE_DEPTHS) if run.trial in chosen]).finals
    (left_out,) = (one for one in problems(finals, FIVE_DEPTHS, {}) if one.kind is Gap.NOT_SELECTED)  # one line
    assert "shortcut-options" in left_out.names and not {"depth-scaling", "reimplementations"} & set(left_out.names)
    assert str(left_out).startswith(f"{len(left_out.names)} experiments were not selected; make ")


def claim(name: str, statement: str = "") -> paper.Claim:
    (known,) = (claim for claim in paper.claims() if claim.id == name)
    return replace(known, statement=statement or known.statement)


VERDICTS = [
    Verdict(
        claim=claim("S1-1", "plain-56 trains worse than plain-20, " * 4),
        kind=Kind.SUPPORTED,
        reason="",
        effect=61.234,
        interval=(55.0, 67.4),
        n=3,
    ),
    Verdict(claim=claim("S42-6"), kind=Kind.UNDECIDED, reason="", effect=0.5, n=2, seeds_needed=4),
    Verdict(claim=claim("S42-3"), kind=Kind.CONTRADICTED, reason="", n=3),
    Verdict(claim=claim("S43-1"), kind=Kind.NOT_TESTABLE, reason="no detection here"),
]


def test_the_summary_keeps_its_order_and_fits_80_columns(study, folder):
    text = report.summary(VERDICTS, results.table_6(study), folder.relative_to(folder.parent), "Five GPU days.")
    parts = ["1 supported, 1 contradicted, 1 undecided, 1 not testable", "S42-3", "+61.2 [55, 67.4]", "S42-6",
             "Table 6", "plain-1202", "figures", "make ui", "Five GPU days."]  # fmt: skip
    words = " ".join(text.split())
    places = [words.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80
    assert "S43-1" not in text  # untestable claims are counted, not listed
    assert "\x1b" not in text  # reads as well in a log


def test_untestable_claims_are_grouped_by_their_reason():
    untestable = VERDICTS[-1]
    table = claims.untestable_table([*VERDICTS, untestable.of(claim("S43-2"), untestable.reason)])
    assert table.values.tolist() == [["no detection here", "2", "S43-1, S43-2"]]


@pytest.mark.slow
def test_a_study_without_any_run_renders_and_says_what_is_missing(tmp_path):
    empty = frames(FIVE_DEPTHS, outcomes=lambda trial: "missing")
    verdicts = report.write(empty, FIVE_DEPTHS, tmp_path / "quick", lecture=False)
    manifest = json.loads((tmp_path / "quick" / "manifest.json").read_text())
    assert manifest["outcomes"] == {"finished": 0, "diverged": 0, "missing": len(empty.finals)}
    known = problems(empty.finals, FIVE_DEPTHS, {})
    assert "PROFILE=quick" in report.summary(verdicts, results.table_6(empty), tmp_path, known=known)
    assert len(report.read(tmp_path / "quick").curves) == 0


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = files.write(tmp_path / "claims.json", "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["claims.json"]


def test_the_lectures_run_on_the_files_of_a_report_alone(folder, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("raise SystemExit('a start-up file of mine')\n")
    for variable, value in (("PYTHONSTARTUP", str(tmp_path / "mine.py")), ("PYTHONWARNINGS", "error")):
        monkeypatch.setenv(variable, value)
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(home))
    pages = {page.stem: page.read_text() for page in report.notebooks(folder)}
    assert set(pages) == {"degradation", "shortcuts", "depth", "layer_responses", "past_the_paper"}
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, text in pages.items():
        assert f"notebooks/{name}.html" in manifest["files"]
        pictures = re.findall(r'aria-label="([^"]+)"[^>]*>\s*<svg', text)
        assert pictures and all("profile quick" in said for said in pictures)
        assert "<script" not in text and not re.search(r'(?:href|src)="https?:', text) and "<img" not in text
    assert "Do deeper plain nets train worse?" in pages["degradation"]
    assert not any(path.name.startswith((".ipython", "runtime")) for path in home.rglob("*"))


def test_the_notebook_is_committed_without_outputs():
    for source in report.NOTEBOOKS.glob("*.ipynb"):
        cells = [cell for cell in json.loads(source.read_text())["cells"] if cell["cell_type"] == "code"]
        assert cells
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
        assert not any(re.search(r"^\s*(def|class) ", "".join(cell["source"]), re.MULTILINE) for cell in cells)


def test_a_claim_tested_on_other_nets_than_the_papers_is_marked_as_a_proxy(folder):
    page = (folder / "index.html").read_text()
    assert "By proxy: ResNet-18 converges faster than plain-18" in page
    assert "By proxy: plain-56 has higher" not in page
