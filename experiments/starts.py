"""Does the solver stay at the constructed solution? Plain-56 from He's weights, and from layers that pass on.

Paper: Sec. 1: a deeper net that copies a shallower one and adds identity layers has its training error, "but
experiments show that our current solvers on hand are unable to find solutions that are comparably good or better than
the constructed solution". The constructed start: square convolutions are the identity and a tenth of He's weights, and
BatchNorm's scale and shift undo it (`study/nets/starts.py`). Beside plain-20 and ResNet-56.
Cost: quick, 6 trials of about 8 CPU seconds besides the nets of plain-vs-residual.
"""

from dataclasses import replace

from experiments.profiles import Profile, Scale
from study.spec import HE, PASS_THROUGH, Recipe, Trial

NAME = "starts"
# Points of training error by which plain-56 from the constructed start may exceed plain-20 and be called no worse.
# Chosen before the first run of this experiment; three seeds of a probe by other code, at 0.2 to 1.6 %, were known.
MARGIN_PCT = 1.0
NOISE = 0.1  # of He's weights, in the constructed start
SCALE = {
    "smoke": Scale(seeds=1, on_request=True),
    "quick": Scale(seeds=6),
    "class": Scale(seeds=5),
    "one-gpu": Scale(seeds=5),
    "paper": Scale(seeds=5),
}


def started(recipe: Recipe, start: str, noise: float = 0.0) -> Recipe:
    """The recipe from another start."""
    return replace(recipe, start=start, start_noise=noise)


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    planned = []
    for family, depth in (("plain", 20), ("plain", 56), ("residual", 56)):
        net = profile.model(family, depth)
        planned += profile.trials(net, started(profile.recipe(net), HE), scale.seeds)
    deep = profile.model("plain", 56)
    return planned + profile.trials(deep, started(profile.recipe(deep), PASS_THROUGH, NOISE), scale.seeds)
