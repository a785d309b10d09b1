"""Is the degradation problem also witnessed for bottleneck plain nets?

Paper: Sec. 4.1, footnote 4. Claim S41-27: plain nets of 1x1-3x3-1x1 blocks, 9n+2 layers, beside residual ones.
Cost: class, eight trials of 2,000 iterations; not part of the quick profile.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "bottlenecks"


def trials(profile: Profile) -> list[Trial]:
    nets = [
        profile.model(family, depth, block="bottleneck")
        for family in ("plain", "residual")
        for depth in profile.bottleneck_depths
    ]
    return [trial for net in nets for trial in profile.trials(net, profile.recipe(net), profile.seeds)]
