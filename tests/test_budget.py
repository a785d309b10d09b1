"""A study beyond its budget or its disk is refused before anything runs."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from commands import budget
from commands.options import Costs
from study import cost
from study.run.forecast import Forecast, Plan, make_plan
from study.run.placement import Node, Share
from study.spec import InputError, Trial

Small = Callable[..., Trial]
ONE = Share(1, 0)
CPU = Node(cpus=2, gpus=0, memory_bytes=0, gpu_memory_bytes=0)
GPU = Node(cpus=8, gpus=1, memory_bytes=0, gpu_memory_bytes=16 * 2**30)


def made(trials: list[Trial], seconds: list[float], share: Share = ONE, node: Node = CPU) -> Plan:
    """A plan of trials that take these seconds."""
    forecasts = [Forecast(t, s, 2**30, share, "constants", 0) for t, s in zip(trials, seconds, strict=True)]
    return make_plan(forecasts, [(trial,) for trial in trials], [node])


def test_totals_count_what_is_still_to_run(small: Small) -> None:
    trials = [small(seed=seed) for seed in range(3)]
    total = budget.totals(made(trials, [7200, 3600, 3600]), Costs())
    assert (total["total_seconds"], total["makespan_seconds"]) == (14_400, 7_200)
    assert (total["cpu_hours"], total["gpu_hours"], total["money"], total["kwh"]) == (4, 0, None, None)
    assert total["storage_bytes"] == 3 * (cost.checkpoint_bytes(small()) + cost.record_bytes(small()))
    shared = budget.totals(made(trials, [7200, 3600, 3600], Share(2, 0.5), GPU), Costs(price=3.0, watts=400))
    assert (shared["cpu_hours"], shared["gpu_hours"]) == (8, 2)
    assert (shared["money"], shared["kwh"]) == (6, 0.8)  # of the GPUs, and not of the cores beside them
    assert budget.totals(made(trials, [7200, 3600, 3600], Share(2, 0)), Costs(price=1.0))["money"] == 8


def test_energy_is_known_where_trials_have_measured_the_power_of_their_gpu(small: Small) -> None:
    on_gpu = replace(made([small()], [7200], Share(2, 0.5), GPU), watts=600.0)
    assert budget.totals(on_gpu, Costs())["kwh"] == pytest.approx(0.6)
    assert budget.totals(on_gpu, Costs(watts=400.0))["kwh"] == pytest.approx(0.4)
    assert budget.totals(replace(made([small()], [7200]), watts=600.0), Costs())["kwh"] is None  # of cores
    with pytest.raises(InputError, match=r"predicted to take 0\.6 kWh, more than the budget of 0\.5"):
        budget.check_budget(on_gpu, Costs(budget="0.5kWh"))


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_a_rate_is_a_number_of_at_least_nothing(small: Small, rate: float) -> None:
    with pytest.raises(InputError, match="price .* must be a number of at least 0"):
        budget.totals(made([small()], [1.0]), Costs(price=rate))


@pytest.mark.parametrize("limit", ["", "4h", "4.0 h", "8", "2kWh", "9.99h"])
def test_a_study_within_its_budget_may_run(small: Small, limit: str) -> None:
    four_core_hours = made([small(), small(seed=1)], [7200, 7200])
    budget.check_budget(four_core_hours, Costs(budget=limit, price=2.0, watts=500.0))


@pytest.mark.parametrize(
    ("limit", "rates", "says"),
    [
        ("3.9h", {}, "the 2 trials still to run are predicted to take 4 core-hours, more than the budget of 3.9;"),
        ("7", {"price": 2.0}, "are predicted to cost 8, more than the budget of 7; raise --budget, or choose"),
        ("1.5kWh", {"watts": 500.0}, "are predicted to take 2 kWh, more than the budget of 1.5;"),
        ("7", {}, "budget 7 needs --price, that of an hour of one GPU or core; or write hours, as 12h"),
        ("1kWh", {}, "budget 1kWh needs --watts, the power of one GPU or core; or write hours, as 12h"),
        ("2 days", {}, "budget '2 days' is not understood; write hours as 12h, energy as 5kWh, money as a number"),
        ("-1h", {}, "budget '-1h' is not understood"),
    ],
)
def test_a_study_beyond_its_budget_is_refused(small: Small, limit: str, rates: dict[str, float], says: str) -> None:
    four_core_hours = made([small(), small(seed=1)], [7200, 7200])
    with pytest.raises(InputError) as refused:
        budget.check_budget(four_core_hours, Costs(budget=limit, **rates))
    assert says in str(refused.value)


def test_a_budget_is_of_gpus_where_trials_take_them(small: Small) -> None:
    half_gpus = made([small(), small(seed=1)], [7200, 7200], Share(4, 0.5), GPU)
    budget.check_budget(half_gpus, Costs(budget="2h"))
    with pytest.raises(InputError, match="predicted to take 2 GPU-hours, more than the budget of 1;"):
        budget.check_budget(half_gpus, Costs(budget="1h"))


def test_a_study_that_would_fill_the_disk_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = made([small(seed=seed) for seed in range(4)], [1.0] * 4)
    checkpoint = cost.checkpoint_bytes(small())
    needed = 4 * (checkpoint + cost.record_bytes(small())) + 2 * 2 * checkpoint  # two run at once
    assert budget.most_bytes(four) == needed
    free = needed
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, free))
    budget.check_space(four, tmp_path / "not" / "yet")
    free -= 1
    with pytest.raises(InputError, match=r"the 4 trials still to run need about \d+ .iB in .*yet, where \d+ .iB are"):
        budget.check_space(four, tmp_path / "not" / "yet")
    budget.check_space(made([], []), tmp_path)
    from study.store import atomic

    budget.check_space(four, atomic.place("memory://study"))  # an object store has no end


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (96 * 1024, "96 KiB"), (1.25 * 2**40, "1.25 TiB")]
)
def test_sizes_are_read_at_a_glance(count: float, text: str) -> None:
    assert budget.size(count) == text
