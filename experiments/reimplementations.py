"""Why do public re-implementations differ from the paper, and from each other?

The paper's net under the paper's recipe and under those of five repositories (`experiments.recipes.PRESETS`): schedule,
momentum, decay, initialisation, normalisation and shortcuts as theirs, data and seeds ours. Nets that are not the
paper's, and choosing the best test epoch, are not imitated. Paper: Sec. 4.2; no claim.
Cost: paper, 75 trials of 64,000 to 78,200 iterations besides those of plain-vs-residual; class, ten of 2,000, of the
same shape; smoke, two; not part of the quick profile, whose few steps are no schedule of theirs.
"""

from dataclasses import dataclass

from experiments import recipes
from experiments.profiles import Depths, Profile
from experiments.recipes import PRESETS, Preset
from study.spec import Trial

NAME = "reimplementations"


@dataclass(frozen=True, kw_only=True)
class PresetScale(Depths):
    presets: tuple[Preset, ...]


SCALE = {
    "smoke": PresetScale(depths=(20,), seeds=2, presets=(PRESETS["kuangliu"].as_long_as(recipes.seconds),)),
    "class": PresetScale(
        depths=(20,), seeds=2, presets=tuple(preset.as_long_as(recipes.shortened) for preset in PRESETS.values())
    ),
    "paper": PresetScale(depths=(20, 56, 110), seeds=5, presets=tuple(PRESETS.values())),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    planned = []
    for depth in scale.depths:
        net = profile.model("residual", depth)
        planned += profile.trials(net, profile.recipe(net), scale.seeds)
        for preset in scale.presets:
            net = profile.model("residual", depth, preset.shortcut)
            imitating = profile.with_data(preset.data(profile.data))
            planned += imitating.trials(net, preset.recipe(net), scale.seeds)
    return planned
