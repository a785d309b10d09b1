"""How busy the GPU of this process is while a trial trains on it, and what power it takes, by NVML.

Owns the readings and their means. They are the whole card's: whoever shares it has the same. Where NVML cannot be read
(no driver, no permission, a part of a card) nothing is reported, and nothing fails. Knows no trial.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from study.periodic import every

SECONDS = 1.0  # between readings
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """One look at a card."""

    busy_pct: float  # of the time since NVML's last window, a sixth of a second to a second, with work on the card
    joules: float  # since its driver was loaded
    processes: int  # that compute on it


class GpuMeter:
    """Reads the card while the block runs."""

    def __init__(self, read: Callable[[], Reading] | None, seconds: float = SECONDS) -> None:
        """`read` is `nvml(device)`; without it nothing is reported."""
        self.read, self.seconds = read, seconds
        self.readings: list[tuple[float, Reading]] = []  # with the time of each

    def __enter__(self) -> "GpuMeter":
        self._look()
        self._watching = every(self.seconds, self._look)
        self._watching.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watching.__exit__(*error)

    def _look(self) -> None:
        if self.read:
            try:
                self.readings.append((time.monotonic(), self.read()))
            except Exception as error:  # NVML's errors are its own; a GPU may also fall off its bus
                log.debug("no reading of the GPU: %s", error)

    def tags(self, seconds: float) -> dict[str, str]:
        """What the card did so far: percent of time with work, watts, whether another process computed on it too.

        Of a trial that took so many seconds of it, also the energy in watt-hours, by the mean power. Empty where the
        card cannot be read, and before a second reading.
        """
        if len(self.readings) < 2:
            return {}
        (began, first), *_, (now, last) = self.readings
        watts = (last.joules - first.joules) / (now - began)
        busy = [reading.busy_pct for _, reading in self.readings[1:]]
        return {
            "gpu_busy_pct": f"{sum(busy) / len(busy):.0f}",
            "gpu_watts": f"{watts:.0f}",
            "gpu_energy_wh": f"{watts * seconds / 3600:.3g}",
            "gpu_shared": "yes" if any(reading.processes > 1 for _, reading in self.readings) else "no",
        }


def nvml(device: torch.device) -> Callable[[], Reading] | None:
    """What reads this GPU; None on a CPU, and where NVML cannot."""
    if device.type != "cuda":
        return None
    return _reader(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _reader(uuid: str) -> Callable[[], Reading] | None:
    import pynvml  # here: it opens the driver's library

    def read() -> Reading:
        return Reading(
            busy_pct=float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu),
            joules=pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000,
            processes=len(pynvml.nvmlDeviceGetComputeRunningProcesses(card)),
        )

    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        read()
    except pynvml.NVMLError as error:
        log.debug("NVML cannot read %s: %s", uuid, error)
        return None
    return read
