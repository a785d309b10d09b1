"""Predictions rest on the best that is known, and their error on what trials took."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_timing import probed

from experiments import recipes
from experiments.profiles import QUICK
from study import cost
from study.cards import gpu_seconds
from study.execution import Execution
from study.run import timing
from study.run.forecast import Forecast, Interval, forecasts, interval, make_plan
from study.run.placement import Node, Share
from study.run.timing import Probe
from study.spec import Trial
from study.store.account import Account, Outcome

Small = Callable[..., Trial]
ONE = Share(1, 0)
CPU = Node(cpus=2, gpus=0, memory_bytes=0, gpu_memory_bytes=0)
GPU = Node(cpus=8, gpus=1, memory_bytes=0, gpu_memory_bytes=16 * 2**30)


def finished(seconds: float, **tags: str) -> Account:
    return Account(outcome=Outcome.FINISHED, tags={"seconds": str(seconds), "device": "cpu", **tags})


def test_the_longest_trial_starts_first_and_done_ones_take_no_room(small: Small) -> None:
    trials = [small(seed=seed) for seed in range(4)]
    forecasts = [Forecast(t, s, 0, ONE, "probe", 0) for t, s in zip(trials, (2.0, 9.0, 4.0, 5.0), strict=True)]
    ordered = make_plan(forecasts, [(trial,) for trial in trials[:3]], [CPU])
    assert [each.trial.seed for each in ordered.forecasts] == [1, 3, 2, 0]
    assert {id: placed.start for id, placed in ordered.placed.items()} == {
        trials[1].id: 0,
        trials[2].id: 0,
        trials[0].id: 4,
    }
    assert ordered.at_once == 2 and [each.trial.seed for each in ordered.todo] == [1, 2, 0]


def test_a_probe_is_believed_before_finished_trials_and_these_before_constants(
    execution: Execution, small: Small
) -> None:
    trials = [small(seed=0), small(seed=1), small("plain")]
    expected = cost.predicted_seconds(trials[2])

    def said(accounts: dict[str, Any], *probes: Probe) -> list[tuple[float, str]]:
        by_key = {each.key: each for each in probes}
        return [(f.seconds, f.source) for f in forecasts(trials, execution, CPU, accounts, by_key)]

    assert said({})[2] == (round(expected, 2), "constants")
    took = {trials[1].id: finished(3 * cost.predicted_seconds(trials[1]))}
    assert said(took)[2] == (round(3 * expected, 2), "finished trials")
    by_probe = (1 + 23 * 0.1 + 2 * 2 + 5, "probe")  # 24 updates, evaluated at 8, 16 and 24
    assert said(took, probed(trials[0], execution)) == [by_probe, by_probe, (round(3 * expected, 2), "finished trials")]


def test_a_probe_holds_for_its_condition_hardware_versions_and_threads(execution: Execution, small: Small) -> None:
    ours = probed(small(), execution)
    others = [
        replace(ours, **{what: value})
        for what, value in {"machine": "another", "torch": "1.0", "python": "2.7", "threads": 4, "device": "X"}.items()
    ]
    by_key = {each.key: each for each in [*others, probed(small("plain"), execution)]}
    (forecast,) = forecasts([small()], execution, CPU, {}, by_key)
    assert forecast.source == "constants"
    (forecast,) = forecasts([small(seed=7)], execution, CPU, {}, {ours.key: ours})  # whatever the seed
    assert forecast.source == "probe"


def test_a_gpu_is_not_predicted_from_a_cpu(execution: Execution, small: Small) -> None:
    execution = replace(execution, gpus_per_trial=0, local=False)
    here = probed(small(), execution)
    took = {small(seed=1).id: finished(100.0)}
    (first, _) = forecasts([small(), small(seed=1)], execution, GPU, took, {here.key: here})
    assert (first.source, first.share, first.probed_gpu_bytes) == ("constants of an NVIDIA H200", Share(1, 0.125), 0)
    took = {small(seed=1).id: finished(100.0, device="cuda")}
    (first, _) = forecasts([small(), small(seed=1)], execution, GPU, took, {})
    assert (first.source, first.seconds) == ("finished trials", pytest.approx(100, abs=0.01))
    (first, _) = forecasts([small(), small(seed=1)], execution, CPU, took, {})
    assert first.source == "constants"


@pytest.mark.parametrize(("node", "device"), [(CPU, "cpu"), (GPU, "cuda:0")])
def test_a_finished_trial_is_held_against_what_it_was_to_take_as_it_ran(
    execution: Execution, small: Small, node: Node, device: str
) -> None:
    """In a cohort, or by several processes: what was predicted exactly leaves the others as they were."""
    long = {"batch": 64, "bn_batch": 32, "iterations": 24_000}
    by_two, done, other = (small(**long), small(seed=1, **long)), small(seed=2, **long), small("plain", **long)

    def predicted(trial: Trial, size: int, images: int) -> float:
        return gpu_seconds(trial, size, images) if node is GPU else cost.predicted_seconds(trial, images)

    took = {
        **{trial.id: finished(predicted(trial, 2, 64), device=device, cohort="2") for trial in by_two},
        done.id: finished(predicted(done, 1, 32), device=device, processes="2"),
    }
    trials = [*by_two, done, other]
    assert forecasts(trials, execution, node, took, {})[-1].seconds == pytest.approx(predicted(other, 1, 64), rel=1e-3)


def test_a_gpu_is_shared_by_the_memory_that_a_probe_has_seen(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = replace(execution, gpus_per_trial=0, local=False)
    monkeypatch.setattr(timing, "_device", lambda device: "cpu" if device == "cpu" else "NVIDIA X")
    seen = probed(small(), execution, memory_bytes=4 * 2**30)
    (forecast,) = forecasts([small()], execution, GPU, {}, {seen.key: seen})
    assert (forecast.share, forecast.memory_bytes, forecast.probed_gpu_bytes) == (Share(1, 0.5), 2**32, 2**32)


def test_a_cohort_is_predicted_by_its_own_probe_else_by_that_of_the_nearest_size(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_device", lambda device: "cpu" if device == "cpu" else "NVIDIA X")
    trials = tuple(small(seed=seed) for seed in range(4))
    recipe = trials[0].recipe
    alone, five, eight = (
        probed(small(), replace(execution, cohort=size), memory_bytes=size * 2**30) for size in (1, 5, 8)
    )

    def of(*probes: Probe) -> Forecast:
        by_key = {probe.key: probe for probe in probes}
        return forecasts(trials, execution, GPU, {}, by_key, [trials])[0]

    four = probed(small(), replace(execution, cohort=4), memory_bytes=4 * 2**30)
    exact = of(alone, four, five)
    assert (exact.seconds, exact.source, exact.cohort) == (round(four.seconds(recipe), 2), "probe", 4)
    assert (exact.memory_bytes, exact.probed_gpu_bytes) == (4 * 2**30, 2**30)
    by_constants = gpu_seconds(small(), 4) / gpu_seconds(small(), 5)
    assert of(alone, five, eight).seconds == pytest.approx(five.seconds(recipe) * by_constants, abs=0.01)
    assert gpu_seconds(small(), 4) < gpu_seconds(small()) and of(alone).seconds < alone.seconds(recipe)


def test_a_probe_holds_for_kernels_of_its_kind_and_for_captured_steps(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_device", lambda device: "cpu" if device == "cpu" else "NVIDIA X")
    probe = probed(small(), execution)
    assert probe.captured and probe.deterministic
    for other in (replace(probe, captured=False), replace(probe, deterministic=False)):
        (forecast,) = forecasts([small()], execution, GPU, {}, {other.key: other})
        assert forecast.source == "constants of an NVIDIA H200"
    (forecast,) = forecasts([small()], replace(execution, deterministic=False), GPU, {}, {other.key: other})
    assert forecast.source == "probe"


def test_a_trial_that_diverges_at_once_is_predicted_to(execution: Execution, small: Small) -> None:
    assert probed(small(), execution, diverged_at=3).seconds(small().recipe) == pytest.approx(1.2)


def test_memory_is_that_of_as_many_segments_as_the_share_takes(execution: Execution) -> None:
    execution = replace(execution, local=False)
    deep = QUICK.trials(QUICK.model("residual", 1202), recipes.minutes_deep(QUICK.model("residual", 1202)), 1)[0]

    def held(gib: float) -> int:
        node = replace(CPU, memory_bytes=int(gib * 2**30))
        return forecasts([deep], execution, node, {}, {})[0].memory_bytes

    assert held(0) == held(16) == cost.predicted_bytes(deep)
    assert cost.least_bytes(deep) < held(2.3) == int(0.9 * 1.15 * 2**30) < cost.predicted_bytes(deep)
    assert held(1) == cost.least_bytes(deep)


@pytest.mark.parametrize("off", [1.0, 0.2, 7.0])
def test_predictions_that_are_all_off_by_one_factor_leave_no_doubt(off: float) -> None:
    found = interval(100.0, [(seconds, off * seconds) for seconds in (3.0, 8.0, 21.0, 5.0, 40.0)])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(100), pytest.approx(100))


def test_the_interval_is_the_spread_of_single_trials_around_their_total() -> None:
    found = interval(60.0, [(10.0, 5.0), (10.0, 8.0), (10.0, 10.0), (10.0, 12.0), (10.0, 15.0)])
    assert found == Interval(low=30.0, high=90.0, coverage=pytest.approx(4 / 6))


def test_nothing_is_said_of_how_far_off_it_is_before_five_trials_have_finished() -> None:
    assert interval(60.0, [(10.0, 5.0)] * 4) is None
    assert interval(60.0, [(10.0, 5.0)] * 4 + [(0.0, 5.0)]) is None  # what was predicted to take nothing shows nothing


def test_of_many_trials_the_oddest_are_left_out_and_four_fifths_are_covered() -> None:
    few = interval(1.0, [(1.0, 1.0)] * 8 + [(1.0, 9.0)])
    many = interval(1.0, [(1.0, 1.0)] * 18 + [(1.0, 9.0)])
    assert few and few.coverage == pytest.approx(0.8) and few.high > few.low
    assert many and many.coverage == pytest.approx(0.8) and many.high == 1.0


def test_an_interval_holds_as_often_as_it_says_where_all_that_is_left_shares_one_factor() -> None:
    chance = random.Random(0)
    for finished in (5, 9, 30):
        held, said = 0, 0.0
        for _ in range(2000):
            factors = [chance.lognormvariate(0.3, 0.4) for _ in range(finished + 1)]
            *seen, comes = factors
            found = interval(100.0 * sum(seen) / finished, [(1.0, factor) for factor in seen])
            assert found
            held, said = held + (found.low <= 100.0 * comes <= found.high), found.coverage
        assert said - 0.03 < held / 2000 < said + 0.1  # with 30, the bounds lie beyond single factors
