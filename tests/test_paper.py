"""The paper's numbers are all here, agree with each other, with what can be counted, and with what is planned."""

import importlib
from dataclasses import asdict, replace
from functools import reduce

import pytest

from analysis import paper, reproduced
from analysis.reproduced import Value
from analysis.runs import MEASURES, RECORD
from experiments import planned
from experiments.profiles import PAPER
from experiments.recipes import PAPER_DATA, PAPER_WIDTH, paper_cifar
from study import cost
from study.spec import DetectionTrial, InputError, Model
from study.store.records import LAYERS
from study.tasks import names

ROWS = paper.table("cifar_architecture")["rows"]


def cifar_net(depth: int, shortcut: str) -> Model:
    family = "plain" if shortcut == "none" else "residual"
    return Model.cifar(family=family, block="basic", depth=depth, shortcut=shortcut, width=PAPER_WIDTH)


def test_all_74_claims_are_here_once():
    claims = paper.claims()
    assert len(claims) == len({claim.id for claim in claims}) == 74
    for claim in claims:
        assert claim.statement and claim.section
        assert claim.kind in ("direct", "derived", "conjecture")
        assert claim.cost in ("free", "cifar", "cifar-heavy", "imagenet", "detection")
        assert set(claim.digitised) <= set(claim.paper)


@pytest.mark.parametrize("number", range(1, 15))
def test_every_table_has_a_title_a_section_and_rows(number):
    table = paper.table(f"table_{number}")
    assert table["title"] and table["section"] and table["rows"]


def _convolutions(model: Model) -> list[cost.Layer]:
    return list(cost.convolutions(model, PAPER_DATA.channels, PAPER_DATA.size, PAPER_DATA.size))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["depth"]))
def test_every_cifar_count_is_what_study_cost_counts(row):
    for shortcut, expected in row["params"].items():
        assert cost.parameters(cifar_net(row["depth"], shortcut), PAPER_DATA) == expected
    plain, residual = cifar_net(row["depth"], "none"), cifar_net(row["depth"], "A")
    assert cost.parameters(plain, PAPER_DATA) == row["params"]["A"]
    batch_norm = sum(2 * layer.outputs for layer in _convolutions(residual))
    assert row["params"]["A"] - batch_norm == row["params_without_bn_A"]
    assert round(cost.multiply_adds(residual, PAPER_DATA) / 1e6, 2) == row["mega_multiply_adds_A"]
    assert plain.stages[0] == row["n"]
    assert sum(plain.stages) == row["shortcuts"]
    assert len(_convolutions(plain)) + 1 == row["depth"]


def test_the_stages_of_the_cifar_table_are_the_nets():
    first, second, third = paper.table("cifar_architecture")["stages"]
    convolutions = _convolutions(cifar_net(56, "A"))
    for stage in (first, second, third):
        size = int(stage["output_map"].split("x")[0])
        layers = [c for c in convolutions if c.places == size**2]
        extra = 1 if stage["layers"].startswith("1+") else 0
        assert len(layers) == 2 * 9 + extra
        assert {c.outputs for c in layers} == {stage["filters"]}


def test_table_6_prints_the_rounded_counts():
    printed = {row["layers"]: row for row in paper.table("table_6")["rows"] if row["method"] == "ResNet"}
    assert set(printed) == {row["depth"] for row in ROWS}
    for row in ROWS:
        assert printed[row["depth"]]["params_printed"] == row["params_printed"]
        assert abs(printed[row["depth"]]["params"] - row["params"]["A"]) <= 0.03 * row["params"]["A"]


def test_figure_6_ends_where_table_6_says():
    """The paper reports the last iterate: within 0.03, and for ResNet-110 the best of five is below the drawn run."""
    table = {row["layers"]: row for row in paper.table("table_6")["rows"] if row["method"] == "ResNet"}
    curves = paper.curves(6).query("panel == 'middle' and series == 'test'")
    last = curves.sort_values("iteration").groupby("curve")["value"].last()
    for depth in (20, 32, 44, 56):
        assert last[f"ResNet-{depth}"] == pytest.approx(table[depth]["error"], abs=0.031)
    assert table[110]["error"] < last["ResNet-110"] < table[110]["mean"]


def test_figure_1_and_figure_6_draw_the_same_plain_nets():
    one, six = paper.curves(1), paper.curves(6).query("panel == 'left'")
    both = one.merge(six, on=["curve", "series", "iteration"], suffixes=("_1", "_6"))
    assert len(both) > 200
    assert (both["value_1"] - both["value_6"]).abs().max() < 0.065  # both resolutions and the calibration


@pytest.mark.parametrize("figure, nets", [(1, 2), (4, 4), (6, 10)])
def test_every_curve_is_drawn_in_training_and_test(figure, nets):
    curves = paper.curves(figure)
    assert curves["curve"].nunique() == nets
    assert (curves.groupby("curve")["series"].nunique() == 2).all()
    assert curves["value"].between(0, 63).all()


def test_figure_7_has_a_response_for_every_3x3_layer():
    layers = paper.responses().groupby("curve")["layer"].max()
    assert layers.to_dict() == {"plain-20": 19, "plain-56": 55, "ResNet-20": 19, "ResNet-56": 55, "ResNet-110": 109}


def test_an_unknown_table_or_figure_names_the_alternatives():
    with pytest.raises(InputError, match="table_14"):
        paper.table("table_15")
    with pytest.raises(InputError, match="1, 4, 6"):
        paper.curves(7)


def test_what_the_caller_changes_does_not_change_the_paper():
    paper.table("table_1")["rows"].clear()
    assert paper.table("table_1")["rows"]
    with pytest.raises(TypeError):
        paper.claims()[0].paper["final_train_error"] = {}


VALUES = list(reproduced.values())
PLANNED = planned(PAPER)
LABELS = {  # columns that say which net a row is of
    *("method", "ref", "depth", "layers", "n", "shortcut", "set", "ensemble", "networks", "runs", "error_is", "block"),
    *("layers_per_block", "channels", "blocks", "shortcuts", "params_printed", "net", "train", "test", "system"),
    *("data", "loc_method", "loc_net", "cls_net", "testing"),
}
OURS = {"params", "params_without_bn_A", "mega_multiply_adds_A"}  # counted by this project, of the CIFAR architectures


def named(path: str) -> object:
    """What `study.data.arrays.Dataset.batch` names; raises where there is no such thing."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[cut:], module)
    raise AssertionError(f"nothing is called {path}")


@pytest.mark.parametrize("place", [f"table_{n}" for n in range(1, 15)] + ["cifar_architecture"])
def test_every_column_of_a_table_is_a_result_or_a_count_or_says_which_net(place):
    table = paper.table(place)
    values = {*table.get("results", ()), *table.get("counts", ())}
    for row in table["rows"]:
        assert set(row) <= values | LABELS | (OURS if place == "cifar_architecture" else set())
        assert not [name for name, cell in row.items() if isinstance(cell, float) and name not in values | OURS]


def test_every_printed_result_and_every_curve_is_a_value():
    by_place = {place: [value for value in VALUES if value.place == place] for place in paper.coverage()}
    assert len(VALUES) == len({(value.place, value.what) for value in VALUES})
    assert len(by_place["table_10"]) == len(by_place["table_11"]) == 3 * 21
    assert len(by_place["table_6"]) == 12 + 2 + 2 + 9  # errors; Highway's and ours of five runs; printed parameters
    for number in (1, 4, 6):
        drawn = paper.curves(number)[["panel", "curve", "series"]].drop_duplicates()
        assert len(by_place[f"figure_{number}"]) == len(drawn)
    assert len(by_place["figure_7"]) == paper.responses()["curve"].nunique()
    printed = {*(f"table_{n}" for n in range(1, 15)), "cifar_architecture"}
    assert set(by_place) == printed | {f"figure_{n}" for n in (1, 4, 6, 7)}
    assert all(by_place.values())


def trained(value: Value) -> set[str]:
    """The experiments that train the net of the value on its data, by the profile's main recipe."""
    assert PAPER.imagenet
    recipes = {"cifar": PAPER.recipe, "imagenet": PAPER.imagenet.recipe}
    trials = [
        trial
        for trial in PLANNED
        if reproduced.trains(trial, value)
        and (isinstance(trial, DetectionTrial) or trial.recipe == recipes[trial.model.stem](trial.model))
    ]
    return {name for trial in trials for name in PLANNED[trial]}


def wrong(value: Value) -> str:
    """What is wrong with the account of a value; '' where it is what is planned."""
    coverage = reproduced.covered(value)
    if coverage.by:
        if not trained(value) & set(coverage.by):
            return f"no trial of {coverage.by} is of it"
        known = coverage.measure in (*MEASURES, *RECORD, *LAYERS.names, *names.WORDS)
        return "" if known else f"nothing measures {coverage.measure}"
    if coverage.counted:
        return "" if callable(named(coverage.counted)) else f"{coverage.counted} does not count"
    if coverage.reason not in (*reproduced.NEEDS, reproduced.QUOTED):
        return f"unknown reason {coverage.reason}"
    if coverage.reason == reproduced.SERVER:  # whether or not its net is trained
        return ""
    listed = [trial for trial in PLANNED if reproduced.trains(trial, value)]
    return f"listed as not reproduced, but {listed[0].id} is planned" if listed else ""


def test_every_value_is_reproduced_by_a_planned_trial_or_counted_or_listed_with_a_reason():
    assert {f"{value.place}, {value.what}": wrong(value) for value in VALUES if wrong(value)} == {}


def test_a_listed_value_whose_net_is_planned_is_found_out(monkeypatch):
    value = next(value for value in VALUES if (value.place, value.net) == ("table_6", ("residual", 20, "A")))
    assert wrong(value) == ""
    monkeypatch.setattr(paper, "coverage", lambda: {"table_6": {"reason": "localisation"}})
    assert wrong(value).startswith("listed as not reproduced, but resnet20A-cifar10-")


def test_a_value_of_a_net_that_is_not_planned_is_found_out():
    value = next(value for value in VALUES if (value.place, value.net) == ("table_6", ("residual", 20, "A")))
    assert "no trial" in wrong(replace(value, net=("residual", 26, "A")))
    assert "no trial" in wrong(replace(value, data="cifar100"))


def test_an_experiment_covers_something_of_each_table_that_names_it():
    for place, line in paper.coverage().items():
        for name in line.get("by", ()):
            assert any(name in trained(value) for value in VALUES if value.place == place), (place, name)


@pytest.mark.parametrize("line", sum(paper.protocol().values(), []), ids=lambda line: line["what"])
def test_a_line_of_the_protocol_has_a_section_and_is_what_the_papers_recipe_does(line):
    assert line["value"] and line["section"]
    assert line["status"] in ("stated", "stated by reference", "inferred")
    assert_held(line.get("fields", {}))


@pytest.mark.parametrize("ambiguity", paper.ambiguities(), ids=lambda each: each["id"])
def test_an_ambiguity_has_readings_evidence_and_a_resolution_that_the_code_holds(ambiguity):
    assert len(ambiguity["readings"]) > 1 and ambiguity["evidence"] and ambiguity["ours"] and ambiguity["section"]
    for path in ambiguity["where"]:
        named(path)
    assert ambiguity["where"] or ambiguity["ours"].startswith("open")
    assert_held(ambiguity.get("fields", {}))


def assert_held(fields: dict) -> None:
    """The paper's own recipe for 110 layers, whose warm-up shows, and its data have these fields."""
    held = asdict(PAPER_DATA) | asdict(paper_cifar(cifar_net(110, "A")))
    for field, value in fields.items():
        assert held[field] == (tuple(value) if isinstance(value, list) else value), field


@pytest.mark.parametrize("nets", ["cifar10", "cifar10_other_nets", "imagenet"])
def test_a_replication_says_where_it_stands_how_it_was_read_and_how_its_numbers_were_chosen(nets):
    for other in paper.replications(nets):
        assert other["name"] and other["source"] and other["recipe"]
        assert other["read"] in ("repository", "thread", "unrecorded")
        assert len(other.get("commit", "0" * 40)) == 40
        for result in other["results"]:
            assert result.get("selection") or result["testing"]
            for errors in result["errors"].values():
                assert errors and all(0 < error < 100 for error in errors)


def test_replications_of_table_6_are_of_its_depths():
    depths = {row["depth"] for row in ROWS}
    assert all(set(result["errors"]) <= depths for other in paper.replications() for result in other["results"])
