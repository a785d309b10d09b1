"""How do gradients grow through nets before any training? Many initial seeds, each for one iteration.

Paper: Sec. 4.1, "we also verify that the backward propagated gradients exhibit healthy norms with BN". Claim S41-4,
whose part on the start of training takes these nets where they were run. Layers are measured before the first update.
Cost: quick, 192 trials of less than a CPU second, on request.
"""

from dataclasses import replace

from experiments import plain_vs_residual
from experiments.profiles import Profile, Scale
from study.spec import Recipe, Trial

NAME = "initial-layers"
SCALE = {
    "smoke": Scale(seeds=2, on_request=True),
    "quick": Scale(seeds=32, on_request=True),
    "class": Scale(seeds=32, on_request=True),
    "one-gpu": Scale(seeds=32, on_request=True),
    "paper": Scale(seeds=32, on_request=True),
}


def once(recipe: Recipe) -> Recipe:
    """The recipe's first iteration."""
    return replace(recipe, iterations=1, drops=(), record_every=1, evaluate_every=1)


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    depths = plain_vs_residual.depths(profile)
    nets = [profile.model(family, depth) for family in ("plain", "residual") for depth in depths]
    return [trial for net in nets for trial in profile.trials(net, once(profile.recipe(net)), scale.seeds)]
