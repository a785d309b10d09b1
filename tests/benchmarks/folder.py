"""A folder of small images, by the first worker of a machine, and by others beside it.

The first hashes and decodes all files; a second one finds their digest kept and maps the arrays; a third hashes the
files again, as all did before digests were kept. Each is a process of its own, timed from after its imports to a loaded
data set; the first describes the folder, too, as a launcher does for its workers. Own memory is what the loading adds
to the process's pages that no other shares.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

from study.data.cache import COARSEST_CLOCK

IMAGES, SIZE, CLASSES = int(os.environ.get("IMAGES", "6000")), 32, 10
WORKER = """
import dataclasses, json, sys, time
from pathlib import Path
import psutil
from study.data import arrays
from study.spec import Data

root, process = Path(sys.argv[1]), psutil.Process()
arrays.load(arrays.describe("synthetic", root), root)  # what a process loads once is loaded
memory, started = process.memory_full_info().uss, time.perf_counter()
fields = json.loads(sys.argv[2])
spec = Data(**fields | {"scales": tuple(fields["scales"])}) if fields else arrays.describe("folder:bench", root)
data = arrays.load(spec, root)
print(time.perf_counter() - started, process.memory_full_info().uss - memory, json.dumps(dataclasses.asdict(spec)))
sys.stdout.flush()
sys.stdin.read()  # stays, so that others share memory with it
"""


def make(root: Path) -> None:
    """JPEGs of one colour and some noise: root/bench/CLASS/NUMBER.jpg."""
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        path = root / "bench" / str(number % CLASSES) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 200, 3) + random.integers(0, 56, (SIZE, SIZE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
    time.sleep(1.5 * COARSEST_CLOCK / 1e9)  # the digest of files that have just changed is not kept


def main() -> None:
    rows: list[dict[str, Any]] = []
    workers: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        spec = "{}"
        try:
            for worker in ("first", "second", "second, its digest not kept"):
                if "not kept" in worker:
                    (root / ".cache" / "bench-files.json").unlink()
                command = [sys.executable, "-c", WORKER, str(root), spec]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                workers.append(process)
                assert process.stdout
                seconds, memory, spec = process.stdout.readline().split(maxsplit=2)
                rows.append({"worker": worker, "seconds": float(seconds), "own MiB": float(memory) / 2**20})
        finally:
            for process in workers:
                process.communicate()
    for row in rows:
        row["share of the first's seconds"] = row["seconds"] / rows[0]["seconds"]
    size = IMAGES * SIZE * SIZE * 3 / 2**20
    common.write("folder", f"{IMAGES:,} JPEGs of {SIZE}x{SIZE}, {size:.0f} MiB when decoded", rows)
