"""Seeds that train together are grouped, placed, launched, resumed and shown as one, and have their own results."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_launch import execution_of, family, start, tags
from tiny import TINY

from commands.onlooker import Onlooker, Tracked
from commands.options import Costs, Selection
from commands.plan import plan_of, rows, sentences, table
from experiments import planned
from experiments.profiles import PAPER, SMOKE
from study.execution import Execution
from study.limits import cores
from study.run import worker
from study.run.cohorts import check, cohorts, name
from study.run.forecast import Forecast, make_plan
from study.run.launch import launch
from study.run.placement import Node, Share, share
from study.run.ray_driver import _fail
from study.spec import InputError, Trial, detection_of
from study.store import heartbeat
from study.store.account import Account, Outcome, read_account, write_account
from study.store.heartbeat import Progress
from study.store.mlflow import client, reader

Small = Callable[..., Trial]
GIB = 2**30
CPU = Node(cpus=2, gpus=0, memory_bytes=0, gpu_memory_bytes=0)
GPU = Node(cpus=16, gpus=1, memory_bytes=0, gpu_memory_bytes=80 * GIB)


@pytest.fixture
def many(execution: Execution) -> Execution:
    return replace(execution, local=False)


def seeds(of: Trial, count: int) -> list[Trial]:
    return [replace(of, seed=seed) for seed in range(count)]


def paper(depth: int, count: int) -> list[Trial]:
    model = PAPER.model("residual", depth)
    return PAPER.trials(model, PAPER.recipe(model), count)


def in_cohorts(trials: Sequence[Trial], execution: Execution, *nodes: Node) -> list[list[int]]:
    """The seeds of each cohort."""
    return [[trial.seed for trial in cohort] for cohort in cohorts(trials, execution, nodes)]


# ---------------------------------------------------------------- which trials are together


def test_on_a_cpu_every_trial_is_alone_and_in_the_order_given(many: Execution, small: Small) -> None:
    trials = [small(seed=1), small("plain", seed=1), small(seed=0), small("plain", seed=0)]
    assert cohorts(trials, many, [CPU]) == [(trial,) for trial in trials]
    assert cohorts(trials, replace(many, device="cpu"), [GPU]) == [(trial,) for trial in trials]


def test_a_number_of_seeds_is_taken_as_asked_and_the_rest_is_smaller(many: Execution, small: Small) -> None:
    trials = [*reversed(seeds(small(), 5)), small("plain")]
    assert in_cohorts(trials, replace(many, cohort=2), CPU) == [[4], [2, 3], [0, 1], [0]]
    assert in_cohorts(trials[:5], replace(many, cohort=5), CPU, GPU) == [[0, 1, 2, 3, 4]]
    assert in_cohorts(trials, replace(many, cohort=1), GPU) == [[4], [3], [2], [1], [0], [0]]
    assert {len({trial.condition for trial in group}) for group in cohorts(trials, replace(many, cohort=2), [CPU])} == {
        1
    }


def test_of_a_gpu_a_cohort_takes_as_many_seeds_as_were_measured_and_equal_parts(many: Execution) -> None:
    assert in_cohorts(paper(20, 5), many, GPU) == [[0, 1, 2, 3, 4]]
    assert in_cohorts(paper(20, 10), many, GPU) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [len(cohort) for cohort in cohorts(paper(20, 11), many, [GPU])] == [5, 6]
    assert in_cohorts(paper(20, 8), many, replace(GPU, gpu_memory_bytes=0)) == [list(range(8))]  # memory not known


def test_a_cohort_fits_into_the_share_of_the_gpus_memory(many: Execution) -> None:
    def sizes(execution: Execution, gib: int) -> list[int]:
        return [len(seeds) for seeds in in_cohorts(paper(110, 5), execution, replace(GPU, gpu_memory_bytes=gib * GIB))]

    assert sizes(many, 80) == [5] and sizes(many, 2) == [1] * 5  # 1.2 GiB each
    assert sizes(many, 6) == sizes(replace(many, gpus_per_trial=0.5, cpus=16), 12) == [2, 3]
    assert sizes(replace(many, memory_gib=6.0), 80) == [2, 3]
    assert in_cohorts(paper(1202, 2), many, replace(GPU, gpu_memory_bytes=16 * GIB)) == [[0], [1]]


def test_no_gpu_is_idle_while_a_cohort_could_be_two(many: Execution) -> None:
    assert in_cohorts(paper(20, 8), many, replace(GPU, gpus=4)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert in_cohorts(paper(20, 2), many, GPU, GPU, GPU) == [[0], [1]]
    three = in_cohorts([*paper(56, 5), *paper(20, 5)], many, replace(GPU, gpus=3))
    assert three == [[0, 1], [2, 3, 4], [0, 1, 2, 3, 4]]  # the longer one is divided
    halves = in_cohorts(paper(20, 8), replace(many, gpus_per_trial=0.5), GPU)
    assert halves == [[0, 1, 2, 3], [4, 5, 6, 7]]
    few_cores = in_cohorts(paper(20, 8), many, replace(GPU, cpus=2, gpus=4))
    assert few_cores == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_detectors_and_trials_of_several_processes_are_alone(many: Execution) -> None:
    detector = next(trial for trial in planned(SMOKE) if detection_of(trial))
    assert in_cohorts(seeds(detector, 2), many, GPU) == [[0], [1]]
    assert in_cohorts(paper(20, 3), replace(many, processes=2), GPU) == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (
            {"cohort": 4},
            r"cohort 4 is more seeds than plain8-\S+ has \(3\); choose --cohort auto, 3 or less, more --seed",
        ),
        (
            {"cohort": 2, "processes": 2},
            r"cohort 2: trials that 2 processes share are trained alone; choose --cohort 1",
        ),
        ({"cohort": -1}, "cohort -1 is too small"),
    ],
)
def test_a_cohort_that_cannot_be_is_refused_before_anything_runs(
    execution: Execution, small: Small, own: dict[str, int], says: str
) -> None:
    trials = [*seeds(small(), 5), *seeds(small("plain"), 3)]
    with pytest.raises(InputError, match=says) as error:
        launch(trials, replace(execution, **own), tags(trials), lambda *_: None)  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and not execution.storage.exists()


def test_a_cohort_with_a_detector_is_refused(many: Execution) -> None:
    detector = next(trial for trial in planned(SMOKE) if detection_of(trial))
    with pytest.raises(InputError, match=f"cohort 2: {detector.id} is a detector, which is trained alone; choose"):
        check(seeds(detector, 2), replace(many, cohort=2))
    check(seeds(detector, 2), replace(many, cohort=1))


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5", "", "²"])
def test_a_size_that_is_no_number_is_one_line(command: Callable[..., Any], tmp_path: Path, text: str) -> None:
    done = command("plan", "--storage", tmp_path, "--cohort", text)
    assert done.code == 2 and done.err == (
        f"error: cohort {text!r} is not understood; choose auto, 1 (alone) or more seeds to train together\n"
    )


# ---------------------------------------------------------------- what they take, and when


def test_a_cohort_takes_the_memory_of_all_its_seeds(many: Execution) -> None:
    (trial,) = paper(20, 1)
    part, small = replace(many, gpus_per_trial=0), replace(GPU, gpu_memory_bytes=16 * GIB)
    assert share(trial, part, small, gpu_bytes=GIB) == Share(1, 0.1428)  # 14.4 of 16 GiB for 7 x 2
    assert share(trial, part, small, gpu_bytes=GIB, size=4) == Share(1, 0.5)  # for 2 x 5
    on_a_cpu = Node(cpus=4, gpus=0, memory_bytes=6 * GIB, gpu_memory_bytes=0)
    assert share(paper(110, 1)[0], many, on_a_cpu).cpus < share(paper(110, 1)[0], many, on_a_cpu, size=5).cpus


def test_the_members_of_a_cohort_start_and_end_together_after_the_sum_of_their_seconds(small: Small) -> None:
    trials = [*seeds(small(), 3), small("plain"), small("plain", seed=1)]
    predicted = [Forecast(t, s, 0, Share(1, 0), "probe", 0) for t, s in zip(trials, (2, 2, 2, 5, 4), strict=True)]
    plan = make_plan(predicted, [tuple(trials[:3]), (trials[3],), (trials[4],)], [replace(CPU, cpus=1)])
    assert [forecast.trial for forecast in plan.forecasts] == trials  # 6 s together, 5 s, 4 s
    assert [(plan.placed[t.id].start, plan.placed[t.id].end) for t in trials] == [(0, 6)] * 3 + [(6, 11), (11, 15)]
    assert (plan.cohorts, plan.at_once) == (3, 3)


def test_a_plan_shows_the_cohorts_and_only_of_what_is_missing(execution: Execution, small: Small) -> None:
    trials = seeds(small(), 5)
    selected = Selection(SMOKE, {trial: ["test"] for trial in trials}, replace(execution, cohort=3))
    known = {trials[1].id: Account(outcome=Outcome.FINISHED, tags={"seconds": "1", "device": "cpu", "cohort": "3"})}
    plan = plan_of(selected, known)
    assert {row["seed"]: (row["cohort"], row["done"]) for row in rows(plan, selected.serves)} == {
        **{0: (3, False), 2: (3, False), 3: (3, False)},
        **{4: (1, False), 1: (3, True)},
    }
    assert {plan.placed[trials[seed].id].end for seed in (0, 2, 3)} == {plan.placed[trials[0].id].end}
    assert "cohort" in table(plan)[0] and "4 of 5 trials to run in 2 cohorts on" in sentences(plan, Path(), Costs())[0]
    alone = plan_of(replace(selected, execution=execution), {})
    assert "cohort" not in table(alone)[0] and "5 of 5 trials to run on" in sentences(alone, Path(), Costs())[0]


# ---------------------------------------------------------------- where they stand


def test_a_cohort_that_runs_counts_once(execution: Execution, small: Small) -> None:
    """Two of three seeds have been trained by one process for 8 s each: 16 s in all, 20 s are left of both."""
    *running, waiting = seeds(small(), 3)
    account = Account(outcome=Outcome.RUNNING, host="here", pid=7, process_started=1.0, tags={"cohort": "2"})
    for trial in running:
        write_account(execution.trial_folder(trial.id), account)
        heartbeat.write(execution.trial_folder(trial.id), Progress(iteration=12, seconds=8.0, seconds_left=20.0))
    selected = Selection(SMOKE, {trial: ["test"] for trial in (*running, waiting)}, execution)
    onlooker = Onlooker(selected, Tracked(), room=Node(1, 0, 0, 0))
    onlooker.expected = [Forecast(trial, 6.0, 0, Share(1, 0), "constants", 0) for trial in selected.trials]
    standing = onlooker.look()
    assert standing.seconds_left == 20 + 6 and standing.rate == 2 * 12 / 16
    assert [row["cohort"] for row in standing.plain()["trials"]] == [2, 2, 1]
    unknown = Onlooker(selected, Tracked())  # how many run at a time is what is seen to run
    unknown.expected = onlooker.expected
    assert unknown.look().seconds_left == 20 + 6


# ---------------------------------------------------------------- launched


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[list[int], list[str]]]]:
    """The seeds of each cohort that is trained in this process, and the size in its members' tags."""
    made, real = [], worker.run_cohort

    def recorded(cohort: Sequence[Trial], execution: Execution, tags: Mapping[str, dict[str, str]]) -> list[Outcome]:
        made.append(([trial.seed for trial in cohort], [tags[trial.id]["cohort"] for trial in cohort]))
        return real(cohort, execution, tags)

    monkeypatch.setattr(worker, "run_cohort", recorded)
    yield made


def test_a_launch_trains_only_the_seeds_that_are_missing(
    store: Execution, small: Small, attempts: list[tuple[list[int], list[str]]]
) -> None:
    execution, trials = replace(store, cohort=2), seeds(small(), 5)
    for these in (trials[:2], trials, trials):
        launch(these, execution, tags(these), lambda *_: None)
    assert attempts == [([0, 1], ["2", "2"]), ([2, 3], ["2", "2"]), ([4], ["1"])]
    runs = {run.trial: run for run in reader.read(store, trials)}
    assert [(runs[trial].outcome, runs[trial].tags["cohort"]) for trial in trials[2:]] == [
        *[("finished", "2")] * 2,
        ("finished", "1"),
    ]
    shown = client.connect(store).get_run(runs[trials[0]].run_id).info
    assert shown.end_time - shown.start_time == pytest.approx(2_000 * float(runs[trials[0]].tags["seconds"]), abs=1)
    accounts = [read_account(store.trial_folder(trial.id)) for trial in trials]
    assert [account.cohort for account in accounts] == [2, 2, 2, 2, 1]
    assert all((store.trial_folder(trial.id) / "records.parquet").exists() for trial in trials)


def test_a_cohort_that_fails_is_retried_then_left_while_the_rest_goes_on(
    store: Execution,
    small: Small,
    attempts: list[tuple[list[int], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = seeds(small(iterations=32), 2), seeds(small(), 2)
    folder = store.trial_folder(bad[1].id)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("another trial's")
    launch([*bad, *good], replace(store, cohort=2), tags([*bad, *good]), lambda *_: None)
    assert [size for _, size in attempts] == [["2", "2"], ["2", "2"]]  # trying again cannot mend it
    assert f"trials {bad[0].condition}, seeds 0, 1 failed: " in caplog.text
    assert {read_account(store.trial_folder(trial.id)).outcome for trial in good} == {"finished"}


def test_a_cohort_that_is_given_up_leaves_results_and_what_never_began(store: Execution, small: Small) -> None:
    finished, begun, missing = trials = seeds(small(), 3)
    write_account(store.trial_folder(finished.id), Account(outcome=Outcome.FINISHED))
    write_account(store.trial_folder(begun.id), Account(outcome=Outcome.RUNNING))
    _fail(store, tuple(trials), "it died\nof something")
    outcomes = [read_account(store.trial_folder(trial.id)).outcome for trial in trials]
    assert outcomes == ["finished", "failed", "missing"]
    assert read_account(store.trial_folder(begun.id)).failures == store.retries + 1
    assert name((missing,)) == f"trial {missing.id}"


PAIRED = ("--seeds", "2", "--cohort", "2")


def paired() -> list[Trial]:
    return list(planned(TINY.with_seeds(2), ["learning-rate"]))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.1)


def outcomes(storage: Path) -> dict[Trial, str]:
    return {trial: read_account(storage / "trials" / trial.id).outcome for trial in paired()}


def all_reached(storage: Path, least: int, seeds: Sequence[Trial]) -> bool:
    progress = [heartbeat.read(storage / "trials" / trial.id) for trial in seeds]
    return all(one is not None and one.iteration > least for one in progress)


def complete(storage: Path, sealed: Mapping[Trial, bytes]) -> bool:
    """Every trial has one run and a result; what had one before has the same."""
    assert set(outcomes(storage).values()) == {"finished"}
    assert all((storage / "trials" / trial.id / "run.json").read_bytes() == was for trial, was in sealed.items())
    mlflow = client.connect(execution_of(storage))
    everywhere = mlflow.search_runs([one.experiment_id for one in mlflow.search_experiments()])
    assert sorted(run.data.tags["trial_id"] for run in everywhere) == sorted(trial.id for trial in paired())
    assert {run.data.tags["outcome"] for run in everywhere} == {"finished"}
    return True


def killed(run: subprocess.Popen[str], storage: Path) -> dict[Trial, bytes]:
    """Kill the launch; the accounts of what has a result then."""
    others = family(run)
    run.kill()
    run.wait()
    psutil.wait_procs(others, timeout=120)
    ended = [trial for trial, outcome in outcomes(storage).items() if outcome == "finished"]
    return {trial: (storage / "trials" / trial.id / "run.json").read_bytes() for trial in ended}


@pytest.mark.slow
def test_a_plain_loop_over_cohorts_that_was_killed_goes_on(tmp_path: Path) -> None:
    storage = tmp_path / "store"
    run = start(storage, *PAIRED, "--local")
    wait_for(lambda: any(all_reached(storage, 60, pair) for pair in (paired()[:2], paired()[2:])))
    sealed = killed(run, storage)
    assert list(outcomes(storage).values()).count("running") == 2  # of the cohort, each
    done = start(storage, *PAIRED, "--local")
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0 and complete(storage, sealed), output


@pytest.mark.slow
def test_cohorts_on_ray_go_on_after_the_death_of_a_worker_and_of_the_launch(tmp_path: Path) -> None:
    storage = tmp_path / "store"
    run = start(storage, *PAIRED)
    wait_for(lambda: all_reached(storage, 30, paired()))
    assert {read_account(storage / "trials" / trial.id).cohort for trial in paired()} == {2}
    workers = [child for child in family(run) if "ImplicitFunc.train" in " ".join(child.cmdline())]
    assert len(workers) == min(2, cores())  # for four trials
    workers[0].kill()
    wait_for(lambda: all_reached(storage, 60, paired()) or "finished" in outcomes(storage).values())
    sealed = killed(run, storage)
    done = start(storage, *PAIRED)
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0 and complete(storage, sealed), output
