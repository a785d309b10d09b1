"""What a selection of trials will take, before anything runs: seconds, bytes, devices, money and energy.

Owns predictions, the plan's rows and totals, and what refuses a study that is too large. Runs nothing but probes, and
these only when asked.
"""

import math
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from commands.options import Selection
from study import cost
from study.cost import duration
from study.execution import Execution
from study.run import placement, timing
from study.run.forecast import Accounts, Forecast, Plan, as_probed, forecasts, has_result, make_plan, node_of
from study.run.placement import Node, Placed
from study.spec import DetectionTrial, InputError, Trial, check_at_least
from study.store import atomic, layout

HARDWARE_OPTIONS = (
    click.option("--gpus", type=int, help="GPUs of each node to plan for (default: this machine's)."),
    click.option("--nodes", type=int, default=1, help="Nodes to plan for, all alike (default: 1)."),
)


def plan_of(selected: Selection, accounts: Accounts, say: Callable[[str], Any]) -> Plan:
    """The plan of the selected trials as the options ask for it; probes conditions first if `probe` is among them.

    Raises `InputError` for hardware that cannot be planned for, and where a probe lacks data or a device.
    """
    arguments, execution = selected.arguments, selected.execution
    node, count = node_of(execution, arguments.get("gpus")), arguments.get("nodes", 1)
    check_at_least("nodes", count, 1)
    if execution.local and count > 1:
        raise InputError(f"nodes {count}: --local runs on one; leave one of them out")
    todo = [trial for trial in selected.trials if not has_result(accounts, trial)]
    if arguments.get("probe"):
        _probe(todo, execution, node, say)
    predicted = forecasts(selected.trials, execution, node, accounts, timing.load(execution.storage))
    return make_plan(predicted, {trial.id for trial in todo}, [node] * count)


def _probe(todo: Iterable[Trial], execution: Execution, node: Node, say: Callable[[str], Any]) -> None:
    """Measure the conditions of these trials that lack a probe."""
    if execution.address:
        raise InputError("--probe measures this machine, not the cluster of --address; leave one of them out")
    if node.gpus and not placement.gpus()[0]:
        raise InputError(
            "--probe measures this machine, which has no GPU; leave --gpus out, or probe where there is one"
        )
    classifiers = [trial for trial in todo if not isinstance(trial, DetectionTrial)]  # detectors are not probed
    longest_first = sorted(classifiers, key=cost.predicted_seconds, reverse=True)
    work = timing.lacking([as_probed(trial, execution, node) for trial in longest_first], execution.storage)
    if not work:
        return
    from study.run.launch import check

    check([trial for trial, _ in work], replace(execution, processes=1))  # before there is a store
    layout.create(execution.storage)
    on_a_gpu = max((int(1 / placement.share(trial, execution, node).gpus) for trial, _ in work if node.gpus), default=0)
    at_once = on_a_gpu or execution.trials_at_once
    say(f"probing {len(work)} conditions, {at_once} at a time")
    timing.measure_all(work, execution.storage, at_once)


def rows(plan: Plan, serves: Mapping[Trial, list[str]]) -> list[dict[str, Any]]:
    """Each trial as `plan --json` prints it."""
    return [_row(each, serves[each.trial], plan.placed.get(each.trial.id)) for each in plan.forecasts]


def _row(each: Forecast, experiments: list[str], placed: Placed | None) -> dict[str, Any]:
    trial = each.trial
    params, multiply_adds = cost.size(trial)
    return {
        "id": trial.id,
        "experiments": experiments,
        "family": trial.model.family,
        "depth": trial.model.depth,
        "shortcut": trial.model.shortcut,
        "data": trial.data.name,
        "seed": trial.seed,
        "iterations": trial.recipe.iterations,
        "params": params,
        "multiply_adds": multiply_adds,
        "seconds": each.seconds,
        "predicted_from": each.source,
        "memory_bytes": each.memory_bytes,
        "checkpoint_bytes": cost.checkpoint_bytes(trial),
        "record_bytes": cost.record_bytes(trial),
        "processes": each.share.processes,
        "cpus": each.share.all_cpus,
        "gpus": each.share.all_gpus,
        "node": placed.node if placed else None,
        "start_seconds": round(placed.start, 1) if placed else None,
        "end_seconds": round(placed.end, 1) if placed else None,
        "done": placed is None,
    }


def totals(plan: Plan, price: float | None = None, watts: float | None = None) -> dict[str, Any]:
    """What the trials still to run take together; of a GPU, only the time in which trials use it counts.

    `money` and `kwh` are of GPUs if the trials run on them, else of cores, and None without a rate.
    """
    for name, rate in (("price", price), ("watts", watts)):
        if rate is not None and not 0 <= rate < math.inf:
            raise InputError(f"{name} {rate} must be a number of at least 0")
    cpu_hours = sum(each.seconds * each.share.all_cpus for each in plan.todo) / 3600
    gpu_hours = sum(each.seconds * each.share.all_gpus for each in plan.todo) / 3600
    hours = gpu_hours if plan.on_gpu else cpu_hours
    return {
        "total_seconds": sum(each.seconds for each in plan.todo),
        "makespan_seconds": placement.makespan(plan.placed.values()),
        "cpu_hours": cpu_hours,
        "gpu_hours": gpu_hours,
        "storage_bytes": sum(cost.checkpoint_bytes(each.trial) + cost.record_bytes(each.trial) for each in plan.todo),
        "money": None if price is None else price * hours,
        "kwh": None if watts is None else watts * hours / 1000,
    }


def check_budget(plan: Plan, arguments: Mapping[str, Any]) -> None:
    """Raise `InputError` if the trials still to run take more than `budget`, or the budget lacks its rate."""
    if over := over_budget(plan, arguments):
        raise InputError(
            f"the {len(plan.todo)} trials still to run are predicted to {over}; raise --budget, or choose fewer"
            " --seeds or --experiments"
        )


def over_budget(plan: Plan, arguments: Mapping[str, Any]) -> str:
    """What the trials still to run take, if it is more than `budget`: 'take 4 core-hours, more than ...'; else ''.

    `budget` is GPU-hours (without GPUs core-hours) as '12h', energy as '5kWh', or money as a number; '' is none.
    Raises `InputError` for a budget that is not understood or lacks its rate.
    """
    budget, price, watts = arguments["budget"], arguments["price"], arguments["watts"]
    predicted = totals(plan, price, watts)
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
    checkpoints = sorted((cost.checkpoint_bytes(each.trial) for each in plan.todo), reverse=True)
    return totals(plan)["storage_bytes"] + 2 * sum(checkpoints[: plan.at_once])


def free_bytes(root: Path) -> int | None:
    """What is free on the disk of the atomic, whether or not that exists yet; None for what is no disk."""
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


def table(plan: Plan) -> list[tuple[str, ...]]:
    """The plan for people: a header and a row a trial, in the order in which they start."""
    heads = ("trial", "iterations", "predicted", "memory", "on disk", "takes", "starts", "on", "from")
    lines = [heads]
    for each in plan.forecasts:
        trial, placed = each.trial, plan.placed.get(each.trial.id)
        takes = f"{each.share.all_gpus:.3g} GPU" if each.share.gpus else f"{each.share.all_cpus} CPU"
        lines.append(
            (
                trial.id,
                f"{trial.recipe.iterations:,}",
                duration(each.seconds),
                size(each.memory_bytes),
                size(cost.checkpoint_bytes(trial) + cost.record_bytes(trial)),
                takes,
                duration(placed.start) if placed else "done",
                str(placed.node + 1) if placed else "",
                each.source,
            )
        )
    several = len(plan.nodes) > 1
    return [line if several else (*line[:7], line[8]) for line in lines]


def sentences(plan: Plan, root: Path, price: float | None, watts: float | None) -> list[str]:
    """What the plan comes to."""
    total, node, todo = totals(plan, price, watts), plan.nodes[0], len(plan.todo)
    where = f"{node.cpus:g} cores" + (f" and {node.gpus:g} GPUs" if node.gpus else "")
    where += f" on each of {len(plan.nodes)} nodes" if len(plan.nodes) > 1 else ""
    hours = f"{figure(total['gpu_hours'])} GPU-hours" if plan.on_gpu else f"{figure(total['cpu_hours'])} core-hours"
    said = [
        f"{todo} of {len(plan.forecasts)} trials to run on {where}: {duration(total['makespan_seconds'])}, {hours}."
    ]
    if not todo:
        return said
    free = free_bytes(root)
    room = "" if free is None else f"; {size(free)} are free there"
    kept, needed = size(total["storage_bytes"]), size(most_bytes(plan))
    said.append(f"They will keep {kept} in {root}, and take up to {needed} while they run{room}.")
    if price is not None:
        said.append(f"At {price:g} an hour that is {total['money']:,.2f}.")
    if watts is not None:
        said.append(f"At {watts:g} watts that is {figure(total['kwh'])} kWh.")
    counts = Counter(each.source for each in plan.todo)
    sources = ", ".join(f"{source} for {n}" for source, n in counts.items())
    of_a_cpu = "; the constants are of a CPU core" if plan.on_gpu and "constants" in counts else ""
    said.append(f"Where the seconds come from: {sources}{of_a_cpu} (--probe measures each condition here).")
    return said


def accuracy(pairs: Iterable[tuple[float, float]]) -> str:
    """How far predicted seconds were off, from (predicted, took); '' where there are none."""
    pairs = [(predicted, took) for predicted, took in pairs if took]
    if not pairs:
        return ""
    off = [100 * abs(predicted / took - 1) for predicted, took in pairs]
    predicted, took = (sum(column) for column in zip(*pairs, strict=True))
    return (
        f"seconds predicted for {len(pairs)} trials were off by {statistics.median(off):.0f} % at the median,"
        f" {max(off):.0f} % at worst; together they took {duration(took)}, predicted {duration(predicted)}"
    )


def figure(value: float) -> str:
    """`0.0279`, `12.3`, `2,062`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    """`96 KiB`, `1.2 GiB`."""
    power = min(4, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.{max(0, power - 2)}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
