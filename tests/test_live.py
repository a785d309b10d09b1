"""What is shown while trials run is what their progress files say."""

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from experiments.live import Watch, watching
from study import progress
from study.spec import Execution, Trial

Small = Callable[..., Trial]


def said(execution: Execution, trial: Trial, **more: object) -> None:
    folder = execution.trial_folder(trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    progress.write(folder, **({"iteration": 12, "train_error_pct": 41.7, "seconds": 3.0, "seconds_left": 5.0} | more))


def test_trials_are_running_ended_or_waiting_and_the_rest_is_predicted(execution: Execution, small: Small) -> None:
    running, ended, waiting = trials = [small(seed=seed) for seed in range(3)]
    watch = Watch(trials, replace(execution, cpus=1))
    assert watch.look() == [] and watch.running == []
    said(execution, running)
    said(execution, ended, iteration=24, seconds_left=0.0, outcome="finished")
    assert [trial for trial, _ in watch.look()] == [ended]
    assert [trial for trial, _ in watch.running] == [running]
    assert watch.look() == []  # an end is told once
    # 5 s of the running one, then 3 s for the waiting one, as long as the same net took
    assert watch.summary() == "1 of 3 trials ended, 1 running, 1 waiting; about 8 s left"


def test_what_an_earlier_launch_said_is_not_shown(execution: Execution, small: Small) -> None:
    said(execution, small(), outcome="finished")
    watch = Watch([small()], execution)
    watch.since += 60
    assert watch.look() == [] and watch.ended == []


def test_without_a_terminal_each_end_is_one_plain_line(execution: Execution, small: Small) -> None:
    finished, diverged = trials = [small(), small("plain")]
    console = Console(file=io.StringIO(), width=40)
    with watching(trials, execution, console):
        said(execution, finished, outcome="finished")
        said(execution, diverged, train_error_pct=None, outcome="diverged")
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"[1/2] {finished.id}: 41.7 % training error after 12 iterations, 3 s",
        f"[2/2] {diverged.id}: diverged after 12 iterations, 3 s",
    ]
