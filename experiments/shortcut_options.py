"""Do projection shortcuts (B where dimensions grow, C everywhere) matter beside parameter-free ones (A)?

Paper: Table 3 on ImageNet, Sec. 4.1; here its CIFAR proxy, claim S41-15. The ranking of A, B and C on a 34-layer
ImageNet net does not carry over to other depths (He et al. 2016b report 12.2 % for C at 110 CIFAR layers).
Cost: quick, 18 trials of 4 to 20 CPU seconds, of which those with option A are shared with plain-vs-residual.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "shortcut-options"


def trials(profile: Profile) -> list[Trial]:
    nets = [profile.model("residual", depth, shortcut) for depth in profile.shortcut_depths for shortcut in "ABC"]
    return [trial for net in nets for trial in profile.trials(net, profile.recipe(net), profile.seeds)]
