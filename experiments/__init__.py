"""Choice: what is run and why. The one list of experiments, and the trials that a selection of them needs."""

from collections.abc import Iterable
from types import ModuleType

from experiments import (
    bottlenecks,
    controls,
    depth_scaling,
    detection_coco,
    detection_normalisation,
    detection_voc,
    imagenet_depth,
    imagenet_longer,
    imagenet_plain_vs_residual,
    imagenet_shortcut_options,
    learning_rate,
    plain_vs_residual,
    reimplementations,
    shortcut_options,
)
from experiments.profiles import Profile
from study.spec import Trial, check_choice

EXPERIMENTS = (
    plain_vs_residual,
    shortcut_options,
    depth_scaling,
    learning_rate,
    bottlenecks,
    reimplementations,
    imagenet_plain_vs_residual,
    imagenet_shortcut_options,
    imagenet_depth,
    imagenet_longer,
    detection_voc,
    detection_coco,
    detection_normalisation,
    controls,
)


def name_of(experiment: ModuleType) -> str:
    """Its name on the command line, in plans and in MLflow: `plain-vs-residual`."""
    name: str = experiment.NAME
    return name


def planned(profile: Profile, names: Iterable[str] = ()) -> dict[Trial, list[str]]:
    """Every trial of the named experiments, once, with the experiments that it serves. If none is named: of all, but
    those that the profile has on request.

    Membership is derived: a net that serves three figures is one trial, because three definitions produce one id.
    """
    usual = [name for name in map(name_of, EXPERIMENTS) if name not in profile.on_request]
    names = list(names) or usual
    for name in names:
        check_choice("experiment", name, [name_of(experiment) for experiment in EXPERIMENTS])
    serves: dict[Trial, list[str]] = {}
    for experiment in EXPERIMENTS:
        if name_of(experiment) in names:
            for trial in experiment.trials(profile):
                serves.setdefault(trial, []).append(name_of(experiment))
    return serves


def with_needed(chosen: dict[Trial, list[str]], serves: dict[Trial, list[str]]) -> dict[Trial, list[str]]:
    """The chosen of these trials, and those whose final nets they start from, and so on."""
    needed = {id for trial in chosen for id in trial.needs}
    more = {trial: names for trial, names in serves.items() if trial.id in needed and trial not in chosen}
    return with_needed(more | chosen, serves) if more else chosen
