"""Do plain nets degrade on ImageNet, and do residual nets of as many parameters cure it?

Paper: Table 2, Fig. 4, Sec. 4.1: plain and residual nets (option A) of 18 and 34 layers. Claims S41-1, S41-2, S41-5,
S41-8 to S41-14. With plain bottlenecks where the profile has them (footnote 4).
Cost: paper, 8 trials of 600,000 iterations of 256 images; smoke, 5 of a second or two; see `make plan`.
"""

from dataclasses import dataclass

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "imagenet-plain-vs-residual"


@dataclass(frozen=True, kw_only=True)
class ImageNetScale(Depths):
    plain_bottlenecks: tuple[int, ...] = ()  # depths


SCALE = {
    "smoke": ImageNetScale(depths=(18, 34), plain_bottlenecks=(50,), seeds=1),
    "class": ImageNetScale(depths=(18, 34), plain_bottlenecks=(50,), seeds=2, on_request=True),
    "paper": ImageNetScale(depths=(18, 34), seeds=3),
}


def trials(profile: Profile) -> list[Trial]:
    scale, imagenet = profile.scale(NAME, SCALE), profile.imagenet
    if not scale or not imagenet:
        return []
    nets = [
        imagenet.model(family, depth, shortcut)
        for family, shortcut in (("plain", "none"), ("residual", "A"))
        for depth in scale.depths
    ]
    nets += [imagenet.model("plain", depth, "none") for depth in scale.plain_bottlenecks]
    return [trial for net in nets for trial in imagenet.trials(net, scale.seeds)]
