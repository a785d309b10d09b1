"""Named random streams: every draw of the study is a function of its name, so no generator state is ever saved."""

import hashlib

import torch


def generator(*keys: object) -> torch.Generator:
    """A CPU generator for the keys joined by '/', the same on every machine: `generator(seed, "weights", name)`."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
