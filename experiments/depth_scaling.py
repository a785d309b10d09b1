"""How far does depth go? Residual and plain nets of 110 and 1202 layers.

Paper: Fig. 6 (right), Table 6, Sec. 4.2. Claims S42-3, S42-10, S42-15 to S42-19. Plain-110 is expected to stay above
60 % error and plain-1202 to diverge: both are run and recorded as they are, because that is the observation.
Cost: quick, one 1202-layer trial of about three CPU minutes; paper, 1202 layers cost eleven times 110.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "depth-scaling"


def trials(profile: Profile) -> list[Trial]:
    nets = [profile.model(family, depth) for depth in profile.deep_depths for family in ("residual", "plain")]
    return [trial for net in nets for trial in profile.trials(net, profile.deep_recipe(net), profile.deep_seeds)]
