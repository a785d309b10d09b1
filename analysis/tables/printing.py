"""A table as numbers and in print, and the three files that it becomes.

Owns the form of numbers in cells, Markdown and LaTeX. Must not know what any table shows.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

from analysis import files
from study.printable import in_markdown

DASH = "—"
FORMULAS = "=+-@\t\r\n"  # with which a cell begins that a spreadsheet does not take for text
SENTENCE = 60  # characters; a column with a longer cell breaks its lines in LaTeX


class Place(StrEnum):
    """Where the study page shows a table."""

    MEASURED = "measured"
    DEVIATIONS = "deviations"
    PAPER = "paper"  # what was counted, or others measured


@dataclass(frozen=True)
class Table:
    """A table in numbers, which become its CSV, and in print, with its footnotes. `name` is that of its files."""

    name: str
    title: str
    numbers: pd.DataFrame
    text: pd.DataFrame
    notes: list[str]
    place: Place = Place.PAPER


def write(table: Table, folder: Path) -> list[Path]:
    """Write the numbers as CSV, and the print with its footnotes as Markdown and LaTeX."""
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return [
        files.write(folder / f"{table.name}.csv", table.numbers.map(_no_formula).to_csv(index=False)),
        files.write(folder / f"{table.name}.md", markdown(table.text) + notes),
        files.write(folder / f"{table.name}.tex", latex(table.text) + _escaped(notes)),
    ]


def markdown(text: pd.DataFrame) -> str:
    """A data frame of strings as a Markdown table."""
    escaped = text.map(in_markdown)
    return f"{escaped.to_markdown(index=False, disable_numparse=True)}\n"


def _no_formula(cell: object) -> object:
    """A text that a spreadsheet would compute, or run, begins with a quote, as spreadsheets have it."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in FORMULAS and cell else cell


def latex(text: pd.DataFrame) -> str:
    """A data frame of strings as a LaTeX tabular, every special character escaped; needs the package booktabs."""
    wide = [len(text) and text[name].str.len().max() > SENTENCE for name in text.columns]
    columns = "".join(r"p{0.3\linewidth}" if sentences else "l" for sentences in wide)
    style = text.reset_index(drop=True).style.hide(axis="index")
    style = style.format(_escaped).format_index(_escaped, axis="columns")
    tabular: str = style.to_latex(column_format=columns, hrules=True)
    return tabular


def spread(mean: float, sd: float = float("nan")) -> str:
    """`6.61 ± 0.16`; without a deviation the mean alone, without a mean a dash."""
    if pd.isna(mean):
        return DASH
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


def interval(low: float, high: float) -> str:
    return DASH if pd.isna(low) else f"{low:.2f} to {high:.2f}"


def intervals(numbers: pd.DataFrame) -> list[str]:
    """Those of the columns `low` and `high`."""
    return [interval(low, high) for low, high in zip(numbers["low"], numbers["high"], strict=True)]


def headed(text: pd.DataFrame) -> pd.DataFrame:
    """The same with the names of columns as a reader wants them."""
    return text.rename(columns=lambda name: name.replace("multiply_adds", "multiply-adds").replace("_", " "))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "---",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _escaped(cell: object) -> str:
    """Besides LaTeX's special characters, those that its default font or encoding lacks."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], str(cell))
