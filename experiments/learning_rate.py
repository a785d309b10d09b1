"""Does the effect hang on the learning rate? The paper's own 0.1 from the first iteration, without warm-up.

Paper: Sec. 4.2 and footnote 5. Claim S42-8 (paper profile); in the quick profile, whose recipe is slower, a check
that plain nets degrade at the paper's rate as well.
Cost: quick, on request, three trials of 4 to 15 CPU seconds.
"""

from experiments.profiles import Nets, Profile
from experiments.recipes import at_paper_rate
from study.spec import Trial

NAME = "learning-rate"
SCALE = {
    "smoke": Nets(nets=(("plain", 20),), seeds=1),
    "quick": Nets(nets=(("plain", 20), ("plain", 56), ("residual", 20)), seeds=1, on_request=True),
    "class": Nets(nets=(("residual", 110),), seeds=5),
    "one-gpu": Nets(nets=(("residual", 110),), seeds=5),
    "paper": Nets(nets=(("plain", 110), ("residual", 110)), seeds=5),
}


def nets(profile: Profile) -> tuple[tuple[str, int], ...]:
    """(family, depth) of what is trained at the paper's rate."""
    scale = profile.scale(NAME, SCALE)
    return scale.nets if scale else ()


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    models = [profile.model(family, depth) for family, depth in scale.nets]
    return [
        trial for model in models for trial in profile.trials(model, at_paper_rate(profile.recipe(model)), scale.seeds)
    ]
