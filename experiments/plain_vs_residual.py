"""Does training error rise with depth in plain nets, and do residual nets cure it?

Paper: Figs. 1 and 6 (left, middle), Table 6; Sec. 1 and 4.2. Claims S1-1 to S1-5, S3-1, S41-14, S42-1 to S42-6, S42-10
(S42-6 is the sixth of Sec. 4.2: `analysis/paper/claims.yaml`).
Cost: quick, 36 trials of 4 to 20 CPU seconds; paper, 50 trials of 64,000 iterations.
"""

from experiments.profiles import Depths, Profile
from study.spec import Trial

NAME = "plain-vs-residual"
SCALE = {
    "smoke": Depths(depths=(20, 56), seeds=2),
    "quick": Depths(depths=(20, 56, 110), seeds=6),
    "class": Depths(depths=(20, 32, 44, 56, 110), seeds=5),
    "one-gpu": Depths(depths=(20, 32, 44, 56, 110), seeds=5),
    "paper": Depths(depths=(20, 32, 44, 56, 110), seeds=5),
}


def depths(profile: Profile) -> tuple[int, ...]:
    scale = profile.scale(NAME, SCALE)
    return scale.depths if scale else ()


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    nets = [profile.model(family, depth) for family in ("plain", "residual") for depth in scale.depths]
    return [trial for net in nets for trial in profile.trials(net, profile.recipe(net), scale.seeds)]
