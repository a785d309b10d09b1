"""A study on a terminal, and as lines: the same view for those who follow it and for the run itself."""

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from commands.accounts import accounts
from commands.onlooker import LOOK_SECONDS, Onlooker, Tracked, tracked
from commands.options import Selection
from commands.standing import Standing, forecasts_of, standing_of
from commands.status import follow, lines, looks, picture, shown
from experiments import planned
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run import launch as launching
from study.spec import DetectionTrial, Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress
from study.store.records import seal_result

Small = Callable[..., Trial]


def selection(execution: Execution, trials: list[Trial]) -> Selection:
    return Selection(SMOKE, {trial: ["test"] for trial in trials}, execution)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_detector_is_shown_under_its_own_title(execution: Execution) -> None:
    detector = next(trial for trial in planned(SMOKE) if isinstance(trial, DetectionTrial))
    write_account(execution.trial_folder(detector.id), Account(outcome=Outcome.RUNNING))
    heartbeat.write(execution.trial_folder(detector.id), Progress(iteration=1, seconds=1.0))
    console = Console(file=io.StringIO(), width=100)
    console.print(picture(Onlooker(selection(execution, [detector]), Tracked()).look()))
    text = " ".join(printed(console))
    assert f"{detector.title}, seed 0" in text and detector.id in text and detector.title != detector.model.title


def test_while_a_run_lasts_each_end_is_one_plain_line(execution: Execution, small: Small) -> None:
    diverged, failed = trials = [small("plain"), small()]
    console = Console(file=io.StringIO(), width=40)
    with shown(Onlooker(selection(execution, trials), Tracked()), console):
        while not printed(console):
            time.sleep(0.01)
        account = Account(tags={"seconds": "3.00", "predicted_seconds": "6.00"}, started=0)
        heartbeat.write(execution.trial_folder(diverged.id), Progress(iteration=4, seconds=3.0))
        seal_result(
            execution.trial_folder(diverged.id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], account
        )
        write_account(execution.trial_folder(failed.id), Account(outcome=Outcome.FAILED, reason="no"))
    first, end, last = printed(console)
    assert first.startswith("0 of 2 trials have a result, 0 running, 2 waiting; about ")
    assert end == f"{diverged.id}: diverged after 4 iterations, 3 s (predicted 6 s)"
    assert last.startswith("1 of 2 trials have a result, 1 of them diverged, 0 running, 0 waiting, 1 failed; about ")


def test_followers_of_a_real_study_see_it_end(execution: Execution, small: Small) -> None:
    trials = [small(), small("plain")]
    selected = selection(execution, trials)
    written: list[str] = []

    def look_on() -> None:
        with tracked(selected) as tracker:
            written.extend(lines(looks(Onlooker(selected, tracker))))

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
    assert printed(console) == written[-1:]


def test_following_as_json_is_one_line_a_look(
    execution: Execution, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    stands = Account(tags={"seconds": "3.00"}, started=0)
    seal_result(execution.trial_folder(small().id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], stands)
    follow(selection(execution, [small()]), Console(), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert [row["outcome"] for row in json.loads(line)["trials"]] == ["diverged"]


def test_looks_take_a_tenth_of_a_processor_at_most_and_keep_of_a_result_what_they_show(
    execution: Execution, small: Small
) -> None:
    """A look at thousands of trials takes a second: a launch would have no processor left for anything else."""
    more = {"seconds": "3.00", "cohort": "1", "device": "cpu", "mlflow.note.content": "n" * 1000, "spec": "s" * 1000}
    stands = Account(tags=more, started=0)
    seal_result(execution.trial_folder(small().id), Outcome.DIVERGED, [{"iteration": 4, "train_loss": 1.0}], stands)
    selected = selection(execution, [small()])
    onlooker = Onlooker(selected, Tracked())
    standing = onlooker.look()
    assert onlooker.rest_seconds == LOOK_SECONDS and onlooker.took > 0
    onlooker.took = 5.0
    assert onlooker.rest_seconds == pytest.approx(50)
    (kept,) = onlooker.accounts.values()
    assert set(kept.tags) == {"seconds", "cohort", "device"}
    known = accounts(selected, checked=True)
    assert standing_of(selected, known, forecasts_of(selected, known), others={}).rows == standing.rows


def test_a_storage_that_is_out_of_reach_for_a_while_ends_no_view(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    onlooker = Onlooker(selection(execution, [small()]), Tracked())
    monkeypatch.setattr(Onlooker, "rest_seconds", 0.0)
    standing = onlooker.look()
    answers = iter([standing, OSError("out of reach"), standing, replace(standing, rows=[])])

    def look() -> Standing:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(onlooker, "look", look)
    assert [len(seen.rows) for seen in looks(onlooker)] == [1, 1, 0]
