"""Claims about the tables: right numbers, no number that is not there, nothing compared that cannot be."""

import csv
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from planted import FIVE_DEPTHS, SEEDS, frames, tabled

from analysis import paper, paper_numbers, reproduced, tables
from analysis.runs import DETECTION, Frames, load
from analysis.tables import detection, meta, paper_tables, printing, results
from experiments import detection_normalisation, planned
from experiments.profiles import ONE_GPU, PAPER
from experiments.recipes import DEVIATIONS, Deviation, deviations
from study.spec import Trial
from study.tasks import names


def known(trial: Trial) -> float:
    """2, 3 and 4 % in the three seeds of every net: mean 3, deviation 1."""
    return 2.0 + trial.seed


def diverged_and_missing(trial: Trial) -> str:
    if trial.model.title in ("plain-1202", "plain-110"):
        return "diverged"
    return {("plain-44", 0): "missing", ("plain-44", 1): "failed"}.get((trial.model.title, trial.seed), "finished")


def row(table: pd.DataFrame, net: str, iterations: int = 360) -> pd.Series:
    (found,) = [each for _, each in table.iterrows() if (each["net"], each["iterations"]) == (net, iterations)]
    return found


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return results.table_6(frames(FIVE_DEPTHS, error=known, noise=0.0, outcomes=diverged_and_missing))


def test_each_planned_net_is_a_row(table):
    main = [f"{kind}-{depth}" for kind in ("plain", "ResNet") for depth in (20, 32, 44, 56, 110)]
    assert list(table["net"]) == [*main, "ResNet-110", "plain-110", "ResNet-1202", "plain-1202"]


def test_mean_deviation_and_interval_are_those_of_the_planted_errors(table):
    net = row(table, "ResNet-20")
    assert (net["n"], net["test_error_pct"], net["test_error_sd"]) == (3, pytest.approx(7.0), pytest.approx(1.0))
    half = 4.30265 / 3**0.5  # the 97.5 % point of Student's t with two degrees of freedom
    assert net["test_error_low"] == pytest.approx(7.0 - half, abs=1e-4)
    assert net["test_error_high"] == pytest.approx(7.0 + half, abs=1e-4)


def test_a_single_seed_has_neither_deviation_nor_interval(table):
    text = row(results.printed(table), "ResNet-1202", "200")
    assert (text["test error"], text["95 % interval"], text["n"]) == ("6.00", printing.DASH, "1")


def test_a_diverged_net_says_so_and_has_no_error(table):
    text = row(results.printed(table), "plain-110", "360")
    assert (text["training error"], text["test error"], text["n"]) == ("diverged (3 of 3)", printing.DASH, "0")


def test_what_is_missing_is_counted(table):
    net = row(table, "plain-44")
    assert net["n"] == 1
    assert net["note"] == "1 of 3 failed, 1 of 3 missing"


def test_a_net_without_any_result_is_dashes():
    empty = results.printed(results.table_6(frames(FIVE_DEPTHS, outcomes=lambda trial: "missing")))
    assert set(empty["training error"]) == set(empty["test error"]) == {printing.DASH}
    assert empty["note"].str.endswith("missing").all()


def test_numbers_on_other_data_are_not_compared_with_the_papers(table):
    assert table["difference_pct"].isna().all()
    assert row(table, "ResNet-56")["paper_test_error_pct"] == 6.97
    assert results.COMPARABLE in results.footnotes(table)


def test_on_the_papers_data_and_schedule_the_difference_is_printed():
    ours = results.table_6(frames(PAPER, error=lambda trial: 5.0, noise=0.0))
    expected = {"plain-20": 9.69, "plain-56": 13.26, "ResNet-20": 8.75, "ResNet-110": 6.61, "ResNet-1202": 7.93}
    for net, theirs in expected.items():
        assert row(ours, net, 64_000)["difference_pct"] == pytest.approx(9.0 - theirs, abs=0.011), net
    assert results.COMPARABLE not in results.footnotes(ours)


def test_the_papers_number_is_compared_by_a_prediction_interval_of_one_run_or_of_five():
    study = frames(PAPER, test_error=lambda trial: 8.75 + 0.5 * (trial.seed - 2), noise=0.0)
    ours = results.table_6(study)
    deviation, t = 0.5 * 2.5**0.5, 2.776445  # of five seeds; with four degrees of freedom
    for net, runs in (("ResNet-20", 1), ("ResNet-110", 5)):
        of = row(ours, net, 64_000)
        half = (of["difference_high"] - of["difference_low"]) / 2
        assert half == pytest.approx(t * deviation * (1 / 5 + 1 / runs) ** 0.5, rel=1e-3), net
    assert results.printed(ours).set_index("net").loc["ResNet-20", "difference"] == "+0.00 (-2.40 to 2.40)"
    assert results.PREDICTED in results.footnotes(ours)


def test_parameters_are_printed_as_in_table_6():
    ours = results.printed(results.table_6(frames(PAPER.with_seeds(1))))
    counts = {each["net"]: each["params"].split()[0] for _, each in ours.iterrows()}
    printed = {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.7M", 1202: "19.4M"}
    assert {depth: counts[f"ResNet-{depth}"] for depth in printed} == printed


def test_an_interval_does_not_leave_what_an_error_can_be():
    ours = results.table_6(frames(FIVE_DEPTHS, error=lambda trial: 0.1 + trial.seed, test_error=known, noise=0.0))
    assert ours["test_error_low"].min() == pytest.approx(3 - 4.30265 / 3**0.5, abs=1e-4)
    wide = results.table_6(frames(FIVE_DEPTHS, test_error=lambda trial: 5.0 * trial.seed, noise=0.0))
    assert wide["test_error_low"].min() == 0


def test_equal_seeds_claim_no_certainty_that_a_count_of_images_cannot_give():
    equal = results.table_6(frames(FIVE_DEPTHS, error=lambda trial: 5.0, noise=0.0))
    net = row(equal, "ResNet-20")
    assert net["test_error_sd"] == 0
    assert net["test_error_low"] < 9.0 < net["test_error_high"]


def test_options_stand_under_the_plain_net_of_their_depth():
    options = results.shortcut_table(frames(FIVE_DEPTHS))
    names = ["plain-{}", "ResNet-{} (A)", "ResNet-{} (B)", "ResNet-{} (C)"]
    assert list(options["net"]) == [name.format(depth) for depth in (20, 56) for name in names]
    assert options["params"].is_monotonic_increasing  # B and C pay for their projections


def test_a_written_table_keeps_its_numbers_and_escapes_for_its_reader(table, tmp_path):
    text, notes = results.printed(table), results.footnotes(table)
    printing.write(printing.Table("table_6", "Table 6", table, text, notes), tmp_path)
    with (tmp_path / "table_6.csv").open() as file:
        net = next(each for each in csv.DictReader(file) if each["net"] == "ResNet-20")
    assert float(net["test_error_pct"]) == pytest.approx(7.0)
    markdown = (tmp_path / "table_6.md").read_text().splitlines()
    assert {line.count("|") for line in markdown[:16]} == {12}
    tex = (tmp_path / "table_6.tex").read_text()
    assert "Deviations from the paper's recipe in all rows: width: 8 (paper: 16)" in tex.split(r"\end{tabular}")[1]
    assert not re.search(r"(?<!\\)%", tex) and tex.isascii()
    assert r"95 \% interval" in tex and r"7.00 $\pm$ 1.00" in tex


def test_latex_and_markdown_survive_special_characters():
    text = pd.DataFrame({"a_b": ["50 % & {more} | $x^2$ \\"]})
    assert r"50 \% \& \{more\} | \$x\textasciicircum{}2\$ \textbackslash{} \\" in printing.latex(text)
    assert "\\|" in printing.markdown(text)


def test_an_experiment_that_is_not_planned_gives_an_empty_table():
    none = frames(FIVE_DEPTHS)
    none = type(none)(none.finals.query("experiments == 'learning-rate'"), none.curves, none.layers)
    for build in (results.table_6, results.shortcut_table):
        assert len(build(none)) == 0
        assert len(results.printed(build(none))) == 0


def test_all_fourteen_tables_are_rendered_and_none_invents_a_number():
    rendered = {table.name: table for table in tables.every(frames(FIVE_DEPTHS))}
    assert set(rendered) == {f"table_{n}" for n in range(1, 15)} | {
        *("shortcut_options", "quantities", "selection", "controls", "cifar_architecture"),
        *("deviations", "protocol", "replications", "coverage"),
    }
    for number in paper_numbers.TABLES:
        table = rendered[f"table_{number}"]
        assert (table.numbers["n"] == 0).all() and table.numbers[["mean", "difference"]].isna().all(axis=None)
        assert any(
            "A dash is what was not evaluated: " in note or "with its server alone" in note for note in table.notes
        )


def test_a_row_has_the_letter_of_what_it_departs_in_besides_and_a_footnote_explains_it(table):
    text, notes = results.printed(table), results.footnotes(table)
    letters = {(each["net"], each["iterations"]): each["also"] for _, each in text.iterrows()}
    assert letters["plain-20", "360"] == letters["ResNet-56", "360"] == "a"
    assert letters["ResNet-110", "360"] == letters["plain-110", "360"] == "b"
    assert letters["ResNet-110", "200"] == letters["plain-1202", "200"] == "c"
    shared, a, b, c = notes[-4:]
    assert "width: 8 (paper: 16)" in shared and "batch: 32 (paper: 128)" in shared and "iterations" not in shared
    assert a.startswith("a: also iterations: 360 (paper: 64000)") and "warmup" not in a
    assert "warmup: none (paper: threshold)" in b and "learning_rate: 0.002 (paper: 0.1)" in c


def test_rows_that_depart_alike_have_no_letters():
    ours = results.table_6(frames(ONE_GPU))
    assert "also" not in results.printed(ours)
    assert results.footnotes(ours)[-1].endswith(
        "in all rows: precision: bf16 (paper: fp32); bn_batch: 128 (paper: 64)."
    )
    faithful = results.table_6(frames(PAPER))
    assert results.footnotes(faithful)[-1].endswith("in all rows: none.")


def test_letters_and_shared_footnote_add_up_to_the_deviations_of_each_row(table):
    shared, own = results.departures(table["deviations"])
    for departed, row in zip(own, table["deviations"], strict=True):
        assert {*shared, *departed} == {*row}


@pytest.mark.parametrize("profile", [FIVE_DEPTHS, PAPER], ids=lambda profile: profile.name)
def test_the_ledger_has_every_field_in_which_a_condition_departs(profile):
    numbers = meta.deviations(frames(profile).finals).numbers
    plan = {trial.id: trial for trial in planned(profile)}
    for trial in planned(profile):
        here = numbers[numbers["condition"] == trial.condition]
        ours = tuple(Deviation(row.field, row.ours, row.paper) for row in here.itertuples() if row.field)
        assert ours == deviations(trial, plan)
        assert len(here) == max(len(ours), 1)


def test_the_ledgers_print_names_every_net_and_what_no_field_shows():
    study = frames(FIVE_DEPTHS)
    table = meta.deviations(study.finals)
    assert set(", ".join(table.text["nets"]).split(", ")) == set(study.finals["title"])
    assert set(DEVIATIONS) <= set(table.notes)
    deep = table.text[table.text["experiments"] == "depth-scaling"].iloc[0]
    assert deep["nets"] == "ResNet-110, plain-110, ResNet-1202, plain-1202"
    assert deep["deviations"].startswith("iterations: 200 (paper: 64000); learning_rate: 0.002 (paper: 0.1)")


def test_replications_stand_beside_ours_only_where_ours_are_comparable():
    quick = paper_tables.replications(results.table_6(frames(FIVE_DEPTHS)))
    ours = quick.numbers[quick.numbers["result_of"] == "this study"]
    assert list(ours["layers"]) == [20, 32, 44, 56, 110, 1202] and ours["error"].isna().all()
    assert set(quick.text.iloc[1][["20", "110", "1202"]]) == {printing.DASH}
    study = paper_tables.replications(results.table_6(frames(PAPER, test_error=known, noise=0.0)))
    assert set(study.text.iloc[1][["20", "32", "44", "56", "110", "1202"]]) == {"4.00 ± 1.58 (5)"}
    assert (quick.place, study.place) == ("paper", "measured")


def test_every_replication_is_printed_once_with_how_it_was_chosen():
    table = paper_tables.replications(results.table_6(frames(FIVE_DEPTHS)))
    assert table.text.iloc[0]["110"] == "6.61 ± 0.16 (5)"  # never the best of five
    others = table.numbers[~table.numbers["result_of"].isin(("the paper", "this study"))]
    expected = sum(
        len(errors)
        for other in paper.replications()
        for result in other["results"]
        for errors in result["errors"].values()
    )
    assert len(others) == expected and (others["chosen"] != "").all()
    akamaster = table.text[table.text["result of"].str.startswith("akamaster")].iloc[0]
    assert (akamaster["20"], akamaster["1202"], akamaster["chosen"]) == ("8.27", "6.18", "best test iterate")
    cells = " / ".join(table.text.iloc[2:][["20", "32", "44", "56", "110", "1202"]].to_numpy().ravel())
    assert len([cell for cell in cells.split(" / ") if cell != printing.DASH]) == expected


def test_the_protocol_table_has_a_row_an_ambiguity():
    table = meta.protocol()
    assert list(table.numbers["id"]) == [each["id"] for each in paper.ambiguities()]
    assert (table.text != "").all(axis=None)


def test_the_coverage_table_accounts_for_every_value():
    numbers = meta.coverage().numbers.set_index("place")
    parts = numbers[["planned", "counted", "quoted", "not_planned"]].sum(axis=1)
    assert (parts == numbers["values"]).all() and numbers["values"].sum() == len(list(reproduced.values()))
    assert numbers.loc["table_6", "planned"] == 8 and numbers.loc["figure_4", "planned"] == 8


def test_every_table_is_ascii_latex_without_a_bare_special_character(tmp_path):
    for table in tables.every(frames(FIVE_DEPTHS)):
        printing.write(table, tmp_path)
        tex = (tmp_path / f"{table.name}.tex").read_text()
        assert tex.isascii() and not re.search(r"(?<!\\)[%&#_](?! )", tex.split(r"\end{tabular}")[1])


def test_every_number_of_an_untrained_table_is_the_papers():
    study = frames(FIVE_DEPTHS)
    table = paper_tables.evaluated(10, study)
    voc = paper.table("table_10")
    assert len(table.numbers) == 3 * 21
    for row in voc["rows"]:
        here = table.numbers[(table.numbers["net"] == row["net"]) & (table.numbers["data"] == row["data"])]
        assert list(here["paper"]) == [row["map"], *row["ap"]]
        assert list(here["measure"]) == ["map", *voc["classes"]]
    assert "— (28.54)" in set(paper_tables.evaluated(2, study).text["top1"])
    assert set(paper_tables.evaluated(3, study).text["top1"]) > {"—"}  # GoogLeNet's is not printed


@pytest.mark.parametrize("number", paper_numbers.TABLES)
def test_every_number_of_the_papers_own_nets_is_filled_where_it_was_evaluated(number):
    study = tabled(frames(FIVE_DEPTHS))
    numbers = paper_tables.evaluated(number, study).numbers
    ours, theirs = numbers[numbers["n"] > 0], numbers[(numbers["n"] == 0) & numbers["paper"].notna()]
    assert len(ours) and (ours["n"] == SEEDS).all() and (ours["low"] < ours["mean"]).all()
    assert ours["mean"].to_numpy() == pytest.approx(ours["paper"].astype(float).to_numpy())
    assert ours["difference"].abs().max() < 1e-9
    others = "VGG|GoogLeNet|PReLU|BN-inception|OverFeat"
    named = theirs["loc_net"] if number == 13 else theirs["method"] if "method" in theirs else theirs["measure"]
    assert named.str.contains(others).all()
    assert not any("not evaluated" in note for note in paper_tables.evaluated(number, study).notes)


def test_a_cell_has_mean_deviation_interval_n_the_papers_number_and_the_difference():
    study = tabled(frames(FIVE_DEPTHS), change=lambda number, value: value + 1)
    cell = paper_tables.evaluated(2, study).text["top1"][1]
    assert cell == "29.54 ± 0.15 [29.41, 29.67], n 8 (28.54) +1.00"
    elsewhere = paper_tables.evaluated(2, tabled(frames(FIVE_DEPTHS), data="folder:flowers"))
    assert elsewhere.text["top1"][1] == "28.54 ± 0.15 [28.41, 28.67], n 8 (28.54)"  # not comparable: no difference
    assert elsewhere.numbers["difference"].isna().all()


def test_table_1_and_the_cifar_counts_are_computed_and_agree_with_the_paper():
    ours = paper_tables.table_1().numbers
    counted = paper.table("table_1")["counted"]
    names = ("plain_18_or_18A", "plain_34_or_34A", *(f"resnet_{n}_B_stride_in_1x1" for n in (50, 101, 152)))
    assert list(ours["params"]) == [counted[name]["params"] for name in names]
    assert (ours["difference"].abs() < 0.1e9).all()
    cifar = paper_tables.cifar_architecture().numbers
    for row, theirs in zip(cifar.to_dict("records"), paper.table("cifar_architecture")["rows"], strict=True):
        assert {option: row[f"params_{option}"] for option in "ABC"} == theirs["params"]
        assert row["shortcuts"] == theirs["shortcuts"]
        assert row["multiply_adds_A"] / 1e6 == pytest.approx(theirs["mega_multiply_adds_A"], abs=0.005)


def test_what_selecting_gains_is_a_number():
    """Last iterates of 2, 3 and 4 %; each run was best 0.5 points before its end."""
    study = frames(FIVE_DEPTHS, test_error=known, noise=0.0)
    study.finals["best_test_error_pct"] = study.finals["test_error_pct"] - 0.5
    numbers = results.selection(study).numbers
    found = numbers[numbers["net"] == "plain-56"].iloc[0]
    assert (found["last"], found["best"], found["best_seed"], found["best_of_all"]) == (3.0, 2.5, 2.0, 1.5)
    assert found["selection_bias"] == 1.5 and math.isnan(found["validated"])
    assert row(results.selection(study).text, "plain-56", "360")["best by validation"] == printing.DASH


def test_recalibrated_batch_norm_is_a_column_beside_the_last_iterate_or_a_dash():
    study = frames(FIVE_DEPTHS, test_error=known, noise=0.0)
    before = study.finals["title"] == "plain-56"
    study.finals.loc[before & (study.finals["seed"] == 1), "recalibrated_test_error_pct"] = math.nan
    table = results.selection(study)
    found = table.numbers[table.numbers["net"] == "ResNet-20"].iloc[0]
    assert (found["recalibrated"], found["recalibrated_minus_last"]) == (2.5, -0.5)
    text = row(table.text, "plain-56", "360")
    assert text["last, recalibrated"] == text["recalibrated minus last"] == printing.DASH


def test_the_controls_say_what_was_expected_and_what_was_found():
    table = results.negative_controls(frames(FIVE_DEPTHS, noise=1.0))
    text = table.text.set_index("quantity")
    assert text.loc["test error of plain-56", "expected"] == "90"
    rate = text.loc["verdicts on test error, over splits of each net's seeds"]
    assert rate["n"] == "240" and re.fullmatch(r"\d+\.\d\d \(\d+\)", rate["found"])
    assert table.notes[-1].startswith("Expected error or difference outside the interval: ")
    leak = frames(FIVE_DEPTHS, noise=0.1, shuffled=lambda trial: 80.0 if trial.model.depth == 56 else 90.0)
    note = results.negative_controls(leak).notes[-1]
    assert "test error of plain-56;" in note and "test error of plain-56 minus plain-20;" in note


def test_no_other_table_counts_the_seeds_or_nets_of_the_controls():
    with_controls = frames(FIVE_DEPTHS, noise=1.0)
    only = with_controls.finals["experiments"] == "controls"
    without = type(with_controls)(with_controls.finals[~only], with_controls.curves, with_controls.layers)
    assert only.sum() == 15
    for one, other in zip(tables.every(with_controls), tables.every(without), strict=True):
        assert one.name in ("controls", "deviations") or one.text.equals(other.text), one.name


def test_the_table_of_quantities_names_the_critical_depth():
    def rising(trial: Trial) -> float:
        return 0.1 * trial.model.depth if trial.model.family == "plain" and trial.model.depth > 32 else 1.0

    table = results.measured_quantities(frames(FIVE_DEPTHS, error=rising, noise=0.01))
    bound = "the first gap above 1 %, at 95 % over all depths together"
    assert f"Critical depth of plain nets in training error ({bound}): between 32 and 44 layers." in table.notes
    assert f"Critical depth of residual nets in training error ({bound}): nowhere up to 110 layers." in table.notes
    # gaps of both families, benefits and shortcuts for two errors; generalisation gaps and three targets
    assert len(table.numbers) == 2 * (4 + 4 + 5 + 2 * 6) + 2 * 5 * (1 + 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (Debian's texlive-latex-base)")
def test_every_table_compiles_as_latex(tmp_path):
    rendered = tables.every(frames(FIVE_DEPTHS, outcomes=diverged_and_missing))
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", r"\tiny"]
    for table in rendered:
        printing.write(table, tmp_path)
        lines += [rf"\input{{{table.name}.tex}}", ""]
    (tmp_path / "all.tex").write_text("\n".join([*lines, r"\end{document}"]))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def of_detectors(values: dict[str, tuple[float, ...]], protocol: str = names.SINGLE_SCALE) -> Frames:
    """The paper profile's normalisation experiment; `values`: mAP by seed of the detectors whose titles end so."""
    study = load(planned(PAPER, [detection_normalisation.NAME]), [])
    rows = []
    for end, maps in values.items():
        of = study.finals[study.finals["title"].str.endswith(end) & (study.finals["task"] == DETECTION)]
        assert len(of) == 2
        for trial, value in zip(of.to_dict("records"), maps, strict=False):
            about = {"ids": trial["id"], "experiments": trial["experiments"], "title": trial["title"], "run_id": "r"}
            tested = {"split": "VOC 07 test", "protocol": protocol, "measure": "map", "value": value, "images": 4952}
            rows.append(about | {"seed": trial["seed"], "data": trial["data"]} | tested)
    return replace(study, evaluations=pd.DataFrame(rows))


def test_normalisations_are_compared_with_the_papers_seed_by_seed():
    (table,) = detection.normalisation(of_detectors({"ResNet-101": (70.0, 80.0), "(GroupNorm)": (71.0, 83.0)}))
    rows = table.numbers.set_index("detector")
    assert rows.index[0] == "Faster R-CNN, ResNet-101" and pd.isna(rows["difference"].iloc[0])
    of_group = rows.loc["Faster R-CNN, ResNet-101 (GroupNorm)"]
    assert (of_group["mean"], of_group["difference"], of_group["n"], of_group["planned"]) == (77.0, 2.0, 2, 2)
    assert of_group["difference_low"] < 2.0 < of_group["difference_high"]
    assert (rows["n"] == [2, 0, 0, 0, 2]).all() and len(table.text) == 5


def test_a_seed_that_only_one_of_two_normalisations_has_is_in_no_difference():
    (table,) = detection.normalisation(of_detectors({"ResNet-101": (70.0, 80.0), "(GroupNorm)": (71.0,)}))
    of_group = table.numbers.set_index("detector").loc["Faster R-CNN, ResNet-101 (GroupNorm)"]
    assert of_group["difference"] == 1.0 and pd.isna(of_group["difference_low"])


def test_detectors_are_listed_by_protocol_and_only_where_they_are_planned():
    quick = load(planned(FIVE_DEPTHS), [])
    assert detection.detectors(quick) == detection.normalisation(quick) == []
    untrained, trained = (
        of_detectors({"ResNet-101": (each,)}, protocol)
        for each, protocol in ((1.0, "untrained"), (70.0, "single scale"))
    )
    both = replace(trained, evaluations=pd.concat([trained.evaluations, untrained.evaluations]))
    (table,) = detection.detectors(both)
    assert table.text["protocol"].tolist() == ["untrained", "single scale"]
    assert table.text["detection mAP"].tolist() == ["1.00, n 1", "70.00, n 1"]
    (nothing,) = detection.detectors(replace(both, evaluations=both.evaluations.iloc[:0]))
    assert nothing.text.empty and list(nothing.text.columns) == ["detector", "condition", "split", "protocol"]


def test_names_are_text_in_every_form_of_a_table(tmp_path):
    hostile = [
        "=cmd|'/C calc'!A0",
        "+1",
        "@SUM(A1)",
        "-2+3",
        "\t=1",
        "<script>alert(1)</script>",
        "[x](http://e) ![y](//e)",
    ]
    text = pd.DataFrame({"net": hostile})
    printing.write(printing.Table("t", "T", text.assign(n=-1.5), text, []), tmp_path)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["net"] for row in rows] == [f"'{name}" for name in hostile[:5]] + hostile[5:]
    assert {row["n"] for row in rows} == {"-1.5"}
    html = MarkdownIt().enable("table").render((tmp_path / "t.md").read_text())
    assert html.count("<td") == len(hostile)
    assert not re.search("<(script|a|img)", html)
