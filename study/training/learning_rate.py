"""The learning rate of every update: warm-up, drops, plateaus, cosine. Pure functions of a recipe and the iteration."""

import math
from collections.abc import Sequence

from study.spec import Recipe
from study.tasks.task import Record

WARMUP_WINDOW = 50  # batches over which the running training error that ends a warm-up is taken
WARMUP_ERROR_PCT = 80.0  # Sec. 4.2


def learning_rate(recipe: Recipe, iteration: int, warmed_at: int | None, plateaus: Sequence[int] = ()) -> float:
    """Learning rate of the update after `iteration` updates.

    `warmed_at`: the first update after warm-up, if known. `plateaus`: where schedule 'plateau' has dropped the rate.
    """
    if warmed_at is None or iteration < warmed_at:
        return recipe.warmup_learning_rate
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * iteration / recipe.iterations)) / 2
    divisor: int = 10 ** sum(iteration >= drop for drop in (*recipe.drops, *plateaus))
    return recipe.learning_rate / divisor


def reached_plateau(recipe: Recipe, records: Sequence[Record], plateaus: Sequence[int]) -> bool:
    """Whether `patience` records came without a new least running training error since that, and since the last drop.

    The paper drops the rate 'when the error plateaus' (Sec. 3.4), and does not say which, nor how it is seen.
    """
    least = min(records, key=lambda record: record["train_error_pct"])
    since = max([least["iteration"], *plateaus])
    waited = sum(1 for record in records if record["iteration"] > since)
    return waited >= recipe.patience
