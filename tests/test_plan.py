"""What a study will take is said before it runs, from the best that is known, and compared with what it took."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import alter

from commands import plan
from commands.accounts import accounts, compared
from commands.options import Costs, Hardware, Selection
from experiments import planned, with_needed
from experiments.profiles import PAPER, QUICK, SMOKE
from study import cost
from study.execution import Execution
from study.run import placement
from study.run.placement import Node, Share
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, read_account, write_account
from study.store.heartbeat import Progress
from study.store.records import NUMBERS, seal_result

ROOT = Path(__file__).parents[1]
Command = Callable[..., Any]
Small = Callable[..., Trial]
ONE = Share(1, 0)
CPU = Node(cpus=2, gpus=0, memory_bytes=0, gpu_memory_bytes=0)
GPU = Node(cpus=8, gpus=1, memory_bytes=0, gpu_memory_bytes=16 * 2**30)


def finished(seconds: float, **tags: str) -> Account:
    return Account(outcome=Outcome.FINISHED, tags={"seconds": str(seconds), "device": "cpu", **tags})


def test_what_was_predicted_is_compared_with_what_was_taken(small: Small) -> None:
    trials = [small(seed=seed) for seed in range(5)]
    said = {
        trials[0].id: finished(10, predicted_seconds="11"),
        trials[1].id: finished(20, predicted_seconds="10"),
        trials[2].id: finished(10, predicted_seconds="10"),
        trials[3].id: finished(5),  # of a time when nothing was predicted
        trials[4].id: Account(outcome=Outcome.FAILED, tags={"predicted_seconds": "3", "seconds": "1"}),
    }
    assert plan.accuracy(compared(said, trials)) == (
        "seconds predicted for 3 trials were off by 10 % at the median, 50 % at worst;"
        " together they took 40 s, predicted 31 s"
    )
    assert plan.accuracy([]) == ""


def plant(storage: Path, trial: Trial, account: Account, **now: Any) -> None:
    """What a trial's folder would say, with a curve of one record if it has a result."""
    folder = storage / "trials" / trial.id
    if account.has_result:
        record = dict.fromkeys(NUMBERS, 1.0) | {"iteration": trial.recipe.iterations}
        seal_result(folder, account.outcome, [record], account)
    else:
        write_account(folder, account)
    heartbeat.write(folder, Progress(**now))


def test_status_says_what_was_predicted_what_it_took_and_why_a_trial_failed(command: Command, tmp_path: Path) -> None:
    done, failed, running, *_ = trials = list(planned(SMOKE))
    plant(tmp_path, done, finished(2.5, predicted_seconds="2.0"), iteration=6, train_error_pct=50.0, seconds=2.5)
    failure = Account(outcome=Outcome.FAILED, reason="RuntimeError: broken\nlines", failures=3)
    plant(tmp_path, failed, failure, iteration=2, train_error_pct=None, seconds=1.0)
    tags = {"predicted_seconds": "9.0"}
    going = Account(outcome=Outcome.RUNNING, tags=tags)
    plant(tmp_path, running, going, iteration=3, train_error_pct=80.0, seconds=4.0, seconds_left=5.0)
    done_ = command("status", "--profile", "smoke", "--storage", str(tmp_path), "--json")
    rows = {row["id"]: row for row in json.loads(done_.out)["trials"]}
    first, second, third = (rows[trial.id] for trial in (done, failed, running))
    assert (first["outcome"], first["predicted_seconds"], first["seconds"]) == ("finished", 2.0, 2.5)
    assert (second["outcome"], second["reason"]) == ("failed", "(failed 3 times) RuntimeError: broken")
    assert (third["predicted_seconds"], third["seconds"], third["seconds_left"]) == (9.0, 4.0, 5.0)
    assert rows[trials[-1].id]["outcome"] == "missing" and rows[trials[-1].id]["predicted_seconds"] > 0
    text = command("status", "--profile", "smoke", "--storage", str(tmp_path)).out
    assert f"failed: {failed.id} (failed 3 times) RuntimeError: broken\n" in text
    assert "1 failed, 1 finished, " in text and "were off by 20 % at the median, 20 % at worst" in text


def test_status_names_a_result_whose_curve_was_damaged_and_how_to_mend_it(command: Command, tmp_path: Path) -> None:
    sound, altered, lost, *_ = planned(SMOKE)
    for trial in (sound, altered, lost):
        plant(tmp_path, trial, finished(2.5), iteration=6, train_error_pct=50.0, seconds=2.5)
    alter(tmp_path / "trials" / altered.id, [{"iteration": altered.recipe.iterations}])
    (tmp_path / "trials" / lost.id / "records.parquet").unlink()
    where = ("status", "--profile", "smoke", "--storage", str(tmp_path))
    rows = {row["id"]: row["outcome"] for row in json.loads(command(*where, "--json").out)["trials"]}
    outcomes = [rows[trial.id] for trial in (sound, altered, lost)]
    assert outcomes == ["finished", "unusable", "unusable"]
    text = command(*where).out
    assert f"unusable: {altered.id} the curve of trials/{altered.id} was altered after it was sealed; delete " in text
    assert f"unusable: {lost.id} " in text and "2 unusable" in text


@pytest.mark.slow
def test_plan_and_status_of_a_thousand_trials_read_the_ledger_alone(tmp_path: Path) -> None:
    trials = list(planned(QUICK.with_seeds(48)))
    for trial in trials:
        plant(tmp_path, trial, finished(cost.predicted_seconds(trial)), iteration=360, train_error_pct=1.0, seconds=1.0)
    (tmp_path / "mlflow.db").touch()  # opening it would fail
    options = f"['--seeds', '48', '--json', '--storage', {str(tmp_path)!r}]"
    code = (
        "import sys; from commands.app import experiments\n"
        f"for name in ('plan', 'status'): experiments.main([name, *{options}], standalone_mode=False)\n"
        "assert not {'mlflow', 'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(trials) > 1_000 and done.stdout.count('"outcome": "finished"') == len(trials)
    assert done.stdout.count('"done": true') == len(trials)


@pytest.mark.slow
def test_a_run_says_what_was_expected_of_it_and_the_next_plan_knows_the_probe(command: Command, tmp_path: Path) -> None:
    one = ("--profile", "smoke", "--experiments", "learning-rate", "--storage", str(tmp_path / "store"))
    done = command("plan", *one, "--probe", "--json")
    assert (done.code, done.err) == (0, "probing 1 conditions, 2 at a time\n".replace("2", str(_at_once())))
    (row,) = json.loads(done.out)["trials"]
    assert (row["predicted_from"], row["done"], row["start_seconds"]) == ("probe", False, 0)
    again = command("plan", *one, "--probe", "--json")
    assert again.err == "" and json.loads(again.out)["trials"] == [row]  # nothing is left to be measured
    refused = command("run", *one, "--budget", "0.00000001h", "--local")
    assert refused.code == 2 and "more than the budget of 1e-08" in refused.err
    assert not (tmp_path / "store" / "trials").exists()  # before anything runs
    ran = command("run", *one, "--local")
    assert ran.code == 0, ran.err
    assert "seconds predicted for 1 trials were off by" in ran.out
    tags = read_account(tmp_path / "store" / "trials" / row["id"]).tags
    assert (float(tags["predicted_seconds"]), tags["predicted_from"]) == (row["seconds"], "probe")
    shutil.rmtree(tmp_path / "store" / "trials")  # MLflow knows it, too
    (row,) = json.loads(command("status", *one, "--json").out)["trials"]
    assert (row["outcome"], row["predicted_seconds"]) == ("finished", float(tags["predicted_seconds"]))


def _at_once() -> int:
    return Execution(storage=Path(), data_root=Path()).trials_at_once


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "2", "--device", "cpu"], "gpus 2 would not be used by device 'cpu'; leave one of them out"),
        (["--gpus", "-1"], "gpus -1 is too small"),
        (["--nodes", "0"], "nodes 0 is too small"),
        (["--nodes", "2", "--local"], "nodes 2: --local runs on one; leave one of them out"),
        (
            ["--threads", "64", "--cpus", "2"],
            "takes 64 CPUs and 0 GPUs, and no node has as many: choose fewer --threads or",
        ),
        (["--price", "-1"], "price -1.0 must be a number of at least 0"),
        (["--budget", "0.001h"], "more than the budget of 0.001; raise --budget, or choose fewer --seeds"),
        (["--probe", "--data", "cifar10", "--data-root", "nowhere"], "cifar10"),
        (["--storage", "memory://study"], "storage memory://study cannot hold the tracking database; name an MLflow"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line_and_exit_code_2(
    command: Command, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_OFFLINE", "1")
    where = [] if "--storage" in arguments else ["--storage", str(tmp_path / "store")]
    done = command("plan", "--experiments", "learning-rate", *where, *arguments)
    error = [line for line in done.err.splitlines() if not line.startswith("probing ")]
    assert done.code == 2 and len(error) == 1 and error[0].startswith("error: ") and not done.out
    assert says in error[0]


@pytest.mark.skipif(placement.gpus()[0] > 0, reason="says what is missing where there is no GPU")
def test_gpus_that_are_not_here_can_be_planned_for_but_not_probed(command: Command, tmp_path: Path) -> None:
    one = ("plan", "--profile", "paper", "--storage", str(tmp_path / "none"))
    done = command(*one, "--gpus", "8", "--nodes", "4", "--cpus", "64", "--price", "2.5", "--json")
    study = json.loads(done.out)
    assert {row["gpus"] for row in study["trials"]} == {1.0} and {row["node"] for row in study["trials"]} == {
        0,
        1,
        2,
        3,
    }
    assert study["money"] == pytest.approx(2.5 * study["gpu_hours"], abs=0.01)
    assert study["gpu_hours"] == pytest.approx(study["total_seconds"] / 3600, rel=1e-3)
    assert "constants of an NVIDIA H200 for" in command(*one, "--gpus", "8").out
    refused = command(*one, "--gpus", "8", "--probe")
    assert refused.code == 2 and "--probe measures this machine, which has no GPU" in refused.err
    refused = command(*one, "--device", "cuda")
    assert refused.code == 2 and "plan for others with --gpus, or choose cpu" in refused.err


def test_a_plan_for_gpus_tells_energy_by_the_power_that_finished_trials_measured(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path)
    first, second, third, *_ = serves = planned(QUICK.with_seeds(5), ["learning-rate"])
    selected = Selection(QUICK, serves, execution)
    known = {
        first.id: finished(100.0, device="cuda", gpu_watts="300"),
        second.id: finished(300.0, device="cuda", gpu_watts="500"),
        third.id: finished(300.0, device="cuda"),  # where it could not be read
    }
    found = plan.plan_of(selected, known, Hardware(gpus=1))
    assert found.watts == pytest.approx(450)
    said = plan.sentences(found, tmp_path, Costs())
    assert any(line.startswith("At 450 watts, as finished trials measured, that is ") for line in said)
    assert not any(" watts" in line for line in plan.sentences(plan.plan_of(selected, known), tmp_path, Costs()))


def test_a_plan_with_probes_refuses_a_cohort_before_it_measures(command: Command, tmp_path: Path) -> None:
    done = command(
        *("plan", "--experiments", "learning-rate", "--storage", str(tmp_path / "none")), "--cohort", "99", "--probe"
    )
    assert done.code == 2 and "cohort 99 is more seeds than" in done.err and "probing" not in done.err


def test_accounts_of_an_unknown_store_are_none(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path)
    assert accounts(Selection(SMOKE, planned(SMOKE), execution)) == {}


def test_a_detector_is_planned_after_the_trial_whose_net_it_starts_from(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path, cpus=2)
    serves = planned(SMOKE, ["detection-voc"])
    found = plan.plan_of(Selection(SMOKE, serves, execution), {})
    needing = [trial for trial in serves if trial.needs]
    assert needing
    for trial in needing:
        assert all(found.placed[id].end <= found.placed[trial.id].start for id in trial.needs)


def test_what_detectors_need_is_chosen_with_them() -> None:
    serves = planned(PAPER, ["detection-voc"])
    last = {trial: names for trial, names in serves.items() if any("coco14" in id for id in trial.needs)}
    ids = {trial.id for trial in with_needed(last, serves)}
    assert all(set(trial.needs) <= ids for trial in serves if trial.id in ids)
    assert len(ids) == len(last) + 2 + 2  # two seeds of COCO's detector, and of the backbone


def test_plan_and_status_count_the_trials_of_another_schema_or_protocol(command: Command, tmp_path: Path) -> None:
    trial, *_ = planned(SMOKE)
    older = {"schema": 2, "protocol": 1, **trial.to_dict()}
    del older["seed"]
    digest = hashlib.sha256(json.dumps(older, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    prefix, _, seed = trial.id.rsplit("-", 2)
    for id in (trial.id, f"{prefix}-{digest[:10]}-{seed}"):
        folder = tmp_path / "trials" / id
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(trial.to_dict()))
    where = ("--profile", "smoke", "--storage", tmp_path)
    for name in ("plan", "status"):
        assert "\n1 trials in this store are of another schema or protocol (1 of schema 2, protocol 1); this code" in (
            command(name, *where).out
        )
        others = json.loads(command(name, *where, "--json").out)["other_versions"]
        assert others == [{"schema": 2, "protocol": 1, "trials": 1}]


def test_a_plan_in_which_most_gpus_wait_names_what_would_use_them(command: Command, tmp_path: Path) -> None:
    select = ("--profile", "paper", "--experiments", "imagenet-depth", "--storage", tmp_path / "none")
    told = command("plan", *select, "--gpus", "8", "--nodes", "4", "--cpus", "8").out
    assert re.search(r"Only \d+ % of the GPUs' time is used: .* takes .* days on one; with --processes 8 as many", told)
    for enough in (("--gpus", "8", "--nodes", "4", "--cpus", "8", "--processes", "8"), ("--gpus", "1")):
        told = command("plan", *select, *enough)
        assert told.code == 0 and "of the GPUs' time" not in told.out
