"""What the MLflow UI shows of a profile before anybody clicks: a description and saved views.

A saved view is a state of the UI's own (filter, columns, charts), which MLflow keeps among the experiment's tags and
lists in the menu beside its title. The names of the state's fields are those of MLflow 3.17. Does not know how they get
there.
"""

from collections.abc import Sequence
from typing import Any

from experiments import EXPERIMENTS, name_of, planned
from experiments.command import Command
from experiments.profiles import Profile
from study.store.mlflow.tags import View

PAPER = "https://arxiv.org/abs/1512.03385"
NUMBERS = ("final_train_error_pct", "final_test_error_pct", "seconds")
COLUMNS = (
    *(f"tags.`{name}`" for name in ("net", "data", "seed", "outcome")),
    *(f"metrics.`{name}`" for name in NUMBERS),
    *(f"tags.`{name}`" for name in ("depth", "shortcut", "experiments")),
)
WIDTHS = {  # pixels; others have 125
    **{f"tags.`{name}`": 75 for name in ("seed", "depth", "shortcut", "outcome")},
    **{f"metrics.`{name}`": 160 for name in NUMBERS[:2]},
    **{f"tags.`{name}`": 400 for name in ("reason", "experiments")},
    "metrics.`seconds`": 80,
}
FILTERS = {
    "one question": "tags.experiments LIKE '%shortcut-options%'",
    "one net": "tags.net = 'plain-20'",
    "one trial": "tags.trial_id = 'ID'",
    "trials without a result": "tags.outcome != 'finished' AND tags.outcome != 'diverged'",
    "nets that learnt little": "metrics.final_train_error_pct > 50",
}
LANGUAGE_MODELS_ASIDE = "workflowType=machine_learning"  # or the UI's menu is about traces and prompts


def views(profile: Profile) -> list[View]:
    """All trials, those without a usual end, and the comparisons that the profile plans."""
    served = {name for serves in planned(profile).values() for name in serves}
    charts = [_line("train_error_pct"), _line("test_error_pct"), *map(_bars, NUMBERS[:2])]
    by_net = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "net"}]}
    saved = [View("all", "All trials", _state(), charts=False)]
    for key, name, experiment in (
        ("plain-and-residual", "Plain against residual", "plain-vs-residual"),
        ("shortcuts", "Shortcut options", "shortcut-options"),
        ("depth", "Depth scaling", "depth-scaling"),
    ):
        if any(experiment in other for other in served):
            state = _state(f"tags.experiments LIKE '%{experiment}%'") | _charts(name, charts)
            # Groups in the list only: charts of groups have colours by chance, those of runs the study's.
            state |= {"groupBy": by_net, "useGroupedValuesInCharts": False}
            saved.append(View(key, name, state, charts=True))
    odd = "tags.outcome != 'finished' AND tags.outcome != 'running'"  # MLflow's filters know neither IN for tags nor OR
    columns = ["tags.`net`", "tags.`data`", "tags.`seed`", "tags.`outcome`", "tags.`diverged_at`", "tags.`reason`"]
    return [*saved, View("diverged-and-failed", "Diverged and failed", _state(odd, columns), charts=False)]


def address(server: str, experiment: str, view: View) -> str:
    """Where the UI opens the view of an experiment (MLflow's id). `server` may be '', in links within the UI."""
    mode = "&compareRunsMode=CHART" if view.charts else ""
    return f"{server}/#/experiments/{experiment}/runs?{LANGUAGE_MODELS_ASIDE}&viewStateShareKey={view.key}{mode}"


def note(profile: Profile, experiment: str) -> str:
    """The experiment's description, in Markdown; the UI shows its first line until it is unfolded."""
    serving: dict[str, int] = {}
    for names in planned(profile).values():
        for name in names:
            serving[name] = serving.get(name, 0) + 1
    questions = [
        f"| `{name_of(module)}` | {_first_line(module.__doc__)} | {serving[name_of(module)]} |"
        for module in EXPERIMENTS
        if name_of(module) in serving
    ]
    links = [f"[{view.name}]({address('', experiment, view)})" for view in views(profile)]
    return "\n".join(
        [
            "Why do deeper plain nets train worse, and do residual nets cure it? Unfold: what is here, and where.",
            "",
            f"Profile **{profile.name}**: {profile.summary}."
            f" The paper: [He et al., Deep Residual Learning for Image Recognition]({PAPER}).",
            "",
            f"**Views**, also in the menu at the top right: {', '.join(links)}.",
            "",
            "| experiment | its question | trials |",
            "|---|---|---|",
            *questions,
            "",
            "**A row is a trial**: one net, one data set, one recipe, one seed; the run `Report` holds the verdicts,"
            " tables and figures. `final_train_error_pct` is the running training error over the last tenth of the"
            " iterations, `final_test_error_pct` the test error of the last iterate; the test set selects nothing. A"
            " trial that diverged is a result, and has no errors. Curves here are thinned; the whole one is the"
            " artifact `records.parquet`. The menu at the left has **Model training**: choose it once.",
            "",
            f"**The study page**: `results/{profile.name}/index.html`"
            f" (`{Command(profile=profile.name).make('report')}`), or the artifact `index.html` of the run `Report`.",
            "",
            "**Filters to paste into the search box**",
            "",
            *(f"- {what}: `{condition}`" for what, condition in FILTERS.items()),
        ]
    )


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def _state(condition: str = "", columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """Every run that meets the condition, the latest first; the columns in this order."""
    return {
        "searchFilter": condition,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": WIDTHS,
        "runsHiddenMode": "SHOW_ALL",
    }


def _charts(name: str, charts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Two charts a row in a section of this name; those that MLflow makes of every other metric are folded below."""
    shown = {"uuid": "ours", "name": name, "display": True, "isReordered": True, "columns": 2, "cardHeight": 360}
    others = {"uuid": "others", "name": "Model metrics", "display": False, "isReordered": False}
    return {
        "compareRunCharts": [chart | {"metricSectionId": "ours"} for chart in charts],
        "compareRunSections": [shown, others],
        "isAccordionReordered": True,
    }


def _line(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric"}
    look = {"displayPoints": False, "lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart("LINE", metric) | axes | look | {"range": {}, "yAxisExpressions": [], "ignoreOutliers": False}


def _bars(metric: str) -> dict[str, Any]:
    return _chart("BAR", metric)


def _chart(kind: str, metric: str) -> dict[str, Any]:
    chart = {"uuid": metric, "type": kind, "metricKey": metric, "displayName": metric}
    return chart | {"runsCountToCompare": 10, "deleted": False, "isGenerated": False}
