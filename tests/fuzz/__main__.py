"""`make fuzz FUZZ=20000`: inputs of every kind, and a table of how they ended. Exit code 1 if one did as it must not.

`python tests/fuzz INPUTS [--seed N] [--kinds "a, b"] [--log FILE]`. The same seed gives the same inputs.
"""

import argparse
import gc
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import judge  # noqa: E402
import kinds  # noqa: E402
import templates  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402


@dataclass
class Tally:
    """How the inputs of a kind ended."""

    kind: str
    codes: Counter[int] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)  # by signature, the inputs
    slowest: float = 0.0
    seconds: float = 0.0

    @property
    def row(self) -> tuple[str, ...]:
        inputs = sum(self.codes.values())
        faults = sum(map(len, self.faults.values()))
        counts = (inputs, self.codes[0], self.codes[2], self.codes[1], self.codes[130], faults)
        return self.kind, *map(str, counts), f"{self.slowest:.1f}", f"{self.seconds:.0f}"


HEADS = ("kind", "inputs", "code 0", "refused (2)", "code 1", "stopped (130)", "faults", "slowest s", "s")


def fuzz(kind: str, inputs: int, number: int, box: judge.Sandbox, log: Path | None = None) -> Tally:
    """Judge so many inputs of a kind; none of them ends the run."""
    tally = Tally(kind)
    _, strategy = kinds.KINDS[kind]

    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy())
    def one(case: judge.Case) -> None:
        ending = box.run(case)
        tally.codes[ending.code] += 1
        tally.slowest = max(tally.slowest, ending.seconds)
        if not ending.faults:
            return
        tally.faults.setdefault(ending.signature, []).append(str(case))
        if log is not None and len(tally.faults[ending.signature]) <= 2:
            with log.open("a") as out:
                print(f"== {kind}: {ending.signature}\n{case}\n{ending.err[-3000:]}\n", file=out)

    began = time.monotonic()
    one()
    tally.seconds = time.monotonic() - began
    return tally


def shares(inputs: int, names: list[str]) -> dict[str, int]:
    """How many inputs each kind has of so many."""
    parts = {name: kinds.KINDS[name][0] for name in names}
    return {name: max(1, round(inputs * part / sum(parts.values()))) for name, part in parts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--log", type=Path, help="A file for each fault's input and output.")
    parser.add_argument("--study", type=Path, help="A trained template, which is kept: saves half a minute.")
    chosen = parser.parse_args()
    names = [name.strip() for name in chosen.kinds.split(",") if name.strip()] or list(kinds.KINDS)
    tallies = []
    with judge.sandboxes() as box:
        box.templates = {"folders": templates.folders(box.folder / "folders"), "study": chosen.study}
        if not chosen.study or not chosen.study.exists():
            box.templates["study"] = templates.study(chosen.study or box.folder / "study")
        templates.warm()
        gc.freeze()  # a fork then copies fewer pages
        for name, count in shares(chosen.inputs, names).items():
            tallies.append(fuzz(name, count, chosen.seed, box, chosen.log))
            print(f"{name}: {tallies[-1].row}", file=sys.stderr, flush=True)
    print(f"seed {chosen.seed}")
    for row in (HEADS, *(tally.row for tally in tallies)):
        print("  ".join(cell.ljust(14) if place == 0 else cell.rjust(13) for place, cell in enumerate(row)))
    for tally in tallies:
        for signature, cases in tally.faults.items():
            print(f"\n{tally.kind}, {len(cases)} times: {signature}\n  {cases[0][:1500]}")
    return 1 if any(tally.faults for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
