"""Several processes a trial: that they give one process's numbers to rounding, and end together however one ends."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import psutil
import pytest
import torch
from dying import elsewhere

from experiments.profiles import PAPER
from study import cost
from study.execution import Execution
from study.run import worker
from study.run.attempt import Attempt
from study.run.launch import launch
from study.run.placement import Node, Share, schedule, share
from study.spec import InputError, Trial
from study.store import heartbeat
from study.store.account import read_account
from study.store.heartbeat import Progress
from study.store.records import RECALIBRATED, run_in
from study.training.checkpoints import load_newest
from study.training.distributed import HERE, Assist, Ended, Meeting, Peers, spawned
from study.training.state import TrainState

Small = Callable[..., Trial]
TAGS = {"profile": "test"}
WAYS: list[dict[str, Any]] = [
    {"bn_batch": 8, "warmup": "threshold", "warmup_iterations": 6, "warmup_learning_rate": 0.01, "drops": (9, 11)},
    {"bn_batch": 16, "momentum_rule": "nesterov", "drops": ()},
    {"bn_batch": 8, "schedule": "plateau", "patience": 1, "drops": (), "record_every": 2, "evaluate_every": 4},
]


@pytest.fixture
def dozen(small: Small) -> Small:
    """A trial of 14 updates whose batches of 32 images can be shared."""
    return lambda **recipe: small(**{"bn_batch": 8, "iterations": 14, "drops": (9, 11), "record_every": 4} | recipe)


def run(trial: Trial, execution: Execution, processes: int, peers: Peers = HERE) -> str:
    return worker.run_trial(trial, replace(execution, processes=processes), TAGS, peers)


def end_of(trial: Trial, execution: Execution) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The final state, and the records."""
    state = load_newest(execution.trial_folder(trial.id) / "checkpoints")
    assert state is not None and not children()
    return state, state["records"]


def children() -> list[psutil.Process]:
    """The other processes of a trial that this process runs."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def steps(state: Mapping[str, Any]) -> list[torch.Tensor]:
    """The velocities in the size in which they move the weights."""
    saved = state["optimizer"]
    return [saved["param_groups"][0]["lr"] * each["momentum_buffer"] for each in saved["state"].values()]


def assert_equal_to_rounding(one: Any, other: Any, rounding: float = 1e-5) -> None:
    (a, records), (b, others) = one, other
    for mine, theirs in ((a["net"], b["net"]), (steps(a), steps(b)), (a["window"], b["window"])):
        torch.testing.assert_close(mine, theirs, rtol=rounding, atol=rounding)
    assert (a["warmed_at"], a["plateaus"], a["recent"]) == (b["warmed_at"], b["plateaus"], b["recent"])
    assert [list(record) for record in records] == [list(record) for record in others]
    numbers = [[v for record in rows for v in record.values() if v is not None] for rows in (records, others)]
    torch.testing.assert_close(*map(torch.tensor, numbers), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("way", [WAYS[0], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])], ids=str)
def test_two_processes_give_the_numbers_of_one_to_rounding(dozen: Small, execution: Execution, way: Any) -> None:
    trial, two = dozen(**way), elsewhere(execution, "two")
    assert run(trial, execution, 1) == run(trial, two, 2) == "finished"
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, two))
    tags = [read_account(each.trial_folder(trial.id)).tags for each in (execution, two)]
    assert [said["processes"] for said in tags] == ["1", "2"]
    assert [float(tags[0][name]) for name in RECALIBRATED] == pytest.approx(
        [float(tags[1][name]) for name in RECALIBRATED], abs=0.2
    )
    wrong = [run_in(each.trial_folder(trial.id), trial).wrong for each in (execution, two)]
    for one, (_, records) in zip(wrong, (end_of(trial, execution), end_of(trial, two)), strict=True):
        assert one is not None and records[-1]["test_error_pct"] == 100 * int(one.flags().sum()) / one.images
    assert sum(wrong[0].flags() != wrong[1].flags()) <= 1  # rounding may tip an image


@pytest.mark.slow
def test_in_bf16_they_differ_by_its_rounding(dozen: Small, execution: Execution) -> None:
    trial, two = dozen(precision="bf16", iterations=2, drops=()), elsewhere(execution, "two")
    assert run(trial, execution, 1) == run(trial, two, 2) == "finished"
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, two), 1e-2)


@pytest.mark.slow
def test_four_processes_in_segments_do_too(dozen: Small, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first runs out of memory, all of them try once more in segments."""
    trial, four, calls, real = dozen(), elsewhere(execution, "four"), list[int](), worker._drive
    assert run(trial, execution, 1) == "finished"

    def exhausted_at_first(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(worker, "_drive", exhausted_at_first)
    assert run(trial, four, 4) == "finished"
    assert int(read_account(four.trial_folder(trial.id)).tags["segments"]) > 1
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, four))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(2, 1), (1, 2)])
def test_any_number_of_processes_resumes_a_checkpoint(
    dozen: Small, execution: Execution, processes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked to stop in the middle of a window of the records; what is saved is the whole batches'."""
    trial, stopped = dozen(), elsewhere(execution, "stopped")
    assert run(trial, execution, 1) == "finished"
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "reached", stopping_at(6))
        assert run(trial, stopped, processes[0]) == "interrupted"
    state, records = end_of(trial, stopped)
    assert (state["iteration"], state["window_batches"], len(records)) == (6, 2, 1)
    assert run(trial, stopped, processes[1]) == "finished"
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, stopped))


def stopping_at(iteration: int) -> Callable[..., None]:
    def reached(attempt: Attempt, state: TrainState, *rest: Any, **more: Any) -> None:
        attempt.stopping = state.iteration == iteration

    return reached


@pytest.mark.parametrize("seconds", [pytest.param(0.0, marks=pytest.mark.slow), 3.0])
def test_a_killed_process_is_named_and_the_trial_goes_on(
    dozen: Small, execution: Execution, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is killed while it starts."""
    trial, killed, victims = dozen(), elsewhere(execution, "killed"), list[psutil.Process]()
    assert run(trial, execution, 1) == "finished"

    def kill(attempt: Attempt, state: TrainState, *rest: Any, **more: Any) -> None:
        if state.iteration == 6 and not victims and seconds:
            attempt.checkpoint(state)
            victims.extend(children())
            victims[0].kill()

    @contextmanager
    def stillborn(size: int, meeting: Meeting, assist: Assist) -> Iterator[Ended]:
        with spawned(size, meeting, assist) as ended:
            victims.extend(children())
            victims[0].kill()
            yield ended

    monkeypatch.setattr(Attempt, "reached", kill)
    peers = HERE if seconds else Peers(HERE.address, stillborn)
    with pytest.raises(RuntimeError, match="process 1 of the trial ended with -9"):
        run(trial, killed, 2, peers)
    assert len(victims) == 1 and not children()
    assert "process 1 of the trial" in read_account(killed.trial_folder(trial.id)).reason
    assert run(trial, killed, 2) == "finished"
    assert_equal_to_rounding(end_of(trial, execution), end_of(trial, killed))


@pytest.mark.slow
def test_a_loop_that_loses_a_process_tries_again_by_itself(
    dozen: Small, store: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, victims, whole = dozen(), list[psutil.Process](), elsewhere(store, "whole")
    real = Attempt.reached

    def kill(attempt: Attempt, state: TrainState, *rest: Any, **more: Any) -> None:
        real(attempt, state, *rest, **more)
        if state.iteration == 6 and not victims:
            victims.extend(children())
            victims[0].kill()

    monkeypatch.setattr(Attempt, "reached", kill)
    launch([trial], replace(store, processes=2), {trial.id: TAGS}, lambda *_: None)
    said = read_account(store.trial_folder(trial.id))
    assert (said.outcome, said.failures, len(victims)) == ("finished", 1, 1)
    assert run(trial, whole, 1) == "finished"
    assert_equal_to_rounding(end_of(trial, store), end_of(trial, whole))


def test_what_fails_in_another_process_is_said_by_the_first(dozen: Small, execution: Execution) -> None:
    trial = dozen()
    missing = replace(trial, data=replace(trial.data, size=9))

    @contextmanager
    def without_data(size: int, meeting: Meeting, assist: Assist) -> Iterator[Ended]:
        with spawned(size, meeting, partial(worker.assist, missing, replace(execution, processes=2))) as ended:
            yield ended

    with pytest.raises(RuntimeError, match="process 1 of the trial failed: InputError: .* has size 8, not 9"):
        run(trial, execution, 2, Peers(HERE.address, without_data))
    assert not children()


@pytest.mark.slow
def test_processes_listen_on_loopback_alone_and_end_when_the_first_is_killed(dozen: Small, store: Execution) -> None:
    trial, execution = dozen(iterations=100_000, drops=()), replace(store, processes=2)
    first = get_context("spawn").Process(target=worker.run_trial, args=(trial, execution, {}))
    first.start()
    deadline = time.monotonic() + 60
    while (heartbeat.read(store.trial_folder(trial.id)) or Progress()).iteration < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    others = psutil.Process(first.pid).children()
    sockets = [net for process in (psutil.Process(first.pid), *others) for net in process.net_connections()]
    listening = {net.laddr.ip for net in sockets if net.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    first.kill()
    first.join()
    assert others and not psutil.wait_procs(others, timeout=30)[1]


@pytest.mark.parametrize("local", [True, False])
def test_processes_that_cannot_share_a_batch_equally_are_refused(small: Small, store: Execution, local: bool) -> None:
    trial, execution = small(bn_batch=8), replace(store, processes=3, local=local)
    message = r"processes 3 cannot share batch 32 of .*, which BatchNorm normalises in 4 parts of 8 .* a divisor of 4"
    for refused in (
        lambda: launch([trial], execution, {trial.id: {}}, lambda *_: None),
        lambda: worker.run_trial(trial, execution, {}),
        lambda: share(trial, execution, Node(8, 0, 0, 0)),
    ):
        with pytest.raises(InputError, match=message) as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="processes 0 is too small"):
        replace(store, processes=0)
    assert not (store.storage / "trials").exists()


def test_every_process_takes_its_share_of_one_node_or_of_several(small: Small, execution: Execution) -> None:
    trial, two = small(bn_batch=8), replace(execution, processes=2, local=False)
    part = share(trial, two, Node(4, 0, 0, 0))
    assert (part, part.all_cpus) == (Share(1, 0.0, 2), 2)
    assert share(trial, two, Node(4, 2, 0, 0)) == Share(1, 1.0, 2)
    work = [((small(seed=seed),), 2.0, Share(1, 1.0, 2)) for seed in range(3)]
    assert [p.start for p in schedule(work, [Node(8, 2, 0, 0)])] == [0, 2, 4]
    assert [(p.node, p.start) for p in schedule(work, [Node(8, 3, 0, 0)] * 2)] == [(0, 0), (1, 0), (0, 0)]
    with pytest.raises(InputError, match="takes 2 times 1 CPUs and 1 GPUs, and no node has as many"):
        schedule(work, [Node(8, 1, 0, 0)])
    deep = PAPER.trials(PAPER.model("residual", 1202), PAPER.recipe(PAPER.model("residual", 1202)), 1)[0]
    deep = replace(deep, recipe=replace(deep.recipe, bn_batch=deep.recipe.batch // 2))
    assert cost.predicted_seconds(deep, two.batch_share(deep)) < cost.predicted_seconds(deep)
    assert replace(two, cpus=8, threads=2).trials_at_once == 2


@pytest.mark.slow
def test_a_trial_on_ray_may_have_two_processes(dozen: Small, store: Execution) -> None:
    trial, alone = dozen(), elsewhere(store, "alone")
    launch([trial], replace(store, local=False, cpus=2, processes=2), {trial.id: TAGS}, lambda *_: None)
    said = read_account(store.trial_folder(trial.id))
    assert (said.outcome, said.failures, said.tags["processes"]) == ("finished", 0, "2"), said.reason
    assert run(trial, alone, 1) == "finished"
    assert_equal_to_rounding(end_of(trial, store), end_of(trial, alone))
