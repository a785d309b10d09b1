"""Claims about the named random streams."""

import torch

from study.seeds import generator


def test_random_numbers_never_change() -> None:
    # Golden: made by this module's first version. Other numbers mean other batches and weights: raise PROTOCOL.
    assert generator(0, "weights", "fc").initial_seed() == 5905409127210222413
    assert torch.randperm(10, generator=generator(0, "order", 0)).tolist() == [1, 6, 0, 8, 7, 9, 5, 3, 2, 4]
    assert torch.randint(9, (8,), generator=generator(1, "augment", 7)).tolist() == [6, 7, 2, 6, 7, 2, 8, 4]


def test_keys_are_told_apart() -> None:
    seeds = {generator(*keys).initial_seed() for keys in [(0, "order", 1), (0, "order", 11), (1, "order", 1)]}
    assert len(seeds) == 3
