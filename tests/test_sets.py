"""Claims about the data that a person chooses: every experiment heeds the choice or is refused, and counts are told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from pictures import jpeg, write
from planted import frames
from test_divided import fill
from test_own_scenes import lists, voc

from analysis import claims, imagenet_claims, runs
from commands import sets
from commands.app import experiments as cli
from commands.options import Choice, Selection, select
from experiments import planned
from experiments.profiles import QUICK, SMOKE
from study.data.counts import Summary
from study.execution import Execution
from study.spec import InputError, detection_of
from study.tasks.kinds import task_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with folder:zoo, images:pets and voc:street."""
    fill(tmp_path / "zoo", "cat", "dog", "eel")
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            for one in ("cat", "dog"):
                write(tmp_path / "pets" / split / one / f"{number}.jpg", jpeg(number))
    voc(tmp_path / "street", "JPEGImages", "Annotations", range(8))
    lists(tmp_path / "street", train=range(6), test=range(6, 8))
    return tmp_path


def chosen(root: Path, profile: str = "smoke", **choice: object) -> Selection:
    execution = Execution(storage=root / "store", data_root=root)
    return select(Choice(profile=profile, **choice), execution)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "experiments"),
    [
        ("images:pets", ("imagenet-plain-vs-residual", "imagenet-depth", "detection-voc")),
        ("voc:street", ("detection-voc", "detection-coco", "detection-normalisation")),
        ("folder:zoo", ("plain-vs-residual", "controls")),
    ],
)
def test_the_chosen_data_are_trained_on(data: str, experiments: tuple[str, ...], root: Path) -> None:
    for experiment in experiments:
        before = [trial for trial in planned(SMOKE, [experiment])]
        selected = chosen(root, data=data, experiments=experiment)
        names = [trial.data.name for trial in selected.trials]
        kinds = [bool(detection_of(trial)) for trial in selected.trials]
        assert data in names and kinds == [bool(detection_of(trial)) for trial in before]


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (
            {"data": "folder:zoo", "experiments": "imagenet-depth"},
            "--data folder:zoo is not for experiment imagenet-depth",
        ),
        (
            {"data": "voc:street", "experiments": "detection-voc plain-vs-residual"},
            "plain-vs-residual, which is trained",
        ),
        ({"data": "voc:street", "profile": "quick"}, "voc:street are of objects, and profile quick has no detector"),
        ({"held_out": 9, "experiments": "detection-coco"}, "--held-out 9 is not for experiment detection-coco"),
    ],
)
def test_a_choice_that_an_experiment_cannot_heed_is_refused(choice: dict[str, object], why: str, root: Path) -> None:
    with pytest.raises(InputError, match=why):
        chosen(root, **choice)


def test_without_names_only_what_heeds_the_choice_is_planned(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    selected = chosen(root, data="voc:street")
    assert {name for served in selected.serves.values() for name in served} == {"detection-voc", "detection-coco"}
    assert "--data voc:street is for detection-voc, detection-coco; not planned: plain-vs" in capsys.readouterr().err
    again = selected.command()
    assert (again.data, again.experiments) == ("voc:street", "detection-voc detection-coco")
    held = chosen(root, held_out=9)
    assert {trial.data.held_out for trial in held.trials} == {9} and any(
        trial.data.photographs for trial in held.trials
    )
    assert chosen(root).trials == list(planned(SMOKE)) and chosen(root, "quick").trials == list(planned(QUICK))


def test_own_scenes_are_scored_by_their_formats_protocol(root: Path) -> None:
    detector = next(trial for trial in chosen(root, data="voc:street").trials if detection_of(trial))
    task = task_of(detector)
    assert (task.split(detector), task.measures(detector)) == ("voc:street test", ("map",))
    data = task.load(detector, root)
    assert (data.count("train"), data.count("test"), data.classes) == (6, 2, ("cat", "dog"))


def test_counts_are_told_before_training(root: Path) -> None:
    assert sets.set_lines(chosen(root, "quick")) == ["digits: 1,437 train, 360 test, 10 classes"]
    first, *_ = sets.set_lines(chosen(root, data="voc:street"))
    assert first == "voc:street: 6 train, 2 test, 2 classes (cat, dog)"
    first, warning = sets.set_lines(chosen(root, "quick", data="folder:zoo"))
    assert first == "folder:zoo: 30 train, 6 test, 3 classes (cat, dog, eel)"
    assert warning.startswith("warning: 6 test images decide little: one of them is 17 % of test error")
    arguments = ["plan", "--data", "folder:zoo", "--data-root", str(root), "--storage", str(root / "s"), "--json"]
    result = CliRunner().invoke(cli, arguments)
    (told,) = json.loads(result.stdout)["data"]
    assert (told["train"], told["test"], told["labels"], told["warnings"]) == (30, 6, ["cat", "dog", "eel"], [warning])


def test_a_test_set_is_small_where_one_image_is_more_than_the_margin_of_claims() -> None:
    assert imagenet_claims.MARGIN == sets.MARGIN_PCT and "margin=0.5" in Path(claims.__file__).read_text()
    assert sets.warnings(Summary("folder:zoo", 800, 199, 2)) and not sets.warnings(Summary("folder:zoo", 800, 200, 2))
    assert 2 / 2**sets.FEWEST < 0.05 < 2 / 2 ** (sets.FEWEST - 1)


def test_the_resolution_of_a_folders_error_is_one_of_its_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "IMAGES", dict(runs.IMAGES))
    """Of whoever has frames: who loads runs, and a lecture, which reads a report's files in a process of its own."""
    assert runs.one_image_pct("folder:zoo", "test_error_pct") == 0.1
    of = frames(SMOKE)
    replace(of, finals=of.finals.assign(data="folder:zoo", test_images=[8, *[0] * (len(of.finals) - 1)]))
    assert runs.one_image_pct("folder:zoo", "test_error_pct") == 12.5
    replace(of, finals=of.finals.assign(data="digits", test_images=8))
    assert runs.one_image_pct("digits", "test_error_pct") == 100 / 360
