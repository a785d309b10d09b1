"""Profiles scale every experiment: data, width, recipe, depths, seeds, and the claims that they cannot test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from experiments import recipes
from experiments.recipes import PRESETS, Preset
from study.spec import Data, Model, Recipe, Trial, check_at_least, check_choice


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """What of the paper's ImageNet half a profile trains, and on which photographs."""

    data: Data
    width: int
    recipe: Callable[[Model], Recipe]
    depths: tuple[int, ...]  # of plain and residual nets of basic blocks; options are compared at the deepest
    bottlenecks: tuple[int, ...]  # depths of residual nets of bottlenecks
    plain_bottlenecks: tuple[int, ...]
    longer: bool  # whether plain nets are also trained three times as long
    seeds: int

    def trials(self, model: Model) -> list[Trial]:
        recipe = self.recipe(model)
        return [Trial(model=model, data=self.data, recipe=recipe, seed=seed) for seed in range(self.seeds)]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How large the study is. `untestable` maps a claim's id, or '*' for all, to the reason."""

    name: str
    summary: str
    data: Data
    width: int
    recipe: Callable[[Model], Recipe]
    deep_recipe: Callable[[Model], Recipe]
    depths: tuple[int, ...]  # of plain and residual nets
    shortcut_depths: tuple[int, ...]  # at which options A, B and C are compared
    deep_depths: tuple[int, ...]  # of the depth-scaling experiment
    rate_nets: tuple[tuple[str, int], ...]  # (family, depth) run at the paper's learning rate throughout
    shuffled_nets: tuple[tuple[str, int], ...]  # (family, depth) trained on shuffled labels
    bottleneck_depths: tuple[int, ...]  # 9n+2
    preset_depths: tuple[int, ...]  # of the nets trained as public repositories train theirs
    presets: tuple[Preset, ...]
    seeds: int
    deep_seeds: int
    rate_seeds: int
    imagenet: ImageNet | None
    on_request: tuple[str, ...] = ()  # experiments that are planned only where they are named: their data is the user's
    untestable: Mapping[str, str] = field(default_factory=dict)

    def model(self, family: str, depth: int, shortcut: str = "A", block: str = "basic") -> Model:
        shortcut = "none" if family == "plain" else shortcut
        return Model.cifar(family=family, block=block, depth=depth, shortcut=shortcut, width=self.width)

    def trials(self, model: Model, recipe: Recipe, seeds: int) -> list[Trial]:
        return [Trial(model=model, data=self.data, recipe=recipe, seed=seed) for seed in range(seeds)]

    def with_seeds(self, seeds: int) -> "Profile":
        """The same profile with `seeds` seeds of every condition."""
        check_at_least("seeds", seeds, 1)
        imagenet = self.imagenet and replace(self.imagenet, seeds=seeds)
        return replace(self, seeds=seeds, deep_seeds=seeds, rate_seeds=seeds, imagenet=imagenet)

    def with_data(self, data: Data) -> "Profile":
        """The same profile on other data, augmented and normalised as the profile does it; photographs stay."""
        return replace(self, data=data)


DIGITS = Data(
    name="digits",
    channels=1,
    size=8,
    classes=10,
    held_out=0,
    padding=0,
    flip=False,
    scales=(0, 0),
    colour="none",
    normalise="scalar",  # border pixels are constant: a deviation a pixel would divide by zero
    labels="true",
    digest="",
)
FASHION = Data(
    name="fashion-mnist",
    channels=1,
    size=28,
    classes=10,
    held_out=0,
    padding=4,
    flip=True,
    scales=(0, 0),
    colour="none",
    normalise="pixel-mean",
    labels="true",
    digest="",
)
PHOTOGRAPHS = replace(recipes.IMAGENET_DATA, name="photographs", size=32, classes=4, scales=(37, 69))
IMAGENETTE = replace(recipes.IMAGENET_DATA, name="images:imagenette", size=128, classes=10, scales=(146, 274))

SMOKE = Profile(
    name="smoke",
    summary="digits, width 4, a few iterations: every part of the machinery in a minute, no claims",
    data=DIGITS,
    width=4,
    recipe=recipes.seconds,
    deep_recipe=recipes.seconds_deep,
    depths=(20, 56),
    shortcut_depths=(20,),
    deep_depths=(1202,),
    rate_nets=(("plain", 20),),
    shuffled_nets=(("plain", 20), ("residual", 20)),
    bottleneck_depths=(29,),
    preset_depths=(20,),
    presets=(PRESETS["kuangliu"].as_long_as(recipes.seconds),),
    seeds=2,
    deep_seeds=1,
    rate_seeds=1,
    imagenet=ImageNet(
        data=PHOTOGRAPHS,
        width=4,
        recipe=recipes.seconds_of_photographs,
        depths=(18, 34),
        bottlenecks=(50, 101, 152),
        plain_bottlenecks=(50,),
        longer=True,
        seeds=1,
    ),
    untestable={"*": "a few iterations exercise the machinery; they say nothing about trained nets"},
)

_FLOOR = "residual nets of every depth are at the floor of this training error (about 0 %)"
_SMALL_TEST = "differences between residual nets are smaller than what 360 test images resolve"
_SHORT = "the 1202-layer net is still learning when this schedule ends"
_SCALES = "in 360 iterations BatchNorm's scales, which are what a layer's response measures, hardly move from 1"
QUICK = Profile(
    name="quick",
    summary="digits, width 8, 360 iterations: the effect on a laptop CPU, with seeds, in minutes",
    data=DIGITS,
    width=8,
    recipe=recipes.minutes,
    deep_recipe=recipes.minutes_deep,
    depths=(20, 32, 44, 56, 110),
    shortcut_depths=(20, 56),
    deep_depths=(110, 1202),
    rate_nets=(("plain", 20), ("plain", 56), ("residual", 20)),
    shuffled_nets=(("plain", 20), ("plain", 56), ("residual", 20)),
    bottleneck_depths=(),
    preset_depths=(),
    presets=(),
    seeds=3,
    deep_seeds=1,
    rate_seeds=1,
    imagenet=None,
    untestable={
        **dict.fromkeys(("S3-4", "S42-12", "S42-13"), _SCALES),
        "S42-4": _FLOOR,
        "S41-26": _SMALL_TEST,
        "S42-5": _SMALL_TEST,
        "S42-11": "the state of the art it is compared with is CIFAR-10's",
        "S42-15": _SHORT,
        "S42-16": "7.93 % is a CIFAR-10 error",
        "S42-17": _SHORT,
        "S42-18": _SHORT,
        "S42-19": _SHORT,
    },
)

CLASS = Profile(
    name="class",
    summary="Fashion-MNIST, width 16, 2,000 iterations, two seeds: one GPU, or a CPU overnight",
    data=FASHION,
    width=16,
    recipe=recipes.shortened,
    deep_recipe=recipes.shortened,
    depths=(20, 32, 44, 56, 110),
    shortcut_depths=(20, 56),
    deep_depths=(110,),
    rate_nets=(("residual", 110),),
    shuffled_nets=(("plain", 20), ("plain", 56), ("residual", 20)),
    bottleneck_depths=(29, 83),
    preset_depths=(20,),
    presets=tuple(preset.as_long_as(recipes.shortened) for preset in PRESETS.values()),
    seeds=2,
    deep_seeds=2,
    rate_seeds=2,
    imagenet=ImageNet(
        data=IMAGENETTE,
        width=32,
        recipe=recipes.shortened_imagenet,
        depths=(18, 34),
        bottlenecks=(50,),
        plain_bottlenecks=(50,),
        longer=False,
        seeds=2,
    ),
    on_request=("imagenet-plain-vs-residual", "imagenet-shortcut-options", "imagenet-depth"),
    untestable={
        "S42-11": "the state of the art it is compared with is CIFAR-10's",
        **{claim: "this profile has no 1202-layer net" for claim in ("S42-15", "S42-16", "S42-17", "S42-18", "S42-19")},
    },
)

PAPER = Profile(
    name="paper",
    summary="CIFAR-10, width 16, 64,000 iterations, five seeds: the paper's own, for a GPU cluster",
    data=recipes.PAPER_DATA,
    width=recipes.PAPER_WIDTH,
    recipe=recipes.whole_batch_norm,
    deep_recipe=recipes.whole_batch_norm,
    depths=(20, 32, 44, 56, 110),
    shortcut_depths=(20, 56),
    deep_depths=(110, 1202),
    rate_nets=(("plain", 110), ("residual", 110)),
    shuffled_nets=(("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)),
    bottleneck_depths=(29, 83),
    preset_depths=(20, 56, 110),
    presets=tuple(PRESETS.values()),
    seeds=5,
    deep_seeds=5,
    rate_seeds=5,
    imagenet=ImageNet(
        data=recipes.IMAGENET_DATA,
        width=recipes.IMAGENET_WIDTH,
        recipe=recipes.paper_imagenet,
        depths=(18, 34),
        bottlenecks=(50, 101, 152),
        plain_bottlenecks=(),
        longer=True,
        seeds=2,  # the fewest that a claim can be tested with
    ),
)

PROFILES = (SMOKE, QUICK, CLASS, PAPER)


def profile(name: str) -> Profile:
    """The profile of that name; raises `InputError` for another."""
    check_choice("profile", name, [p.name for p in PROFILES])
    return next(p for p in PROFILES if p.name == name)
