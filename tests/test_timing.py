"""A probe times a condition on this machine, once for all its seeds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.execution import Execution
from study.run import timing
from study.run.timing import Probe
from study.spec import Trial

Small = Callable[..., Trial]


def probed(trial: Trial, execution: Execution, **more: Any) -> Probe:
    """A probe of this trial, or of its cohort: 0.1 s an update, 1 s the first one, 2 s an evaluation, 5 s the last."""
    condition, machine, device, threads, torch, python, captured, deterministic, cohort = timing.key(trial, execution)
    measured: dict[str, Any] = {
        **{"condition": condition, "machine": machine, "device": device, "threads": threads},
        **{"torch": torch, "python": python, "updates": 9, "first_seconds": 1.0, "update_seconds": 0.1},
        **{"captured": captured, "deterministic": deterministic, "cohort": cohort},
        **{"evaluation_seconds": 2.0, "last_evaluation_seconds": 5.0, "memory_bytes": 2**30, "diverged_at": None},
    }
    return Probe(**(measured | more))


@pytest.mark.slow
def test_the_probe_of_a_net_is_measured_once_for_all_its_seeds(
    execution: Execution, small: Small, tmp_path: Path
) -> None:
    work = [(small(seed=seed), execution) for seed in range(3)] + [(small("plain"), execution)]
    lacking = timing.lacking(work, tmp_path)
    assert [trial.condition for trial, _ in lacking] == [small().condition, small("plain").condition]
    timing.measure_all(lacking, tmp_path, 2)
    assert timing.lacking(work, tmp_path) == []
    residual, plain = (timing.load(tmp_path)[timing.key(*each)] for each in lacking)
    for found in (residual, plain):
        assert found.updates > timing.UPDATES and found.diverged_at is None and found.device == "cpu"
        assert 0 < found.update_seconds < found.last_evaluation_seconds <= found.evaluation_seconds + 1e-9
        assert 0 < found.memory_bytes < 200 * 2**20
    assert residual.seconds(small().recipe) > 23 * residual.update_seconds


def test_a_probe_sees_a_net_diverge(execution: Execution, small: Small) -> None:
    wild = small("plain", learning_rate=1e30)
    found = timing.measure(wild, execution)
    assert found.diverged_at is not None and found.seconds(wild.recipe) < probed(wild, execution).seconds(wild.recipe)


def test_seeds_that_train_together_are_probed_together(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "AT_LEAST_SECONDS", 0.2)
    trial, four = small(batch=128, bn_batch=128), replace(execution, cohort=4)
    alone, together = timing.measure(trial, execution), timing.measure(trial, four)
    assert (together.cohort, together.key) == (4, timing.key(trial, four))
    assert alone.update_seconds < together.update_seconds
    timing.save(execution.storage, [alone])
    assert timing.lacking([(trial, execution), (trial, four)], execution.storage) == [(trial, four)]


def test_a_member_takes_its_share_of_updates_and_its_own_evaluations(execution: Execution, small: Small) -> None:
    together = probed(small(), replace(execution, cohort=4))
    assert together.seconds(small().recipe) == pytest.approx((1 + 23 * 0.1) / 4 + 2 * 2 + 5)
    assert replace(together, diverged_at=3).seconds(small().recipe) == pytest.approx(1.2 / 4)


def test_a_cohort_has_diverged_when_all_its_members_have(execution: Execution, small: Small) -> None:
    wild = timing.measure(small("plain", learning_rate=1e30), replace(execution, cohort=2))
    assert wild.diverged_at is not None and wild.updates == wild.diverged_at


@pytest.mark.parametrize(("an_update", "updates"), [(0.002, 1002), (0.1, 32), (2.0, 3)])
def test_the_capture_of_a_step_leaves_time_for_its_replays(
    an_update: float, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a capture of 10 s and the updates advance."""
    now = 0.0

    def make_one() -> None:
        nonlocal now
        now += an_update if now else 10.0

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    took = timing._take(make_one, lambda: False, lambda: now, captured=True)
    assert (took.first, took.later, took.updates) == (10.0, pytest.approx(an_update), updates)


def test_many_images_are_not_predicted_as_dear_as_few() -> None:
    asked: list[int] = []

    def seconds(images: int) -> float:
        asked.append(images)
        return 0.02 + 0.001 * images

    assert timing._evaluation_costs(seconds, 8, 500) == (pytest.approx(0.02), pytest.approx(0.001))
    assert asked == [8, 32, 128, 500]
    assert timing._evaluation_costs(lambda images: 3.0, 8, 500) == (0, 3 / 8)  # too slow for a second look


def test_a_condition_that_cannot_be_probed_leaves_the_others_theirs(
    execution: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from concurrent.futures import Future

    def answers(work: timing.Work, at_once: int) -> list[Future[Probe]]:
        out_of_memory, fine = Future[Probe](), Future[Probe]()
        out_of_memory.set_exception(RuntimeError("can't allocate memory"))
        fine.set_result(probed(*work[0]))
        return [out_of_memory, fine]

    work = [(small(), execution), (small("plain"), execution)]
    timing.measure_all(work, tmp_path, 2, answers)
    assert timing.lacking(work, tmp_path) == work[1:]
    assert "a probe failed (can't allocate memory); its condition is predicted without one" in caplog.text


def test_probes_of_a_time_without_cohorts_are_of_nets_alone(execution: Execution, small: Small, tmp_path: Path) -> None:
    alone = probed(small(), execution)
    timing.save(tmp_path, [alone])
    (old,) = json.loads((tmp_path / "probes.json").read_text())
    for name in ("cohort", "captured", "deterministic"):
        del old[name]
    (tmp_path / "probes.json").write_text(json.dumps([old]))
    assert timing.load(tmp_path) == {timing.key(small(), execution): alone}


def test_probes_that_cannot_be_read_are_measured_anew(
    execution: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing.save(tmp_path, [probed(small(), execution)])
    timing.save(tmp_path, [probed(small("plain"), execution)])
    assert len(timing.load(tmp_path)) == 2
    (tmp_path / "probes.json").write_text('[{"condition": "of another version"}]')
    assert timing.load(tmp_path) == {} and "probes.json cannot be read" in caplog.text
