"""Does accuracy go on rising with depth, to 152 layers, on ImageNet?

Paper: Tables 3 to 5, Sec. 4.1: ResNet-34 with projections (B), and bottlenecks of 50, 101 and 152 layers. Claims
S41-24, S41-25, S41-28 to S41-30.
Cost: paper, 8 trials of 600,000 iterations; ResNet-152 has 11.3e9 multiply-adds an image.
"""

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "imagenet-depth"
SCALE = {
    "smoke": Depths(depths=(34, 50, 101, 152), seeds=1),
    "class": Depths(depths=(34, 50), seeds=2, on_request=True),
    "paper": Depths(depths=(34, 50, 101, 152), seeds=3),
}


def trials(profile: Profile) -> list[Trial]:
    scale, imagenet = profile.scale(NAME, SCALE), profile.imagenet
    if not scale or not imagenet:
        return []
    nets = [imagenet.model("residual", depth, "B") for depth in scale.depths]
    return [trial for net in nets for trial in imagenet.trials(net, scale.seeds)]
