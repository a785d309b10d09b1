"""What the experiments plan, and that it stays what it was."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import experiments
from experiments import EXPERIMENTS, most_seeds, name_of, plain_vs_residual, planned, precision
from experiments.profiles import PROFILES, QUICK, Depths, profile
from study.spec import InputError

# SHA-256 over the sorted ids of every trial of every experiment but `ADDED`, computed by commit 1688b7b (smoke), where
# quick was given six seeds, and where the recipes of class and paper were repaired; one-gpu's and those of `ADDED` by
# the commits that added them or last changed their scales.
PLANS = {
    "smoke": "678757da66879091be405032148fce8895feee0b5b8251a108d524882be7d153",
    "quick": "cb246cce7a4cd4bcfdb3e102d98e4d798a7ece3747592ed92ab7fb3d38d514bf",
    "class": "324a3e04570fa6143266219443f11bf78c463810d20703725973e9daba3dbc26",
    "one-gpu": "b3b3bb2cdcef3d45fbfd673abb29301f25bc75bffe557395acd1ca7c3e140604",
    "paper": "4245de46d7d2a02616e09a190663cc312a025a33a0ecdbac906bb9d2bdbe32fb",
}
ADDED = {
    "precision": {
        "smoke": "d5f03d5b54d638a75dfe5ddc89edee5a555ee55f6d68ff4a2516364841624090",
        "quick": "e74f46adffedf8c86a5261f2d9bdb25c8578d60a40f351ad792a7cad2975742b",
        "class": "ee70fca6e52673354b1626afc7b1731cd065536a83f7241ef2331632106149d8",
        "one-gpu": "e42c185dc32722df3794efa244b4cbe0257458f610bf49e340cbde127cdc5d49",
        "paper": "0f7b923caa44c04d5b0ef3deba14a24d43224250ae7a50d8174167cf41e2701a",
    },
    "placebo": {
        "smoke": "1f7626efda891df51dea0e75a8923ac42ba6ec3f045f1ad0677e5972ab95653b",
        "quick": "8b7cf8d0af93eef9b892a64ff0d90e63f6e549208f7eef79b869ce7de95e8665",
        "class": "06a490126aca14c815ec6a6ea092b927a480bcde3b4188a56520007db7a71521",
        "one-gpu": "cbe4d9de8d8a451f9899112bce6e85ab05b1213d3afc45f90709a11448d739db",
        "paper": "00584bdfd9bf683989d366b509f816d77ce06a2202ef9d2a76db4fa9183fc076",
    },
    "budget": {
        "smoke": "c07eea80e91f1999466d7d78536bd1ea96000373ee2490be7074c4010b27a223",
        "quick": "89f54916742f2d26d8fc7cff42694858cbec10823c9cd1da7841b22bb8175df5",
        "class": "1d090095a70ccf1840458d93a93eedbfaa06823e88fff267979901f8ffc15974",
        "one-gpu": "f78a82d97fcd3a2b7bb14b1775c87d715d35e5a665a971458d9e4b0b5854cb1d",
        "paper": "8e1d55941e15089172387328d7084b106bd3a3b9d65c8d8a1abd2356ae474646",
    },
    "budget-grid": {
        "smoke": "f1c1db7d81e6b4c89ca3f70feb701fe02c2bca2711aad6aa5ea3ce8aa0987de2",
        "quick": "4c9776df8a00c52f17ca3fc9c63e81deb95ffccbdaa283fa37a8b8b5d8cf89de",
        "class": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "one-gpu": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "paper": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    },
    "initial-layers": {
        "smoke": "1d7f9bb7835022b8c55e62748e99eb4cfeff08231bae212098e0fcc095d5b394",
        "quick": "ac4a5b51dcae1c25dd1d05d1e69369d135b5e5104b37b4d0c32512a529a7aa1b",
        "class": "cbdd6ab05ffffe63426f01845ab22b16bdb08019e13d17f5d7ee058393bbd684",
        "one-gpu": "fb02d5ff8a1de272b4e9ea54b28c5e49788d52db08c41139a01c796a0b7546eb",
        "paper": "5a854c719fc8a58ef6ade72a0cff53e4154976f825b842be3e0286dfa61235d4",
    },
    "rates": {
        "smoke": "3a581f8cf1a9d0540a9341866a7b6511a534a3142ca58d690320a387c9c7eb96",
        "quick": "54524c629d28aa04137f3031f52bc49a15868c96c49ec3b119a7e94bc7a59354",
        "class": "37fb1ea4f62ddda06d2eed3ccbeccf471b04b734c673205267c61b720e4cba13",
        "one-gpu": "6f329fef8731d5cb9efa8a173f2471c24ae076f193fe21e04f7c7f93a2c4562d",
        "paper": "ced442c6f7b2cec701d30cd28d9a775d97e834717e986504c3a3d6a8821945a4",
    },
    "starts": {
        "smoke": "6c7d752c23f234c8d9ba32528ad2174a585bf2c684c484aa5188cea0a3c7ea5d",
        "quick": "4bba44a6b32467e49de1d961bfff31bf0db499b24f16a6b426e84944c7be7478",
        "class": "258bce8f23a126629819cb63bffb9442fb6dbbcbba1d692922d866d3d1622a41",
        "one-gpu": "c9f64759380e5d2a026fcaf9e1c2d7cb2abeab0602d7ea0e067e3d9ea07d8e45",
        "paper": "f4af4c95644030f89e896c3ffb08c49c37a41b302c4da21c23fa63c625b1f696",
    },
    "starts-grid": {
        "smoke": "7d7a444e7c8f035701ff7e3f3216fabc709e9112a0ca910f21b27020958329d8",
        "quick": "3b0368046ac78a717e3f02d37678c0d917ec4800f93c46e027e2ffe882b3b348",
        "class": "6b6e4daccb3de8df90cb75422caa948bc7ddeb69cfffb5d117bc674a2d7c9f8e",
        "one-gpu": "5161d4abebb697b57645ab802c9c5a91b908da5a93436d3690c2fdde0fb3ffd4",
        "paper": "e0692e64f1c5493c2bb600fbf27546c5d18b984fd16c64042201071802d992c9",
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_the_trials_of_a_profile_change_only_in_the_open(name: str) -> None:
    """A difference means that logged studies lack trials of their profile, or have others.

    CHANGELOG.md names a change of scale. Other ids of the same trials take another `SCHEMA` or `PROTOCOL`.
    """
    names = [name_of(experiment) for experiment in EXPERIMENTS]
    assert digest(name, [one for one in names if one not in ADDED]) == PLANS[name]
    for added, plans in ADDED.items():
        assert digest(name, [added]) == plans[name], added


def digest(name: str, names: list[str]) -> str:
    ids = sorted(trial.id for trial in planned(profile(name), names))
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def test_one_gpu_trains_the_papers_cifar_nets_in_bf16_and_one_seed_of_1202_layers() -> None:
    trials, paper = planned(profile("one-gpu")), set(planned(profile("paper")))
    assert {trial.recipe.precision for trial in trials} == {"bf16"}
    as_papers = {replace(trial, recipe=replace(trial.recipe, precision="fp32", bn_batch=64)) for trial in trials}
    assert as_papers <= paper
    deepest = [trial for trial in trials if trial.model.depth == 1202]
    assert [(trial.model.title, trial.seed) for trial in deepest] == [("ResNet-1202", 0)]
    (seeds,) = set(Counter(trial.condition for trial in planned(profile("one-gpu"), ["plain-vs-residual"])).values())
    assert seeds == 5
    asked = planned(profile("one-gpu").with_seeds(2), ["depth-scaling"])
    assert {trial.seed for trial in asked if trial.model.depth == 1202} == {0, 1}


@pytest.mark.parametrize("name", ["smoke", "quick", "class", "one-gpu", "paper"])
def test_precision_trains_the_same_nets_in_each_precision_and_only_on_request(name: str) -> None:
    asked, usual = planned(profile(name), [precision.NAME]), planned(profile(name))
    by_precision: dict[str, set[tuple[str, int]]] = {}
    for trial in asked:
        by_precision.setdefault(trial.recipe.precision, set()).add((trial.model.title, trial.seed))
    assert "fp32" in by_precision and len(by_precision) > 1 and len(set(map(frozenset, by_precision.values()))) == 1
    assert not any(precision.NAME in names for names in usual.values())


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
    assert {most_seeds(one) for one in PROFILES} == {2, 5, 6}
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
            "cannot be read .No such file or directory.; name a FILE",
        ),
        ("wide", "profile 'wide' is unknown; choose one of smoke, quick, class, one-gpu, paper"),
    ):
        with pytest.raises(InputError, match=message):
            profile(place)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("X = 1\nimport nothing_of_this_name\n", "ModuleNotFoundError: No module named .*, line 2"),
        ("X = (\n", "SyntaxError: "),
        ("X = 1 / 0\n", "ZeroDivisionError: division by zero, line 1"),
        ("raise SystemExit(3)\n", "ends Python"),
    ],
)
def test_a_profiles_file_that_fails_is_named_with_its_line(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(content)
    with pytest.raises(InputError, match=f"profile {file}:X cannot be read.*{reason}"):
        profile(f"{file}:X")
