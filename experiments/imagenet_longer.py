"""Does training three times as long remove the degradation of plain nets on ImageNet?

Paper: Sec. 4.1, footnote 3, which prints no number. Claim S41-6: plain nets of 18 and 34 layers, every iteration count
of the recipe three times as large.
Cost: paper, 4 trials of 1,800,000 iterations.
"""

from dataclasses import replace

from experiments.profiles import Depths, Profile
from study.spec import Recipe, Trial

NAME = "imagenet-longer"
SCALE = {
    "smoke": Depths(depths=(18, 34), seeds=1),
    "paper": Depths(depths=(18, 34), seeds=3),
}


def trials(profile: Profile) -> list[Trial]:
    scale, imagenet = profile.scale(NAME, SCALE), profile.imagenet
    if not scale or not imagenet:
        return []
    nets = [imagenet.model("plain", depth, "none") for depth in scale.depths]
    usual = [trial for net in nets for trial in imagenet.trials(net, scale.seeds)]
    return [replace(trial, recipe=three_times(trial.recipe)) for trial in usual]


def three_times(recipe: Recipe) -> Recipe:
    """The recipe with three times the iterations, the drops of the learning rate included."""
    return replace(recipe, iterations=3 * recipe.iterations, drops=tuple(3 * drop for drop in recipe.drops))
