"""A share of `make fuzz`: always the same inputs, of kinds for which neither MLflow nor training is needed."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import judge
import pytest
import templates
from sweep import fuzz

KINDS = ("experiments", "specifications", "store files", "measurements", "VOC", "COCO")
INPUTS = 12  # of each kind
PRECIOUS = "../home/precious"  # outside of what an input may change


def test_generated_inputs_end_as_commands_must(tmp_path: Path) -> None:
    with judge.sandboxes({"folders": templates.folders(tmp_path / "folders")}) as box:
        tallies = [fuzz(kind, INPUTS, 0, box) for kind in KINDS]
    assert {tally.kind: tally.faults for tally in tallies if tally.faults} == {}
    assert all(sum(tally.codes.values()) > INPUTS / 2 for tally in tallies)


def divide() -> None:
    print(1 // 0)


def overwrite() -> None:
    Path(PRECIOUS).write_text("changed")


def remove() -> None:
    Path(PRECIOUS).unlink()


def remove_unheard() -> None:
    ctypes.CDLL(None).unlink(PRECIOUS.encode())


def die() -> None:
    os._exit(7)


def refuse_without_a_word() -> None:
    sys.exit(2)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (divide, "traceback: ?: ZeroDivisionError"),
        (overwrite, "writes outside: {root}/home/precious"),
        (remove, "writes outside: {root}/home/precious"),
        (remove_unheard, "changed: home/precious"),
        (die, "exit code 7"),
        (refuse_without_a_word, "code 2 without one clear line"),
    ],
)
def test_the_judge_sees(call: Callable[[], None], fault: str) -> None:
    with judge.sandboxes() as box:
        assert any(one.startswith(fault) for one in box.run(judge.Case(call=call)).faults)
