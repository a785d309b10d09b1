"""How often verdicts are right: planted studies of which the truth is known, through the same functions as real ones.

Null studies have equal nets, so every verdict is wrong: how many have one in the family of degradation claims, which
Holm's correction is to keep at 5 %. In the others plain-56 is worse than plain-20 by so many standard deviations of a
seed: how often claim S1-1 is supported, and how often contradicted. Two depths of quick's nets, noise of one point.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product, repeat
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import frames

from analysis import claims
from analysis.comparisons import CONTRADICTED, SUPPORTED
from analysis.verdicts import evaluate
from experiments.profiles import QUICK, Profile
from study.spec import Trial

STUDIES = int(os.environ.get("STUDIES", "1000"))
SEEDS = (3, 5)
EFFECTS = (2.0, 4.0)  # standard deviations of a seed; a paired difference has the square root of 2 of them
LEVEL_PCT = 30.0  # of errors, far from 0, where noise would be cut off


def study(number: int, seeds: int) -> Profile:
    """The profile with other ids, hence other noise, for each number."""
    small = replace(
        QUICK,
        depths=(20, 56),
        shortcut_depths=(),
        deep_depths=(),
        rate_nets=(),
        shuffled_nets=(),
        recipe=lambda model: replace(QUICK.recipe(model), record_every=180, evaluate_every=360),
    )
    return small.with_data(replace(QUICK.data, digest=str(number))).with_seeds(seeds)


def verdicts(number: int, seeds: int, effect: float) -> dict[str, str]:
    """The verdicts on one planted study, by claim."""
    profile = study(number, seeds)

    def error(trial: Trial) -> float:
        return LEVEL_PCT + effect * (trial.model.family == "plain" and trial.model.depth == 56)

    found = frames(profile, error=error, test_error=error, noise=1.0, response=lambda trial: 1.0)
    return {entry["id"]: entry["verdict"] for entry in evaluate(found, profile)}


def main() -> None:
    # S1-4 is true of any net that learns, and S42-3 speaks of 110 layers
    family = [name for name in claims.FAMILIES["degradation"] if name not in ("S1-4", "S42-3")]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor() as pool:
        for seeds, effect in product(SEEDS, (0.0, *EFFECTS)):
            found = list(pool.map(verdicts, range(STUDIES), repeat(seeds), repeat(effect), chunksize=10))
            decided = [any(each[name] in (SUPPORTED, CONTRADICTED) for name in family) for each in found]
            rows.append(
                {
                    "seeds": seeds,
                    "effect (sd of a seed)": effect,
                    "S1-1 supported %": 100 * sum(each["S1-1"] == SUPPORTED for each in found) / STUDIES,
                    "S1-1 contradicted %": 100 * sum(each["S1-1"] == CONTRADICTED for each in found) / STUDIES,
                    "any wrong verdict in the family %": "" if effect else 100 * sum(decided) / STUDIES,
                }
            )
    common.write("verdicts", f"{STUDIES:,} planted studies a row, Holm within the family", rows)


if __name__ == "__main__":
    main()
