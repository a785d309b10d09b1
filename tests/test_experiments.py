"""What the experiments plan, and that it stays what it was."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import experiments
from experiments import EXPERIMENTS, most_seeds, name_of, plain_vs_residual, planned
from experiments.profiles import PROFILES, QUICK, Depths, profile
from study.spec import InputError

# SHA-256 over the sorted ids of every trial of every experiment, computed by commit 1688b7b.
PLANS = {
    "smoke": "678757da66879091be405032148fce8895feee0b5b8251a108d524882be7d153",
    "quick": "a8e1a973f1bdffc3f1f7d4784810a5110b1cc542641dda0613716dbdf5cf3915",
    "class": "f008e2fe3856faa6ab55c7d25673e25b5a1aa872730a9c7b385301742403f6ec",
    "paper": "fe7266b2f7460fe4bd1c5a7d793ec9396da78af22c790555fd41f96400575ac4",
}


@pytest.mark.parametrize("name", PLANS)
def test_plans_never_change_without_raising_schema_or_protocol(name: str) -> None:
    """A difference means that logged studies no longer belong to their profile."""
    ids = sorted(trial.id for trial in planned(profile(name), map(name_of, EXPERIMENTS)))
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == PLANS[name]


def test_every_file_of_an_experiment_is_in_the_list_under_a_name_of_its_own() -> None:
    files = {path.stem for path in Path(experiments.__file__).parent.glob("*.py") if "NAME = " in path.read_text()}
    assert files == {experiment.__name__.rpartition(".")[2] for experiment in EXPERIMENTS}
    assert len(set(map(name_of, EXPERIMENTS))) == len(EXPERIMENTS)


def test_experiments_state_scales_of_profiles_that_exist() -> None:
    names = {profile.name for profile in PROFILES}
    assert all(set(experiment.SCALE) <= names for experiment in EXPERIMENTS)


def test_an_experiment_is_added_with_one_module_and_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    added = ModuleType("experiments.width")
    added.NAME, added.SCALE = "width", {"quick": Depths(depths=(26,), seeds=1)}  # type: ignore[attr-defined]
    net = QUICK.model("plain", 26)
    added.trials = lambda profile: profile.trials(net, profile.recipe(net), 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*EXPERIMENTS, added))
    (trial,) = planned(QUICK, ["width"])
    assert planned(QUICK)[trial] == ["width"] and planned(profile("class"), ["depth-scaling"])


def test_asked_seeds_hold_for_every_experiment() -> None:
    assert {most_seeds(one) for one in PROFILES} == {2, 3, 5}
    for one in PROFILES:
        seeds = {trial.seed for trial in planned(one.with_seeds(4)) if trial.data.labels == "shuffled"}
        assert seeds == {0, 1, 2, 3} and most_seeds(one.with_seeds(4)) == 4


def test_another_scale_replaces_the_stated_one_and_none_leaves_the_experiment_out() -> None:
    smaller = QUICK.on_scales({plain_vs_residual.NAME: Depths(depths=(20,), seeds=1)})
    assert [trial.model.title for trial in plain_vs_residual.trials(smaller)] == ["plain-20", "ResNet-20"]
    assert planned(QUICK.on_scales({plain_vs_residual.NAME: None}), [plain_vs_residual.NAME]) == {}
    with pytest.raises(InputError, match="experiment 'plain_vs_residual' is unknown"):
        planned(replace(QUICK, scales={"plain_vs_residual": None}))


def test_a_profile_may_be_defined_in_a_file_of_its_users(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from experiments import plain_vs_residual, profiles\n"
        "scales = {plain_vs_residual.NAME: profiles.Depths(depths=(26,), seeds=1)}\n"
        "WIDE = replace(profiles.QUICK, name='wide', width=32, scales=scales)\n"
        "TAKEN = profiles.QUICK\n"
    )
    own = profile(f"{file}:WIDE")
    assert own.name == "wide" and {trial.model.width for trial in planned(own)} == {32}
    assert {name for names in planned(own).values() for name in names} == {plain_vs_residual.NAME}
    for place, message in (
        (f"{file}:NARROW", "has no profile NARROW; assign a Profile to it"),
        (f"{file}:TAKEN", "is named 'quick' as one of the study's; choose another name"),
        (
            f"{tmp_path / 'none.py'}:WIDE",
            "cannot be read: No such file or directory; name an existing FILE",
        ),
        ("wide", "profile 'wide' is unknown; choose one of smoke, quick, class, paper"),
    ):
        with pytest.raises(InputError, match=message):
            profile(place)
