"""Which trials are trained together: seeds of one condition, as one net, by one process. Such a group is a cohort.

Owns how trials are grouped, and which sizes are refused. Does not know how a cohort is trained. Standard library only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from study import cost
from study.cards import H200, gpu_seconds
from study.execution import Execution
from study.run.placement import BYTES_A_CONTEXT, Cohort, Node, cohort_bytes, waves
from study.spec import InputError, Trial, detection_of
from study.store.account import Account

MOST = H200.most_together  # seeds; more were not measured


def check(trials: Iterable[Trial], execution: Execution) -> None:
    """Raise `InputError` where trials cannot be trained as many together as `execution.cohort`.

    `trials`: all that are planned, with a result or without, so that a launch that lacks a few seeds can go on.
    """
    size, seeds = execution.cohort, Counter(trial.condition for trial in trials)
    if size <= 1:
        return
    if execution.processes > 1:
        raise InputError(
            f"cohort {size}: trials that {execution.processes} processes share are trained alone; choose --cohort 1 or"
            " --processes 1"
        )
    for trial in trials:
        if detection_of(trial):
            raise InputError(
                f"cohort {size}: {trial.id} is a detector, which is trained alone; choose --cohort auto or 1, or other"
                " --experiments"
            )
        if seeds[trial.condition] < size:
            raise InputError(
                f"cohort {size} is more seeds than {trial.condition} has ({seeds[trial.condition]}); choose --cohort"
                f" auto, {min(seeds.values())} or less, more --seeds, or other --experiments"
            )


def cohorts(trials: Sequence[Trial], execution: Execution, nodes: Sequence[Node]) -> list[Cohort]:
    """The trials to run, grouped by condition, in the order given; each cohort's members by their seeds.

    `execution.cohort` seeds are together, the last ones of a condition fewer. Where that is 0, a trial is alone on a
    CPU; on a GPU there are as many together as fit into its memory, `MOST` at most, and fewer where a GPU of the nodes
    would have nothing to do. Trials that wait for others' final nets are grouped by themselves.
    """
    groups = [group for wave in waves(trials) for group in _of_wave(wave, execution, nodes)]
    place = {trial: index for index, trial in enumerate(trials)}
    return sorted(groups, key=lambda cohort: min(place[trial] for trial in cohort))


def _of_wave(trials: Sequence[Trial], execution: Execution, nodes: Sequence[Node]) -> Iterator[Cohort]:
    seeds: dict[str, list[Trial]] = {}
    for trial in trials:
        seeds.setdefault(trial.condition, []).append(trial)
    conditions = [sorted(members, key=lambda trial: trial.seed) for members in seeds.values()]
    if execution.cohort:
        return (group for members in conditions for group in _of_size(members, execution.cohort))
    counts = zip(conditions, _counts(conditions, execution, nodes), strict=True)
    return (group for members, count in counts for group in _evenly(members, count))


def _of_size(members: Sequence[Trial], size: int) -> Iterator[Cohort]:
    if detection_of(members[0]):
        size = 1
    return (tuple(members[first : first + size]) for first in range(0, len(members), size))


def _evenly(members: Sequence[Trial], count: int) -> Iterator[Cohort]:
    bounds = (len(members) * part // count for part in range(count + 1))
    return (tuple(members[first:last]) for first, last in pairwise(bounds))


def _counts(conditions: Sequence[Sequence[Trial]], execution: Execution, nodes: Sequence[Node]) -> list[int]:
    """Into how many cohorts each condition is divided."""
    counts = [-(-len(members) // _most(members[0], execution, nodes)) for members in conditions]
    while sum(counts) < _at_once(execution, nodes):  # the longest cohort is divided
        seconds = [
            -(-len(members) // count) * gpu_seconds(members[0]) if count < len(members) else 0.0
            for members, count in zip(conditions, counts, strict=True)
        ]
        if not any(seconds):
            break
        counts[seconds.index(max(seconds))] += 1
    return counts


def _most(trial: Trial, execution: Execution, nodes: Sequence[Node]) -> int:
    """The most seeds that train together: of those that fit, as many as take least each by what was measured of a card.

    Memory that is not known is no limit.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if not with_gpus or execution.device == "cpu" or execution.processes > 1 or detection_of(trial):
        return 1
    memory = min(node.gpu_memory_bytes for node in with_gpus)
    allowed = int(execution.memory_gib * 2**30) or int(cost.MARGIN * memory * min(1.0, execution.gpus_per_trial or 1.0))
    images = execution.batch_share(trial)
    fit = (allowed - BYTES_A_CONTEXT) // cohort_bytes(trial, images, 1) if allowed else MOST
    return min(range(1, max(1, min(MOST, fit)) + 1), key=lambda size: gpu_seconds(trial, size, images))


def _at_once(execution: Execution, nodes: Sequence[Node]) -> int:
    """How many processes the GPUs of the nodes have room for; one a GPU where each takes what it needs."""
    each = execution.gpus_per_trial or 1.0
    return sum(int(min(node.gpus / each + 1e-6, node.cpus // execution.threads)) for node in nodes if node.gpus)


def longest_first(cohorts: Iterable[Cohort], seconds: Callable[[Trial], float]) -> list[Cohort]:
    """In the order of their starts, by the predicted seconds of their members."""
    return sorted(cohorts, key=lambda cohort: -sum(map(seconds, cohort)))


def running(trials: Iterable[Trial], accounts: Mapping[str, Account]) -> list[Cohort]:
    """Trials that run, grouped by the process that trains them; alone where that is not known."""
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        account = accounts[trial.id]
        groups.setdefault(trial.id if account.pid is None else account.process, []).append(trial)
    return [tuple(members) for members in groups.values()]


def name(cohort: Cohort) -> str:
    """`trial resnet20A-digits-5f0a1b2c3d-s0`; of several `trials resnet20A-digits-5f0a1b2c3d, seeds 0, 1, 2`."""
    if len(cohort) == 1:
        return f"trial {cohort[0].id}"
    return f"trials {cohort[0].condition}, seeds {', '.join(str(trial.seed) for trial in cohort)}"
