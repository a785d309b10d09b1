"""The numbers themselves: one trial of the smoke profile against what it gave when this file was written.

Without it, all numbers could drift together, and every comparison of one run with another would still hold.
"""

import json
import platform

import pandas as pd
import pytest
import torch

from experiments import planned
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run.worker import run_trial

# `python -m experiments run --profile smoke` at commit 1688b7b: torch 2.14.1, one thread, "AMD EPYC" with AVX-512.
TRIAL = "resnet56A-digits-2d6fb71a64-s0"
RECORDS_SHA256 = "f745f1b6e289741227a89cfcd7ae9c06ece2964e662bd18cc7cccf042f181bc2"
LAST = {
    "iteration": 6,
    "learning_rate": 0.0005,
    "train_loss": 2.9816890954971313,
    "train_error_pct": 81.25,
    "clean_train_loss": 9.054878972849252,
    "clean_train_error_pct": 89.00487125956855,
    "test_loss": 9.253518337673611,
    "test_error_pct": 89.72222222222223,
}


def is_the_machine_of_the_golden_number(machine: str) -> bool:
    """Other processors and versions of torch order their sums differently."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (
        machine.endswith("AMD EPYC")
        and avx512
        and torch.__version__.startswith("2.14.1")
        and platform.system() == "Linux"
    )


def test_a_smoke_trial_gives_the_numbers_that_it_always_gave(execution: Execution) -> None:
    """To rounding everywhere, and to the bit on the processor and the torch of the golden number."""
    (trial,) = (trial for trial in planned(SMOKE) if trial.id == TRIAL)
    assert run_trial(trial, execution, {}) == "finished"
    folder = execution.storage / "trials" / TRIAL
    last = pd.read_parquet(folder / "records.parquet").iloc[-1]
    assert last[list(LAST)].to_dict() == pytest.approx(LAST, rel=0.02)
    tags = json.loads((folder / "run.json").read_text())["tags"]
    if is_the_machine_of_the_golden_number(tags["machine"]):
        assert tags["records_sha256"] == RECORDS_SHA256
