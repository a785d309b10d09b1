"""Commands that are printed for people select what they say: each is typed again, through make, and plans its ids."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from planted import planted

from analysis import gaps, report
from analysis.runs import load
from commands import options, train
from commands.options import Choice, Selection, select
from commands.plan import plan_of
from experiments import EXPERIMENTS, name_of, planned
from experiments.command import Command
from experiments.profiles import PROFILES, QUICK, SMOKE
from study.execution import Execution
from study.spec import InputError

ROOT = Path(__file__).parents[1]
ODD = 'it\'s "a" $HOME `pwd` #1 %41 ?x=1 & é'
PROFILE = """
from dataclasses import replace
from experiments.learning_rate import NAME, SCALE
from experiments.profiles import SMOKE
MINE = replace(SMOKE, name="mine", width=2, scales={NAME: SCALE["smoke"]})
"""


def typed(line: str) -> tuple[Selection, Path]:
    """What a printed line selects, and where it renders: the words that make passes on, parsed as by the commands."""
    seen = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    words = shlex.split(line)
    assert words[0] == "make"
    command = ["make", "--no-print-directory", "--old-file=.venv/ready", f"RUN={shlex.join(seen)}"]
    done = subprocess.run([*command, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, _, *given = json.loads(done.stdout)
    found: list[tuple[Selection, Path]] = []

    @click.command()
    @options.selecting()
    @options.RESULTS
    def command_of(selected: Selection, results: Path) -> None:
        found.append((selected, results))

    command_of.main(given, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    ("choice", "place"),
    [
        (Choice(), {}),
        (Choice(profile="smoke", experiments="shortcut-options learning-rate", seeds=3), {}),
        (Choice(profile="smoke", data="fashion-mnist", held_out=50), {"data_root": Path("some data")}),
        (Choice(profile="smoke"), {"storage": Path(ODD), "tracking_uri": "http://127.0.0.1:5000"}),
        (Choice(profile="{tmp}/a study.py:MINE", seeds=1), {"storage": Path("/mnt/a b")}),
    ],
)
def test_a_line_selects_the_same_ids_store_and_results(choice: Choice, place: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a study.py").write_text(PROFILE)
    choice = replace(choice, profile=choice.profile.replace("{tmp}", str(tmp_path)))
    execution = Execution(**{"storage": Path("store"), "data_root": Path("data")} | place)
    selected, results = select(choice, execution), Path(ODD) if place else Path("results")
    again, there = typed(selected.command(results).make("report"))
    assert [trial.id for trial in again.trials] == [trial.id for trial in selected.trials]
    assert (again.choice, again.execution, there) == (selected.choice, execution, results)
    named = choice if not choice.data else replace(choice, experiments=again.choice.experiments)  # those it is for
    assert selected.choice == named


def test_a_password_is_in_no_printed_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    again, _ = typed("make report ARGS='--tracking-uri https://me:secret@host:5000/a'")
    assert "ARGS='--tracking-uri https://host:5000/a'" in again.command().make()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "secret"


def test_every_gap_names_the_line_that_fills_it(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path / "a store", data_root=Path("data"))
    selected = select(Choice(experiments="shortcut-options controls", seeds=2), execution)
    lacking = [trial for trial in selected.trials if "controls" in selected.serves[trial]]
    runs = [run for run in planted(selected.profile) if run.trial in selected.serves and run.trial not in lacking]
    finals = load(selected.serves, runs).finals
    for problem in gaps.problems(finals, QUICK, {}, selected.command()):
        if problem.kind in (gaps.Kind.NOT_RUN, gaps.Kind.INCOMPLETE):
            again, _ = typed(re.search(r"(make .*?) runs ", problem.text)[1])
            missing = {id.partition(" ")[0] for id in problem.names}
            assert missing == {trial.id for trial in again.trials} & {trial.id for trial in lacking}
        elif problem.kind is gaps.Kind.NOT_SELECTED:
            again, _ = typed(re.search(r"(make .*?) adds ", problem.text)[1])
            assert set(selected.trials) < set(again.trials) and again.execution == execution


@pytest.mark.parametrize("name", map(name_of, EXPERIMENTS))
def test_the_line_of_every_experiment_trains_its_trials_again(name: str, tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path / "a store", data_root=Path("data"))
    for profile in (one for one in PROFILES if planned(one, [name])):
        selected = select(Choice(profile=profile.name, seeds=2), execution)
        again, _ = typed(selected.command().of(name).make())
        assert [trial.id for trial in again.trials] == [trial.id for trial in planned(profile.with_seeds(2), [name])]


def test_a_trial_and_a_report_name_the_line_that_makes_them_again(tmp_path: Path) -> None:
    execution = Execution(storage=tmp_path / "store", data_root=Path("data"))
    selected = select(Choice(profile="smoke", experiments="shortcut-options", seeds=2, held_out=30), execution)
    ids = {trial.id for trial in selected.trials}
    tags = train._tags(selected, plan_of(selected, {}))
    (line,) = {one["again"] for one in tags.values()}
    again, results = typed(line)
    assert {trial.id for trial in again.trials} == ids == set(tags)
    assert (again.execution.storage, results) == (Path("again"), Path("again"))
    frames, command = load(selected.serves, []), selected.command(tmp_path)
    manifest = json.loads(report._manifest(frames, selected.profile, tmp_path, {}, [], command))
    assert {trial.id for trial in typed(manifest["command"])[0].trials} == ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experiments", "detection-voc"], "has no trial in profile quick; it has some in smoke, paper"),
        (["--experiments", "plain-vs-residual detection-voc"], "detection-voc has no trial in profile quick"),
    ],
)
def test_an_experiment_without_trials_is_refused_by_every_command(
    command: Callable[..., Any], tmp_path: Path, words: list[str], message: str
) -> None:
    for entry, name in (("experiments", "run"), ("experiments", "plan"), ("analysis", "figures")):
        code, out, err = command(name, *words, "--storage", tmp_path / "none", entry=entry)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_refusal_names_a_profile_that_has_the_experiment() -> None:
    for profile in (QUICK, SMOKE):
        for name in map(name_of, EXPERIMENTS):
            place = Execution(storage=Path("none"), data_root=Path("data"))
            if not planned(profile, [name]):
                with pytest.raises(InputError) as refused:
                    select(Choice(profile=profile.name, experiments=name), place)
                if other := re.search(r"--profile (\S+)", str(refused.value)):
                    assert select(Choice(profile=other[1], experiments=name), place).trials


def test_a_line_without_choices_is_short() -> None:
    assert Command().make("ui") == "make ui"
    assert Command(store="a b", data="cifar10").make("ui") == "make ui STORE='a b'"
