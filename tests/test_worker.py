"""One trial in its process: what it refuses, how it is profiled."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from study import tracking, worker
from study.launch import launch
from study.spec import Execution, InputError, Trial

Small = Callable[..., Trial]


def test_profiling_a_trial_adds_a_chrome_trace_to_its_run_and_changes_no_record(small: Small, store: Execution) -> None:
    trial, other = small(), small(seed=1)
    tags = {"profile": "test"}
    launch([trial], replace(store, profile_trace="longest"), {trial.id: tags}, lambda *_: None)
    launch([other], replace(store, profile_trace=other.id), {other.id: tags}, lambda *_: None)
    for one in (trial, other):
        (run,) = tracking.read(store, [one])
        assert [file.path for file in tracking.client(store).list_artifacts(run.run_id) if "trace" in file.path]
        trace = json.loads((store.trial_folder(one.id) / "trace.json").read_text())
        assert any("convolution" in event.get("name", "") for event in trace["traceEvents"])
    (profiled,) = tracking.read(store, [trial])
    again = replace(store, storage=store.storage.with_name("again"))
    launch([trial], again, {trial.id: tags}, lambda *_: None)
    (plain,) = tracking.read(again, [trial])
    assert profiled.records is not None and profiled.records.equals(plain.records)


def test_only_a_trial_that_is_still_to_run_can_be_profiled(small: Small, store: Execution) -> None:
    trial = small()
    with pytest.raises(InputError, match="profile-trace 'resnet9000' is no trial that is still to run"):
        launch([trial], replace(store, profile_trace="resnet9000"), {trial.id: {}}, lambda *_: None)


def test_what_the_machine_lacks_is_refused_before_anything_runs(
    small: Small, store: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, started = small(), []
    monkeypatch.setenv("CXX", "no-such-compiler")
    for wrong, message in (
        ({"memory_gib": 1e6}, "memory-gib 1000000.0 is more than the"),
        ({"compile": True, "device": "cpu"}, "'no-such-compiler' is not found"),
    ):
        with pytest.raises(InputError, match=message):
            launch([trial], replace(store, **wrong), {trial.id: {}}, lambda todo, _: started.append(todo))
    for wrong in ({"gpus_per_trial": -1.0}, {"memory_gib": float("inf")}):
        with pytest.raises(InputError, match="must be 0 \\(as measured\\) or more, and memory-gib"):
            replace(store, **wrong)
    assert not started and not (store.storage / "trials").exists()


def test_a_folder_of_another_specification_is_refused(small: Small, store: Execution) -> None:
    trial = small()
    folder = store.trial_folder(trial.id)
    folder.mkdir(parents=True)
    Path(folder / "spec.json").write_text("{}")
    with pytest.raises(InputError, match="holds another specification"):
        worker.run_trial(trial, store, {"profile": "test"})
