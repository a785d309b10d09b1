"""Do plain nets degrade on ImageNet, and do residual nets of as many parameters cure it?

Paper: Table 2, Fig. 4, Sec. 4.1: plain and residual nets (option A) of 18 and 34 layers. Claims S41-1, S41-2, S41-5,
S41-8 to S41-14. With plain bottlenecks where the profile has them (footnote 4).
Cost: paper, 8 trials of 600,000 iterations of 256 images; smoke, 5 of a second or two; see `make plan`.
"""

from experiments.profiles import Profile
from study.spec import Model, Trial

NAME = "imagenet-plain-vs-residual"


def trials(profile: Profile) -> list[Trial]:
    if not profile.imagenet:
        return []
    nets = [
        Model.imagenet(family=family, depth=depth, shortcut=shortcut, width=profile.imagenet.width)
        for family, shortcut in (("plain", "none"), ("residual", "A"))
        for depth in profile.imagenet.depths
    ]
    nets += [
        Model.imagenet(family="plain", depth=depth, shortcut="none", width=profile.imagenet.width)
        for depth in profile.imagenet.plain_bottlenecks
    ]
    return [trial for net in nets for trial in profile.imagenet.trials(net)]
