"""What is left of the degradation in the long run? Plain nets, and a residual one, to ten times the schedule.

Paper: Sec. 4.1, footnote 3, as `experiments/budget.py`, with which its trials are read.
Cost: quick, 12 trials of 40 CPU seconds to two CPU minutes besides those of plain-vs-residual and budget, on request.
"""

from experiments.budget import BudgetScale, on_schedules
from experiments.profiles import Profile
from study.spec import Trial

NAME = "budget-grid"
_NETS = (("plain", 20), ("plain", 56), ("residual", 56))
SCALE = {
    "smoke": BudgetScale(nets=_NETS[:2], factors=(2.0, 3.0), seeds=1, on_request=True),
    "quick": BudgetScale(nets=_NETS, factors=(4.0, 10.0), seeds=3, on_request=True),
}


def trials(profile: Profile) -> list[Trial]:
    scale = profile.scale(NAME, SCALE)
    return on_schedules(profile, scale) if scale else []
