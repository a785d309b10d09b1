"""A study whose storage is an S3 bucket: it runs on Ray, is killed, goes on, and waits while the bucket refuses."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from common import (
    ROOT,
    TRIALS,
    Processes,
    Results,
    Study,
    complete_and_equal,
    execution_of,
    free_port,
    go_on,
    stop,
    wait_for,
    worker_of,
)

from study.execution import Execution
from study.store import atomic
from study.store.account import read_account
from study.training.checkpoints import newest_iteration

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow
Start = Callable[..., Study]


@pytest.fixture(scope="module")
def refuse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that makes the bucket refuse while it is there."""
    folder, port = tmp_path_factory.mktemp("bucket"), free_port()
    address, refuse = f"http://127.0.0.1:{port}", folder / "refuse"
    server = Processes([sys.executable, ROOT / "tests/faults/bucket.py", port, refuse], folder / "log")

    def answers() -> bool:
        try:
            return requests.get(address, timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_for(answers, "the bucket's server answers")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", address)
            environment.setenv("AWS_ACCESS_KEY_ID", "study")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "study")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            files = atomic.place("s3://studies").fs  # type: ignore[attr-defined]
            type(files).clear_instance_cache()  # of another test's server
            atomic.place("s3://studies").fs.mkdir("studies")  # type: ignore[attr-defined]
            yield refuse
    finally:
        server.kill_all()


def training(execution: Execution, least: int = 30) -> bool:
    """Whether both trials have kept a checkpoint past iteration `least` and are not over."""
    folders = [execution.trial_folder(trial.id) for trial in TRIALS]
    return all(
        newest_iteration(folder / "checkpoints") > least and read_account(folder).outcome == "running"
        for folder in folders
    )


def test_a_study_in_a_bucket_that_is_killed_goes_on_and_ends_equal(
    refuse: Path, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    url, uri = "s3://studies/killed", f"sqlite:///{tmp_path / 'mlflow.db'}"
    execution = execution_of(url, uri)
    first = start(url, tmp_path / "log-1", "--tracking-uri", uri)
    wait_for(lambda: training(execution), "both train")
    workers = [worker_of(execution, trial) for trial in TRIALS]
    for worker in workers:  # so that they do not end before the other launch has looked long enough
        stop(worker)
    (refused,) = start(url, tmp_path / "log-refused", "--tracking-uri", uri).ends(code=2).splitlines()
    assert "in use by another launch" in refused
    for worker in workers:
        go_on(worker)
    first.kill()
    second = start(url, tmp_path / "log-2", "--tracking-uri", uri)
    second.ends()
    assert complete_and_equal(execution, undisturbed)
    assert first.leave_nothing() and second.leave_nothing()


def test_a_bucket_that_refuses_for_a_while_loses_nothing(
    refuse: Path, tmp_path: Path, start: Start, undisturbed: Results
) -> None:
    url, uri = "s3://studies/refusing", f"sqlite:///{tmp_path / 'mlflow.db'}"
    execution = execution_of(url, uri)
    study = start(url, tmp_path / "log", "--tracking-uri", uri)
    wait_for(lambda: training(execution), "both train")
    refuse.touch()
    wait_for(lambda: "out of reach" in study.output(), "it says so")
    refuse.unlink()
    study.ends()
    assert complete_and_equal(execution, undisturbed)
    assert study.leave_nothing()
