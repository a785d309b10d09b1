"""What the experiments plan, and that it stays what it was."""

import hashlib

import pytest

from experiments import EXPERIMENTS, name_of, planned
from experiments.profiles import profile

# SHA-256 over the sorted ids of every trial of every experiment, computed by commit 1688b7b.
PLANS = {
    "smoke": "678757da66879091be405032148fce8895feee0b5b8251a108d524882be7d153",
    "quick": "a8e1a973f1bdffc3f1f7d4784810a5110b1cc542641dda0613716dbdf5cf3915",
    "class": "f008e2fe3856faa6ab55c7d25673e25b5a1aa872730a9c7b385301742403f6ec",
    "paper": "fe7266b2f7460fe4bd1c5a7d793ec9396da78af22c790555fd41f96400575ac4",
}


@pytest.mark.parametrize("name", PLANS)
def test_plans_never_change_without_raising_schema_or_protocol(name: str) -> None:
    """A difference means that logged studies no longer belong to their profile."""
    ids = sorted(trial.id for trial in planned(profile(name), map(name_of, EXPERIMENTS)))
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == PLANS[name]
