"""Judges many inputs of a kind and counts how they ended. Knows no rules."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import judge
import kinds
from hypothesis import HealthCheck, Phase, given, seed, settings


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
    """Judge so many inputs of a kind, but for those of a template that is not there; none of them ends the run."""
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
        if case.template and case.template not in box.templates:
            return
        ending = box.run(case)
        tally.codes[ending.code] += 1
        tally.slowest = max(tally.slowest, ending.seconds)
        if not ending.faults:
            return
        tally.faults.setdefault(ending.signature, []).append(str(case))
        if log is not None and len(tally.faults[ending.signature]) <= 2:
            with log.open("a", encoding="utf-8", errors="backslashreplace") as out:
                print(f"== {kind}: {ending.signature}\n{case}\n{ending.err[-3000:]}\n", file=out)

    began = time.monotonic()
    one()
    tally.seconds = time.monotonic() - began
    return tally


def shares(inputs: int, names: list[str]) -> dict[str, int]:
    """How many inputs each kind has of so many."""
    parts = {name: kinds.KINDS[name][0] for name in names}
    return {name: max(1, round(inputs * part / sum(parts.values()))) for name, part in parts.items()}
