"""What the benchmarks share: the trial they time, and how a result is written. Without torch, as the launcher is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.profiles import PAPER
from experiments.recipes import whole_batch_norm
from study.spec import Trial
from study.store import provenance

BATCH = 128
OUT = Path("results/bench")


def trial(depth: int, precision: str, family: str = "residual") -> Trial:
    """A net of this depth, width 16, on 32x32 colour images in batches of 128."""
    from study.data.arrays import describe  # not above: torch would come with it

    model = PAPER.model(family, depth)
    data = replace(describe("synthetic", Path()), channels=3, size=32, classes=10, padding=4, flip=True)
    recipe = whole_batch_norm(model)
    recipe = replace(recipe, precision=precision, warmup="none", warmup_learning_rate=0.0, warmup_iterations=0)
    return Trial(model=model, data=data, recipe=recipe, seed=0)


def write(name: str, about: str, rows: list[dict[str, Any]]) -> None:
    """Write and print results/bench/<name>.json and .md: the rows, and where and by what they were measured."""
    where = {"command": f"make bench BENCH={name}", **provenance.tags()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows, **where}, indent=2) + "\n")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [about, "", "; ".join(f"{key}: {value}" for key, value in where.items()), ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    (OUT / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
