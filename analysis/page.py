"""The study page: one HTML file that needs nothing but itself.

Owns what the page shows and in which order. Must not know how tables, pictures and verdicts are made, nor any file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import referee, templates
from analysis.gaps import NAMED, Problem
from analysis.pictures import interactive
from analysis.questions import by_question, in_one_sentence
from analysis.runs import WITHOUT_RESULT, outcome_counts
from analysis.tables.printing import Place, Table
from analysis.verdicts import Verdict
from experiments.profiles import Profile
from study.cost import duration

MLFLOW = "http://127.0.0.1:5000"  # where `make ui` serves first; the reader can type another on the page
PAPER_FIGURES = ("figure_1", "figure_4", "figure_6", "figure_7")
TEMPLATES = templates.environment(Path(__file__).parent / "pages")


@dataclass(frozen=True)
class Printed:
    """A picture of the page. `svg` is empty where an interactive chart has its name."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the page is made of. `facts`: commit, versions and machine, by name. `notebooks`: names of the lectures."""

    profile: Profile
    command: str  # that makes the page
    finals: pd.DataFrame
    verdicts: Sequence[Verdict]
    tables: Sequence[Table]
    charts: Mapping[str, interactive.Chart]
    pictures: Sequence[Printed]
    problems: Sequence[Problem]
    facts: Mapping[str, str]
    notebooks: Sequence[str]


def render(content: Content) -> str:
    """The page, without a font, another server's file or a script that is not in it."""
    finals = content.finals
    return TEMPLATES.get_template("study.html").render(
        profile=content.profile,
        command=content.command,
        data=", ".join(sorted(set(finals["data"]))),
        outcomes=outcome_counts(finals),
        problems=content.problems,
        named=NAMED,
        undone=bool(finals["outcome"].isin(WITHOUT_RESULT).any()),
        counted=in_one_sentence(content.verdicts, finals),
        questions=by_question(content.verdicts),
        untestable=[verdict for verdict in content.verdicts if not verdict.testable],
        charts=content.charts,
        drawing=_drawing(content.charts),
        plotly=Markup(get_plotlyjs()),
        mlflow=MLFLOW,
        figures=[picture for picture in content.pictures if picture.name in PAPER_FIGURES],
        pictures=[picture for picture in content.pictures if picture.name not in PAPER_FIGURES],
        timed=_timed(finals),
        tables=[table for table in content.tables if table.place is Place.MEASURED and len(table.numbers)],
        ledger=[table for table in content.tables if table.place is Place.DEVIATIONS],
        other_tables=[table for table in content.tables if table.place is Place.PAPER],
        facts=content.facts,
        runs=finals[finals["run_id"] != ""][["id", "outcome", "run_id"]].to_dict("records"),
        notebooks=content.notebooks,
    )


def render_referee(profile: str, rows: Sequence[referee.Row], verdicts: Sequence[Verdict], finals: pd.DataFrame) -> str:
    """The page beside it, for a referee."""
    counted = in_one_sentence(verdicts, finals)
    return TEMPLATES.get_template("referee.html").render(profile=profile, rows=rows, counted=counted)


def _drawing(charts: Mapping[str, interactive.Chart]) -> Markup:
    """The charts' panels as JSON that can stand inside a script element, which nothing that it holds can end."""
    panels = {
        f"{name}-{place}": figure.to_dict()
        for name, chart in charts.items()
        for place, figure in enumerate(chart.panels.values())
    }
    text = json.dumps({"panels": panels, "templates": interactive.templates()}, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c"))


def _timed(finals: pd.DataFrame) -> dict[str, str]:
    """Predicted and actual time of the trials that have both; {} where none has."""
    both = finals.dropna(subset=["predicted_seconds", "seconds"])
    if both.empty:
        return {}
    predicted, took = (duration(both[name].sum()) for name in ("predicted_seconds", "seconds"))
    return {"trials": str(len(both)), "predicted": predicted, "took": took}
