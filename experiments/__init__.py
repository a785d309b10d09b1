"""Choice: what is run and why. The one list of experiments, and the trials that a selection of them needs."""

from collections.abc import Iterable
from types import ModuleType

from experiments import (
    bottlenecks,
    budget,
    budget_grid,
    controls,
    depth_scaling,
    detection_coco,
    detection_normalisation,
    detection_voc,
    imagenet_depth,
    imagenet_longer,
    imagenet_plain_vs_residual,
    imagenet_shortcut_options,
    initial_layers,
    learning_rate,
    placebo,
    plain_vs_residual,
    precision,
    rates,
    reimplementations,
    shortcut_options,
    starts,
    starts_grid,
)
from experiments.profiles import Profile, Scale
from study.spec import Trial, check_choice

# To add an experiment, write its file and name it here. Its trials are then planned, trained, and rows of runs.parquet
# and curves.parquet. No picture or claim shows them by itself: these choose nets by an experiment's NAME, in analysis/.
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
    precision,
    placebo,
    budget,
    budget_grid,
    rates,
    starts,
    starts_grid,
    initial_layers,
)


def name_of(experiment: ModuleType) -> str:
    """Its name on the command line, in plans and in MLflow: `plain-vs-residual`."""
    name: str = experiment.NAME
    return name


def scale_of(experiment: ModuleType, profile: Profile) -> Scale | None:
    """How large the experiment is in the profile; None if it has no part there."""
    return profile.scale(name_of(experiment), experiment.SCALE)


def most_seeds(profile: Profile) -> int:
    """The most seeds of a condition that an experiment of the profile states, without those on request."""
    scales = (scale_of(experiment, profile) for experiment in EXPERIMENTS)
    return max((scale.seeds for scale in scales if scale and not scale.on_request), default=1)


def planned(profile: Profile, names: Iterable[str] = ()) -> dict[Trial, list[str]]:
    """Every trial of the named experiments, once, with the experiments that it serves. If none is named: of all, except
    those that the profile plans on request.

    Membership is derived: a net that serves three figures is one trial, because three definitions produce one id.
    Raises `InputError` for an unknown name.
    """
    known = [name_of(experiment) for experiment in EXPERIMENTS]
    names = list(names)
    for name in (*names, *profile.scales):
        check_choice("experiment", name, known)
    serves: dict[Trial, list[str]] = {}
    for experiment in EXPERIMENTS:
        scale, name = scale_of(experiment, profile), name_of(experiment)
        wanted = name in names if names else scale and not scale.on_request
        if wanted:
            for trial in experiment.trials(profile):
                serves.setdefault(trial, []).append(name)
    return serves


def with_needed(chosen: dict[Trial, list[str]], serves: dict[Trial, list[str]]) -> dict[Trial, list[str]]:
    """The chosen of these trials, and those whose final nets they start from, and so on."""
    needed = {id for trial in chosen for id in trial.needs}
    more = {trial: names for trial, names in serves.items() if trial.id in needed and trial not in chosen}
    return with_needed(more | chosen, serves) if more else chosen
