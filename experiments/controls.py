"""Do verdicts come out where there is nothing to find? A net against itself, and nets that learn shuffled labels.

A/A: the shallowest plain and residual net with twice the profile's seeds. The first half are plain-vs-residual's own
trials; no other experiment has the second half. Shuffled labels: whatever a net learns of them, its test error is at
chance, and no net is better than another. Paper: not in it; a check of the tests behind every claim
(`analysis/controls.py`).
Cost: quick, 15 trials of 4 to 10 CPU seconds besides those of plain-vs-residual; paper, 30 of 64,000 iterations.
"""

from dataclasses import replace

from experiments.profiles import Profile
from study.spec import Trial

NAME = "controls"


def trials(profile: Profile) -> list[Trial]:
    found = []
    for family in ("plain", "residual"):
        net = profile.model(family, min(profile.depths))
        found += profile.trials(net, profile.recipe(net), 2 * profile.seeds)
    shuffled = profile.with_data(replace(profile.data, labels="shuffled"))
    for family, depth in profile.shuffled_nets:
        net = profile.model(family, depth)
        found += shuffled.trials(net, profile.recipe(net), profile.seeds)
    return found
