"""`make bench [BENCH=name]`: every benchmark, or one. Results go to results/bench/ as Markdown and JSON."""

import importlib
import sys

NAMES = (
    "throughput",
    "depth",
    "overhead",
    "orchestration",
    "predictions",
    "verdicts",
    "render",
    "page",
    "decode",
    "folder",
    "imagenet",
    "ui",
    "gpu",
    "soak",
)

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"error: benchmark {name!r} is unknown; choose one of {', '.join(NAMES)}")
    importlib.import_module(name).main()
