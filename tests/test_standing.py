"""Where a study stands is what its trials wrote, and what that makes of predictions."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from stored import alter

from commands.onlooker import Onlooker, Tracked, tracked
from commands.options import Selection
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run.forecast import Forecast
from study.run.placement import Node, Share
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress
from study.store.records import seal_result

Small = Callable[..., Trial]
CLEAN = {"clean_train_error_pct": 5.0, "test_error_pct": 6.0}


def said(execution: Execution, trial: Trial, **more: object) -> None:
    folder = execution.trial_folder(trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    now = {"iteration": 12, "train_error_pct": 41.7, "seconds": 3.0, "seconds_left": 5.0} | more
    heartbeat.write(folder, Progress(**({"launch": execution.launch} | now)))


def selection(execution: Execution, trials: list[Trial]) -> Selection:
    return Selection(SMOKE, {trial: ["test"] for trial in trials}, execution)


def stand(execution: Execution, trial: Trial, outcome: str, **more: Any) -> None:
    """Let the trial's account say so."""
    tags = {"profile": "test", "predicted_seconds": "6.00", "device": "cpu"} | more.pop("tags", {})
    write_account(execution.trial_folder(trial.id), Account(outcome=Outcome(outcome), tags=tags, **more))


def expecting(onlooker: Onlooker, seconds: float = 6.0, takes: int = 1) -> Onlooker:
    """With a prediction of so many seconds and cores for each trial."""
    onlooker.expected = [
        Forecast(trial, seconds, 0, Share(takes, 0), "constants", 0) for trial in onlooker.selected.trials
    ]
    return onlooker


def test_what_is_left_is_what_runs_and_what_waits_scaled_by_what_was_taken(execution: Execution, small: Small) -> None:
    running, ended, _ = trials = [small(seed=seed, iterations=4) for seed in range(3)]
    said(execution, running)
    stand(execution, running, "running")
    record = {"iteration": 4, "train_loss": 1.0, "train_error_pct": 5.0} | CLEAN
    account = Account(tags={"seconds": "3.00", "predicted_seconds": "6.00"}, started=0)
    seal_result(execution.trial_folder(ended.id), Outcome.FINISHED, [record], account)
    onlooker = Onlooker(selection(execution, trials), Tracked(), room=Node(1, 0, 0, 0))
    onlooker.ended = [ended.id]  # so that the predictions below stand
    standing = expecting(onlooker).look()
    assert [row.outcome for row in standing.rows] == ["running", "finished", "missing"]
    # 5 s of the running one, then 3 s for the waiting one: half of what was predicted, as of the one that ended
    assert standing.seconds_left == 5 + 3
    assert standing.sentence() == "1 of 3 trials have a result, 1 running, 1 waiting"


def test_what_is_left_depends_on_how_many_fit_at_a_time(execution: Execution, small: Small) -> None:
    running, *_ = trials = [small(seed=seed) for seed in range(4)]
    said(execution, running)
    stand(execution, running, "running")
    for cpus, takes, left in ((4, 1, 6), (2, 1, 12), (2, 2, 5 + 3 * 6)):
        onlooker = Onlooker(selection(execution, trials), Tracked(), room=Node(cpus, 0, 0, 0))
        onlooker.look()
        assert expecting(onlooker, takes=takes).look().seconds_left == left


def test_a_trial_that_has_just_begun_is_predicted_like_one_that_waits(execution: Execution, small: Small) -> None:
    said(execution, small(), iteration=0, train_error_pct=None, seconds=0.0, seconds_left=None)
    stand(execution, small(), "running")
    assert expecting(Onlooker(selection(execution, [small()]), Tracked())).look().seconds_left == 6


def test_a_launch_does_not_show_trials_as_running_that_an_earlier_one_left(execution: Execution, small: Small) -> None:
    said(execution, small(), launch="earlier")
    stand(execution, small(), "running", launch="earlier")
    for launch, outcome in (("this", "interrupted"), ("earlier", "running"), ("", "running")):
        onlooker = Onlooker(selection(replace(execution, launch=launch), [small()]), Tracked())
        assert [row.outcome for row in onlooker.look().rows] == [outcome]


def test_a_study_before_its_first_launch_is_missing_and_stays_without_a_store(
    execution: Execution, small: Small
) -> None:
    trials = [small(seed=seed) for seed in range(3)]
    with tracked(selection(execution, trials), rest=0.01) as tracker:
        standing = Onlooker(selection(execution, trials), tracker).look()
    assert standing.counts["missing"] == 3 and standing.launch == "none" and standing.interval is None
    assert standing.sentence() == "0 of 3 trials have a result, 0 running, 3 waiting"
    assert standing.time_left().endswith("unknown until 5 trials have finished") and standing.seconds_left > 0
    assert not execution.storage.exists()


def test_every_trial_stands_as_its_account_says(execution: Execution, small: Small) -> None:
    running, failed, stopped, waiting = trials = [small(seed=seed) for seed in range(4)]
    said(execution, running)
    stand(execution, running, "running")
    stand(execution, failed, "failed", reason="ValueError: no\nand more", failures=3)
    stand(execution, stopped, "interrupted", reason="asked to stop")
    standing = Onlooker(selection(execution, trials), Tracked()).look()
    assert [row.outcome for row in standing.rows] == ["running", "failed", "interrupted", "missing"]
    assert standing.sentence() == "0 of 4 trials have a result, 1 running, 2 waiting, 1 failed"
    assert standing.of("failed")[0].reason == "(failed 3 times) ValueError: no"
    assert standing.rate == 12 / 3.0


def test_a_result_that_was_altered_is_none(execution: Execution, small: Small) -> None:
    sound, altered = trials = [small(seed=seed, iterations=4) for seed in range(2)]
    for trial in trials:
        planted = [{"iteration": 4, "train_loss": 1.0, "train_error_pct": 5.0} | CLEAN]
        seal_result(execution.trial_folder(trial.id), Outcome.FINISHED, planted, Account(tags={"seconds": "3.00"}))
    alter(execution.trial_folder(altered.id), [{"iteration": 4, "train_loss": 0.5} | CLEAN])
    standing = Onlooker(selection(execution, trials), Tracked()).look()
    assert [row.outcome for row in standing.rows] == ["finished", "unusable"] and standing.ended == (sound.id,)
    assert not standing.complete


def test_what_only_mlflow_knows_counts(execution: Execution, small: Small) -> None:
    tracker = Tracked({small().id: Account(outcome=Outcome.FINISHED, tags={"seconds": "3.00"})})
    standing = Onlooker(selection(execution, [small()]), tracker).look()
    assert standing.complete and standing.rows[0].iteration == 24 and standing.seconds_left == 0


def test_as_many_trials_are_expected_at_once_as_were_seen_to_run(execution: Execution, small: Small) -> None:
    trials = [small(seed=seed) for seed in range(6)]
    left = []
    for count in (1, 3):
        for trial in trials[:count]:
            said(execution, trial, seconds_left=0.0)
            stand(execution, trial, "running", launch=f"with {count}")
        onlooker = Onlooker(selection(execution, trials), Tracked())
        left.append(onlooker.look().seconds_left / onlooker.look().rows[-1].predicted_seconds)
    assert left == [pytest.approx(5), pytest.approx(1)]


def test_a_launch_that_touches_its_file_no_more_is_silent(execution: Execution, small: Small) -> None:
    now = 0.0
    onlooker = Onlooker(selection(execution, [small()]), Tracked(), clock=lambda: now)
    launch = heartbeat.Launch(execution)
    execution.storage.mkdir()
    launch.begin()
    assert onlooker.look().launch == "running"
    now = heartbeat.SILENCE_SECONDS + 1
    assert onlooker.look().launch == "silent" and "silent" in onlooker.look().summary()
    os.utime(launch.path, ns=(0, 1))
    assert onlooker.look().launch == "running"
    launch.end()
    assert onlooker.look().launch == "none"
