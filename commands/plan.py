"""`python -m experiments plan`: what a selection of trials will take, before anything runs.

Owns the plan's rows and sentences, and which conditions are probed for it. Predictions are `study/run/forecast.py`.
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from commands import sets
from commands.accounts import accounts, other_versions, plain_versions, versions_line
from commands.budget import check_budget, figure, free_bytes, most_bytes, size, totals
from commands.options import (
    DEVICE_OPTIONS,
    JSON,
    PROBE,
    Costs,
    Hardware,
    Selection,
    costs,
    hardware,
    print_aligned,
    selecting,
)
from study import cost
from study.cost import duration
from study.execution import Execution
from study.run import cohorts, placement, timing
from study.run.forecast import Accounts, Forecast, Plan, as_probed, forecasts, has_result, make_plan, node_of
from study.run.placement import Cohort, Node, Placed
from study.spec import InputError, Trial, check_at_least, detection_of
from study.store import layout

HERE = Hardware()


@click.command("plan")
@selecting(*DEVICE_OPTIONS)
@costs
@hardware
@PROBE
@JSON
def plan_command(selected: Selection, costs: Costs, hardware: Hardware, probe: bool, as_json: bool) -> None:
    """Every trial with what it is predicted to take, longest first, where and when, before anything runs."""
    known = accounts(selected)
    if probe:
        probe_conditions(selected, known, hardware, lambda text: print(text, file=sys.stderr))
    plan = plan_of(selected, known, hardware)
    check_budget(plan, costs)
    others = other_versions(selected)
    if as_json:
        content = {
            "profile": selected.profile.name,
            "trials": rows(plan, selected.serves),
            **totals(plan, costs),
            "other_versions": plain_versions(others),
            "data": sets.as_json(selected),
        }
        print(json.dumps(content, indent=2))
        return
    print_aligned(table(plan))
    print("", *sets.set_lines(selected), *sentences(plan, selected.execution.storage, costs), sep="\n")
    if others:
        print(versions_line(others))


def plan_of(selected: Selection, known: Accounts, hardware: Hardware = HERE) -> Plan:
    """The plan of the selected trials on such hardware. Raises `InputError` for hardware that cannot be planned for."""
    execution, node = selected.execution, _node(selected.execution, hardware)
    nodes = [node] * hardware.nodes
    todo = _cohorts_to_run(selected, known, nodes)
    predicted = forecasts(selected.trials, execution, node, known, timing.load(execution.storage), todo)
    return replace(make_plan(predicted, todo, nodes), watts=_measured_watts(selected, known))


def _node(execution: Execution, hardware: Hardware) -> Node:
    check_at_least("nodes", hardware.nodes, 1)
    if execution.local and hardware.nodes > 1:
        raise InputError(f"nodes {hardware.nodes}: --local runs on one; leave one of them out")
    return node_of(execution, hardware.gpus)


def _cohorts_to_run(selected: Selection, known: Accounts, nodes: list[Node]) -> list[Cohort]:
    cohorts.check(selected.trials, selected.execution)
    return cohorts.cohorts([t for t in selected.trials if not has_result(known, t)], selected.execution, nodes)


def _measured_watts(selected: Selection, known: Accounts) -> float | None:
    """Mean power of a GPU while the trials that have finished ran on it; None where none of them could read it."""
    tags = [known[trial.id].tags for trial in selected.trials if has_result(known, trial)]
    both = [one for one in tags if {"seconds", "gpu_watts"} <= one.keys()]
    measured = [(float(one["seconds"]), float(one["gpu_watts"])) for one in both]
    total = sum(seconds for seconds, _ in measured)
    return sum(seconds * watts for seconds, watts in measured) / total if total else None


def probe_conditions(
    selected: Selection, known: Accounts, hardware: Hardware, announce: Callable[[str], object]
) -> None:
    """Measure the conditions of the trials to run that lack a probe. Raises `InputError` without data or a device."""
    execution, node = selected.execution, _node(selected.execution, hardware)
    if execution.address:
        raise InputError("--probe measures this machine, not the cluster of --address; leave one of them out")
    if node.gpus and not placement.gpus()[0]:
        raise InputError(
            "--probe measures this machine, which has no GPU; leave --gpus out, or probe where there is one"
        )
    todo = _cohorts_to_run(selected, known, [node] * hardware.nodes)
    classifiers = [cohort for cohort in todo if not detection_of(cohort[0])]  # detectors are not probed
    longest_first = sorted(classifiers, key=lambda cohort: cost.predicted_seconds(cohort[0]), reverse=True)
    probed = [as_probed(cohort[0], execution, node, len(cohort)) for cohort in longest_first]
    work = timing.lacking(probed, execution.storage)
    if not work:
        return
    from study.run.launch import check  # with torch: seconds that a plan without a probe does not take

    check([trial for trial, _ in work], replace(execution, processes=1))  # before there is a store
    layout.create(execution.storage)
    shares = [placement.share(trial, one, node, size=one.cohort) for trial, one in work]
    at_once = max(max(1, int(1 / share.gpus)) if share.gpus else execution.trials_at_once for share in shares)
    announce(f"probing {len(work)} conditions, {at_once} at a time")
    timing.measure_all(work, execution.storage, at_once)


def rows(plan: Plan, serves: Mapping[Trial, list[str]]) -> list[dict[str, Any]]:
    """Each trial as `plan --json` prints it."""
    return [_row(forecast, serves[forecast.trial], plan.placed.get(forecast.trial.id)) for forecast in plan.forecasts]


def _row(forecast: Forecast, experiments: list[str], placed: Placed | None) -> dict[str, Any]:
    trial = forecast.trial
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
        "seconds": forecast.seconds,
        "predicted_from": forecast.source,
        "memory_bytes": forecast.memory_bytes,
        "checkpoint_bytes": cost.checkpoint_bytes(trial),
        "record_bytes": cost.record_bytes(trial),
        "cohort": forecast.cohort,
        "processes": forecast.share.processes,
        "cpus": forecast.share.all_cpus,
        "gpus": forecast.share.all_gpus,
        "node": placed.node if placed else None,
        "start_seconds": round(placed.start, 1) if placed else None,
        "end_seconds": round(placed.end, 1) if placed else None,
        "done": placed is None,
    }


def table(plan: Plan) -> list[tuple[str, ...]]:
    """The plan for people: a header and a row a trial, in the order in which they start."""
    heads = ("trial", "iterations", "predicted", "memory", "on disk", "cohort", "takes", "starts", "on", "from")
    lines = [heads]
    for forecast in plan.forecasts:
        trial, placed = forecast.trial, plan.placed.get(forecast.trial.id)
        takes = f"{forecast.share.all_gpus:.3g} GPU" if forecast.share.gpus else f"{forecast.share.all_cpus} CPU"
        lines.append(
            (
                trial.id,
                f"{trial.recipe.iterations:,}",
                duration(forecast.seconds),
                size(forecast.memory_bytes),
                size(cost.checkpoint_bytes(trial) + cost.record_bytes(trial)),
                str(forecast.cohort),
                takes,
                duration(placed.start) if placed else "done",
                str(placed.node + 1) if placed else "",
                forecast.source,
            )
        )
    hidden = {"on"} if len(plan.nodes) == 1 else set()
    hidden |= {"cohort"} if all(forecast.cohort == 1 for forecast in plan.forecasts) else set()
    return [tuple(cell for head, cell in zip(heads, line, strict=True) if head not in hidden) for line in lines]


def sentences(plan: Plan, root: Path, costs: Costs) -> list[str]:
    """What the plan comes to."""
    total, node, todo = totals(plan, costs), plan.nodes[0], len(plan.todo)
    where = f"{node.cpus:g} cores" + (f" and {node.gpus:g} GPUs" if node.gpus else "")
    where += f" on each of {len(plan.nodes)} nodes" if len(plan.nodes) > 1 else ""
    hours = f"{figure(total['gpu_hours'])} GPU-hours" if plan.on_gpu else f"{figure(total['cpu_hours'])} core-hours"
    grouped = f" in {plan.cohorts} cohorts" if plan.cohorts < todo else ""
    lines = [
        f"{todo} of {len(plan.forecasts)} trials to run{grouped} on {where}:"
        f" {duration(total['makespan_seconds'])}, {hours}."
    ]
    if not todo:
        return lines
    lines += _idle(plan, total["makespan_seconds"])
    free = free_bytes(root)
    room = "" if free is None else f"; {size(free)} are free there"
    kept, needed = size(total["storage_bytes"]), size(most_bytes(plan))
    lines.append(f"They will keep {kept} in {root}, and take up to {needed} while they run{room}.")
    if costs.price is not None:
        lines.append(f"At {costs.price:g} an hour that is {total['money']:,.2f}.")
    if costs.watts is not None:
        lines.append(f"At {costs.watts:g} watts that is {figure(total['kwh'])} kWh.")
    elif total["kwh"] is not None:
        lines.append(f"At {plan.watts:.0f} watts, as finished trials measured, that is {figure(total['kwh'])} kWh.")
    counts = Counter(forecast.source for forecast in plan.todo)
    sources = ", ".join(f"{source} for {n}" for source, n in counts.items())
    lines.append(f"Where the seconds come from: {sources} (--probe measures each condition here).")
    return lines


def _idle(plan: Plan, makespan: float) -> list[str]:
    """A line where most GPUs wait for a trial that has one of them, and whose batches more of them could share."""
    most = int(max(node.gpus for node in plan.nodes))
    longest = max(plan.placed.values(), key=lambda placed: placed.end - placed.start)
    trial, taken = longest.trial, longest.end - longest.start
    busy = sum((one.end - one.start) * plan[one.trial].share.all_gpus / len(one.cohort) for one in plan.placed.values())
    used = busy / (makespan * sum(node.gpus for node in plan.nodes)) if most else 1.0
    parts = trial.recipe.batch // trial.recipe.bn_batch
    among = max(number for number in range(1, max(1, most) + 1) if parts % number == 0)
    if used > 0.5 or taken < makespan / 4 or among == 1 or detection_of(trial) or plan[trial].share.processes > 1:
        return []
    return [
        f"Only {100 * used:.0f} % of the GPUs' time is used: {trial.id} takes {duration(taken)} on one; with"
        f" --processes {among} as many share its batches."
    ]


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
