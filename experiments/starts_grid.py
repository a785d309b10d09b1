"""Which part of the constructed start matters, and to which depth does it train? Starts, their noise, and a grown net.

Paper: Sec. 1, as `experiments/starts.py`. Plain-56 from Dirac's and pass-through starts with noise from 0 to 1; plain
nets of all depths from pass-through; plain-56 grown from the trained plain-20 of its seed, at equal loss; and ResNet-56
with option C whose square projections start as the identity.
Cost: quick, about 50 trials of 3 to 16 CPU seconds, on request.
"""

from dataclasses import dataclass, replace

from experiments.profiles import Depths, Profile
from experiments.starts import NOISE, started
from study.spec import DIRAC, GROWN, HE, PASS_THROUGH, Trial

NAME = "starts-grid"


@dataclass(frozen=True, kw_only=True)
class GridScale(Depths):
    """`depths`: of pass-through; `noises`: of both starts of plain-56, in units of He's weights."""

    noises: tuple[float, ...]


_DEPTHS, _NOISES = (20, 32, 44, 56, 110), (0.0, 0.1, 0.3, 1.0)
SCALE = {
    "smoke": GridScale(depths=(20,), noises=(0.1,), seeds=1, on_request=True),
    "quick": GridScale(depths=_DEPTHS, noises=_NOISES, seeds=3, on_request=True),
    "class": GridScale(depths=_DEPTHS, noises=_NOISES, seeds=5, on_request=True),
    "one-gpu": GridScale(depths=_DEPTHS, noises=_NOISES, seeds=5, on_request=True),
    "paper": GridScale(depths=_DEPTHS, noises=_NOISES, seeds=5, on_request=True),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    seeds, deep, shallow = scale.seeds, profile.model("plain", 56), profile.model("plain", 20)
    recipe, sources = profile.recipe(deep), profile.trials(shallow, profile.recipe(shallow), seeds)
    planned = sources + profile.trials(deep, recipe, seeds)
    for start in (DIRAC, PASS_THROUGH):
        for noise in scale.noises:
            planned += profile.trials(deep, started(recipe, start, noise), seeds)
    for depth in scale.depths:
        net = profile.model("plain", depth)
        planned += profile.trials(net, started(profile.recipe(net), PASS_THROUGH, NOISE), seeds)
    grown = replace(recipe, start=GROWN, grown_from=sources[0].condition)
    planned += profile.trials(deep, grown, seeds)
    projected = profile.model("residual", 56, "C")
    for start in (HE, DIRAC, PASS_THROUGH):
        planned += profile.trials(projected, started(profile.recipe(projected), start), seeds)
    return list(dict.fromkeys(planned))
