"""Do projection shortcuts (B where dimensions grow, C everywhere) matter beside parameter-free ones (A)?

Paper: Table 3 on ImageNet, Sec. 4.1; here its CIFAR proxy, claim S41-15. The ranking of A, B and C on a 34-layer
ImageNet net does not carry over to other depths (He et al. 2016b report 12.2 % for C at 110 CIFAR layers).
Cost: quick, 18 trials of 4 to 20 CPU seconds, of which those with option A are shared with plain-vs-residual.
"""

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "shortcut-options"
SCALE = {
    "smoke": Depths(depths=(20,), seeds=2),
    "quick": Depths(depths=(20, 56), seeds=3),
    "class": Depths(depths=(20, 56), seeds=5),
    "one-gpu": Depths(depths=(20, 56), seeds=5),
    "paper": Depths(depths=(20, 56), seeds=5),
}


def depths(profile: Profile) -> tuple[int, ...]:
    scale = profile.scale(NAME, SCALE)
    return scale.depths if scale else ()


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    nets = [profile.model("residual", depth, shortcut) for depth in scale.depths for shortcut in "ABC"]
    return [trial for net in nets for trial in profile.trials(net, profile.recipe(net), scale.seeds)]
