"""What a step counts on the device: updates, the sums for the next record, the end of a warm-up, divergence.

Owns these tensors and how one update changes them, without the host. They are of one trial or, with one more dimension
in front, of the members of a cohort. Knows no net.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from study.spec import Recipe
from study.training.learning_rate import WARMUP_ERROR_PCT, WARMUP_WINDOW

NOT_YET = -1


@dataclass
class Counts:
    """Of one trial; of a cohort, each shape has its members in front."""

    updates: Tensor  # int64 []
    window: Tensor  # float64 [summed]: what the loss returns of each batch, since the last record
    first_bad: Tensor  # int64 []: the first update whose loss was not finite, or NOT_YET
    rate: Tensor  # float64 []: the learning rate that the host set for the next update, once a warm-up has ended
    warmed_at: Tensor  # int64 []: the update after which a threshold warm-up ended, or NOT_YET
    wrong: Tensor  # int64 [WARMUP_WINDOW]: misclassified images of the last batches, that of update u at (u - 1) % size

    @classmethod
    def new(cls, summed: int, device: torch.device) -> "Counts":
        """Before the first update, with so many sums."""

        def whole(value: int, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=device)

        return cls(
            updates=whole(0),
            window=torch.zeros(summed, dtype=torch.float64, device=device),
            first_bad=whole(NOT_YET),
            rate=torch.zeros((), dtype=torch.float64, device=device),
            warmed_at=whole(NOT_YET),
            wrong=whole(NOT_YET, WARMUP_WINDOW),
        )

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def learning_rate(self, recipe: Recipe) -> Tensor:
        """That of the next update, float64 []."""
        if recipe.warmup != "threshold":
            return self.rate
        return torch.where(self.warmed_at == NOT_YET, recipe.warmup_learning_rate, self.rate)

    def add(self, summed: Tensor, recipe: Recipe, wrong: int | None) -> None:
        """Count an update that `summed` [summed] comes from; `wrong` is where it has the misclassified images."""
        self.updates.add_(1)
        self.window.add_(summed)
        bad = ~torch.isfinite(summed.sum(-1)) & (self.first_bad == NOT_YET)
        self.first_bad.copy_(torch.where(bad, self.updates, self.first_bad))
        if recipe.warmup == "threshold" and wrong is not None:
            self._watch_warm_up(summed[..., wrong], recipe)

    def _watch_warm_up(self, wrong: Tensor, recipe: Recipe) -> None:
        """End a threshold warm-up where the net learns, or at its limit.

        In integers, so that the CPU and a GPU cannot differ: the mean training error of the window is below the
        threshold.
        """
        place = (self.updates - 1).remainder(WARMUP_WINDOW).unsqueeze(-1)
        self.wrong.scatter_(-1, place, wrong.to(torch.int64).unsqueeze(-1))
        full = (self.wrong != NOT_YET).all(-1)
        learned = full & (100 * self.wrong.sum(-1) < int(WARMUP_ERROR_PCT * WARMUP_WINDOW * recipe.batch))
        ends = (learned | (self.updates >= recipe.warmup_iterations)) & (self.warmed_at == NOT_YET)
        self.warmed_at.copy_(torch.where(ends, self.updates, self.warmed_at))


def stack(members: Sequence[Counts]) -> Counts:
    """The counts of a cohort; those of its members become views of them."""
    together = Counts(*(torch.stack(tensors) for tensors in zip(*(one.tensors() for one in members), strict=True)))
    for index, one in enumerate(members):
        for field in fields(Counts):
            setattr(one, field.name, getattr(together, field.name)[index])
    return together
