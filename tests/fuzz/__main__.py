"""`make fuzz FUZZ=20000`: inputs of every kind, and a table of how they ended. Exit code 1 if one did as it must not.

`python tests/fuzz INPUTS [--seed N] [--kinds "a, b"] [--log FILE]`. The same seed gives the same inputs.
"""

import argparse
import gc
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import judge  # noqa: E402
import kinds  # noqa: E402
import templates  # noqa: E402
from sweep import HEADS, fuzz, shares  # noqa: E402


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
