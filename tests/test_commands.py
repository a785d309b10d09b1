"""The command line: what it prints for people and scripts, and what it says of bad input."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import app, catalogue
from experiments import EXPERIMENTS, detection_coco, detection_voc, name_of, planned, recipes, reimplementations
from experiments.profiles import CLASS, PAPER, PROFILES, QUICK, SMOKE, Profile
from study.cost import duration
from study.limits import cores
from study.spec import DetectionTrial, Trial
from study.store import atomic

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
        *("profile", "data", "trials", "total_seconds", "makespan_seconds"),
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
    assert plan["makespan_seconds"] >= plan["total_seconds"] / cores() * 0.99
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
        (["plan", "--seeds", "2147483648"], "seeds 2147483648 is too large; it must be at most 10000"),
        (["plan", "--seeds", "many"], "'many' is not a valid integer"),
        (["plan", "--data", "mnist"], "'mnist' is unknown; choose one of digits"),
        (["plan", "--speed", "9"], "No such option"),
        (["run", "--storage", "/proc/store"], "store /proc/store cannot be written"),
        (["run", "--storage", str(ROOT / "study")], "is not a store"),
        (["plan", "--storage", ""], "a path is empty: it names no place"),
        (["plan", "--data-root", ""], "a path is empty: it names no place"),
        (["run", "--device", "tpu"], "device 'tpu' is unknown; choose one of auto, cpu, cuda"),
        (["run", "--threads", "0"], "threads 0 is too small"),
        (["plan", "--storage", "s" * 300], "cannot be used (File name too long); choose another place"),
        (["run", "--storage", "s" * 300], "cannot be used (File name too long); choose another place"),
        (["evaluate", "--storage", "s" * 300], "cannot be used (File name too long); choose another place"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command: Command, arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1 and done.err.startswith("error: ") and not done.out


@pytest.mark.parametrize("command_name", ["study", "report", "figures", "notebooks"])
@pytest.mark.parametrize("results", ["FILE", "FILE/below", "r" * 300, "/proc/results"])
def test_results_that_cannot_be_written_are_refused_before_anything_runs(
    command: Command, tmp_path: Path, command_name: str, results: str
) -> None:
    (tmp_path / "FILE").write_text("a file")
    storage = tmp_path / "store"
    where = "--results", tmp_path / results, "--storage", storage
    done = command(command_name, "--profile", "smoke", *where, entry="analysis")
    assert done.code == 2 and done.err.count("\n") == 1 and not done.out
    assert f"results {tmp_path / results}" in done.err and "choose another folder with --results" in done.err
    assert not storage.exists()


@pytest.mark.parametrize("command_name", ["plan", "status", "export", "run", "evaluate"])
def test_a_place_in_a_file_is_refused_by_every_command(command: Command, tmp_path: Path, command_name: str) -> None:
    (tmp_path / "FILE").write_text("a file")
    more = [tmp_path / "out.zip"] if command_name == "export" else []
    for option in ("--storage", "--data-root"):
        for place in (tmp_path / "FILE", tmp_path / "FILE" / "below"):
            done = command(command_name, "--profile", "smoke", option, place, *more)
            assert done.code == 2 and done.err.count("\n") == 1 and not done.out
            assert f"{tmp_path / 'FILE'} is a file, and {place} must be a folder; choose another place" in done.err


def test_a_tilde_is_the_home_in_every_path(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--storage=~/x` reaches no shell, nor does `make STORE=~/x` in every shell: it made a folder called ~."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "x").mkdir(parents=True)
    (tmp_path / "home" / "x" / "FILE").write_text("a file")
    home = str(tmp_path / "home")
    assert f"MiB in {home}/x, and" in command("plan", "--profile", "smoke", "--storage=~/x").out
    assert f"{home}/x/a was" in command("status", "--data", "folder:a", "--data-root", "~/x").err
    for words in (
        ("run", "--storage=~/x/FILE"),
        ("import", "~/x/FILE"),
        ("merge", "~/x/FILE", "b", "--output", "c"),
        ("verify", "~/x/FILE"),
        ("plan", "--data-root=~/x/FILE"),
    ):
        done = command(*words)
        assert done.code == 2 and f"{home}/x/FILE" in done.err, done.err
    for target in ("figures", "report"):
        assert f"{home}/x/FILE" in command(target, "--results", "~/x/FILE", entry="analysis").err
    assert f"{home}/none" in command("ui", "--storage", "~/none", entry="dashboards").err
    assert "~nobody-here/x names no home that is known" in command("plan", "--storage", "~nobody-here/x").err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("name", ["watch", "metrics"])
def test_what_serves_a_store_refuses_a_name_that_no_store_can_have(command: Command, name: str) -> None:
    done = command(name, "--storage", "s" * 300, entry="dashboards")
    assert done.code == 2 and done.err.count("\n") == 1 and not done.out
    assert "cannot be used (File name too long)" in done.err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, 524])
def test_a_store_on_a_file_system_without_locks_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    done = command("run", "--profile", "smoke", "--local", "--storage", tmp_path / "store")
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"store {tmp_path / 'store'} is on a file system without locks ({os.strerror(number)})" in done.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/a"), 2, "/a cannot be used (Read-only file system); its file"),
        (OSError(errno.EACCES, "Permission denied", b"/a"), 2, "choose another place, or change its permissions"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 1, "/a/b cannot be used (No space left on device)"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "make room on its disk, then repeat the command"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), 1, "allow more open files with `ulimit -n`"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), 1, "something this command needs"),
        (OSError("of several\nlines"), 1, "of several lines"),
    ],
)
def test_an_error_of_the_system_is_one_line_with_the_place_and_the_way_out(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: OSError, code: int, line: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(catalogue.list_command, "callback", lambda **_: fail())
    done = command("list")
    assert done.code == code and line in done.err
    assert done.err.count("\n") == 1 and done.err.startswith("error: ") and not done.out


def test_a_full_disk_is_named_with_the_file_that_it_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError) as full, atomic.replacing(tmp_path / "file"), open("/dev/full", "wb", 0) as disk:
        disk.write(b"1")
    assert app.of_the_system(full.value) == (
        f"{tmp_path / 'file'} cannot be used (No space left on device);"
        " make room on its disk, then repeat the command: nothing is lost",
        1,
    )


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("setting", [ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_without_utf_8_is_printed_to_in_ascii(setting: dict[str, str]) -> None:
    script = (
        "import sys; from commands.app import main; from commands import catalogue\n"
        "text = '1.56 \\u00b1 0.02 \\u2014 \\u5b66 \\udcff'\n"
        "catalogue.list_command.callback = lambda **_: (print(text), print(text, file=sys.stderr)) and None\n"
        "main('experiments')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "list"], env=os.environ | setting, capture_output=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    latin = setting.get("PYTHONIOENCODING") == "latin-1"
    spread = b"1.56 \xb1 0.02" if latin else b"1.56 +- 0.02"
    assert done.stdout == done.stderr == spread + b" -- \\u5b66 \\udcff\n"


@pytest.mark.slow
def test_a_study_is_rendered_and_printed_where_nothing_is_utf_8(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "analysis", "report", "--profile", "smoke", "--no-lectures"]
    where = ["--storage", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    done = subprocess.run([*line, *where], env=os.environ | ASCII, capture_output=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0 and b"Table 6 (errors in percent, mean +- standard deviation" in done.stdout
    page = (tmp_path / "results/smoke/index.html").read_text(encoding="utf-8")
    assert "\u2014" in page or "\u00b1" in page


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


def test_warnings_are_no_errors_here_nor_in_processes_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app._no_warning_is_an_error()
        warnings.warn("a library's", DeprecationWarning, stacklevel=1)
    assert not sys.warnoptions and "PYTHONWARNINGS" not in os.environ
