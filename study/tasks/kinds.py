"""Which task a trial is."""

from typing import Any

from study.spec import Trial, detection_of
from study.tasks import classification, detection
from study.tasks.task import Task


def task_of(trial: Trial) -> Task[Any, Any]:
    """The module that trains what the trial describes."""
    return detection if detection_of(trial) else classification
