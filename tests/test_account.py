"""An account says how a trial stands, and nothing else decides whether the trial has a result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from study.store.account import Account, Outcome, has_result, read_account, write_account
from study.store.layout import TrialFolder

# As the code before accounts had a type wrote them: of a trial that was trained, and of one that was imported.
TRAINED = {
    "launch": "a1b2c3d4",
    "started": 1_700_000_000_000,
    "failures": 1,
    "deaths": 0,
    "died_at": None,
    "outcome": "finished",
    "reason": "",
    "host": "node",
    "pid": 7,
    "process_started": 1_700_000_000.25,
    "tags": {"seconds": "2.50", "records": "3"},
}
IMPORTED = {"started": 5, "tags": {"records": "3"}, "outcome": "diverged", "reason": ""}


def test_only_finished_and_diverged_are_results() -> None:
    assert {outcome.value for outcome in Outcome if outcome.is_result} == {"finished", "diverged"}


def test_accounts_of_older_stores_are_read(tmp_path: Path) -> None:
    TrialFolder(tmp_path).account.write_text(json.dumps(TRAINED))
    account = read_account(tmp_path)
    assert (account.outcome, account.failures, account.process) == (
        Outcome.FINISHED,
        1,
        ("a1b2c3d4", "node", 7, 1_700_000_000.25),
    )
    TrialFolder(tmp_path).account.write_text(json.dumps(IMPORTED))
    assert read_account(tmp_path) == Account(started=5, tags={"records": "3"}, outcome=Outcome.DIVERGED)


def test_an_account_is_written_with_the_keys_that_it_always_had(tmp_path: Path) -> None:
    TrialFolder(tmp_path).account.write_text(json.dumps(TRAINED, indent=1))
    before = TrialFolder(tmp_path).account.read_bytes()
    write_account(tmp_path, read_account(tmp_path))
    assert TrialFolder(tmp_path).account.read_bytes() == before


def test_the_cause_of_a_failure_is_kept_and_the_key_is_left_out_where_there_is_none(tmp_path: Path) -> None:
    failed = Account(outcome=Outcome.FAILED, reason="OSError: gone", cause="OSError")
    write_account(tmp_path, failed)
    assert read_account(tmp_path) == failed
    write_account(tmp_path, replace(failed, cause=""))
    assert "cause" not in json.loads(TrialFolder(tmp_path).account.read_text())
    assert read_account(tmp_path).cause == ""


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", json.dumps(TRAINED | {"outcome": "melted"})])
def test_a_trial_without_an_account_that_can_be_read_is_missing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        TrialFolder(tmp_path).account.write_text(content)
    assert read_account(tmp_path) == Account() and Account().outcome is Outcome.MISSING and not has_result(tmp_path)


def test_a_reader_may_find_a_trial_unusable_but_no_account_may_be_so(tmp_path: Path) -> None:
    for outcome in (Outcome.UNUSABLE, Outcome.MISSING):
        with pytest.raises(AssertionError):
            write_account(tmp_path, replace(Account(), outcome=outcome))


@pytest.mark.parametrize(
    "values", [{"tags": ["seconds"]}, {"tags": {"seconds": 3}}, {"started": "now"}, {"failures": 1.5}, {"pid": True}]
)
def test_an_account_whose_values_have_other_types_is_missing(tmp_path: Path, values: dict[str, object]) -> None:
    TrialFolder(tmp_path).account.write_text(json.dumps(TRAINED | values))
    assert read_account(tmp_path) == Account()


def test_tags_that_are_no_numbers_where_numbers_must_be_are_left_out(tmp_path: Path) -> None:
    wrong = {"seconds": "abc", "cohort": "0", "processes": "-1", "predicted_seconds": "nan", "gpu_watts": "1e400"}
    kept = {"seed": "x", "diverged_at": "7", "recalibrated_test_error_pct": "3.5"}
    TrialFolder(tmp_path).account.write_text(json.dumps(TRAINED | {"tags": wrong | kept}))
    account = read_account(tmp_path)
    assert account.tags == kept and account.cohort == 1


def test_a_file_that_is_nested_too_deep_is_no_account(tmp_path: Path) -> None:
    TrialFolder(tmp_path).account.write_text("[" * 100_000)
    assert read_account(tmp_path) == Account()
