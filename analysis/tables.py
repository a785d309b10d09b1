"""The tables: pure functions from frames to data frames of numbers, and those frames in print.

Owns rows, rounding and how a table becomes files. A row is a condition: mean and deviation over its finished seeds.
A diverged net has no error and says so; a trial without a result is a dash and the command that fills it. The paper's
tables of ImageNet nets and detectors have ours where these were evaluated (`analysis.paper_numbers`), else a dash. Must
not know where runs are kept.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import controls, effects, files, paper, paper_numbers, reproduced
from analysis.counted_claims import imagenet_net
from analysis.nets import TEST, TRAINING, beside_plain, serving
from analysis.runs import TARGETS_PCT, Frames, one_image_pct
from analysis.statistics import estimate
from experiments.recipes import DEVIATIONS, IMAGENET_DATA, PAPER_DATA, PAPER_WIDTH
from study import cost
from study.spec import Model
from study.store.account import Outcome
from study.store.records import RECALIBRATION_BATCHES
from study.tasks import names

DASH = "—"
COMPARABLE = (
    "No difference from the paper is printed where the data, the width or the iterations are not the paper's"
    f" (CIFAR-10, {PAPER_WIDTH}, {paper.ITERATIONS:,}): such numbers are not comparable."
)
SPREAD = "Errors in percent, of last iterates: mean ± standard deviation over n seeds, 95 % t interval of the mean."
DIGITISED = "Values marked Fig. 6 are read off the curves of the paper's figure; it prints none for plain nets."
OTHERS = (
    "Each cell: ours (mean ± standard deviation over n seeds, 95 % t interval of the mean), the paper's in brackets,"
    " and ours minus the paper's where ours is on the paper's data."
)


@dataclass(frozen=True)
class Table:
    """A table in numbers, which become its CSV, and in print, with its footnotes. `name` is that of its files.

    `place`: where the page has it, 'measured', 'deviations' or 'paper' (what was counted, or is others' alone).
    """

    name: str
    title: str
    numbers: pd.DataFrame
    text: pd.DataFrame
    notes: list[str]
    place: str = "paper"


def every(frames: Frames, profile: str) -> list[Table]:
    """What was measured here, how it departs from the paper, then what was counted, and the paper's other tables."""
    main, options = table_6(frames, profile), shortcut_table(frames, profile)
    return [
        Table("table_6", "Table 6, with the plain nets of Fig. 6", main, printed(main), footnotes(main), "measured"),
        Table("shortcut_options", "Shortcut options", options, printed(options), footnotes(options), "measured"),
        measured_quantities(frames),
        selection(frames),
        negative_controls(frames),
        ledger(frames.finals),
        protocol(),
        replications(main),
        covered(),
        cifar_architecture(),
        table_1(),
        *detectors(frames),
        *normalisation(frames),
        *(evaluated(number, frames) for number in paper_numbers.TABLES),
    ]


def measured_quantities(frames: Frames) -> Table:
    """What `analysis.effects` defines, a row a depth.

    `mean`, `sd`, `low` and `high` are percentage points; iterations to a target have the `median` of `n` trials, of
    which `reached` got there.
    """
    finals, shortcuts = serving(frames.finals, "plain-vs-residual"), beside_plain(frames.finals)
    rows, notes = [], [
        "Percentage points; paired by seed, 95 % t intervals. Defined in analysis/effects.py.",
        "Iterations: the median over seeds of the first record at most so large. A trial that never gets there comes"
        " after all that do.",
    ]  # fmt: skip
    for measure, error in ((TRAINING, "training error"), (TEST, "test error")):
        for family in ("plain", "residual"):
            gap = effects.degradation_gap(finals, measure, family)
            rows.append(gap.assign(quantity=f"degradation gap of {family} nets", error=error))
            if len(gap):
                before, at = effects.critical_depth(gap)
                where = f"between {before} and {at} layers" if at else f"nowhere up to {before} layers"
                notes.append(f"Critical depth of {family} nets in {error}: {where}.")
        rows.append(effects.residual_benefit(finals, measure).assign(error=error))
        differences = effects.shortcut_differences(shortcuts, measure)
        rows.append(differences.assign(quantity="shortcuts, " + differences["quantity"], error=error))
    for family in ("plain", "residual"):
        gap = effects.generalisation_gap(finals, family)
        rows.append(gap.assign(quantity=f"generalisation gap of {family} nets", error="test minus training error"))
        for target in TARGETS_PCT:
            reached = effects.iterations_to_target(finals, target, family)
            rows.append(reached.assign(quantity=f"iterations of {family} nets to {target} %", error="training error"))
    columns = ["quantity", "error", *effects.COLUMNS[1:], "reached", "median"]
    numbers = pd.concat([each for each in rows if len(each)] or rows).reindex(columns=columns).reset_index(drop=True)
    text = numbers.astype({"depth": str, "n": str}).assign(
        mean=[
            _spread(row["mean"], row["sd"]) if pd.isna(row["reached"]) else _median(row["median"], row["reached"])
            for row in numbers.to_dict("records")
        ],
        interval=[_interval(low, high) for low, high in zip(numbers["low"], numbers["high"], strict=True)],
    )
    shown = text[["quantity", "error", "depth", "mean", "interval", "n"]]
    shown = shown.rename(columns={"mean": "mean or median"})
    return Table("quantities", "Measured quantities", numbers, shown, notes, "measured")


def selection(frames: Frames) -> Table:
    """The same runs as other protocols would report them: what choosing an iterate or a seed gains is a number.

    Columns of the numbers, all test errors: last (mean of last iterates: the result), validated (mean, of the iterate
    with the least validation error), best (mean, of the least test error of each run), best_seed (least last iterate of
    all seeds), best_of_all (least of all iterates of all seeds), selection_bias (last minus best_of_all), recalibrated
    (mean, of last iterates with BatchNorm's statistics averaged anew; NaN where a run does not say) and
    recalibrated_minus_last.
    """
    rows = pd.concat([serving(frames.finals, "plain-vs-residual"), serving(frames.finals, "depth-scaling")])
    found = []
    for _, of in rows.drop_duplicates("id").groupby("condition", sort=False):
        done = of[of["outcome"] == "finished"]
        if done.empty:
            continue
        last = done[TEST].mean()
        found.append(
            {
                "net": of["title"].iloc[0],
                "iterations": of["iterations"].iloc[0],
                "n": len(done),
                "last": last,
                "validated": done["validated_test_error_pct"].mean(),
                "best": done["best_test_error_pct"].mean(),
                "best_seed": done[TEST].min(),
                "best_of_all": done["best_test_error_pct"].min(),
                "selection_bias": last - done["best_test_error_pct"].min(),
                "recalibrated": (anew := done["recalibrated_test_error_pct"].mean(skipna=False)),
                "recalibrated_minus_last": anew - last,
            }
        )
    headings = {
        "last": "last iterate",
        "validated": "best by validation",
        "best": "best by test",
        "best_seed": "best of n seeds",
        "best_of_all": "best of both",
        "selection_bias": "selection bias",
        "recalibrated": "last, recalibrated",
        "recalibrated_minus_last": "recalibrated minus last",
    }
    numbers = pd.DataFrame(found, columns=["net", "iterations", "n", *headings])
    text = pd.DataFrame({"net": numbers["net"], "iterations": [f"{count:,}" for count in numbers["iterations"]]})
    text["n"] = numbers["n"].astype(str)
    for column, heading in headings.items():
        text[heading] = [_spread(value, float("nan")) for value in numbers[column]]
    notes = [
        "Test errors in percent. Only the last iterate's mean is a result. The columns from best by test to selection"
        " bias, which is last iterate minus best of both, chose with the test set.",
        "Best by validation needs held-out images: the option held-out, with how many.",
        "The last iterate is evaluated as its recipe says: with BatchNorm's moving averages, unless it recalibrates."
        f" Recalibrated: with plain averages over {RECALIBRATION_BATCHES} batches of training images, or as many as"
        " there are; a dash where a run is from before that was measured.",
    ]
    return Table("selection", "The same runs by other protocols", numbers, text, notes, "measured")


def negative_controls(frames: Frames) -> Table:
    """What comes out where there is nothing to find (`analysis.controls`), a row a control."""
    numbers = controls.measured(serving(frames.finals, "controls"))
    text = numbers[["control", "quantity"]].copy()
    rates = numbers["false_positives"].notna()
    text["expected"] = [f"{value:g}" for value in numbers["expected"]]
    text["found"] = [
        DASH if pd.isna(row["found"]) else f"{row['found']:.2f}" + (f" ({row['false_positives']:.0f})" if rate else "")
        for row, rate in zip(numbers.to_dict("records"), rates, strict=True)
    ]
    text["95 % interval"] = [_interval(low, high) for low, high in zip(numbers["low"], numbers["high"], strict=True)]
    text["n"] = numbers["n"].astype(str)
    missed = numbers[~rates & ((numbers["low"] > numbers["expected"]) | (numbers["high"] < numbers["expected"]))]
    notes = [
        "Errors and their differences in percent and points, n seeds or pairs of seeds, 95 % t intervals. Verdicts:"
        " percent of n comparisons, and in brackets how many, in which the claim that the first has the larger error is"
        " supported or contradicted by the test of the paper's claims, alone, without Holm's correction. By chance"
        f" {controls.NOMINAL_PCT:g} % are.",
        "A/A: a net against itself. The splits pair its seeds in every way, in both orders, or in"
        f" {controls.MOST_SPLITS:,} ways if there are more. They share trials, as pairs of nets do, so verdicts are not"
        " independent: their interval (Clopper-Pearson) takes them as if they were, and is too narrow.",
        "Shuffled labels: each seed learns training labels in another order; test labels are true. Chance is that of"
        " test sets with equally many images of each class.",
        f"Expected error or difference outside the interval: {'; '.join(missed['quantity']) or 'none'}"
        f" (of {(~rates & numbers['low'].notna()).sum()}, of which one in twenty by chance).",
    ]
    return Table("controls", "Negative controls: where there is nothing to find", numbers, text, notes, "measured")


def ledger(finals: pd.DataFrame) -> Table:
    """What each condition departs from the paper in: the numbers have a row a field, the print one a set of deviations.

    Columns of the numbers: condition, net, experiments, field, ours, paper; a condition that departs in nothing is a
    row without a field.
    """
    conditions = finals.drop_duplicates("condition").reset_index(drop=True)
    rows = []
    for row in conditions.to_dict("records"):
        said = {"condition": row["condition"], "net": row["title"], "experiments": row["experiments"]}
        for deviation in row["deviations"].split("; "):
            found = _DEVIATION.fullmatch(deviation)
            rows.append(said | (found.groupdict("") if found else {"field": ""}))
    numbers = pd.DataFrame(rows, columns=["condition", "net", "experiments", "field", "ours", "paper"]).fillna("")
    shared, own = departures(conditions["deviations"])
    text = []
    for departed, of in conditions.groupby(pd.Series(own, dtype=object), sort=False):
        experiments = of["experiments"].str.split(",").explode()
        named = {"nets": ", ".join(of["title"].unique()), "experiments": ", ".join(experiments.unique())}
        text.append(named | {"deviations": "; ".join(departed) or DASH})
    notes = [_shared(shared), *DEVIATIONS]
    shown = pd.DataFrame(text, columns=["nets", "experiments", "deviations"])
    return Table("deviations", "Every net's deviations from the paper's recipe", numbers, shown, notes, "deviations")


def protocol() -> Table:
    """What the paper leaves open, how it can be read, and how this study reads it: paper/protocol.yaml."""
    columns = ["id", "question", "section", "readings", "evidence", "ours", "where"]
    numbers = pd.DataFrame(paper.ambiguities(), columns=columns)
    numbers = numbers.assign(**{name: numbers[name].str.join("; ") for name in ("readings", "where")})
    text = pd.DataFrame({"open in the paper": numbers["question"] + " (Sec. " + numbers["section"] + ")"})
    text = text.assign(readings=numbers["readings"], here=numbers["ours"])
    notes = ["The evidence for each reading, and the code that does it, are in the CSV. Quotations are the paper's."]
    return Table("protocol", "What the paper leaves open", numbers, text, notes, "deviations")


def replications(main: pd.DataFrame) -> Table:
    """The paper's, our and others' test errors of Table 6's ResNets on CIFAR-10, and how each number was chosen.

    `main` is `table_6`, of which the comparable rows are ours. Columns of the numbers, a row a net and result: layers,
    result_of, source, commit, read, chosen, n, error, sd.
    """
    ours = main[main["difference_pct"].notna() & (main["paper_source"] != "Fig. 6")]
    numbers = pd.DataFrame([*_papers_results(), *_our_results(ours), *_others_results()], columns=_RESULT)
    numbers = numbers.astype({"n": float, "error": float, "sd": float}).fillna({"commit": "", "read": ""})
    depths, text = numbers["layers"].unique(), []
    for (name, source, chosen, read), of in numbers.groupby(["result_of", "source", "chosen", "read"], sort=False):
        cells = {str(depth): _runs(of[of["layers"] == depth]) for depth in depths}
        text.append({"result of": f"{name}, {source}", "chosen": chosen, **cells, "read": read})
    others = [other for other in paper.replications() if "caution" in other]
    cautions = [f"{other['name']}, {other['source']}: {other['caution']}" for other in others]
    notes = [
        "Test errors in percent, by layers; in brackets, of how many runs it is the mean. Numbers that the test set"
        " chose, as best iterate or best run, flatter: the last iterate of the same run is no better.",
        "Read: what was looked at, a file of the repository at the commit in the CSV, or an excerpt of a thread; where"
        " it says unrecorded, that was not noted. Recipes differ: they are in analysis/paper/replications.yaml.",
        "No results of others were found for plain nets on CIFAR-10.",
        f"Cautions. {'. '.join(cautions)}.",
    ]
    shown, place = pd.DataFrame(text).replace("", DASH), "measured" if len(ours) else "paper"
    return Table("replications", "ResNets on CIFAR-10: the paper, this study, others", numbers, shown, notes, place)


_RESULT = ["layers", "result_of", "source", "commit", "read", "chosen", "n", "error", "sd"]


def _papers_results() -> Iterator[dict[str, Any]]:
    """Of 110 layers the mean of five, because ours is a mean, too."""
    for row in paper.table("table_6")["rows"]:
        if row["method"] == "ResNet":
            said = {"layers": row["layers"], "result_of": "the paper", "source": "Table 6", "chosen": "last iterate"}
            yield said | {"n": row.get("runs"), "error": row.get("mean", row["error"]), "sd": row.get("std")}


def _our_results(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A result a depth of Table 6, without an error where there is no row of ours."""
    measured = {"n": "n", "test_error_pct": "error", "test_error_sd": "sd"}
    found: dict[Any, Any] = rows.set_index("layers").rename(columns=measured)[list(measured.values())].to_dict("index")
    for result in _papers_results():
        said = {"layers": result["layers"], "result_of": "this study", "source": "table_6", "chosen": "last iterate"}
        yield said | found.get(result["layers"], {"n": 0})


def _others_results() -> Iterator[dict[str, Any]]:
    for other in paper.replications():
        said = {"result_of": other["name"], **{name: other.get(name, "") for name in ("source", "commit", "read")}}
        for result in other["results"]:
            for layers, errors in result["errors"].items():
                number = {"layers": layers, "chosen": result["selection"], "sd": result.get("sd")}
                yield from ({**said, **number, "error": error} for error in errors)


def covered() -> Table:
    """Which of the paper's values this study reproduces, by table and figure (`analysis.reproduced`)."""
    numbers = reproduced.counts()
    text = (
        numbers.astype(str)
        .replace("0", DASH)
        .assign(
            place=[place.capitalize().replace("_", " ").replace("Cifar", "CIFAR") for place in numbers["place"]],
            how=[how or DASH for how in numbers["how"]],
        )
    )
    notes = [
        "Values are printed results and drawn curves. Reproduced: the paper profile plans trials of that net on that"
        " data, in the experiments named. Quoted: results of others, which the paper prints beside its own."
    ]
    shown = _headed(text.rename(columns={"how": "by, and why not"}))
    return Table("coverage", "What of the paper is reproduced", numbers, shown, notes)


def table_1() -> Table:
    """Table 1: the ImageNet nets, with parameters and multiply-adds counted from the models beside those it prints."""
    rows, printed_table = [], paper.table("table_1")
    for row in printed_table["rows"]:
        net = imagenet_net(row["depth"])
        adds = cost.multiply_adds(net, IMAGENET_DATA)
        shape = [f"{x}, {width}" for x, width in zip(row["layers_per_block"], row["channels"][0], strict=True)]
        rows.append(
            {
                "layers": row["depth"],
                "first_block": "; ".join(shape),
                "blocks": " + ".join(map(str, row["blocks"])),
                "params": cost.parameters(net, IMAGENET_DATA),
                "multiply_adds": adds,
                "paper_multiply_adds": row["flops"],
                "difference": adds - row["flops"],
            }
        )
    numbers = pd.DataFrame(rows)
    text = numbers.astype({"layers": str}).assign(
        params=[f"{count:,}" for count in numbers["params"]],
        **{
            name: [f"{count / 1e9:{sign}.{digits}f}e9" for count in numbers[name]]
            for name, sign, digits in (("multiply_adds", "", 3), ("paper_multiply_adds", "", 1), ("difference", "+", 3))
        },
    )
    notes = [
        "Parameters and multiply-adds are counted from the models: convolutions, BatchNorm's scale and shift (of"
        " parameters only) and the classifier; 18 and 34 layers with option A or plain, the others with option B.",
        printed_table["note"],
    ]
    return Table("table_1", f"Table 1: {printed_table['title']}", numbers, _headed(text), notes)


def cifar_architecture() -> Table:
    """The unnumbered table of Sec. 4.2: counts of each depth by shortcut option, beside the rounded ones of Table 6."""
    rows, printed_table = [], paper.table("cifar_architecture")
    for row in printed_table["rows"]:
        nets = {
            option: Model.cifar(family="residual", depth=row["depth"], shortcut=option, width=PAPER_WIDTH)
            for option in "ABC"
        }
        counted = {f"params_{option}": cost.parameters(net, PAPER_DATA) for option, net in nets.items()}
        adds = cost.multiply_adds(nets["A"], PAPER_DATA)
        named = {"layers": row["depth"], "n": row["n"], "shortcuts": sum(nets["A"].stages)}
        rows.append({**named, **counted, "multiply_adds_A": adds, "paper_params": row["params_printed"]})
    numbers = pd.DataFrame(rows)
    text = numbers.astype(str).assign(
        **{f"params_{option}": [f"{count:,}" for count in numbers[f"params_{option}"]] for option in "ABC"},
        multiply_adds_A=[f"{count / 1e6:.2f}e6" for count in numbers["multiply_adds_A"]],
    )
    notes = ["Counted from the models. Plain nets have the parameters and multiply-adds of option A."]
    return Table("cifar_architecture", f"Sec. 4.2: {printed_table['title']}", numbers, _headed(text), notes)


def evaluated(number: int, frames: Frames) -> Table:
    """A table of nets tested otherwise than at the end of training: a row a result, `paper` and ours beside it.

    Columns of the numbers: those of the paper's row, measure, paper, n, mean, sd, low, high, difference.
    """
    printed_table = paper.table(f"table_{number}")
    numbers, text, lacking = [], [], set()
    for row in printed_table["rows"]:
        ours = paper_numbers.numbers(number, row)
        results = {measure: row.pop(measure) for measure in printed_table["results"]}
        if "ap" in results:
            results |= dict(zip(printed_table["classes"], results.pop("ap"), strict=True))
        said = {name: DASH if value is None else str(value) for name, value in row.items()}
        cells = {}
        for measure, value in results.items():
            found = _evaluated(frames, ours.get(measure), value)
            if measure in ours and value is not None and not found["n"]:
                split = ours[measure].split
                lacking.add(
                    f"The labels of {split} are with its server alone: its numbers are dashes"
                    if split in names.SERVERS
                    else f"A dash is what was not evaluated: {paper_numbers.takes(ours[measure].experiment)}"
                )
            numbers.append({**said, "measure": measure, "paper": value, **found})
            cells[measure] = _cell(found, value)
        text.append({**said, **cells})
    notes = [
        OTHERS,
        *(f"{why}." for why in sorted(lacking)),
    ]
    notes += [f"The paper's way of testing: {printed_table['testing']}."] if "testing" in printed_table else []
    notes += [printed_table["note"]] if "note" in printed_table else []
    shown = _headed(pd.DataFrame(text).fillna(DASH))
    return Table(f"table_{number}", f"Table {number}: {printed_table['title']}", pd.DataFrame(numbers), shown, notes)


def detectors(frames: Frames) -> list[Table]:
    """Every detector that was tested, with what its net did before training: a row a condition and protocol.

    Columns of the numbers, a row a measure: detector, condition, experiments, data, split, protocol, images, measure,
    n, mean, sd, low, high. No table where no detector is planned.
    """
    if not frames.finals["id"].str.startswith("faster-rcnn").any():
        return []
    measures = {name: names.WORDS[name] for name in (names.MAP, names.MAP_50, names.MAP_50_95)}
    rows = frames.evaluations[frames.evaluations["measure"].isin(measures)]
    order = rows["protocol"].map(paper_numbers.DETECTION_PROTOCOLS.index)
    rows = rows.iloc[order.argsort(kind="stable")].sort_values(["title", "data"], kind="stable")
    rows = rows.assign(condition=rows["ids"].str.replace(r"-s\d+(?=,|$)", "", regex=True))
    by, numbers, text = ["title", "condition", "experiments", "data", "split", "protocol"], [], []
    for key, tested in rows.groupby(by, sort=False):
        cells = {}
        for measure, of in tested.groupby("measure", sort=False):
            found = asdict(estimate(of["value"]))
            numbers.append(
                {**dict(zip(by, key, strict=True)), "images": of["images"].min(), "measure": measure} | found
            )
            cells[measures[str(measure)]] = _cell({**found, "difference": float("nan")}, None)
        text.append({"detector": key[0], "condition": key[1], "split": key[4], "protocol": key[5]} | cells)
    notes = [
        "Average precision in percent at the last iterate: mean ± standard deviation over n seeds, 95 % t interval.",
        "Untrained: the detector before its first update, with the backbone's weights that it starts from.",
    ]
    columns = [*by, "images", "measure", "n", "mean", "sd", "low", "high"]
    table = pd.DataFrame(numbers, columns=columns).rename(columns={"title": "detector"})
    shown = pd.DataFrame(text, columns=None if text else ["detector", "condition", "split", "protocol"]).fillna(DASH)
    return [Table("detectors", "Detectors", table, shown, notes, "measured")]


def normalisation(frames: Frames) -> list[Table]:
    """What each normalisation of a detector gives, and how much more than the paper's, paired by seed.

    Columns of the numbers: detector, planned, n, mean, sd, diverged, difference, difference_low, difference_high. No
    table where the experiment is not planned.
    """
    planned = serving(frames.finals, paper_numbers.NORMALISATION)
    planned = planned[planned["id"].str.startswith("faster-rcnn")]
    rows = frames.evaluations[frames.evaluations["ids"].isin(planned["id"])]
    rows = rows[(rows["protocol"] == names.SINGLE_SCALE) & rows["measure"].isin((names.MAP, names.MAP_50))]
    if planned.empty:
        return []
    of_title = {title: of.set_index("seed")["value"] for title, of in rows.groupby("title", sort=False)}
    first = min(planned["title"].unique(), key=len)  # the paper's, which no title names
    numbers = []
    for title, trials in sorted(planned.groupby("title", sort=False), key=lambda of: of[0] != first):
        values = of_title.get(title, pd.Series(dtype=float))
        found, more = estimate(values), estimate((values - of_title.get(first, values)).dropna())
        said = {"detector": title, "planned": len(trials), "n": found.n, "mean": found.mean, "sd": found.sd}
        said |= {"diverged": int((trials["outcome"] == "diverged").sum())}
        numbers.append(said | {"difference": more.mean, "difference_low": more.low, "difference_high": more.high})
    table = pd.DataFrame(numbers)
    table.loc[table["detector"] == first, ["difference", "difference_low", "difference_high"]] = float("nan")
    text = pd.DataFrame(
        {
            "detector": table["detector"],
            "detection mAP": list(map(_spread, table["mean"], table["sd"])),
            "more than the paper's": list(map(_spread, table["difference"], [float("nan")] * len(table))),
            "interval": list(map(_interval, table["difference_low"], table["difference_high"])),
            "n": table["n"].astype(str) + " of " + table["planned"].astype(str),
            "diverged": table["diverged"].astype(str),
        }
    )
    notes = [
        f"Average precision in percent at IoU 0.5, {names.SINGLE_SCALE}; differences are paired by seed,"
        " with 95 % t intervals."
    ]
    return [Table("normalisation", "Which normalisation a detector wants", table, text, notes, "measured")]


def _evaluated(frames: Frames, number: paper_numbers.Number | None, theirs: float | None) -> dict[str, float]:
    """n, mean, sd, low, high and difference of a number of the paper's; NaN where there is none."""
    rows = frames.evaluations.iloc[:0] if number is None else paper_numbers.found(frames.evaluations, number)
    ours, images = estimate(rows["value"]), rows["images"].min()
    if ours.n > 1 and images > 0:
        ours = estimate(rows["value"], 100 / images)
    comparable = theirs is not None and rows["data"].str.startswith(paper_numbers.PAPER_DATA).all()
    return {**asdict(ours), "difference": ours.mean - theirs if comparable and theirs is not None else float("nan")}


def _cell(ours: dict[str, float], theirs: float | None) -> str:
    if not ours["n"]:
        return DASH if theirs is None else f"{DASH} ({theirs})"
    interval = "" if pd.isna(ours["low"]) else f" [{ours['low']:.2f}, {ours['high']:.2f}]"
    beside = "" if theirs is None else f" ({theirs})"
    difference = "" if pd.isna(ours["difference"]) else f" {ours['difference']:+.2f}"
    return f"{_spread(ours['mean'], ours['sd'])}{interval}, n {ours['n']:.0f}{beside}{difference}"


def _headed(text: pd.DataFrame) -> pd.DataFrame:
    """Names of columns as a reader wants them."""
    return text.rename(columns=lambda name: name.replace("multiply_adds", "multiply-adds").replace("_", " "))


def table_6(frames: Frames, profile: str) -> pd.DataFrame:
    """Table 6, with the plain nets of Fig. 6: a row for each net of plain-vs-residual and depth-scaling.

    Columns: net, layers, params, iterations, planned, n, diverged, training_error_pct, training_error_sd,
    test_error_pct, test_error_sd, test_error_low, test_error_high, paper_test_error_pct, paper_source,
    difference_pct (ours minus the paper's, only where comparable), deviations (from the paper's recipe), note.
    """
    rows = pd.concat([serving(frames.finals, "plain-vs-residual"), serving(frames.finals, "depth-scaling")])
    return _conditions(rows.drop_duplicates("id"), profile)


def shortcut_table(frames: Frames, profile: str) -> pd.DataFrame:
    """Options A, B and C beside the plain net of each depth; the columns of `table_6`.

    The paper's CIFAR nets all have option A.
    """
    rows = beside_plain(frames.finals).sort_values(["depth", "shortcut"], key=_plain_first, kind="stable")
    option = rows["title"] + (rows["shortcut"] == "A").map({True: " (A)", False: ""})
    return _conditions(rows.assign(title=option), profile)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """A table of this module as text, rounded, with a dash for every number that is not there.

    `also`: the letter of a row that departs from the paper in more than all rows do; a footnote explains it.
    """
    cells = []
    _, own = departures(table["deviations"])
    letters = _letters(own)
    for row, departed in zip(table.to_dict("records"), own, strict=True):
        training = _spread(row["training_error_pct"], row["training_error_sd"])
        interval = f"{row['test_error_low']:.2f} to {row['test_error_high']:.2f}"
        theirs = f"{row['paper_test_error_pct']:.2f} ({row['paper_source']})"
        cells.append(
            {
                "net": row["net"],
                "params": f"{_short(row['params'])} ({row['params']:,})",
                "iterations": f"{row['iterations']:,}",
                "also": letters.get(departed, ""),
                "training error": training if row["n"] or not row["diverged"] else _diverged(row),
                "test error": _spread(row["test_error_pct"], row["test_error_sd"]),
                "95 % interval": DASH if pd.isna(row["test_error_low"]) else interval,
                "n": str(row["n"]),
                "paper": DASH if pd.isna(row["paper_test_error_pct"]) else theirs,
                "difference": DASH if pd.isna(row["difference_pct"]) else f"{row['difference_pct']:+.2f}",
                "note": row["note"],
            }
        )
    text = pd.DataFrame(cells, columns=list(cells[0]) if cells else ["net"])
    return text.drop(columns=[name for name in ("also", "note") if cells and not any(text[name])])


def footnotes(table: pd.DataFrame) -> list[str]:
    """What a reader must know of this table, derived from what is in it."""
    shared, own = departures(table["deviations"])
    explained = [f"{letter}: also {'; '.join(departed)}." for departed, letter in _letters(own).items()]
    return [SPREAD, *caveats(table), *([_shared(shared)] if len(table) else []), *explained]


def caveats(table: pd.DataFrame) -> list[str]:
    """What its numbers must not be taken for."""
    notes = []
    if table["paper_source"].str.startswith("Fig. 6").any():
        notes.append(DIGITISED)
    if (table["paper_test_error_pct"].notna() & table["difference_pct"].isna() & (table["n"] > 0)).any():
        notes.append(COMPARABLE)
    return notes


def departures(deviations: Iterable[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Of rows' deviations, as the frames hold them: those that all rows share, and what each row has besides."""
    rows = [[each for each in row.split("; ") if each] for row in deviations]
    shared = [each for each in (rows[0] if rows else []) if all(each in row for row in rows)]
    return shared, [tuple(each for each in row if each not in shared) for row in rows]


def _letters(own: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """a, b, c for what rows depart in besides, in the order of the rows."""
    return {departed: chr(ord("a") + i) for i, departed in enumerate(dict.fromkeys(filter(None, own)))}


def _shared(shared: list[str]) -> str:
    return f"Deviations from the paper's recipe in all rows: {'; '.join(shared) or 'none'}."


def write(table: Table, folder: Path) -> list[Path]:
    """Write the numbers as CSV, and the print with its footnotes as Markdown and LaTeX."""
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return [
        files.write(folder / f"{table.name}.csv", table.numbers.to_csv(index=False)),
        files.write(folder / f"{table.name}.md", markdown(table.text) + notes),
        files.write(folder / f"{table.name}.tex", latex(table.text) + _escaped(notes)),
    ]


def markdown(text: pd.DataFrame) -> str:
    """A data frame of strings as a Markdown table."""
    lines = [list(text.columns), ["---"] * len(text.columns), *text.values.tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(text: pd.DataFrame) -> str:
    """A data frame of strings as a LaTeX tabular, every special character escaped; needs no package.

    Columns of sentences break their lines.
    """
    wide = [len(text) and text[name].str.len().max() > 60 for name in text.columns]
    columns = "".join(r"p{0.3\linewidth}" if each else "l" for each in wide)
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (list(text.columns), *text.values.tolist())]
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline",
         r"\end{tabular}", ""]
    )  # fmt: skip


def _conditions(rows: pd.DataFrame, profile: str) -> pd.DataFrame:
    return pd.DataFrame([_condition(of, profile) for _, of in rows.groupby("condition", sort=False)], columns=_COLUMNS)


_DEVIATION = re.compile(r"(?P<field>[^:]+): (?P<ours>.*) \(paper: (?P<paper>.*)\)")  # as experiments.recipes writes it
_COLUMNS = [
    "net", "layers", "params", "iterations", "planned", "n", "diverged",
    "training_error_pct", "training_error_sd", "test_error_pct", "test_error_sd", "test_error_low", "test_error_high",
    "paper_test_error_pct", "paper_source", "difference_pct", "deviations", "note",
]  # fmt: skip


def _condition(rows: pd.DataFrame, profile: str) -> dict[str, object]:
    """One row: what the seeds of a condition measured, and the paper's number beside it."""
    first = rows.iloc[0]
    done = rows[rows["outcome"] == "finished"]
    diverged = int((rows["outcome"] == "diverged").sum())
    image = one_image_pct(first["data"], TEST)
    training, test = estimate(done[TRAINING].dropna()), estimate(done[TEST].dropna(), image)
    theirs, source = _paper(first)
    comparable = (first["data"], first["iterations"], first["width"]) == (
        PAPER_DATA.name,
        paper.ITERATIONS,
        PAPER_WIDTH,
    )
    return {
        "net": first["title"],
        "layers": first["depth"],
        "params": first["params"],
        "iterations": first["iterations"],
        "planned": len(rows),
        "n": len(done),
        "diverged": diverged,
        "training_error_pct": training.mean,
        "training_error_sd": training.sd,
        "test_error_pct": test.mean,
        "test_error_sd": test.sd,
        "test_error_low": max(test.low, 0.0) if test.n > 1 else test.low,  # no error is below 0
        "test_error_high": min(test.high, 100.0) if test.n > 1 else test.high,
        "paper_test_error_pct": theirs,
        "paper_source": source,
        "difference_pct": test.mean - theirs if comparable else float("nan"),
        "deviations": first["deviations"],
        "note": _note(rows, diverged, profile),
    }


def _runs(results: pd.DataFrame) -> str:
    """Each result with its deviation and, in brackets, how many runs it is the mean of, as far as known."""
    rows = results[["error", "sd", "n"]].itertuples(index=False)
    return " / ".join(_spread(error, sd) + (f" ({n:.0f})" if n > 1 else "") for error, sd, n in rows)


def _note(rows: pd.DataFrame, diverged: int, profile: str) -> str:
    parts = [f"diverged ({diverged} of {len(rows)})"] if 0 < diverged < len(rows) else []
    undone = rows[~rows["outcome"].isin(("finished", "diverged"))].groupby("outcome").size()
    if len(undone):
        counts = ", ".join(f"{count} of {len(rows)} {outcome}" for outcome, count in undone.items())
        command = f": make degradation-study PROFILE={profile}" if set(undone.index) - {Outcome.UNUSABLE} else ""
        parts.append(counts + command)
    return "; ".join(parts)


def _paper(row: pd.Series) -> tuple[float, str]:
    """The paper's test error of this net on CIFAR-10 and where it stands; NaN where it has none.

    The 110-layer ResNet's is the mean of five runs, because ours is a mean, too (the best of them was 6.43 %).
    """
    if row["block"] == "basic" and row["family"] == "residual" and row["shortcut"] == "A":
        for net in paper.table("table_6")["rows"]:
            if net["method"] == "ResNet" and net["layers"] == row["depth"]:
                return net.get("mean", net["error"]), "mean of 5" if "mean" in net else "Table 6"
    if row["block"] == "basic" and row["family"] == "plain":
        curves = paper.curves(6)
        curve = curves[(curves["curve"] == f"plain-{row['depth']}") & (curves["series"] == "test")]
        if len(curve):
            return float(curve.sort_values("iteration")["value"].iloc[-1]), "Fig. 6"
    return float("nan"), ""


def _diverged(row: Mapping[Hashable, Any]) -> str:
    return f"diverged ({row['diverged']} of {row['planned']})"


def _plain_first(column: pd.Series) -> pd.Series:
    return column.replace("none", "")


def _short(params: int) -> str:
    """As the paper prints it: 0.27M, 1.7M, 19.4M."""
    return f"{params / 1e6:.2f}M" if params < 1e6 else f"{params / 1e6:.1f}M"


def _interval(low: float, high: float) -> str:
    return DASH if pd.isna(low) else f"{low:.2f} to {high:.2f}"


def _spread(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return DASH
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


def _median(median: float, reached: float) -> str:
    """Iterations to a target, if it is known that the median trial got there."""
    return f"{reached:.0f} reached it" if pd.isna(median) else f"{median:,.0f} ({reached:.0f} reached it)"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _escaped(cell: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], cell)
