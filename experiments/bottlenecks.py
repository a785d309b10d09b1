"""Is the degradation problem also witnessed for bottleneck plain nets?

Paper: Sec. 4.1, footnote 4. Claim S41-27: plain nets of 1x1-3x3-1x1 blocks, 9n+2 layers, beside residual ones.
Cost: class, eight trials of 2,000 iterations; not part of the quick profile.
"""

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "bottlenecks"
SCALE = {  # depths are 9n+2
    "smoke": Depths(depths=(29,), seeds=2),
    "class": Depths(depths=(29, 83), seeds=2),
    "paper": Depths(depths=(29, 83), seeds=5),
}


def depths(profile: Profile) -> tuple[int, ...]:
    scale = profile.scale(NAME, SCALE)
    return scale.depths if scale else ()


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    nets = [
        profile.model(family, depth, block="bottleneck") for family in ("plain", "residual") for depth in scale.depths
    ]
    return [trial for net in nets for trial in profile.trials(net, profile.recipe(net), scale.seeds)]
