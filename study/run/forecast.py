"""What trials are predicted to take: seconds, memory, a place and a time on a machine, and what is left of a study.

Owns predictions and their error. Runs nothing, prints nothing. A prediction rests on the probe of a condition, else on
what trials have taken, else on constants of a CPU core.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from study import cost
from study.cards import H200, gpu_seconds
from study.execution import Execution
from study.limits import cores
from study.run import placement, timing
from study.run.cohorts import longest_first
from study.run.placement import Cohort, Node, Placed, Share
from study.run.timing import Probe
from study.spec import InputError, Trial, check_at_least
from study.store.account import Account, Outcome

Accounts = Mapping[str, Account]  # of the trials that have one, by id
PAIRS = 5  # finished trials without which the error of a prediction is unknown


@dataclass(frozen=True)
class Forecast:
    """What one trial is predicted to take. `source`: 'probe', 'finished trials' or 'constants'."""

    trial: Trial
    seconds: float  # of a cohort's, its equal part
    memory_bytes: int  # of each process, with all of a cohort; of the GPU, where it takes one
    share: Share
    source: str
    probed_gpu_bytes: int  # peak on a GPU, if a probe has seen it, else 0; of a cohort's, its equal part
    cohort: int = 1  # trials that are trained together with it, itself included


@dataclass(frozen=True)
class Plan:
    """Forecasts, longest first; where and when each trial still to run is placed, by id."""

    nodes: list[Node]
    forecasts: list[Forecast]
    placed: dict[str, Placed]
    watts: float | None = None  # power of a GPU in use, if finished trials have measured it

    @property
    def todo(self) -> list[Forecast]:
        return [forecast for forecast in self.forecasts if forecast.trial.id in self.placed]

    @property
    def on_gpu(self) -> bool:
        return any(forecast.share.gpus for forecast in self.forecasts)

    @property
    def at_once(self) -> int:
        """The most trials that run at a time, all of a cohort counted."""
        ends = [(placed.end, -1) for placed in self.placed.values()]
        starts = [(placed.start, 1) for placed in self.placed.values()]
        return max(accumulate(step for _, step in sorted(starts + ends)), default=0)

    @property
    def cohorts(self) -> int:
        """Into how many cohorts the trials still to run are grouped, those of one trial counted."""
        return len({placed.cohort for placed in self.placed.values()})

    @cached_property
    def _by_trial(self) -> dict[Trial, Forecast]:
        return {forecast.trial: forecast for forecast in self.forecasts}

    def __getitem__(self, trial: Trial) -> Forecast:
        return self._by_trial[trial]


def has_result(accounts: Accounts, trial: Trial) -> bool:
    return trial.id in accounts and accounts[trial.id].has_result


def make_plan(forecasts: Iterable[Forecast], todo: Iterable[Cohort], nodes: list[Node]) -> Plan:
    """Order the trials, longest cohort first, and place the cohorts to run, in waves. Raises `InputError`."""
    by_trial = {forecast.trial: forecast for forecast in forecasts}
    cohort_of = {trial: cohort for cohort in todo for trial in cohort}
    every = dict.fromkeys(cohort_of.get(trial, (trial,)) for trial in by_trial)
    ordered = [trial for cohort in longest_first(every, lambda one: by_trial[one].seconds) for trial in cohort]
    placed: list[Placed] = []
    for wave in placement.waves([trial for trial in ordered if trial in cohort_of]):
        before = placement.makespan(placed)  # a wave begins when the one before has ended
        order = [
            (cohort, sum(by_trial[trial].seconds for trial in cohort), by_trial[cohort[0]].share)
            for cohort in dict.fromkeys(cohort_of[trial] for trial in wave)
        ]
        later = placement.schedule(order, nodes)
        placed += [replace(one, start=before + one.start, end=before + one.end) for one in later]
    return Plan(nodes, [by_trial[trial] for trial in ordered], {one.trial.id: one for one in placed})


def node_of(execution: Execution, gpus: int | None = None) -> Node:
    """This machine, with so many GPUs if a number is given; what memory there is elsewhere is not known.

    Of a cluster (`address`) nothing is known before it is joined: it has GPUs if the device is 'cuda'.
    """
    if execution.address:
        at_least = max(execution.threads * execution.processes, execution.cpus or cores())
        gpus_at_least = math.ceil(execution.gpus_per_trial or 1) * execution.processes
        return Node(at_least, gpus_at_least if execution.device == "cuda" else 0, 0, 0)
    if gpus is None:
        node = placement.this_machine(execution)
        if execution.device == "cuda" and not node.gpus:
            raise InputError(
                "device 'cuda' is not available on this machine; plan for others with --gpus, or choose cpu"
            )
    else:
        check_at_least("gpus", gpus, 0)
        if gpus and execution.device == "cpu":
            raise InputError(f"gpus {gpus} would not be used by device 'cpu'; leave one of them out")
        here = placement.this_machine(replace(execution, device="auto" if gpus else "cpu"))
        node = replace(here, gpus=min(gpus, execution.processes) if execution.local else gpus)
    known = node.cpus <= cores()
    return node if known else replace(node, memory_bytes=0)


def forecasts(
    trials: Iterable[Trial],
    execution: Execution,
    node: Node,
    accounts: Accounts,
    probes: Mapping[Any, Probe],
    cohorts: Iterable[Cohort] = (),
) -> list[Forecast]:
    """Predict each trial on such a node: by its probe, else by what trials have taken, else by constants of a CPU core
    or of a GPU that was measured.

    Each as a member of its cohort of `cohorts`; of a trial that is in none, as its result was trained, else alone.
    Trials that ran on a GPU say nothing of a CPU, nor the other way round.
    """
    trials, on_gpu = list(trials), bool(node.gpus)
    took = _took(trials, accounts, on_gpu)
    factor = cost.calibration(took, lambda trial: _as_it_ran(trial, accounts[trial.id], on_gpu))
    sizes = {id: account.cohort for id, account in accounts.items() if account.has_result}
    sizes |= {trial.id: len(cohort) for cohort in cohorts for trial in cohort}
    return [_forecast(trial, execution, node, on_gpu, factor, probes, sizes.get(trial.id, 1)) for trial in trials]


def _took(trials: Iterable[Trial], accounts: Accounts, on_gpu: bool) -> Iterable[tuple[Trial, float]]:
    for trial in trials:
        account = accounts.get(trial.id, Account())
        ran_on_gpu = account.tags.get("device", "cpu").startswith("cuda")
        if account.outcome == Outcome.FINISHED and ran_on_gpu == on_gpu and "seconds" in account.tags:
            yield trial, float(account.tags["seconds"])


def _as_it_ran(trial: Trial, account: Account, on_gpu: bool) -> float:
    """Seconds by constants, in its cohort and with its number of processes."""
    images = max(1, trial.recipe.batch // int(account.tags.get("processes", "1")))
    return _by_constants(trial, on_gpu, account.cohort, images)


def _by_constants(trial: Trial, on_gpu: bool, size: int, images: int) -> float:
    return gpu_seconds(trial, size, images) if on_gpu else cost.predicted_seconds(trial, images)


def _forecast(
    trial: Trial, execution: Execution, node: Node, on_gpu: bool, factor: float, probes: Mapping[Any, Probe], size: int
) -> Forecast:
    share, images = placement.share(trial, execution, node, size=size), execution.batch_share(trial)
    probe = timing.nearest(probes, timing.key(*as_probed(trial, execution, node, size)))
    if probe is not None and on_gpu != (probe.device != "cpu"):
        probe = None  # planned for GPUs on a machine without one
    constants = _by_constants(trial, on_gpu, size, images)
    if probe is not None:
        seconds, source = probe.seconds(trial.recipe), "probe"
        if on_gpu and probe.cohort != size:  # one size of cohort is to another as the constants say
            seconds *= constants / gpu_seconds(trial, probe.cohort, images)
    else:
        seconds, source = factor * constants, "finished trials"
        if factor == 1:
            source = f"constants of an {H200.name}" if on_gpu else "constants"
    seconds = round(seconds, 2)  # as the run's tag says it, so that plan and launch have one order
    seed_bytes = math.ceil(probe.memory_bytes / probe.cohort) if probe else 0
    if on_gpu:
        share = placement.share(trial, execution, node, seed_bytes, size)
        held = size * seed_bytes or placement.cohort_bytes(trial, images, size)
        return Forecast(trial, seconds, held, share, source, seed_bytes, size)
    held = cost.BYTES_A_PROCESS + (size * seed_bytes or placement.cohort_bytes(trial, images, size))
    if allowed := cost.MARGIN * placement.allowed_bytes(share, execution, node):
        held = min(held, max(int(allowed), cost.least_bytes(trial, size * images)))  # in segments
    return Forecast(trial, seconds, held, share, source, 0, size)


def as_probed(trial: Trial, execution: Execution, node: Node, size: int) -> tuple[Trial, Execution]:
    """What a process has of the trial, and how one process would run it on such a node in a cohort of so many."""
    cpus, device = placement.share(trial, execution, node, size=size).cpus, execution.device if node.gpus else "cpu"
    return timing.of_batch(trial, execution.batch_share(trial)), replace(
        execution, threads=cpus, device=device, processes=1, cohort=size
    )


def seconds_left(
    plan: Plan,
    running: Mapping[Cohort, float | None],
    waiting: Iterable[Cohort],
    finished: Iterable[tuple[Trial, float]],
) -> float:
    """Until the last trial ends: the paces of running cohorts, and predictions for the others.

    Predictions, also for running cohorts without a pace yet (None), are scaled by what `finished` trials took.
    """
    factor = cost.calibration(finished, lambda trial: plan[trial].seconds)
    known = {cohort: seconds for cohort, seconds in running.items() if seconds is not None}
    unknown = [cohort for cohort in (*running, *waiting) if cohort not in known]
    left = [*known.items(), *((cohort, factor * sum(plan[one].seconds for one in cohort)) for cohort in unknown)]
    return placement.makespan(
        placement.schedule([(cohort, seconds, plan[cohort[0]].share) for cohort, seconds in left], plan.nodes)
    )


@dataclass(frozen=True)
class Interval:
    """Seconds left, from `low` to `high`. `coverage`: how often such an interval holds, if its assumptions do."""

    low: float
    high: float
    coverage: float


def interval(left: float, pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """How far off `left` seconds may be, from (predicted, taken) seconds of finished trials; None for fewer than five.

    Assumes that what is left is off by one common factor, drawn like the factors taken / predicted of the trials that
    have finished, relative to their total's, by which `left` is scaled already. One factor for all is the widest case:
    errors that are independent of each other would cancel. The bounds are order statistics of n factors, the k-th from
    each end, between which the next one lies in (n + 1 - 2k) of n + 1 cases, whatever its distribution: the outermost
    ones up to 18 trials (67 % with 5, 80 % with 9), and 80 % or a little more beyond. Not covered is what finished
    trials cannot show: that short trials, which come last, are predicted worse than long ones, or that others begin to
    use the machine; nor the second or so between trials. On a machine that others use in bursts it is too short.
    """
    pairs = [(predicted, took) for predicted, took in pairs if predicted > 0 and took > 0]
    if len(pairs) < PAIRS:
        return None
    factor = sum(took for _, took in pairs) / sum(predicted for predicted, _ in pairs)
    off = sorted(took / predicted / factor for predicted, took in pairs)
    outside = max(1, (len(off) + 1) // 10)  # factors beyond each bound, counting the bound itself
    low, high = min(1.0, off[outside - 1]), max(1.0, off[-outside])
    return Interval(left * low, left * high, 1 - 2 * outside / (len(off) + 1))
