"""What the tests on a GPU share. `TEST_DEVICE=cpu` runs their logic where there is none: nothing is captured there."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from study.execution import Execution
from study.run.machine import set_up_torch
from study.training import memory

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cuda"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and DEVICE.type == "cuda" and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU that PyTorch can use"))


@pytest.fixture
def device(execution: Execution) -> Iterator[torch.device]:
    """The device, with deterministic kernels and fp32 as in a worker."""
    set_up_torch(execution)
    yield DEVICE
    memory.release(DEVICE)


@pytest.fixture
def gpu_store(store: Execution) -> Execution:
    return replace(store, device=DEVICE.type)
