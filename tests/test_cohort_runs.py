"""A cohort in its process: each member has its own folder and result, through kills, divergence and deletion."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from dying import Killed, dying_at, elsewhere

from study.data.arrays import load
from study.execution import Execution
from study.run import worker
from study.run.attempt import Attempt
from study.spec import InputError, Trial
from study.store.account import Outcome, read_account
from study.store.layout import LAYERS
from study.store.records import read_records, run_in
from study.training.checkpoints import load_newest
from study.training.loop import train
from study.training.state import TrainState

Small = Callable[..., Trial]
CPU = torch.device("cpu")
BOTH = [Outcome.FINISHED, Outcome.FINISHED]


def seeds(trial: Trial, count: int) -> tuple[Trial, ...]:
    return tuple(replace(trial, seed=seed) for seed in range(count))


def run(cohort: Sequence[Trial], execution: Execution) -> list[Outcome]:
    return worker.run_cohort(cohort, execution, {trial.id: {"profile": "test"} for trial in cohort})


def results(cohort: Sequence[Trial], execution: Execution) -> list[tuple[str, str, bytes]]:
    """The seals of each member's records and wrong test images, and its final weights."""
    sealed = []
    for trial in cohort:
        folder = execution.trial_folder(trial.id)
        saved = load_newest(folder / "checkpoints") or {}
        weights = b"".join(tensor.numpy().tobytes() for tensor in saved["net"].values())
        tags = read_account(folder).tags
        sealed.append((tags["records_sha256"], tags["test_wrong_sha256"], weights))
    return sealed


def test_members_of_a_cohort_are_their_trials_alone_to_rounding(small: Small, store: Execution) -> None:
    cohort, single = seeds(small(), 2), elsewhere(store, "single")
    assert run(cohort, store) == BOTH
    for trial in cohort:
        worker.run_trial(trial, single, {"profile": "test"})
        one, other = (read_account(execution.trial_folder(trial.id)) for execution in (store, single))
        assert (one.tags["cohort"], other.tags["cohort"]) == ("2", "1")
        rows = [read_records(execution.trial_folder(trial.id)).to_pandas() for execution in (store, single)]
        assert (rows[0] - rows[1])[["train_loss", "test_loss"]].abs().max().max() < 1e-3
        assert (store.trial_folder(trial.id) / LAYERS).exists()
        together, alone = (run_in(execution.trial_folder(trial.id), trial).wrong for execution in (store, single))
        assert together is not None and alone is not None
        assert 100 * together.flags().mean() == pytest.approx(rows[0]["test_error_pct"].iloc[-1])
        assert (together.flags() != alone.flags()).sum() <= 1  # rounding may tip an image


@pytest.mark.parametrize("checkpoint", [1, 2, 3, 12, 17])
def test_a_killed_cohort_ends_with_the_same_bits(
    small: Small, store: Execution, checkpoint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also killed between the checkpoints of two members, which are then one apart."""
    cohort, killed = seeds(small(), 2), elsewhere(store, "killed")
    run(cohort, store)
    with monkeypatch.context() as patched:
        dying_at(checkpoint, patched)
        with pytest.raises(Killed):
            run(cohort, replace(killed, checkpoint_seconds=0.0))
    assert [read_account(killed.trial_folder(trial.id)).outcome for trial in cohort] == [Outcome.RUNNING] * 2
    assert run(cohort, killed) == BOTH
    assert results(cohort, killed) == results(cohort, store)


def test_what_has_a_result_is_not_trained_again_and_what_was_deleted_is(small: Small, store: Execution) -> None:
    cohort = seeds(small(), 3)
    run(cohort, store)
    before = results(cohort, store)
    kept = read_account(store.trial_folder(cohort[0].id))
    shutil.rmtree(store.trial_folder(cohort[1].id))
    assert run(cohort, store) == [Outcome.FINISHED] * 3
    assert read_account(store.trial_folder(cohort[0].id)) == kept
    assert read_account(store.trial_folder(cohort[1].id)).tags["cohort"] == "1"
    assert results(cohort, store)[0] == before[0]


def test_a_member_that_is_further_on_ends_first_and_the_others_go_on(small: Small, store: Execution) -> None:
    cohort = seeds(small(), 3)
    ahead = TrainState(cohort[0], CPU)
    updates = train(cohort[0], ahead, load(cohort[0].data, Path()))
    for saved_at in (10, 2):
        for _ in islice(updates, saved_at):
            pass
        ahead.save(store.trial_folder(cohort[0].id) / "checkpoints")
    assert run(cohort, store) == [Outcome.FINISHED] * 3
    tags = [read_account(store.trial_folder(trial.id)).tags["cohort"] for trial in cohort]
    assert tags == ["3", "2", "2"]  # how many were together at the end
    for trial in cohort:
        iterations = read_records(store.trial_folder(trial.id))["iteration"].to_pylist()
        assert iterations == [4, 8, 12, 16, 20, 24]


def test_a_member_that_diverges_is_sealed_and_the_others_finish(small: Small, store: Execution) -> None:
    cohort = seeds(small(), 3)
    ill = TrainState(cohort[1], CPU)
    ill.net.classifier.weight.data.fill_(float("nan"))
    for ill.iteration in (1, 2):
        ill.save(store.trial_folder(cohort[1].id) / "checkpoints")
    assert run(cohort, store) == [Outcome.FINISHED, Outcome.DIVERGED, Outcome.FINISHED]
    assert read_account(store.trial_folder(cohort[1].id)).tags["diverged_at"] == "3"


def test_a_cohort_that_is_asked_to_stop_saves_every_member(
    small: Small, store: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, stopped = seeds(small(), 2), elsewhere(store, "stopped")
    run(cohort, store)
    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "reached", lambda attempt, state, *_, **__: setattr(attempt, "stopping", True))
        assert run(cohort, stopped) == [Outcome.INTERRUPTED] * 2
    assert [(load_newest(stopped.trial_folder(one.id) / "checkpoints") or {})["iteration"] for one in cohort] == [1, 1]
    assert run(cohort, stopped) == BOTH
    assert results(cohort, stopped) == results(cohort, store)


def test_tf32_is_refused_where_there_is_none(small: Small, store: Execution) -> None:
    trial = small(precision="tf32")
    with pytest.raises(InputError, match=f"precision 'tf32' of {trial.id} takes a GPU of compute capability 8.0"):
        worker.run_trial(trial, store, {"profile": "test"})
