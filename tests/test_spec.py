"""Identity: what makes two trials the same, and what is refused."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from experiments import planned, recipes
from experiments.profiles import PAPER, QUICK
from study.execution import Execution
from study.spec import (
    NEUTRAL,
    PROTOCOL,
    SCHEMA,
    Data,
    Detection,
    DetectionTrial,
    InputError,
    Model,
    Recipe,
    Trial,
    Version,
    neutral,
    read,
    version_of,
    written,
)

RESNET110 = Trial(
    model=PAPER.model("residual", 110),
    data=recipes.PAPER_DATA,
    recipe=recipes.paper_cifar(PAPER.model("residual", 110)),
    seed=0,
)
# Another legal value of every field, by part: the identity test below fails for a field that is missing here.
OTHER: dict[type, dict[str, Any]] = {
    Model: {
        "family": "plain",
        "stem": "imagenet",
        "stride": "3x3",
        "block": "bottleneck",
        "depth": 56,
        "shortcut": "B",
        "width": 8,
    },
    Data: {
        "name": "cifar100",
        "channels": 1,
        "size": 16,
        "classes": 100,
        "held_out": 5000,
        "padding": 2,
        "flip": False,
        "scales": (32, 48),
        "colour": "pca",
        "normalise": "scalar",
        "labels": "shuffled",
        "digest": "0",
    },
    Recipe: {
        "iterations": 64_100,
        "batch": 256,
        "learning_rate": 0.2,
        "schedule": "cosine",
        "drops": (32_000,),
        "patience": 3,
        "momentum": 0.8,
        "momentum_rule": "torch",
        "weight_decay": 0.0,
        "decay": "weights",
        "init": "fan_out",
        "precision": "bf16",
        "bn_batch": 32,
        "recalibrate": 10_000,
        "warmup": "fixed",
        "warmup_learning_rate": 0.02,
        "warmup_iterations": 400,
        "record_every": 50,
        "evaluate_every": 500,
        "start": "dirac",
        "start_noise": 0.1,
        "grown_from": "plain20-digits-0123456789",
    },
}
TOGETHER = {  # fields whose other value is legal only beside another
    ("model", "family"): {"shortcut": "none"},
    ("model", "block"): {"depth": 83},
    ("model", "stem"): {"depth": 34},
    ("model", "stride"): {"block": "bottleneck", "depth": 83},
    ("data", "scales"): {"name": "photographs"},
    ("data", "colour"): {"name": "photographs", "scales": (32, 48)},
    ("recipe", "schedule"): {"drops": ()},
    ("recipe", "patience"): {"schedule": "plateau", "drops": ()},
    ("recipe", "start_noise"): {"start": "dirac"},
    ("recipe", "grown_from"): {"start": "grown"},
}


def test_golden_ids_never_change_without_raising_schema_or_protocol() -> None:
    """Computed by this code when the ids were defined; a difference means that logged studies are orphaned."""
    quick = Trial(
        model=QUICK.model("plain", 20), data=QUICK.data, recipe=recipes.minutes(QUICK.model("plain", 20)), seed=2
    )
    bottleneck = replace(RESNET110, model=PAPER.model("residual", 29, "B", "bottleneck"))
    assert RESNET110.id == "resnet110A-cifar10-117d78025e-s0"
    assert quick.id == "plain20-digits-bc8f6587e9-s2"
    assert bottleneck.id == "resnet29B-bottleneck-cifar10-b84717736b-s0"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, field.name)
        for part, kind in (("model", Model), ("data", Data), ("recipe", Recipe))
        for field in fields(kind)
    ],
)
def test_every_identity_field_changes_the_id(part: str, name: str) -> None:
    plain = replace(RESNET110, model=replace(RESNET110.model, family="plain", shortcut="none"))
    trial = plain if name in ("start", "start_noise", "grown_from") else RESNET110
    before = getattr(trial, part)
    value = OTHER[type(before)][name]
    assert value != getattr(before, name)
    changed = replace(before, **{name: value, **TOGETHER.get((part, name), {})})
    assert replace(trial, **{part: changed}).condition != trial.condition


def test_the_seed_changes_the_id_but_not_the_condition() -> None:
    other = replace(RESNET110, seed=1)
    assert other.id != RESNET110.id and other.condition == RESNET110.condition


def test_an_id_is_the_same_in_another_process() -> None:
    script = "import json, sys; from study.spec import Trial; print(Trial.from_dict(json.load(sys.stdin)).id)"
    spec = json.dumps(RESNET110.to_dict())
    there = subprocess.run([sys.executable, "-c", script], input=spec, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == RESNET110.id


def test_all_planned_ids_are_distinct_and_survive_json() -> None:
    for profile in (QUICK, PAPER):
        trials = list(planned(profile))
        assert len({trial.id for trial in trials}) == len(trials)
        assert [Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) for trial in trials] == trials


# Of fields that were added to schema 3: what all trials before them did. Add a line for a new field; never change one.
NEUTRAL_VALUES: dict[str, Any] = {"Recipe.start": "he", "Recipe.start_noise": 0.0, "Recipe.grown_from": ""}
# SHA-256 over the names of schema 3's fields without a neutral value.
HASHED_FIELDS = "66e215eac6939130370ad3159ca0dc12da01b0e5e8ff3881c74ccf6768c667fd"


def test_a_field_is_added_with_a_neutral_value_that_never_changes() -> None:
    kinds = (Model, Data, Recipe, Trial, Detection, DetectionTrial)
    known = {f"{kind.__name__}.{each.name}": each.metadata for kind in kinds for each in fields(kind)}
    later = {name: metadata[NEUTRAL] for name, metadata in known.items() if NEUTRAL in metadata}
    assert later == NEUTRAL_VALUES, "ids in use depend on these values"
    hashed = "\n".join(name for name in known if name not in later)
    assert (SCHEMA, hashlib.sha256(hashed.encode()).hexdigest()) == (3, HASHED_FIELDS), "give new fields neutral values"


@dataclass(frozen=True, kw_only=True)
class LaterRecipe(Recipe):
    """The recipe of a later version, with two more fields."""

    label_smoothing: float = field(metadata=neutral(0.0))
    stages: tuple[int, ...] = field(metadata=neutral(()))


def later(recipe: Recipe, label_smoothing: float = 0.0, stages: tuple[int, ...] = ()) -> LaterRecipe:
    return LaterRecipe(**vars(recipe), label_smoothing=label_smoothing, stages=stages)


def test_at_its_neutral_value_a_new_field_changes_no_id_and_no_file() -> None:
    grown = replace(RESNET110, recipe=later(RESNET110.recipe))
    assert grown.id == RESNET110.id
    assert json.dumps(grown.to_dict(), indent=2) == json.dumps(RESNET110.to_dict(), indent=2)


def test_at_any_other_value_a_new_field_is_part_of_the_id() -> None:
    smoothed, staged = later(RESNET110.recipe, label_smoothing=0.1), later(RESNET110.recipe, stages=(1,))
    assert len({replace(RESNET110, recipe=recipe).id for recipe in (smoothed, staged, later(RESNET110.recipe))}) == 3
    assert written(smoothed) == written(RESNET110.recipe) | {"label_smoothing": 0.1}


def test_an_older_specification_is_read_with_neutral_values_and_a_newer_one_is_read_back() -> None:
    assert read(LaterRecipe, written(RESNET110.recipe)) == later(RESNET110.recipe)
    staged = later(RESNET110.recipe, stages=(1, 2))
    assert read(LaterRecipe, json.loads(json.dumps(written(staged)))) == staged
    with pytest.raises(InputError, match="LaterRecipe has other fields than its specification: batch"):
        read(LaterRecipe, {name: value for name, value in written(staged).items() if name != "batch"})


def test_a_new_field_has_no_default() -> None:
    with pytest.raises(TypeError, match="label_smoothing"):
        LaterRecipe(**vars(RESNET110.recipe))


def test_the_version_that_made_an_id_is_found_from_its_specification() -> None:
    spec = json.loads(json.dumps(RESNET110.to_dict()))
    assert version_of(RESNET110.id, spec) == Version(SCHEMA, PROTOCOL)
    assert version_of(RESNET110.id, spec | {"seed": 1}) is None
    assert version_of(RESNET110.id, {}) is None


# A trial of the smoke profile, plain-20, as this study's code specified it when SCHEMA was 2 (commit bc17a1b).
SCHEMA_2: dict[str, Any] = {
    "model": {"family": "plain", "block": "basic", "depth": 20, "shortcut": "none", "width": 4},
    "data": {
        "name": "digits",
        "channels": 1,
        "size": 8,
        "classes": 10,
        "held_out": 0,
        "padding": 0,
        "flip": False,
        "normalise": "scalar",
        "digest": "",
    },
    "recipe": {
        "iterations": 6,
        "batch": 16,
        "learning_rate": 0.005,
        "schedule": "steps",
        "drops": [4],
        "momentum": 0.9,
        "momentum_rule": "caffe",
        "weight_decay": 0.0001,
        "decay": "all",
        "init": "fan_in",
        "precision": "fp32",
        "bn_batch": 16,
        "recalibrate": 0,
        "warmup": "none",
        "warmup_learning_rate": 0.0,
        "warmup_iterations": 0,
        "record_every": 2,
        "evaluate_every": 2,
    },
    "seed": 0,
}


def test_an_id_of_another_schema_is_recognised_though_its_fields_are_unknown() -> None:
    assert version_of("plain20-digits-db4071fd3f-s0", SCHEMA_2) == Version(2, 1)
    with pytest.raises(InputError, match="Model has other fields than its specification: stem, stride"):
        Trial.from_dict(SCHEMA_2)


def test_how_a_trial_is_run_is_never_part_of_its_identity() -> None:
    execution = {field.name for field in fields(Execution)}
    identity = {field.name for kind in (Model, Data, Recipe) for field in fields(kind)}
    assert not execution & identity


def test_an_unknown_or_missing_field_is_refused() -> None:
    spec = RESNET110.to_dict()
    spec["recipe"]["nesterov"] = True
    with pytest.raises(InputError, match="Recipe has other fields than its specification: nesterov"):
        Trial.from_dict(spec)
    spec = RESNET110.to_dict()
    del spec["data"]["flip"]
    with pytest.raises(InputError, match="flip"):
        Trial.from_dict(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 21}, r"depth 21 is not 6n\+2.*nearest are 20 and 26"),
        ({"depth": 2}, "nearest are 8 and 14"),
        ({"block": "bottleneck", "depth": 32}, r"depth 32 is not 9n\+2"),
        ({"shortcut": "D"}, "shortcut of a residual net 'D' is unknown; choose one of A, B, C"),
        ({"family": "plain"}, "shortcut of a plain net 'A' is unknown; choose one of none"),
        ({"width": 0}, "width 0 is too small"),
    ],
)
def test_a_net_outside_the_family_is_refused_with_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RESNET110.model, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drops": (48_000, 32_000)}, "must rise strictly"),
        ({"bn_batch": 50}, "bn_batch 50 does not divide batch 128"),
        ({"evaluate_every": 150}, "not a multiple of record_every"),
        ({"iterations": 0}, "iterations 0 is too small"),
        ({"precision": "fp16"}, "precision 'fp16' is unknown; choose one of fp32, tf32, bf16"),
        ({"schedule": "cosine"}, r"drops \(32000, 48000\) are not part of schedule 'cosine'; choose 'steps', or"),
        ({"momentum_rule": "nesterov", "momentum": 0}, "momentum 0 cannot look ahead .* choose 'caffe' or 'torch'"),
        ({"recalibrate": 63}, "recalibrate 63 is less than bn_batch 64, one batch; choose more images, or 0"),
        ({"recalibrate": -1}, "recalibrate -1 is less than bn_batch"),
    ],
)
def test_an_impossible_recipe_is_refused_with_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RESNET110.recipe, **change)


def test_constants_of_three_colours_are_refused_for_grey_images() -> None:
    replace(recipes.PAPER_DATA, normalise="imagenet")
    with pytest.raises(InputError, match="'imagenet' has constants of 3 channels, not 1; choose 'channel'"):
        replace(QUICK.data, normalise="imagenet")


def test_shuffled_labels_are_named_in_the_id_and_no_other_labels_are_known() -> None:
    shuffled = replace(QUICK.data, labels="shuffled")
    assert replace(RESNET110, data=shuffled).id.startswith("resnet110A-digits-shuffled-")
    with pytest.raises(InputError, match="labels 'random' is unknown; choose one of true, shuffled"):
        replace(QUICK.data, labels="random")


def test_average_pooling_is_named_apart_from_the_papers_option_a() -> None:
    ours, other = (PAPER.model("residual", 20, shortcut) for shortcut in ("A", "A-average"))
    assert (ours.label, ours.title) == ("resnet20A", "ResNet-20")
    assert (other.label, other.title) == ("resnet20A-average", "ResNet-20 (A, average pooling)")


def test_a_trial_lives_in_one_folder_named_by_its_id() -> None:
    execution = Execution(storage=Path("store"), data_root=Path("data"))
    assert execution.trial_folder(RESNET110.id) == Path("store/trials") / RESNET110.id


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        ("model", None, "it must be an object"),
        ("model.depth", "20", "a whole number"),
        ("model.depth", True, "a whole number"),
        ("model.depth", 10**30, "a whole number up to"),
        ("data.name", 3, "text"),
        ("data.flip", 1, "true or false"),
        ("recipe.learning_rate", float("inf"), "a finite number"),
        ("recipe.drops", 3, "a list of whole numbers"),
        ("recipe.drops", [3, "4"], "each of drops is '4'"),
    ],
)
def test_a_specification_whose_values_have_other_types_is_refused(place: str, value: object, rule: str) -> None:
    spec = json.loads(json.dumps(next(iter(planned(QUICK))).to_dict()))
    *outer, name = place.split(".")
    (spec[outer[0]] if outer else spec)[name] = value
    with pytest.raises(InputError, match=rule):
        Trial.from_dict(spec)


@pytest.mark.parametrize("spec", [None, 3, [], "text"])
def test_a_specification_is_an_object(spec: Any) -> None:
    with pytest.raises(InputError, match="Trial is .*; it must be an object"):
        Trial.from_dict(spec)
