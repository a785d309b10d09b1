"""A trial whose process has fallen silent is started again; what only waits or has ended is left alone."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from study.execution import Execution
from study.run.watchdog import killing_the_silent
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress

Small = Callable[..., Trial]


def test_of_the_silent_only_what_runs_in_this_launch_is_killed(
    store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = replace(store, launch="this")
    names = ("waits", "ended", "other launch", "speaks", "silent")
    trials = dict(zip(names, (small(seed=seed) for seed in range(5)), strict=True))
    states = {"ended": ("interrupted", "this"), "other launch": ("running", "another")}
    for name in names[1:]:
        outcome, by = states.get(name, ("running", "this"))
        folder = execution.trial_folder(trials[name].id)
        write_account(folder, Account(outcome=Outcome(outcome), launch=by, host=name))
        heartbeat.write(folder, Progress(iteration=1))
    killed: list[str] = []
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "SILENCE_SECONDS", 0.5)
    with killing_the_silent(list(trials.values()), execution, lambda account: killed.append(account.host)):
        deadline = time.monotonic() + 30
        while len(killed) < 2 and time.monotonic() < deadline:
            heartbeat.write(execution.trial_folder(trials["speaks"].id), Progress(iteration=1))
            time.sleep(0.02)
    assert killed == ["silent", "silent"]  # the second time after another silence


def test_the_process_of_a_silent_cohort_is_killed_once(
    store: Execution, small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    execution, cohort = replace(store, launch="this"), [small(seed=seed) for seed in range(3)]
    for trial in cohort:
        folder = execution.trial_folder(trial.id)
        write_account(folder, Account(outcome=Outcome.RUNNING, launch="this", host="here", pid=7, process_started=1.0))
        heartbeat.write(folder, Progress(iteration=1))
    killed: list[Account] = []
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "SILENCE_SECONDS", 0.5)

    def kill(account: Account) -> None:
        killed.append(account)
        for trial in cohort:
            write_account(execution.trial_folder(trial.id), replace(account, outcome=Outcome.INTERRUPTED))

    with killing_the_silent(cohort, execution, kill):
        deadline = time.monotonic() + 30
        while not killed and time.monotonic() < deadline:
            time.sleep(0.02)
    assert [account.pid for account in killed] == [7]
    assert f"silent: {', '.join(trial.id for trial in cohort)}; the process is killed" in caplog.text
