"""Does the precision of arithmetic change a verdict? The same nets in fp32, with TF32 products, and in bf16.

Past the paper, which computes in fp32. Seeds are paired, so that a difference is one of rounding and of what training
makes of it. What would be equal is stated before any run: `MARGIN_PCT`. No claim of the paper's.
Cost: one-gpu, 40 trials of 64,000 iterations besides the profile's own, about 3 GPU hours, on request (`make plan
PROFILE=one-gpu EXPERIMENTS=precision`); quick, 12 trials of 4 to 15 CPU seconds besides its own.
"""

from dataclasses import dataclass, replace

from experiments.profiles import Nets, Profile
from study.spec import Trial

NAME = "precision"
# Error in percent by which two precisions may differ and be called equal: a tenth of the 3.6 points by which plain nets
# degrade from 20 to 56 layers (Fig. 1, test error). Chosen before the first run of this experiment in any profile.
MARGIN_PCT = 0.36
_NETS = (("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56))


@dataclass(frozen=True, kw_only=True)
class PrecisionScale(Nets):
    precisions: tuple[str, ...]  # besides the profile's own


SCALE = {  # TF32 takes a GPU
    "smoke": PrecisionScale(nets=_NETS[:1], precisions=("bf16",), seeds=2, on_request=True),
    "quick": PrecisionScale(nets=_NETS, precisions=("bf16",), seeds=3, on_request=True),
    "class": PrecisionScale(nets=_NETS, precisions=("tf32", "bf16"), seeds=2, on_request=True),
    "one-gpu": PrecisionScale(nets=_NETS, precisions=("fp32", "tf32"), seeds=5, on_request=True),
    "paper": PrecisionScale(nets=_NETS, precisions=("tf32", "bf16"), seeds=5, on_request=True),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    planned = []
    for family, depth in scale.nets:
        net = profile.model(family, depth)
        recipe = profile.recipe(net)
        for precision in (recipe.precision, *scale.precisions):
            planned += profile.trials(net, replace(recipe, precision=precision), scale.seeds)
    return planned
