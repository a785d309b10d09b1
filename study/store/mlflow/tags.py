"""Names that the study writes to MLflow: experiments, tags, statuses, views. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study.store.account import Outcome

STUDY = "degradation-study"
EVALUATED = "evaluations_sha256"  # tag: digest of the evaluations that the run shows
PICTURED = "mlflow.curve"  # tag: file name of the picture of the curve; MLflow's UI hides tags with this prefix
NOTE = "mlflow.note.content"  # tag: the description of a run or an experiment, in Markdown
KIND = {"mlflow.experimentKind": "custom_model_development"}  # or the UI opens a page on language models
VIEW = "mlflow.sharedViewState."  # prefix of the tags of an experiment that hold its saved views
# MLflow's status of a run for each outcome of a trial.
STATUS = {
    Outcome.RUNNING: "RUNNING",
    Outcome.FINISHED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.INTERRUPTED: "KILLED",
}


@dataclass(frozen=True)
class View:
    """A saved view of a profile's runs in MLflow's UI: a name in its menu, an address, and what it opens with."""

    key: str  # in the address: ?viewStateShareKey=...
    name: str
    state: Mapping[str, Any]  # as the UI keeps it: filter, order, columns, groups, charts
    charts: bool  # whether the address opens charts rather than the table
