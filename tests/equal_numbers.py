"""Whether two checkouts train equal numbers: `python tests/equal_numbers.py OLD NEW [STORE_OF_OLD]`.

Runs every experiment of the smoke profile (classifiers, photographs, detectors) with the code of each folder, and
compares, trial by trial, the SHA-256 of `records.parquet` and that of the final weights. `STORE_OF_OLD` names a store
that OLD has filled before, so that it is not run again. Reads files by their names on disk alone and imports nothing
of either checkout. Exit code 1 if anything differs.
"""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

LIST = "from experiments import EXPERIMENTS, name_of; print(' '.join(map(name_of, EXPERIMENTS)))"


def trained(checkout: Path, store: Path) -> None:
    """Run the smoke profile's trials into `store` with the code of `checkout`."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    names = subprocess.run(
        [sys.executable, "-c", LIST], cwd=checkout, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    command = ["experiments", "run", "--profile", "smoke", "--experiments", names, "--storage", str(store.resolve())]
    subprocess.run([sys.executable, "-m", *command], cwd=checkout, env=environment, check=True)


def digests(store: Path) -> dict[str, tuple[str, str]]:
    """Of each trial: SHA-256 of its records' file, and of the tensors of its net in the newest checkpoint."""
    found = {}
    for folder in sorted((store / "trials").iterdir()):
        records = hashlib.sha256((folder / "records.parquet").read_bytes()).hexdigest()
        newest = max((folder / "checkpoints").glob("*.checkpoint"))
        payload = newest.read_bytes().partition(b"\n")[2]
        net = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)["net"]
        weights = hashlib.sha256()
        for name, tensor in sorted(net.items()):
            weights.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        found[folder.name] = records, weights.hexdigest()
    return found


def main(old: Path, new: Path, store_of_old: Path | None = None) -> int:
    """Print what differs; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        stores = store_of_old or Path(scratch) / "old", Path(scratch) / "new"
        if store_of_old is None:
            trained(old, stores[0])
        trained(new, stores[1])
        before, after = map(digests, stores)
    differing = sorted(id for id in before.keys() | after.keys() if before.get(id) != after.get(id))
    for id in differing:
        print(f"differs: {id}: {before.get(id)} and {after.get(id)}")
    print(f"{len(before.keys() | after.keys()) - len(differing)} trials have equal records and weights")
    return 1 if differing or not before else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(main(*map(Path, sys.argv[1:])))
