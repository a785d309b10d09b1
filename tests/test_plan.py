"""What a study will take is said before it runs, from the best that is known, and compared with what it took."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import plan
from commands.options import Selection
from commands.run import accounts, compared
from experiments import planned, recipes, with_needed
from experiments.profiles import PAPER, QUICK, SMOKE
from study import cost
from study.execution import Execution
from study.run import placement, timing
from study.run.forecast import Forecast, Plan, forecasts, make_plan
from study.run.placement import Node, Share
from study.run.timing import Probe
from study.spec import InputError, Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, read_account, write_account
from study.store.heartbeat import Progress
from study.store.records import NUMBERS, seal_result, write_records

ROOT = Path(__file__).parents[1]
Small = Callable[..., Trial]
ONE = Share(1, 0)
CPU = Node(cpus=2, gpus=0, memory_bytes=0, gpu_memory_bytes=0)
GPU = Node(cpus=8, gpus=1, memory_bytes=0, gpu_memory_bytes=16 * 2**30)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(done, capture_output=True, text=True, cwd=ROOT, timeout=300)


def probed(trial: Trial, execution: Execution, **more: Any) -> Probe:
    """A probe of this trial: 0.1 s an update, 1 s the first one, 2 s an evaluation, 5 s the last."""
    condition, machine, device, threads, torch, python = timing.key(trial, execution)
    measured: dict[str, Any] = {
        **{"condition": condition, "machine": machine, "device": device, "threads": threads},
        **{"torch": torch, "python": python, "updates": 9, "first_seconds": 1.0, "update_seconds": 0.1},
        **{"evaluation_seconds": 2.0, "last_evaluation_seconds": 5.0, "memory_bytes": 2**30, "diverged_at": None},
    }
    return Probe(**(measured | more))


def finished(seconds: float, **tags: str) -> dict[str, Any]:
    return Account(outcome=Outcome.FINISHED, tags={"seconds": str(seconds), "device": "cpu", **tags})


def made(trials: list[Trial], seconds: list[float], share: Share = ONE, node: Node = CPU) -> Plan:
    """A plan of trials that take these seconds."""
    forecasts = [Forecast(t, s, 2**30, share, "constants", 0) for t, s in zip(trials, seconds, strict=True)]
    return make_plan(forecasts, {trial.id for trial in trials}, [node])


def test_the_longest_trial_starts_first_and_done_ones_take_no_room(small: Small) -> None:
    trials = [small(seed=seed) for seed in range(4)]
    forecasts = [Forecast(t, s, 0, ONE, "probe", 0) for t, s in zip(trials, (2.0, 9.0, 4.0, 5.0), strict=True)]
    ordered = make_plan(forecasts, {trial.id for trial in trials[:3]}, [CPU])
    assert [each.trial.seed for each in ordered.forecasts] == [1, 3, 2, 0]
    assert {id: placed.start for id, placed in ordered.placed.items()} == {
        trials[1].id: 0,
        trials[2].id: 0,
        trials[0].id: 4,
    }
    assert ordered.at_once == 2 and [each.trial.seed for each in ordered.todo] == [1, 2, 0]


def test_a_probe_is_believed_before_finished_trials_and_these_before_constants(
    execution: Execution, small: Small
) -> None:
    trials = [small(seed=0), small(seed=1), small("plain")]
    expected = cost.predicted_seconds(trials[2])

    def said(accounts: dict[str, Any], *probes: Probe) -> list[tuple[float, str]]:
        by_key = {each.key: each for each in probes}
        return [(f.seconds, f.source) for f in forecasts(trials, execution, CPU, accounts, by_key)]

    assert said({})[2] == (round(expected, 2), "constants")
    took = {trials[1].id: finished(3 * cost.predicted_seconds(trials[1]))}
    assert said(took)[2] == (round(3 * expected, 2), "finished trials")
    by_probe = (1 + 23 * 0.1 + 2 * 2 + 5, "probe")  # 24 updates, evaluated at 8, 16 and 24
    assert said(took, probed(trials[0], execution)) == [by_probe, by_probe, (round(3 * expected, 2), "finished trials")]


def test_a_probe_holds_for_its_condition_hardware_versions_and_threads(execution: Execution, small: Small) -> None:
    ours = probed(small(), execution)
    others = [
        replace(ours, **{what: value})
        for what, value in {"machine": "another", "torch": "1.0", "python": "2.7", "threads": 4, "device": "X"}.items()
    ]
    by_key = {each.key: each for each in [*others, probed(small("plain"), execution)]}
    (forecast,) = forecasts([small()], execution, CPU, {}, by_key)
    assert forecast.source == "constants"
    (forecast,) = forecasts([small(seed=7)], execution, CPU, {}, {ours.key: ours})  # whatever the seed
    assert forecast.source == "probe"


def test_a_gpu_is_not_predicted_from_a_cpu(execution: Execution, small: Small) -> None:
    execution = replace(execution, gpus_per_trial=0, local=False)
    here = probed(small(), execution)
    took = {small(seed=1).id: finished(100.0)}
    (first, _) = forecasts([small(), small(seed=1)], execution, GPU, took, {here.key: here})
    assert (first.source, first.share, first.probed_gpu_bytes) == ("constants", Share(1, 0.125), 0)
    took = {small(seed=1).id: finished(100.0, device="cuda")}
    (first, _) = forecasts([small(), small(seed=1)], execution, GPU, took, {})
    assert (first.source, first.seconds) == ("finished trials", pytest.approx(100, abs=0.01))
    (first, _) = forecasts([small(), small(seed=1)], execution, CPU, took, {})
    assert first.source == "constants"


def test_a_gpu_is_shared_by_the_memory_that_a_probe_has_seen(
    execution: Execution, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = replace(execution, gpus_per_trial=0, local=False)
    monkeypatch.setattr(timing, "_device", lambda device: "cpu" if device == "cpu" else "NVIDIA X")
    seen = probed(small(), execution, memory_bytes=4 * 2**30)
    (forecast,) = forecasts([small()], execution, GPU, {}, {seen.key: seen})
    assert (forecast.share, forecast.memory_bytes, forecast.probed_gpu_bytes) == (Share(1, 0.5), 2**32, 2**32)


def test_a_trial_that_diverges_at_once_is_predicted_to(execution: Execution, small: Small) -> None:
    assert probed(small(), execution, diverged_at=3).seconds(small().recipe) == pytest.approx(1.2)


def test_memory_is_that_of_as_many_segments_as_the_share_takes(execution: Execution) -> None:
    execution = replace(execution, local=False)
    deep = QUICK.trials(QUICK.model("residual", 1202), recipes.minutes_deep(QUICK.model("residual", 1202)), 1)[0]

    def held(gib: float) -> int:
        node = replace(CPU, memory_bytes=int(gib * 2**30))
        return forecasts([deep], execution, node, {}, {})[0].memory_bytes

    assert held(0) == held(16) == cost.predicted_bytes(deep)
    assert cost.least_bytes(deep) < held(2.3) == int(0.9 * 1.15 * 2**30) < cost.predicted_bytes(deep)
    assert held(1) == cost.least_bytes(deep)


def test_the_probe_of_a_net_is_measured_once_for_all_its_seeds(
    execution: Execution, small: Small, tmp_path: Path
) -> None:
    work = [(small(seed=seed), execution) for seed in range(3)] + [(small("plain"), execution)]
    lacking = timing.lacking(work, tmp_path)
    assert [trial.condition for trial, _ in lacking] == [small().condition, small("plain").condition]
    timing.measure_all(lacking, tmp_path, 2)
    assert timing.lacking(work, tmp_path) == []
    residual, plain = (timing.load(tmp_path)[timing.key(*each)] for each in lacking)
    for found in (residual, plain):
        assert found.updates > timing.UPDATES and found.diverged_at is None and found.device == "cpu"
        assert 0 < found.update_seconds < found.last_evaluation_seconds <= found.evaluation_seconds + 1e-9
        assert 0 < found.memory_bytes < 200 * 2**20
    assert residual.seconds(small().recipe) > 23 * residual.update_seconds


def test_a_probe_sees_a_net_diverge(execution: Execution, small: Small) -> None:
    wild = small("plain", learning_rate=1e30)
    found = timing.measure(wild, execution)
    assert found.diverged_at is not None and found.seconds(wild.recipe) < probed(wild, execution).seconds(wild.recipe)


def test_many_images_are_not_predicted_as_dear_as_few() -> None:
    asked: list[int] = []

    def seconds(images: int) -> float:
        asked.append(images)
        return 0.02 + 0.001 * images

    assert timing._evaluation_costs(seconds, 8, 500) == (pytest.approx(0.02), pytest.approx(0.001))
    assert asked == [8, 32, 128, 500]
    assert timing._evaluation_costs(lambda images: 3.0, 8, 500) == (0, 3 / 8)  # too slow for a second look


def test_a_condition_that_cannot_be_probed_leaves_the_others_theirs(
    execution: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from concurrent.futures import Future

    def answers(work: timing.Work, at_once: int) -> list[Future[Probe]]:
        out_of_memory, fine = Future[Probe](), Future[Probe]()
        out_of_memory.set_exception(RuntimeError("can't allocate memory"))
        fine.set_result(probed(*work[0]))
        return [out_of_memory, fine]

    work = [(small(), execution), (small("plain"), execution)]
    timing.measure_all(work, tmp_path, 2, answers)
    assert timing.lacking(work, tmp_path) == work[1:]
    assert "a probe failed (can't allocate memory); its condition is predicted without one" in caplog.text


def test_probes_that_cannot_be_read_are_measured_anew(
    execution: Execution, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing.save(tmp_path, [probed(small(), execution)])
    timing.save(tmp_path, [probed(small("plain"), execution)])
    assert len(timing.load(tmp_path)) == 2
    (tmp_path / "probes.json").write_text('[{"condition": "of another version"}]')
    assert timing.load(tmp_path) == {} and "probes.json cannot be read" in caplog.text


def test_totals_count_what_is_still_to_run(small: Small) -> None:
    trials = [small(seed=seed) for seed in range(3)]
    total = plan.totals(made(trials, [7200, 3600, 3600]))
    assert (total["total_seconds"], total["makespan_seconds"]) == (14_400, 7_200)
    assert (total["cpu_hours"], total["gpu_hours"], total["money"], total["kwh"]) == (4, 0, None, None)
    assert total["storage_bytes"] == 3 * (cost.checkpoint_bytes(small()) + cost.record_bytes(small()))
    shared = plan.totals(made(trials, [7200, 3600, 3600], Share(2, 0.5), GPU), price=3.0, watts=400)
    assert (shared["cpu_hours"], shared["gpu_hours"]) == (8, 2)
    assert (shared["money"], shared["kwh"]) == (6, 0.8)  # of the GPUs, and not of the cores beside them
    assert plan.totals(made(trials, [7200, 3600, 3600], Share(2, 0)), price=1.0)["money"] == 8


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_a_rate_is_a_number_of_at_least_nothing(small: Small, rate: float) -> None:
    with pytest.raises(InputError, match="price .* must be a number of at least 0"):
        plan.totals(made([small()], [1.0]), price=rate)


@pytest.mark.parametrize("budget", ["", "4h", "4.0 h", "8", "2kWh", "9.99h"])
def test_a_study_within_its_budget_may_run(small: Small, budget: str) -> None:
    four_core_hours = made([small(), small(seed=1)], [7200, 7200])
    plan.check_budget(four_core_hours, {"budget": budget, "price": 2.0, "watts": 500.0})


@pytest.mark.parametrize(
    ("budget", "rates", "says"),
    [
        ("3.9h", {}, "the 2 trials still to run are predicted to take 4 core-hours, more than the budget of 3.9;"),
        ("7", {"price": 2.0}, "are predicted to cost 8, more than the budget of 7; raise --budget, or choose"),
        ("1.5kWh", {"watts": 500.0}, "are predicted to take 2 kWh, more than the budget of 1.5;"),
        ("7", {}, "budget 7 needs --price, that of an hour of one GPU or core; or write hours, as 12h"),
        ("1kWh", {}, "budget 1kWh needs --watts, the power of one GPU or core; or write hours, as 12h"),
        ("2 days", {}, "budget '2 days' is not understood; write hours as 12h, energy as 5kWh, money as a number"),
        ("-1h", {}, "budget '-1h' is not understood"),
    ],
)
def test_a_study_beyond_its_budget_is_refused(small: Small, budget: str, rates: dict[str, float], says: str) -> None:
    four_core_hours = made([small(), small(seed=1)], [7200, 7200])
    with pytest.raises(InputError) as refused:
        plan.check_budget(four_core_hours, {"budget": budget, "price": None, "watts": None} | rates)
    assert says in str(refused.value)


def test_a_budget_is_of_gpus_where_trials_take_them(small: Small) -> None:
    half_gpus = made([small(), small(seed=1)], [7200, 7200], Share(4, 0.5), GPU)
    plan.check_budget(half_gpus, {"budget": "2h", "price": None, "watts": None})
    with pytest.raises(InputError, match="predicted to take 2 GPU-hours, more than the budget of 1;"):
        plan.check_budget(half_gpus, {"budget": "1h", "price": None, "watts": None})


def test_a_study_that_would_fill_the_disk_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = made([small(seed=seed) for seed in range(4)], [1.0] * 4)
    checkpoint = cost.checkpoint_bytes(small())
    needed = 4 * (checkpoint + cost.record_bytes(small())) + 2 * 2 * checkpoint  # two run at once
    assert plan.most_bytes(four) == needed
    free = needed
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, free))
    plan.check_space(four, tmp_path / "not" / "yet")
    free -= 1
    with pytest.raises(InputError, match=r"the 4 trials still to run need about \d+ .iB in .*yet, where \d+ .iB are"):
        plan.check_space(four, tmp_path / "not" / "yet")
    plan.check_space(made([], []), tmp_path)
    from study.store import atomic

    plan.check_space(four, atomic.place("memory://study"))  # an object store has no end


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


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (96 * 1024, "96 KiB"), (1.25 * 2**40, "1.25 TiB")]
)
def test_sizes_are_read_at_a_glance(count: float, text: str) -> None:
    assert plan.size(count) == text


def plant(storage: Path, trial: Trial, account: Account, **now: Any) -> None:
    """What a trial's folder would say, with a curve of one record if it has a result."""
    folder = storage / "trials" / trial.id
    if account.has_result:
        record = dict.fromkeys(NUMBERS, 1.0) | {"iteration": trial.recipe.iterations}
        seal_result(folder, account.outcome, [record], account)
    else:
        write_account(folder, account)
    heartbeat.write(folder, Progress(Progress(**now)))


def test_status_says_what_was_predicted_what_it_took_and_why_a_trial_failed(tmp_path: Path) -> None:
    done, failed, running, *_ = trials = list(planned(SMOKE))
    plant(tmp_path, done, finished(2.5, predicted_seconds="2.0"), iteration=6, train_error_pct=50.0, seconds=2.5)
    failure = Account(outcome=Outcome.FAILED, reason="RuntimeError: broken\nlines", failures=3)
    plant(tmp_path, failed, failure, iteration=2, train_error_pct=None, seconds=1.0)
    tags = {"predicted_seconds": "9.0"}
    going = Account(outcome=Outcome.RUNNING, tags=tags)
    plant(tmp_path, running, going, iteration=3, train_error_pct=80.0, seconds=4.0, seconds_left=5.0)
    done_ = command("status", "--profile", "smoke", "--storage", str(tmp_path), "--json")
    rows = {row["id"]: row for row in json.loads(done_.stdout)["trials"]}
    first, second, third = (rows[trial.id] for trial in (done, failed, running))
    assert (first["outcome"], first["predicted_seconds"], first["seconds"]) == ("finished", 2.0, 2.5)
    assert (second["outcome"], second["reason"]) == ("failed", "(failed 3 times) RuntimeError: broken")
    assert (third["predicted_seconds"], third["seconds"], third["seconds_left"]) == (9.0, 4.0, 5.0)
    assert rows[trials[-1].id]["outcome"] == "missing" and rows[trials[-1].id]["predicted_seconds"] > 0
    text = command("status", "--profile", "smoke", "--storage", str(tmp_path)).stdout
    assert f"failed: {failed.id} (failed 3 times) RuntimeError: broken\n" in text
    assert "1 failed, 1 finished, " in text and "were off by 20 % at the median, 20 % at worst" in text


def test_status_names_a_result_whose_curve_was_damaged_and_how_to_mend_it(tmp_path: Path) -> None:
    sound, altered, lost, *_ = planned(SMOKE)
    for trial in (sound, altered, lost):
        plant(tmp_path, trial, finished(2.5), iteration=6, train_error_pct=50.0, seconds=2.5)
    write_records(tmp_path / "trials" / altered.id, [{"iteration": altered.recipe.iterations}])
    (tmp_path / "trials" / lost.id / "records.parquet").unlink()
    where = ("status", "--profile", "smoke", "--storage", str(tmp_path))
    rows = {row["id"]: row["outcome"] for row in json.loads(command(*where, "--json").stdout)["trials"]}
    outcomes = [rows[trial.id] for trial in (sound, altered, lost)]
    assert outcomes == ["finished", "unusable", "unusable"]
    text = command(*where).stdout
    assert f"unusable: {altered.id} the curve of trials/{altered.id} was altered after it was sealed; delete " in text
    assert f"unusable: {lost.id} " in text and "2 unusable" in text


def test_plan_and_status_of_a_thousand_trials_read_the_ledger_alone(tmp_path: Path) -> None:
    trials = list(planned(QUICK.with_seeds(48)))
    for trial in trials:
        plant(tmp_path, trial, finished(cost.predicted_seconds(trial)), iteration=360, train_error_pct=1.0, seconds=1.0)
    (tmp_path / "mlflow.db").touch()  # opening it would fail
    options = f"['--seeds', '48', '--json', '--storage', {str(tmp_path)!r}]"
    code = (
        "import sys; from commands.study import cli\n"
        f"for name in ('plan', 'status'): cli.main([name, *{options}], standalone_mode=False)\n"
        "assert not {'mlflow', 'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(trials) > 1_000 and done.stdout.count('"outcome": "finished"') == len(trials)
    assert done.stdout.count('"done": true') == len(trials)


def test_a_run_says_what_was_expected_of_it_and_the_next_plan_knows_the_probe(tmp_path: Path) -> None:
    one = ("--profile", "smoke", "--experiments", "learning-rate", "--storage", str(tmp_path / "store"))
    done = command("plan", *one, "--probe", "--json")
    assert (done.returncode, done.stderr) == (0, "probing 1 conditions, 2 at a time\n".replace("2", str(_at_once())))
    (row,) = json.loads(done.stdout)["trials"]
    assert (row["predicted_from"], row["done"], row["start_seconds"]) == ("probe", False, 0)
    again = command("plan", *one, "--probe", "--json")
    assert again.stderr == "" and json.loads(again.stdout)["trials"] == [row]  # nothing is left to be measured
    refused = command("run", *one, "--budget", "0.00000001h", "--local")
    assert refused.returncode == 2 and "more than the budget of 1e-08" in refused.stderr
    assert not (tmp_path / "store" / "trials").exists()  # before anything runs
    ran = command("run", *one, "--local")
    assert ran.returncode == 0, ran.stderr
    assert "seconds predicted for 1 trials were off by" in ran.stdout
    tags = read_account(tmp_path / "store" / "trials" / row["id"]).tags
    assert (float(tags["predicted_seconds"]), tags["predicted_from"]) == (row["seconds"], "probe")
    shutil.rmtree(tmp_path / "store" / "trials")  # MLflow knows it, too
    (row,) = json.loads(command("status", *one, "--json").stdout)["trials"]
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
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_OFFLINE", "1")
    where = [] if "--storage" in arguments else ["--storage", str(tmp_path / "store")]
    done = command("plan", "--experiments", "learning-rate", *where, *arguments)
    error = [line for line in done.stderr.splitlines() if not line.startswith("probing ")]
    assert done.returncode == 2 and len(error) == 1 and error[0].startswith("error: ") and not done.stdout
    assert says in error[0]


@pytest.mark.skipif(placement.gpus()[0] > 0, reason="says what is missing where there is no GPU")
def test_gpus_that_are_not_here_can_be_planned_for_but_not_probed(tmp_path: Path) -> None:
    one = ("plan", "--profile", "paper", "--storage", str(tmp_path / "none"))
    done = command(*one, "--gpus", "8", "--nodes", "4", "--cpus", "64", "--price", "2.5", "--json")
    study = json.loads(done.stdout)
    assert {row["gpus"] for row in study["trials"]} == {1.0} and {row["node"] for row in study["trials"]} == {
        0,
        1,
        2,
        3,
    }
    assert study["money"] == pytest.approx(2.5 * study["gpu_hours"], abs=0.01)
    assert study["gpu_hours"] == pytest.approx(study["total_seconds"] / 3600, rel=1e-3)
    assert "the constants are of a CPU core" in command(*one, "--gpus", "8").stdout
    refused = command(*one, "--gpus", "8", "--probe")
    assert refused.returncode == 2 and "--probe measures this machine, which has no GPU" in refused.stderr
    refused = command(*one, "--device", "cuda")
    assert refused.returncode == 2 and "plan for others with --gpus, or choose cpu" in refused.stderr


def test_accounts_of_an_unknown_store_are_none(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path)
    assert accounts(Selection(SMOKE, planned(SMOKE), execution, {})) == {}


def test_a_detector_is_planned_after_the_trial_whose_net_it_starts_from(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path, data_root=tmp_path, cpus=2)
    serves = planned(SMOKE, ["detection-voc"])
    found = plan.plan_of(Selection(SMOKE, serves, execution, {}), {}, print)
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
