"""The tables: pure functions from frames to data frames of numbers, and those frames in print.

Owns rows, rounding and how a table becomes files. A row is a condition: mean and deviation over its finished seeds.
A diverged net has no error and says so; a trial without a result is a dash and the command that fills it. Must not
know where runs are kept.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import files, paper
from analysis.claims import IMAGES, IMAGES_ELSE
from analysis.figures import TEST, TRAINING, beside_plain, serving
from analysis.runs import Frames
from analysis.statistics import estimate
from experiments.recipes import PAPER_DATA, PAPER_WIDTH

PAPER_ITERATIONS = 64_000  # Sec. 4.2
DASH = "—"
COMPARABLE = (
    "No difference from the paper is printed where the data, the width or the iterations are not the paper's"
    f" (CIFAR-10, {PAPER_WIDTH}, {PAPER_ITERATIONS:,}): such numbers are not comparable."
)
SPREAD = "Errors in percent, of last iterates: mean ± standard deviation over n seeds, 95 % t interval of the mean."
DIGITISED = "Values marked Fig. 6 are read off the curves of the paper's figure; it prints none for plain nets."


def table_6(frames: Frames, profile: str) -> pd.DataFrame:
    """Table 6, with the plain nets of Fig. 6: a row for each net of plain-vs-residual and depth-scaling.

    Columns: net, layers, params, iterations, planned, n, diverged, training_error_pct, training_error_sd,
    test_error_pct, test_error_sd, test_error_low, test_error_high, paper_test_error_pct, paper_source,
    difference_pct (ours minus the paper's, only where comparable), note.
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
    """A table of this module as text, rounded, with a dash for every number that is not there."""
    cells = []
    for row in table.to_dict("records"):
        training = _spread(row["training_error_pct"], row["training_error_sd"])
        interval = f"{row['test_error_low']:.2f} to {row['test_error_high']:.2f}"
        theirs = f"{row['paper_test_error_pct']:.2f} ({row['paper_source']})"
        cells.append(
            {
                "net": row["net"],
                "params": f"{_short(row['params'])} ({row['params']:,})",
                "iterations": f"{row['iterations']:,}",
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
    return text if not cells or any(text["note"]) else text.drop(columns="note")


def footnotes(table: pd.DataFrame) -> list[str]:
    """What a reader must know of this table, derived from what is in it."""
    notes = [SPREAD]
    if table["paper_source"].str.startswith("Fig. 6").any():
        notes.append(DIGITISED)
    if (table["paper_test_error_pct"].notna() & table["difference_pct"].isna() & (table["n"] > 0)).any():
        notes.append(COMPARABLE)
    return notes


def write(table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a table of this module: `name`.csv with the numbers, .md and .tex as `printed`, with its footnotes."""
    text, notes = printed(table), footnotes(table)
    return [
        files.write(folder / f"{name}.csv", table.to_csv(index=False)),
        files.write(folder / f"{name}.md", markdown(text) + "".join(f"\n{note}\n" for note in notes)),
        files.write(folder / f"{name}.tex", latex(text) + "".join(f"% {note}\n" for note in notes)),
    ]


def markdown(text: pd.DataFrame) -> str:
    """A data frame of strings as a Markdown table."""
    lines = [list(text.columns), ["---"] * len(text.columns), *text.values.tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(text: pd.DataFrame) -> str:
    """A data frame of strings as a LaTeX tabular, every special character escaped; needs no package."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (list(text.columns), *text.values.tolist())]
    return "\n".join(
        [rf"\begin{{tabular}}{{{'l' * len(text.columns)}}}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline",
         r"\end{tabular}", ""]
    )  # fmt: skip


def _conditions(rows: pd.DataFrame, profile: str) -> pd.DataFrame:
    return pd.DataFrame([_condition(of, profile) for _, of in rows.groupby("condition", sort=False)], columns=_COLUMNS)


_COLUMNS = [
    "net", "layers", "params", "iterations", "planned", "n", "diverged",
    "training_error_pct", "training_error_sd", "test_error_pct", "test_error_sd", "test_error_low", "test_error_high",
    "paper_test_error_pct", "paper_source", "difference_pct", "note",
]  # fmt: skip


def _condition(rows: pd.DataFrame, profile: str) -> dict[str, object]:
    """One row: what the seeds of a condition measured, and the paper's number beside it."""
    first = rows.iloc[0]
    done = rows[rows["outcome"] == "finished"]
    diverged = int((rows["outcome"] == "diverged").sum())
    image = 100 / IMAGES.get(first["data"], IMAGES_ELSE)[1]
    training, test = estimate(done[TRAINING].dropna()), estimate(done[TEST].dropna(), image)
    theirs, source = _paper(first)
    comparable = (first["data"], first["iterations"], first["width"]) == (
        PAPER_DATA.name,
        PAPER_ITERATIONS,
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
        "note": _note(rows, diverged, profile),
    }


def _note(rows: pd.DataFrame, diverged: int, profile: str) -> str:
    parts = [f"diverged ({diverged} of {len(rows)})"] if 0 < diverged < len(rows) else []
    undone = rows[~rows["outcome"].isin(("finished", "diverged"))].groupby("outcome").size()
    if len(undone):
        counts = ", ".join(f"{count} of {len(rows)} {outcome}" for outcome, count in undone.items())
        parts.append(f"{counts}: make degradation-study PROFILE={profile}")
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


def _spread(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return DASH
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---",
}  # fmt: skip


def _escaped(cell: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], cell)
