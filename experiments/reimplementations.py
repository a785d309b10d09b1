"""Why do public re-implementations differ from the paper, and from each other?

The paper's net under the paper's recipe and under those of five repositories (`experiments.recipes.PRESETS`): schedule,
momentum, decay, initialisation, normalisation and shortcuts as theirs, data and seeds ours. Nets that are not the
paper's, and choosing the best test epoch, are not imitated. Paper: Sec. 4.2; no claim.
Cost: paper, 75 trials of 64,000 to 78,200 iterations besides those of plain-vs-residual; class, ten of 2,000, of the
same shape; smoke, two; not part of the quick profile, whose few steps are no schedule of theirs.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "reimplementations"


def trials(profile: Profile) -> list[Trial]:
    found = []
    for depth in profile.preset_depths:
        net = profile.model("residual", depth)
        found += profile.trials(net, profile.recipe(net), profile.seeds)
        for preset in profile.presets:
            net = profile.model("residual", depth, preset.shortcut)
            theirs = profile.with_data(preset.data(profile.data))
            found += theirs.trials(net, preset.recipe(net), profile.seeds)
    return found
