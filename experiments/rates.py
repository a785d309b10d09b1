"""Does the degradation survive each net's best learning rate? A grid of rates, chosen on held-out images.

Half of the seeds choose each net's rate by the error on training images that were held out; the other half judge the
nets at the chosen rates, so that the choice is no part of the result (`analysis/rates.py`). Paper: not in it; Sec. 4.1
argues that the optimisation difficulty is "unlikely to be caused by vanishing gradients", and trains every net at 0.1.
Cost: quick, 96 trials of 4 to 10 CPU seconds; one-gpu and paper, 80 of 64,000 iterations.
"""

from dataclasses import dataclass, replace

from experiments.profiles import Nets, Profile
from study.spec import Trial

NAME = "rates"


@dataclass(frozen=True, kw_only=True)
class RateScale(Nets):
    """`seeds` is the number of all seeds, of which the first half choose."""

    rates: tuple[float, ...]
    held_out: int  # training images that choose


_NETS = (("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56))
SCALE = {
    "smoke": RateScale(nets=_NETS[:2], rates=(0.01, 0.1), held_out=200, seeds=2, on_request=True),
    "quick": RateScale(nets=_NETS, rates=(0.002, 0.005, 0.02, 0.1), held_out=237, seeds=6, on_request=True),
    "class": RateScale(nets=_NETS, rates=(0.02, 0.05, 0.1, 0.2), held_out=5_000, seeds=6, on_request=True),
    "one-gpu": RateScale(nets=_NETS[:2], rates=(0.02, 0.05, 0.1, 0.2), held_out=5_000, seeds=10, on_request=True),
    "paper": RateScale(nets=_NETS[:2], rates=(0.02, 0.05, 0.1, 0.2), held_out=5_000, seeds=10, on_request=True),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    held_out = profile.with_data(replace(profile.data, held_out=scale.held_out))
    planned = []
    for family, depth in scale.nets:
        net = profile.model(family, depth)
        for rate in scale.rates:
            planned += held_out.trials(net, replace(profile.recipe(net), learning_rate=rate), scale.seeds)
    return planned
