"""Does accuracy go on rising with depth, to 152 layers, on ImageNet?

Paper: Tables 3 to 5, Sec. 4.1: ResNet-34 with projections (B), and bottlenecks of 50, 101 and 152 layers. Claims
S41-24, S41-25, S41-28 to S41-30.
Cost: paper, 8 trials of 600,000 iterations; ResNet-152 has 11.3e9 multiply-adds an image.
"""

from experiments.profiles import Profile
from study.spec import Model, Trial

NAME = "imagenet-depth"


def trials(profile: Profile) -> list[Trial]:
    if not profile.imagenet or not profile.imagenet.bottlenecks:
        return []
    nets = [
        Model.imagenet(family="residual", depth=depth, shortcut="B", width=profile.imagenet.width)
        for depth in (max(profile.imagenet.depths), *profile.imagenet.bottlenecks)
    ]
    return [trial for net in nets for trial in profile.imagenet.trials(net)]
