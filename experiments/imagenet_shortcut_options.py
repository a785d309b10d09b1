"""Do projection shortcuts matter on the 34-layer ImageNet net?

Paper: Table 3, Sec. 4.1: options A, B and C beside the plain net. Claims S3-5, S41-15 to S41-18.
Cost: paper, 8 trials of 600,000 iterations, of which those of the plain net and of option A are shared with
imagenet-plain-vs-residual.
"""

from experiments.profiles import Profile
from study.spec import Model, Trial

NAME = "imagenet-shortcut-options"


def trials(profile: Profile) -> list[Trial]:
    if not profile.imagenet:
        return []
    depth, width = max(profile.imagenet.depths), profile.imagenet.width
    nets = [Model.imagenet(family="plain", depth=depth, shortcut="none", width=width)]
    nets += [Model.imagenet(family="residual", depth=depth, shortcut=option, width=width) for option in "ABC"]
    return [trial for net in nets for trial in profile.imagenet.trials(net)]
