"""A long run in short: nothing that a launch starts grows with its trials. `make bench BENCH=soak` is the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRIALS = 120
GROWS_KB = 60  # a trial, at most: half of them are the warm-up of allocators and caches


@pytest.mark.slow
def test_files_threads_and_memory_are_flat_over_short_trials(tmp_path: Path) -> None:
    environment = {**os.environ, "SOAK": str(TRIALS), "SOAK_FOLDER": str(tmp_path)}
    subprocess.run([sys.executable, ROOT / "tests/benchmarks", "soak"], cwd=tmp_path, env=environment, check=True)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert samples[-1]["trials"] == TRIALS
    under_way = [sample for sample in samples if TRIALS / 2 <= sample["trials"] < TRIALS]
    first, last = under_way[0], under_way[-1]
    trials = max(1, last["trials"] - first["trials"])
    watched = {name for name in first["processes"] if name in last["processes"] and not name.startswith("rendering")}
    assert {"launcher", "Ray's driver", "raylet", "worker"} <= {name.rpartition(" ")[0] for name in watched}
    for name in watched:
        before, after = first["processes"][name], last["processes"][name]
        assert after["files"] <= before["files"] + 10 and after["threads"] <= before["threads"] + 10, name
        assert 1e3 * (after["own"] - before["own"]) <= GROWS_KB * trials, (name, before, after)
