"""What a plan comes to, and whether that is too much: hours, money, energy, and room on the disk."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

from commands.options import Costs
from study import cost
from study.run import placement
from study.run.forecast import Plan
from study.spec import InputError
from study.store import atomic


def totals(plan: Plan, costs: Costs) -> dict[str, Any]:
    """What the trials still to run take together; of a GPU, only the time in which trials use it counts.

    `money` and `kwh` are of GPUs if the trials run on them, else of cores, and None without a rate; the power of GPUs
    is also known once trials have measured it.
    """
    for name, rate in (("price", costs.price), ("watts", costs.watts)):
        if rate is not None and not 0 <= rate < math.inf:
            raise InputError(f"{name} {rate} must be a number of at least 0")
    cpu_hours = sum(forecast.seconds * forecast.share.all_cpus for forecast in plan.todo) / 3600
    gpu_hours = sum(forecast.seconds * forecast.share.all_gpus for forecast in plan.todo) / 3600
    hours = gpu_hours if plan.on_gpu else cpu_hours
    watts = plan.watts if costs.watts is None and plan.on_gpu else costs.watts
    return {
        "total_seconds": sum(forecast.seconds for forecast in plan.todo),
        "makespan_seconds": placement.makespan(plan.placed.values()),
        "cpu_hours": cpu_hours,
        "gpu_hours": gpu_hours,
        "storage_bytes": storage_bytes(plan),
        "money": None if costs.price is None else costs.price * hours,
        "kwh": None if watts is None else watts * hours / 1000,
    }


def storage_bytes(plan: Plan) -> int:
    """What the trials still to run will leave in the storage."""
    return sum(cost.checkpoint_bytes(forecast.trial) + cost.record_bytes(forecast.trial) for forecast in plan.todo)


def check_budget(plan: Plan, costs: Costs) -> None:
    """Raise `InputError` if the trials still to run take more than `budget`, or the budget lacks its rate."""
    if over := over_budget(plan, costs):
        raise InputError(
            f"the {len(plan.todo)} trials still to run are predicted to {over}; raise --budget, or choose fewer"
            " --seeds or --experiments"
        )


def over_budget(plan: Plan, costs: Costs) -> str:
    """What the trials still to run take, if it is more than `budget`: 'take 4 core-hours, more than ...'; else ''.

    `budget` is GPU-hours (without GPUs core-hours) as '12h', energy as '5kWh', or money as a number; '' is none.
    Raises `InputError` for a budget that is not understood or lacks its rate.
    """
    budget, predicted = costs.budget, totals(plan, costs)
    if not budget:
        return ""
    parsed = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(h|kWh|)", budget.strip())
    if parsed is None:
        raise InputError(f"budget {budget!r} is not understood; write hours as 12h, energy as 5kWh, money as a number")
    most, unit = float(parsed[1]), parsed[2]
    hours, devices = ("gpu_hours", "GPU-hours") if plan.on_gpu else ("cpu_hours", "core-hours")
    key, says, lacks = {
        "h": (hours, f"take {{}} {devices}", ""),
        "kWh": ("kwh", "take {} kWh", "--watts, the power of one GPU or core"),
        "": ("money", "cost {}", "--price, that of an hour of one GPU or core"),
    }[unit]
    if predicted[key] is None:
        raise InputError(f"budget {budget} needs {lacks}; or write hours, as 12h")
    if predicted[key] <= most:
        return ""
    return f"{says.format(figure(predicted[key]))}, more than the budget of {figure(most)}"


def most_bytes(plan: Plan) -> int:
    """The most that the storage will have grown by: what is kept, and two more checkpoints of each running trial."""
    checkpoints = sorted((cost.checkpoint_bytes(forecast.trial) for forecast in plan.todo), reverse=True)
    return storage_bytes(plan) + 2 * sum(checkpoints[: plan.at_once])


def free_bytes(root: Path) -> int | None:
    """What is free on the disk of the storage, whether or not that exists yet; None for what is no disk."""
    if not atomic.is_local(root):
        return None
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    disk = shutil.disk_usage(existing)
    return disk.free if disk.total else None


def check_space(plan: Plan, root: Path) -> None:
    """Raise `InputError` if the disk has less room than the trials still to run will need."""
    needed, free = most_bytes(plan), free_bytes(root)
    if plan.todo and free is not None and needed > free:
        raise InputError(
            f"the {len(plan.todo)} trials still to run need about {size(needed)} in {root}, where {size(free)} are"
            " free; make room, or choose another --storage, or fewer --seeds or --experiments"
        )


def figure(value: float) -> str:
    """`0.0279`, `12.3`, `2,062`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    """`96 KiB`, `1.2 GiB`."""
    power = min(4, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.{max(0, power - 2)}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
