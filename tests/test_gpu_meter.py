"""What a GPU did while a trial trained on it: means of readings, and nothing where it cannot be read."""

import time

import torch

from study.run.gpu_meter import GpuMeter, Reading, _reader, nvml


def test_means_are_of_the_time_of_the_block_and_energy_is_of_the_trials_seconds() -> None:
    """A card that takes 360 watts, busy in all readings but the first; another process comes and goes."""
    began, looks = time.monotonic(), 0

    def read() -> Reading:
        nonlocal looks
        looks += 1
        return Reading(90.0 if looks > 1 else 0.0, 1000.0 + 360.0 * (time.monotonic() - began), 2 if looks == 2 else 1)

    with GpuMeter(read, seconds=0.02) as meter:
        assert not meter.tags(10.0)
        while looks < 5:
            time.sleep(0.01)
    tags = meter.tags(seconds=10.0)
    assert (tags["gpu_busy_pct"], tags["gpu_shared"]) == ("90", "yes")
    assert abs(float(tags["gpu_watts"]) - 360) < 20
    assert abs(float(tags["gpu_energy_wh"]) - 1) < 0.06


def test_a_card_that_fails_between_readings_leaves_those_before() -> None:
    readings = iter([Reading(50.0, 0.0, 1), Reading(50.0, 1.0, 1)])
    with GpuMeter(lambda: next(readings), seconds=0.01) as meter:
        time.sleep(0.1)
    assert meter.tags(1.0)["gpu_busy_pct"] == "50"


def test_nothing_is_reported_where_there_is_no_card_or_no_driver() -> None:
    assert nvml(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert _reader("GPU-00000000-0000-0000-0000-000000000000") is None
    with GpuMeter(None) as meter:
        pass
    assert meter.tags(1.0) == {}
