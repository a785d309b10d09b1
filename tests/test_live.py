"""What is shown while trials run is what their progress files say."""

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from experiments.live import Watch, watching
from experiments.plan import Forecast, Plan, make_plan
from study import progress
from study.placement import Node, Share
from study.spec import Execution, Trial

Small = Callable[..., Trial]


def predicted(trials: list[Trial], cpus: int = 2, seconds: float = 6.0, takes: int = 1) -> Plan:
    """A plan in which each trial takes so many seconds and cores of one node."""
    forecasts = [Forecast(trial, seconds, 0, Share(takes, 0), "constants", 0) for trial in trials]
    return make_plan(forecasts, {trial.id for trial in trials}, [Node(cpus, 0, 0, 0)])


def said(execution: Execution, trial: Trial, **more: object) -> None:
    folder = execution.trial_folder(trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    now = {"iteration": 12, "train_error_pct": 41.7, "seconds": 3.0, "seconds_left": 5.0} | more
    progress.write(folder, **({"launch": execution.launch} | now))


def test_trials_are_running_ended_or_waiting_and_the_rest_is_predicted(execution: Execution, small: Small) -> None:
    running, ended, waiting = trials = [small(seed=seed) for seed in range(3)]
    watch = Watch(trials, execution, predicted(trials, cpus=1))
    assert watch.look() == [] and watch.running == []
    said(execution, running)
    said(execution, ended, iteration=24, seconds_left=0.0, outcome="finished")
    assert [trial for trial, _ in watch.look()] == [ended]
    assert [trial for trial, _ in watch.running] == [running]
    assert watch.look() == []  # an end is told once
    # 5 s of the running one, then 3 s for the waiting one: half of what was predicted, as of the one that ended
    assert watch.summary() == "1 of 3 trials ended, 1 running, 1 waiting; about 8 s left"


def test_what_is_left_depends_on_how_many_fit_at_a_time(execution: Execution, small: Small) -> None:
    running, *_ = trials = [small(seed=seed) for seed in range(4)]
    said(execution, running)
    for cpus, takes, left in ((4, 1, 6), (2, 1, 12), (2, 2, 5 + 3 * 6)):
        watch = Watch(trials, execution, predicted(trials, cpus, takes=takes))
        watch.look()
        assert watch.seconds_left() == left


def test_a_trial_that_has_just_begun_is_predicted_like_one_that_waits(execution: Execution, small: Small) -> None:
    said(execution, small(), iteration=0, train_error_pct=None, seconds=0.0, seconds_left=None)
    watch = Watch([small()], execution, predicted([small()]))
    watch.look()
    assert watch.summary() == "0 of 1 trials ended, 1 running, 0 waiting; about 6 s left"
    assert watch.table()


def test_what_an_earlier_launch_said_is_not_shown(execution: Execution, small: Small) -> None:
    said(execution, small(), outcome="finished", launch="earlier")
    for launch, ended in (("this", []), ("earlier", [small()])):
        watch = Watch([small()], replace(execution, launch=launch), predicted([small()]))
        assert [trial for trial, _ in watch.look()] == ended


def test_without_a_terminal_each_end_is_one_plain_line(execution: Execution, small: Small) -> None:
    finished, diverged = trials = [small(), small("plain")]
    console = Console(file=io.StringIO(), width=40)
    with watching(trials, execution, console, predicted(trials)):
        said(execution, finished, outcome="finished")
        said(execution, diverged, train_error_pct=None, outcome="diverged")
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"[1/2] {finished.id}: 41.7 % training error after 12 iterations, 3 s (predicted 6 s)",
        f"[2/2] {diverged.id}: diverged after 12 iterations, 3 s (predicted 6 s)",
    ]
