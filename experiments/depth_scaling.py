"""How far does depth go? Residual and plain nets of 110 and 1202 layers.

Paper: Fig. 6 (right), Table 6, Sec. 4.2. Claims S42-3, S42-10, S42-15 to S42-19. Plain-110 is expected to stay above
60 % error and plain-1202 to diverge: both are run and recorded as they are, because that is the observation.
Cost: quick, on request, one 1202-layer trial of about three CPU minutes; paper, 1202 layers cost eleven times 110;
one-gpu, one ResNet-1202, about 2.5 GPU hours (`make plan PROFILE=one-gpu`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from experiments import recipes
from experiments.profiles import Depths, Profile
from study.spec import Model, Recipe, Trial

NAME = "depth-scaling"


@dataclass(frozen=True, kw_only=True)
class DeepScale(Depths):
    recipe: Callable[[Model], Recipe] | None = None  # instead of the profile's
    few: tuple[
        tuple[str, int, int], ...
    ] = ()  # (family, depth, seeds) of further nets, which cost too much for `seeds`


SCALE = {
    "smoke": DeepScale(depths=(1202,), seeds=1, recipe=recipes.seconds_deep),
    "quick": DeepScale(depths=(110, 1202), seeds=1, recipe=recipes.minutes_deep, on_request=True),
    "class": DeepScale(depths=(110,), seeds=5),
    "one-gpu": DeepScale(depths=(110,), seeds=5, few=(("residual", 1202, 1),)),
    "paper": DeepScale(depths=(110, 1202), seeds=5),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    recipe = scale.recipe or profile.recipe
    nets = [(family, depth, scale.seeds) for depth in scale.depths for family in ("residual", "plain")]
    nets += [(family, depth, profile.seeds or seeds) for family, depth, seeds in scale.few]
    planned = []
    for family, depth, seeds in nets:
        net = profile.model(family, depth)
        planned += profile.trials(net, recipe(net), seeds)
    return planned
