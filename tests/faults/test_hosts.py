"""Faults over three hosts lose and double nothing.

The long run is `python tests/faults/hosts.py --faults 100 --seed 0`.
"""

import tempfile
from pathlib import Path

import pytest
from hosts import missing, torment

KINDS = ("cut", "slow", "checkpoint", "worker_gone", "launcher", "postgres", "head_gone", "tracking_gone")


@pytest.mark.slow
def test_a_study_over_three_hosts_ends_with_the_undisturbed_numbers_whatever_fails() -> None:
    if reason := missing():
        pytest.skip(reason)  # namespaces, PostgreSQL's programs or its user are not on this machine
    with tempfile.TemporaryDirectory(prefix="hosts-", dir="/var/tmp") as folder:  # short: Ray puts sockets there
        Path(folder).chmod(0o755)  # PostgreSQL's user enters it
        counts = torment(Path(folder), len(KINDS), seed=1, seeds=3, kinds=KINDS)
    assert counts["faults"] == len(KINDS) and counts["studies"] >= 1
