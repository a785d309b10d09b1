"""Do verdicts come out where there is nothing to find? A net against itself, and nets that learn shuffled labels.

A/A: the shallowest plain and residual net with twice the seeds of the shuffled nets. They are plain-vs-residual's own
trials, as far as it has so many. Shuffled labels: whatever a net learns of them, its test error is at chance, and no
net is better than another. Paper: not in it; a check of the tests behind every claim (`analysis/controls.py`).
Cost: quick, 15 trials of 4 to 10 CPU seconds besides those of plain-vs-residual; paper, 30 of 64,000 iterations.
"""

from dataclasses import replace

from experiments import plain_vs_residual
from experiments.profiles import Nets, Profile
from study.spec import Trial

NAME = "controls"
SCALE = {  # nets that are trained on shuffled labels
    "smoke": Nets(nets=(("plain", 20), ("residual", 20)), seeds=2),
    "quick": Nets(nets=(("plain", 20), ("plain", 56), ("residual", 20)), seeds=3),
    "class": Nets(nets=(("plain", 20), ("plain", 56), ("residual", 20)), seeds=5),
    "one-gpu": Nets(nets=(("plain", 20), ("residual", 20)), seeds=5),
    "paper": Nets(nets=(("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)), seeds=5),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    if not scale:
        return []
    planned = []
    for depth in sorted(plain_vs_residual.depths(profile))[:1]:
        for family in ("plain", "residual"):
            net = profile.model(family, depth)
            planned += profile.trials(net, profile.recipe(net), 2 * scale.seeds)
    shuffled = profile.with_data(replace(profile.data, labels="shuffled"))
    for family, depth in scale.nets:
        net = profile.model(family, depth)
        planned += shuffled.trials(net, profile.recipe(net), scale.seeds)
    return planned
