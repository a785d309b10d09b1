"""What the study writes to MLflow about a trial, and under which names: tags, parameters, statuses, views.

Metrics are the columns of a curve (`study/store/records.py`). Which columns the UI shows is `dashboards/views.py`.
Standard library only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.spec import PROTOCOL, SCHEMA, Trial
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
CONTROL = ", shuffled labels"  # behind the data's name: a negative control must look like none of the real runs
# Fields that follow from others, or are about measuring. They are in spec.json and in the tag `spec`; parameters are
# what is worth a column.
UNCOMPARED = (
    "model.stem",
    "model.stride",
    "recipe.patience",
    "recipe.record_every",
    "recipe.evaluate_every",
    "data.channels",
    "data.size",
    "data.classes",
    "data.padding",
    "data.flip",
    "data.scales",
    "data.colour",
    "data.digest",
    "detection.anchors",
    "detection.longest",
    "detection.proposals",
    "detection.regions",
)


@dataclass(frozen=True)
class View:
    """A saved view of a profile's runs in MLflow's UI: a name in its menu, an address, and what it opens with."""

    key: str  # in the address: ?viewStateShareKey=...
    name: str
    state: Mapping[str, Any]  # as the UI keeps it: filter, order, columns, groups, charts
    charts: bool  # whether the address opens charts rather than the table


def parameters(trial: Trial) -> Iterator[tuple[str, Any]]:
    """The parameters of a trial's run: its fields, by their path, but those of `UNCOMPARED`."""
    for part, values in trial.to_dict().items():
        if isinstance(values, dict):
            names = ((f"{part}.{key}", value) for key, value in values.items())
            yield from ((name, value) for name, value in names if name not in UNCOMPARED)
        else:
            yield part, values


def trial_tags(trial: Trial) -> dict[str, str]:
    """The tags of a trial's run that follow from the trial; how it was run is in its account's."""
    return {
        "condition": trial.condition,
        "net": trial.title,
        "family": trial.model.family,
        "depth": str(trial.model.depth),
        "shortcut": trial.model.shortcut,
        "data": trial.data.name + (CONTROL if trial.data.labels == "shuffled" else ""),
        "seed": str(trial.seed),
        "schema": str(SCHEMA),
        "protocol": str(PROTOCOL),
    }
