"""The command line: what it prints for people and scripts, and what it says of bad input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import app
from experiments import EXPERIMENTS, detection_coco, detection_voc, name_of, planned, recipes, reimplementations
from experiments.profiles import CLASS, PAPER, PROFILES, QUICK, SMOKE, Profile
from study.cost import duration
from study.spec import DetectionTrial, Trial

ROOT = Path(__file__).parents[1]
Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("entry", "words", "code", "says"),
    [
        ("experiments", ["list"], 0, "plain-vs-residual"),
        ("analysis", ["report", "--bundle", "none.zip"], 2, "there is no bundle none.zip"),
        ("dashboards", ["ui", "--storage", "none"], 2, "run `make degradation-study PROFILE=quick STORE=none` first"),
    ],
)
def test_each_entry_point_leads_into_the_application(entry: str, words: list[str], code: int, says: str) -> None:
    line = [sys.executable, "-m", entry, *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == code and says in done.stdout + done.stderr


@pytest.mark.parametrize("entry", ["experiments", "analysis", "dashboards"])
def test_every_command_has_a_summary(command: Command, entry: str) -> None:
    code, out, _ = command("--help", entry=entry)
    listed = dict(line.split(maxsplit=1) for line in out.partition("Commands:")[2].strip().splitlines())
    assert code == 0 and all(listed.values()) and set(listed) == set(getattr(app, entry.upper()))


def test_a_command_that_does_not_exist_is_one_line_and_exit_code_2(command: Command) -> None:
    code, out, err = command("train")
    assert (code, out) == (2, "") and "No such command 'train'" in err


def test_the_papers_trials_are_listed_with_their_ids_and_costs(command: Command, tmp_path: Path) -> None:
    done = command("plan", "--profile", "paper", "--json", "--storage", str(tmp_path / "none"))
    plan = json.loads(done.out)
    assert set(plan) == {
        *("profile", "trials", "total_seconds", "makespan_seconds"),
        *("cpu_hours", "gpu_hours", "storage_bytes", "money", "kwh", "other_versions"),
    }
    assert {row["id"] for row in plan["trials"]} == {trial.id for trial in planned(PAPER)}
    row = next(row for row in plan["trials"] if row["depth"] == 1202 and row["family"] == "residual")
    assert set(row) == {
        *("id", "experiments", "family", "depth", "shortcut", "data", "seed", "iterations", "params"),
        *("multiply_adds", "seconds", "memory_bytes", "done", "cohort"),
        *(
            "predicted_from",
            "checkpoint_bytes",
            "record_bytes",
            "cpus",
            "gpus",
            "processes",
            "node",
            "start_seconds",
            "end_seconds",
        ),
    }
    assert (row["params"], row["data"], row["iterations"], row["done"]) == (19_421_274, "cifar10", 64_000, False)
    assert plan["trials"][0]["seconds"] == max(row["seconds"] for row in plan["trials"])
    assert row["seconds"] == max(row["seconds"] for row in plan["trials"] if row["data"] == "cifar10")
    assert plan["makespan_seconds"] >= plan["total_seconds"] / os.cpu_count() * 0.99
    assert not (tmp_path / "none").exists()  # looking makes nothing


def test_status_before_the_first_launch_is_all_missing(command: Command, tmp_path: Path) -> None:
    done = command("status", "--profile", "smoke", "--json", "--storage", str(tmp_path / "none"))
    trials = json.loads(done.out)["trials"]
    assert {row["outcome"] for row in trials} == {"missing"} and {row["iteration"] for row in trials} == {0}
    assert all(row["predicted_seconds"] > 0 and row["seconds"] is None and row["reason"] == "" for row in trials)


def test_list_names_every_experiment_and_profile(command: Command) -> None:
    listed = json.loads(command("list", "--json").out)
    assert list(listed["experiments"]) == [name_of(experiment) for experiment in EXPERIMENTS]
    assert list(listed["profiles"]) == ["smoke", "quick", "class", "one-gpu", "paper"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "--profile", "fast"], "profile 'fast' is unknown; choose one of smoke, quick, class, one-gpu, paper"),
        (["plan", "--experiments", "shortcuts"], "experiment 'shortcuts' is unknown; choose one of plain-vs-residual"),
        (["plan", "--seeds", "0"], "seeds 0 is too small; it must be at least 1"),
        (["plan", "--seeds", "many"], "'many' is not a valid integer"),
        (["plan", "--data", "mnist"], "'mnist' is unknown; choose one of digits"),
        (["plan", "--speed", "9"], "No such option"),
        (["run", "--storage", "/proc/store"], "store /proc/store cannot be written"),
        (["run", "--storage", str(ROOT / "study")], "is not a store"),
        (["run", "--device", "tpu"], "device 'tpu' is unknown; choose one of auto, cpu, cuda"),
        (["run", "--threads", "0"], "threads 0 is too small"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command: Command, arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1 and done.err.startswith("error: ") and not done.out


def test_missing_data_are_named_before_anything_runs_and_never_replaced(command: Command, tmp_path: Path) -> None:
    storage, data = str(tmp_path / "store"), str(tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDY_OFFLINE", "1")
        for experiment, parts in (
            ("depth-scaling", ("cifar10", "c58f30108f718f92721af3b95e74349a")),
            ("imagenet-depth", ("imagenet", "ILSVRC2012_img_train.tar")),
        ):
            where = "--local", "--storage", storage, "--data-root", data
            done = command("run", "--profile", "paper", "--experiments", experiment, *where)
            assert done.code == 2 and done.err.count("\n") == 1
            assert all(part in done.err for part in (*parts, data, "PROFILE=quick"))
    assert not list((tmp_path / "store").glob("trials/*"))


def test_every_trial_of_a_profile_has_its_data_and_width() -> None:
    for profile in PROFILES:
        imitated = [trial for trial, serves in planned(profile).items() if serves == ["reimplementations"]]
        for trial, serves in planned(profile).items():
            normalise = trial.data.normalise if trial in imitated else profile.data.normalise
            labels = trial.data.labels if serves == ["controls"] else "true"
            if isinstance(trial, DetectionTrial):
                ours = profile.detectors
                assert ours and trial.model in (ours.vgg, ours.resnet)
                data = *detection_voc.SCALE[profile.name].data, detection_coco.SCALE[profile.name].data
                assert replace(trial.data, normalise="pixel-mean") in data
            elif trial.data.photographs:
                assert profile.imagenet
                assert (trial.data, trial.model.width) == (profile.imagenet.data, profile.imagenet.width)
            else:
                assert trial.data == replace(profile.data, normalise=normalise, labels=labels)
                assert trial.model.width == profile.width


def first_seeds(profile: Profile) -> list[Trial]:
    return [trial for trial in planned(profile, ["reimplementations"]) if trial.seed == 0]


def test_reimplementations_are_compared_where_their_schedules_fit_and_with_the_papers_own() -> None:
    counts = {profile.name: len(first_seeds(profile)) for profile in (SMOKE, QUICK, CLASS, PAPER)}
    assert counts == {"smoke": 2, "quick": 0, "class": 6, "paper": 18}
    for profile in (SMOKE, CLASS, PAPER):
        scale = reimplementations.SCALE[profile.name]
        shared = set(planned(profile, ["reimplementations"])) & set(planned(profile, ["plain-vs-residual"]))
        assert len(shared) == len(scale.depths) * scale.seeds


def test_every_reimplementation_departs_from_the_paper_in_its_own_fields() -> None:
    departs = {}
    for name, preset in recipes.PRESETS.items():
        model = PAPER.model("residual", 20, preset.shortcut)
        trial = Trial(model=model, data=preset.data(PAPER.data), recipe=preset.recipe(model), seed=0)
        departs[name] = {deviation.field for deviation in recipes.deviations(trial, {})}
    length = {"normalise", "momentum_rule", "iterations", "drops"}
    assert departs == {
        "akamaster": {*length, "bn_batch"},
        "fb-resnet-torch": {*length, "init"},
        "tensorpack": {
            *("shortcut", "normalise", "momentum_rule", "weight_decay", "decay", "init"),
            *("warmup", "warmup_learning_rate", "warmup_iterations"),
        },
        "mmpretrain": {*length, "bn_batch", "init"},
        "kuangliu": {*length, "bn_batch", "schedule", "weight_decay", "init"},
    }


def test_a_shorter_profile_keeps_the_proportions_of_a_schedule() -> None:
    model = PAPER.model("residual", 110)
    long = recipes.akamaster(model)
    short = recipes.PRESETS["akamaster"].as_long_as(CLASS.recipe).recipe(model)
    assert (long.iterations, long.drops, long.warmup_iterations) == (78_200, (39_100, 58_650), 391)
    assert (short.iterations, short.drops, short.warmup_iterations) == (2_000, (1_000, 1_500), 10)
    assert (short.batch, short.learning_rate, short.momentum_rule) == (128, 0.1, "torch")


def test_constants_of_three_colours_give_way_to_the_images_own_where_these_are_grey() -> None:
    preset = recipes.PRESETS["akamaster"]
    assert preset.data(PAPER.data).normalise == "imagenet" and preset.data(CLASS.data).normalise == "channel"


def test_a_profile_that_tests_no_claim_says_why() -> None:
    smoke = next(profile for profile in PROFILES if profile.name == "smoke")
    assert "*" in smoke.untestable and all(reason for profile in PROFILES for reason in profile.untestable.values())


def test_more_seeds_extend_the_same_trials() -> None:
    assert set(planned(PAPER)) < set(planned(PAPER.with_seeds(6)))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (300, "5 min"), (9_000, "2.5 h"), (400_000, "5 days")]
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
