"""What do the claims say of nets that have hardly been trained? Nets of the main questions after a dozen iterations.

A claim about what training does must not hold here. `analysis/placebo.py` evaluates every claim on these nets in the
place of the trained ones; what is supported is reported as holding without training. Paper: not in it.
Cost: quick, 48 trials of about one CPU second; paper, 80 of as many.
"""

from dataclasses import dataclass, replace

from experiments import plain_vs_residual, shortcut_options
from experiments.profiles import Profile, Scale
from study.spec import Recipe, Trial

NAME = "placebo"
ITERATIONS = 12


@dataclass(frozen=True, kw_only=True)
class PlaceboScale(Scale):
    """`seeds` are the most of each net; the nets and no more seeds are those of the mirrored experiments."""


SCALE = {
    "smoke": PlaceboScale(seeds=2, on_request=True),
    "quick": PlaceboScale(seeds=6),
    "class": PlaceboScale(seeds=5),
    "one-gpu": PlaceboScale(seeds=5),
    "paper": PlaceboScale(seeds=5),
}
MIRRORED = (plain_vs_residual, shortcut_options)


def hardly(recipe: Recipe) -> Recipe:
    """The recipe's first dozen iterations; evaluated at their end."""
    return replace(
        recipe,
        iterations=ITERATIONS,
        drops=tuple(drop for drop in recipe.drops if drop < ITERATIONS),
        record_every=ITERATIONS // 4,
        evaluate_every=ITERATIONS,
    )


def mirrored(profile: Profile) -> dict[Trial, list[str]]:
    """Each trial, with the experiments that the trained trial in its place serves."""
    scale = profile.scale(NAME, SCALE)
    placebos: dict[Trial, list[str]] = {}
    for experiment in MIRRORED if scale else ():
        for trial in experiment.trials(profile):
            if scale and trial.seed < scale.seeds:
                placebo = replace(trial, recipe=hardly(trial.recipe))
                placebos.setdefault(placebo, []).append(experiment.NAME)
    return placebos


def trials(profile: Profile) -> list[Trial]:
    return list(mirrored(profile))
