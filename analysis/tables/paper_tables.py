"""The paper's own tables: counted, beside the numbers of nets evaluated here, and beside others' replications.

The tables of ImageNet nets and detectors have this study's numbers where these were evaluated
(`analysis.paper_numbers`), else a dash.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pandas as pd

from analysis import paper, paper_numbers
from analysis.counted_claims import imagenet_net
from analysis.runs import Frames, Row
from analysis.statistics import estimate
from analysis.tables.printing import DASH, Place, Table, headed, spread
from analysis.tables.results import Source
from experiments.recipes import IMAGENET_DATA, PAPER_DATA, PAPER_WIDTH
from study import cost
from study.spec import Model
from study.tasks import names

OTHERS = (
    "Each cell: ours (mean ± standard deviation over n seeds, 95 % t interval of the mean), the paper's in brackets,"
    " and ours minus the paper's where ours is on the paper's data."
)


def replications(main: pd.DataFrame) -> Table:
    """The paper's, our and others' test errors of Table 6's ResNets on CIFAR-10, and how each number was chosen.

    `main` is `table_6`, of which the comparable rows are taken. Columns of the numbers, a row a net and result: layers,
    result_of, source, commit, read, chosen, n, error, sd.
    """
    measured = main[main["difference_pct"].notna() & (main["paper_source"] != Source.CURVE)]
    numbers = pd.DataFrame([*_papers_results(), *_our_results(measured), *_others_results()], columns=_RESULT)
    numbers = numbers.astype({"n": float, "error": float, "sd": float}).fillna({"commit": "", "read": ""})
    depths, text = numbers["layers"].unique(), []
    for (name, source, chosen, read), group in numbers.groupby(["result_of", "source", "chosen", "read"], sort=False):
        cells = {str(depth): _runs(group[group["layers"] == depth]) for depth in depths}
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
    shown, place = pd.DataFrame(text).replace("", DASH), Place.MEASURED if len(measured) else Place.PAPER
    return Table("replications", "ResNets on CIFAR-10: the paper, this study, others", numbers, shown, notes, place)


_RESULT = ["layers", "result_of", "source", "commit", "read", "chosen", "n", "error", "sd"]


def _papers_results() -> Iterator[Row]:
    """Of 110 layers the mean of five, because ours is a mean, too."""
    for row in paper.table("table_6")["rows"]:
        if row["method"] == "ResNet":
            yield {
                "layers": row["layers"],
                "result_of": "the paper",
                "source": Source.TABLE.value,
                "chosen": "last iterate",
                "n": row.get("runs"),
                "error": row.get("mean", row["error"]),
                "sd": row.get("std"),
            }


def _our_results(rows: pd.DataFrame) -> Iterator[Row]:
    """A result for each depth of Table 6, without an error where this study has no row."""
    measured = {"n": "n", "test_error_pct": "error", "test_error_sd": "sd"}
    by_depth = rows.set_index("layers").rename(columns=measured)[list(measured.values())]
    for result in _papers_results():
        depth = result["layers"]
        row = by_depth.loc[depth] if depth in by_depth.index else pd.Series({"n": 0})
        yield {
            "layers": depth,
            "result_of": "this study",
            "source": "table_6",
            "chosen": "last iterate",
            "n": row["n"],
            "error": row.get("error"),
            "sd": row.get("sd"),
        }


def _others_results() -> Iterator[Row]:
    for other in paper.replications():
        for result in other["results"]:
            for layers, errors in result["errors"].items():
                for error in errors:
                    yield {
                        "layers": layers,
                        "result_of": other["name"],
                        "source": other.get("source", ""),
                        "commit": other.get("commit", ""),
                        "read": other.get("read", ""),
                        "chosen": result["selection"],
                        "error": error,
                        "sd": result.get("sd"),
                    }


def _runs(results: pd.DataFrame) -> str:
    """Each result with its deviation and, in brackets, how many runs it is the mean of, as far as known."""
    rows = results[["error", "sd", "n"]].itertuples(index=False)
    return " / ".join(spread(error, sd) + (f" ({n:.0f})" if n > 1 else "") for error, sd, n in rows)


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
    return Table("table_1", f"Table 1: {printed_table['title']}", numbers, headed(text), notes)


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
        rows.append(
            {
                "layers": row["depth"],
                "n": row["n"],
                "shortcuts": sum(nets["A"].stages),
                **counted,
                "multiply_adds_A": adds,
                "paper_params": row["params_printed"],
            }
        )
    numbers = pd.DataFrame(rows)
    text = numbers.astype(str).assign(
        **{f"params_{option}": [f"{count:,}" for count in numbers[f"params_{option}"]] for option in "ABC"},
        multiply_adds_A=[f"{count / 1e6:.2f}e6" for count in numbers["multiply_adds_A"]],
    )
    notes = ["Counted from the models. Plain nets have the parameters and multiply-adds of option A."]
    return Table("cifar_architecture", f"Sec. 4.2: {printed_table['title']}", numbers, headed(text), notes)


def evaluated(number: int, frames: Frames) -> Table:
    """A table of nets tested otherwise than at the end of training: a row a result, the paper's beside this study's.

    Columns of the numbers: those of the paper's row, measure, paper, n, mean, sd, low, high, difference.
    """
    printed_table = paper.table(f"table_{number}")
    numbers, text, lacking = [], [], set()
    for row in printed_table["rows"]:
        counterparts = paper_numbers.numbers(number, row)
        results = {measure: row.pop(measure) for measure in printed_table["results"]}
        if "ap" in results:
            results |= dict(zip(printed_table["classes"], results.pop("ap"), strict=True))
        net = {name: DASH if value is None else str(value) for name, value in row.items()}
        cells = {}
        for measure, value in results.items():
            measured = _evaluated(frames, counterparts.get(measure), value)
            if measure in counterparts and value is not None and not measured["n"]:
                lacking.add(_lacking(counterparts[measure]))
            numbers.append({**net, "measure": measure, "paper": value, **measured})
            cells[measure] = cell(measured, value)
        text.append({**net, **cells})
    notes = [OTHERS, *sorted(lacking)]
    notes += [f"The paper's way of testing: {printed_table['testing']}."] if "testing" in printed_table else []
    notes += [printed_table["note"]] if "note" in printed_table else []
    shown = headed(pd.DataFrame(text).fillna(DASH))
    return Table(f"table_{number}", f"Table {number}: {printed_table['title']}", pd.DataFrame(numbers), shown, notes)


def _lacking(number: paper_numbers.Number) -> str:
    """Why this study does not have a number of the paper's."""
    if number.split in names.SERVERS:
        return f"The labels of {number.split} are with its server alone: its numbers are dashes."
    return f"A dash is what was not evaluated: {paper_numbers.takes(number.experiment)}."


def _evaluated(frames: Frames, number: paper_numbers.Number | None, printed: float | None) -> dict[str, float]:
    """n, mean, sd, low, high and difference of a number that the paper has `printed`; NaN where there is none."""
    rows = frames.evaluations.iloc[:0] if number is None else paper_numbers.rows_of(frames.evaluations, number)
    measured, images = estimate(rows["value"]), rows["images"].min()
    if measured.n > 1 and images > 0:
        measured = estimate(rows["value"], 100 / images)
    difference = float("nan")
    if printed is not None and rows["data"].isin(paper_numbers.PAPER_DATA_SETS).all():
        difference = measured.mean - printed
    return asdict(measured) | {"difference": difference}


def cell(measured: Mapping[str, float], printed: float | None = None) -> str:
    """`29.54 ± 0.15 [29.35, 29.73], n 5 (28.54) +1.00`, as far as there are numbers."""
    if not measured["n"]:
        return DASH if printed is None else f"{DASH} ({printed})"
    interval = "" if pd.isna(measured["low"]) else f" [{measured['low']:.2f}, {measured['high']:.2f}]"
    beside = "" if printed is None else f" ({printed})"
    difference = f" {measured['difference']:+.2f}" if pd.notna(measured.get("difference")) else ""
    return f"{spread(measured['mean'], measured['sd'])}{interval}, n {measured['n']:.0f}{beside}{difference}"
