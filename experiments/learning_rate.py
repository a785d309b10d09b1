"""Does the effect hang on the learning rate? The paper's own 0.1 from the first iteration, without warm-up.

Paper: Sec. 4.2 and footnote 5. Claim S42-8 (paper profile); in the quick profile, whose recipe is slower, a check
that plain nets degrade at the paper's rate as well.
Cost: quick, three trials of 4 to 15 CPU seconds.
"""

from experiments.profiles import Profile
from experiments.recipes import at_paper_rate
from study.spec import Trial

NAME = "learning-rate"


def trials(profile: Profile) -> list[Trial]:
    nets = [profile.model(family, depth) for family, depth in profile.rate_nets]
    return [
        trial for net in nets for trial in profile.trials(net, at_paper_rate(profile.recipe(net)), profile.rate_seeds)
    ]
