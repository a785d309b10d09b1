"""Do projection shortcuts matter on the 34-layer ImageNet net?

Paper: Table 3, Sec. 4.1: options A, B and C beside the plain net. Claims S3-5, S41-15 to S41-18.
Cost: paper, 8 trials of 600,000 iterations, of which those of the plain net and of option A are shared with
imagenet-plain-vs-residual.
"""

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "imagenet-shortcut-options"
SCALE = {
    "smoke": Depths(depths=(34,), seeds=1),
    "class": Depths(depths=(34,), seeds=2, on_request=True),
    "paper": Depths(depths=(34,), seeds=3),
}


def trials(profile: Profile) -> list[Trial]:
    scale, imagenet = profile.scale(NAME, SCALE), profile.imagenet
    if not scale or not imagenet:
        return []
    nets = []
    for depth in scale.depths:
        nets.append(imagenet.model("plain", depth, "none"))
        nets += [imagenet.model("residual", depth, option) for option in "ABC"]
    return [trial for net in nets for trial in imagenet.trials(net, scale.seeds)]
