"""What several tests share: a trial of a second, an execution in a temporary folder, one thread, the command line."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from commands.app import main
from experiments.profiles import DIGITS
from experiments.recipes import minutes
from study.execution import Execution
from study.spec import Model, Trial
from study.store import mlflow

LONGEST = ("memory", "launch", "end_to_end", "kills", "nodes", "report", "share", "detection_trials")  # files


def pytest_configure() -> None:
    mlflow.configure()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: a worker that begins one at the end would leave the other without work."""
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> Callable[..., Trial]:
    """An 8-layer net on the digits for 24 iterations; keywords change the recipe, `seed` the seed."""

    def make(family: str = "residual", seed: int = 0, **recipe: Any) -> Trial:
        shortcut = "none" if family == "plain" else "A"
        model = Model.cifar(family=family, block="basic", depth=8, shortcut=shortcut, width=4)
        short = {"iterations": 24, "drops": (16, 20), "record_every": 4, "evaluate_every": 8, "learning_rate": 0.05}
        return Trial(model=model, data=DIGITS, recipe=replace(minutes(model), **(short | recipe)), seed=seed)

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its database and no runs: creating the database takes seconds, copying it none."""
    from study.store.mlflow import client  # after `configure`

    storage = tmp_path_factory.mktemp("template") / "store"
    client.create_store(Execution(storage=storage, data_root=storage))
    return storage


@pytest.fixture
def store(execution: Execution, empty_store: Path) -> Execution:
    shutil.copytree(empty_store, execution.storage)
    return execution


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    return Execution(storage=tmp_path / "store", data_root=tmp_path / "data", local=True)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """The command line in this process: words as they are typed after `python -m ENTRY`."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object, entry: str = "experiments") -> Done:
        monkeypatch.setattr(sys, "argv", [entry, *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main(entry)
        return Done(int(stopped.value.code or 0), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)
