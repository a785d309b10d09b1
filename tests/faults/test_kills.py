"""Random kills lose and double nothing. The long run is `python tests/faults/kills.py --kills 200 --seed 0`."""

from pathlib import Path

import pytest
from kills import torment


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "seeds"), [(2, 1), (25, 3)])
def test_a_study_whose_processes_are_killed_at_random_ends_with_the_undisturbed_numbers(
    tmp_path: Path, kills: int, seeds: int
) -> None:
    counts = torment(tmp_path, kills, seed=4, seeds=seeds)  # raises for anything lost, doubled or different
    assert counts["kills"] >= kills and counts["studies"] >= 1
