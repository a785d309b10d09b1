"""Does the degradation survive longer training? Plain nets, and a residual one, on schedules of several lengths.

Paper: Sec. 4.1, footnote 3 (three times the iterations on ImageNet, "suggesting that this problem cannot be feasibly
addressed by simply using more iterations") and the conjecture of exponentially low convergence rates. The gap between
the deeper and the shallower plain net is fitted by g + c T^-k over the lengths T of the schedule: g is what is left of
it in the long run (`analysis/budget.py`); it takes three lengths, which quick has in `experiments/budget_grid.py`.
Cost: quick, six trials of 20 to 50 CPU seconds besides those of plain-vs-residual; one-gpu and paper, 20 trials of a
quarter and of three times the 64,000 iterations.
"""

from dataclasses import dataclass

from experiments.profiles import Nets, Profile
from experiments.recipes import times
from study.spec import Trial

NAME = "budget"
# Points of error of which a gap that stays is more than none. Chosen before the first run of this experiment.
MARGIN_PCT = 0.2


@dataclass(frozen=True, kw_only=True)
class BudgetScale(Nets):
    """`factors`: lengths of the schedule, in units of the profile's, which is trained, too."""

    factors: tuple[float, ...]


_PLAIN = (("plain", 20), ("plain", 56))
SCALE = {
    "smoke": BudgetScale(nets=_PLAIN, factors=(2.0,), seeds=1, on_request=True),
    "quick": BudgetScale(nets=_PLAIN, factors=(4.0,), seeds=3),
    "class": BudgetScale(nets=_PLAIN, factors=(0.25, 3.0), seeds=5),
    "one-gpu": BudgetScale(nets=_PLAIN, factors=(0.25, 3.0), seeds=5),
    "paper": BudgetScale(nets=_PLAIN, factors=(0.25, 3.0), seeds=5),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    return on_schedules(profile, scale) if scale else []


def on_schedules(profile: Profile, scale: BudgetScale) -> list[Trial]:
    """The nets on the profile's own schedule and on those of other lengths."""
    planned = []
    for family, depth in scale.nets:
        net = profile.model(family, depth)
        for factor in (1.0, *scale.factors):
            recipe = profile.recipe(net) if factor == 1 else times(profile.recipe(net), factor)
            planned += profile.trials(net, recipe, scale.seeds)
    return planned
