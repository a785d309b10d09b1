"""Does training three times as long remove the degradation of plain nets on ImageNet?

Paper: Sec. 4.1, footnote 3, which prints no number. Claim S41-6: plain nets of 18 and 34 layers, every iteration count
of the recipe three times as large.
Cost: paper, 4 trials of 1,800,000 iterations.
"""

from dataclasses import replace

from experiments.profiles import Profile
from study.spec import Model, Trial

NAME = "imagenet-longer"


def trials(profile: Profile) -> list[Trial]:
    if not profile.imagenet or not profile.imagenet.longer:
        return []
    found = []
    for depth in profile.imagenet.depths:
        net = Model.imagenet(family="plain", depth=depth, shortcut="none", width=profile.imagenet.width)
        for trial in profile.imagenet.trials(net):
            recipe = trial.recipe
            drops = tuple(3 * drop for drop in recipe.drops)
            found.append(replace(trial, recipe=replace(recipe, iterations=3 * recipe.iterations, drops=drops)))
    return found
