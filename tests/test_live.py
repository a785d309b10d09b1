"""What is shown while trials run is what they say of themselves, and what that makes of predictions."""

import io
import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from commands.follow import follow, lines, looks
from commands.live import Watch, watching
from commands.options import Selection
from commands.status import Onlooker, Tracked, tracked
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run import launch as launching
from study.run.forecast import Forecast, Interval, Plan, interval, make_plan
from study.run.placement import Node, Share
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress
from study.store.records import seal_result, write_records

Small = Callable[..., Trial]
CLEAN = {"clean_train_error_pct": 5.0, "test_error_pct": 6.0}


def predicted(trials: list[Trial], cpus: int = 2, seconds: float = 6.0, takes: int = 1) -> Plan:
    """A plan in which each trial takes so many seconds and cores of one node."""
    forecasts = [Forecast(trial, seconds, 0, Share(takes, 0), "constants", 0) for trial in trials]
    return make_plan(forecasts, {trial.id for trial in trials}, [Node(cpus, 0, 0, 0)])


def said(execution: Execution, trial: Trial, **more: object) -> None:
    folder = execution.trial_folder(trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    now = {"iteration": 12, "train_error_pct": 41.7, "seconds": 3.0, "seconds_left": 5.0} | more
    heartbeat.write(folder, Progress(Progress(**({"launch": execution.launch} | now))))


def test_trials_are_running_ended_or_waiting_and_the_rest_is_predicted(execution: Execution, small: Small) -> None:
    running, ended, waiting = trials = [small(seed=seed) for seed in range(3)]
    watch = Watch(trials, execution, predicted(trials, cpus=1))
    assert watch.look() == [] and watch.running == []
    said(execution, running)
    said(execution, ended, iteration=24, seconds_left=0.0, outcome=Outcome.FINISHED)
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
    said(execution, small(), outcome=Outcome.FINISHED, launch="earlier")
    for launch, ended in (("this", []), ("earlier", [small()])):
        watch = Watch([small()], replace(execution, launch=launch), predicted([small()]))
        assert [trial for trial, _ in watch.look()] == ended


def test_without_a_terminal_each_end_is_one_plain_line(execution: Execution, small: Small) -> None:
    finished, diverged = trials = [small(), small("plain")]
    console = Console(file=io.StringIO(), width=40)
    with watching(trials, execution, console, predicted(trials)):
        said(execution, finished, outcome=Outcome.FINISHED)
        said(execution, diverged, train_error_pct=None, outcome=Outcome.DIVERGED)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"[1/2] {finished.id}: 41.7 % training error after 12 iterations, 3 s (predicted 6 s)",
        f"[2/2] {diverged.id}: diverged after 12 iterations, 3 s (predicted 6 s)",
    ]


def selection(execution: Execution, trials: list[Trial]) -> Selection:
    return Selection(SMOKE, {trial: ["test"] for trial in trials}, execution, {})


def stand(execution: Execution, trial: Trial, outcome: str, **more: Any) -> None:
    """Let the trial's account say so."""
    tags = {"profile": "test", "predicted_seconds": "6.00", "device": "cpu"} | more.pop("tags", {})
    write_account(execution.trial_folder(trial.id), Account(outcome=Outcome(outcome), tags=tags, **more))


@pytest.mark.parametrize("off", [1.0, 0.2, 7.0])
def test_predictions_that_are_all_off_by_one_factor_leave_no_doubt(off: float) -> None:
    found = interval(100.0, [(seconds, off * seconds) for seconds in (3.0, 8.0, 21.0, 5.0, 40.0)])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(100), pytest.approx(100))


def test_the_interval_is_the_spread_of_single_trials_around_their_total() -> None:
    found = interval(60.0, [(10.0, 5.0), (10.0, 8.0), (10.0, 10.0), (10.0, 12.0), (10.0, 15.0)])
    assert found == Interval(low=30.0, high=90.0, coverage=pytest.approx(4 / 6))


def test_nothing_is_said_of_how_far_off_it_is_before_five_trials_have_finished() -> None:
    assert interval(60.0, [(10.0, 5.0)] * 4) is None
    assert interval(60.0, [(10.0, 5.0)] * 4 + [(0.0, 5.0)]) is None  # what was predicted to take nothing shows nothing


def test_of_many_trials_the_oddest_are_left_out_and_four_fifths_are_covered() -> None:
    few = interval(1.0, [(1.0, 1.0)] * 8 + [(1.0, 9.0)])
    many = interval(1.0, [(1.0, 1.0)] * 18 + [(1.0, 9.0)])
    assert few and few.coverage == pytest.approx(0.8) and few.high > few.low
    assert many and many.coverage == pytest.approx(0.8) and many.high == 1.0


def test_an_interval_holds_as_often_as_it_says_where_all_that_is_left_shares_one_factor() -> None:
    chance = random.Random(0)
    for finished in (5, 9, 30):
        held, said = 0, 0.0
        for _ in range(2000):
            factors = [chance.lognormvariate(0.3, 0.4) for _ in range(finished + 1)]
            *seen, comes = factors
            found = interval(100.0 * sum(seen) / finished, [(1.0, factor) for factor in seen])
            assert found
            held, said = held + (found.low <= 100.0 * comes <= found.high), found.coverage
        assert said - 0.03 < held / 2000 < said + 0.1  # with 30, the bounds lie beyond single factors


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
    write_records(execution.trial_folder(altered.id), [{"iteration": 4, "train_loss": 0.5} | CLEAN])
    standing = Onlooker(selection(execution, trials), Tracked()).look()
    assert [row.outcome for row in standing.rows] == ["finished", "unusable"] and standing.ended == [sound.id]
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
    assert onlooker.look().launch == "silent" and "silent" in onlooker.look().remark()
    os.utime(launch.path, ns=(0, 1))
    assert onlooker.look().launch == "running"
    launch.end()
    assert onlooker.look().launch == "none"


def test_followers_of_a_real_study_see_it_end(execution: Execution, small: Small) -> None:
    trials = [small(), small("plain")]
    selected = selection(execution, trials)
    written: list[str] = []

    def look_on() -> None:
        with tracked(selected) as tracker:
            written.extend(lines(looks(Onlooker(selected, tracker), rest=0.05)))

    follower = threading.Thread(target=look_on, daemon=True)
    follower.start()
    time.sleep(0.2)
    launching.launch(trials, execution, {trial.id: {"profile": "smoke"} for trial in trials}, lambda *_: None)
    follower.join(10)
    assert written[0].startswith("0 of 2 trials have a result, 0 running, 2 waiting; about ")
    assert written[0].endswith("unknown until 5 trials have finished; no launch is running")
    assert {line.split(":")[0] for line in written} >= {trial.id for trial in trials}
    assert written[-1] == "2 of 2 trials have a result, 0 running, 0 waiting; nothing is left to run"
    console = Console(file=io.StringIO(), width=40)
    follow(selected, console, as_json=False)
    assert console.file.getvalue().splitlines() == written[-1:]  # type: ignore[attr-defined]


def test_following_as_json_is_one_line_a_look(
    execution: Execution, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    stands = Account(tags={"seconds": "3.00"}, started=0)
    seal_result(execution.trial_folder(small().id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], stands)
    follow(selection(execution, [small()]), Console(), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert [row["outcome"] for row in json.loads(line)["trials"]] == ["diverged"]
