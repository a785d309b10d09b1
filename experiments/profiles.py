"""Profiles scale every experiment: data, width, recipe, depths, seeds, and the claims that they cannot test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments import recipes
from experiments.recipes import PRESETS, Preset
from study.spec import (
    RANDOM,
    TORCHVISION,
    Data,
    Detection,
    DetectionTrial,
    Model,
    Recipe,
    Trial,
    check_at_least,
    check_choice,
)


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
class Detectors:
    """What of the paper's detection half a profile trains: Faster R-CNN with VGG-16 and with one residual net."""

    voc: tuple[Data, ...]
    coco: Data
    vgg: Model
    vgg_weights: str
    resnet: Model  # whose weights are those of its ImageNet trials
    recipe: Callable[[Data], Recipe]
    norm: str  # of residual nets' detectors; 'frozen' in the paper
    recalibrate: int  # images over which BatchNorm's statistics are taken before they are frozen
    detection: Detection
    improved: bool  # whether detectors with context are trained, too (Appendix B)
    seeds: int

    def of_vgg(self, data: Data) -> list[Trial]:
        """One detector a seed. torchvision's weights were trained on pixels divided by their deviation."""
        if self.vgg_weights == TORCHVISION:
            data = replace(data, normalise="imagenet")
        return [
            DetectionTrial(
                model=self.vgg,
                data=data,
                recipe=self.recipe(data),
                seed=seed,
                detection=replace(self.detection, weights=self.vgg_weights),
            )
            for seed in range(self.seeds)
        ]

    def of_resnet(self, data: Data, starts: Sequence[Trial], bn_batch: int = 0, **changes: Any) -> list[Trial]:
        """One detector a seed, from the final net of the trial of that seed. `changes` are to its `Detection`."""
        recipe = self.recipe(data)
        measured = changes.get("norm") != "group" and not any(isinstance(start, DetectionTrial) for start in starts)
        recipe = replace(recipe, recalibrate=self.recalibrate * measured, bn_batch=bn_batch or recipe.bn_batch)
        return [
            DetectionTrial(
                model=self.resnet,
                data=data,
                recipe=recipe,
                seed=start.seed,
                detection=replace(self.detection, **{"weights": start.condition, "norm": self.norm, **changes}),
            )
            for start in starts
        ]


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
    detectors: Detectors | None = None
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
        detectors = self.detectors and replace(self.detectors, seeds=seeds)
        return replace(self, seeds=seeds, deep_seeds=seeds, rate_seeds=seeds, imagenet=imagenet, detectors=detectors)

    def backbones(self) -> list[Trial]:
        """The ImageNet trials, one a seed, whose nets the detectors of residual nets start from."""
        assert self.imagenet and self.detectors
        return replace(self.imagenet, seeds=self.detectors.seeds).trials(self.detectors.resnet)

    def with_data(self, data: Data) -> "Profile":
        """The same profile on other data, augmented and normalised as the profile does it; photographs stay."""
        return replace(self, data=data)


# A deviation a pixel would divide by zero: border pixels of the digits are constant.
DIGITS = Data.arrays(name="digits", channels=1, size=8, classes=10, normalise="scalar")
FASHION = Data.arrays(
    name="fashion-mnist", channels=1, size=28, classes=10, normalise="pixel-mean", padding=4, flip=True
)
PHOTOGRAPHS = Data.crops(name="photographs", size=32, classes=4, scales=(37, 69))
IMAGENETTE = Data.crops(name="images:imagenette", size=128, classes=10, scales=(146, 274))
SCENES_IN_VOC = Data.scenes(name="pasted-voc", size=128, classes=4)
SCENES_IN_COCO = Data.scenes(name="pasted-coco", size=128, classes=4)

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
    detectors=Detectors(
        voc=(SCENES_IN_VOC,),
        coco=SCENES_IN_COCO,
        vgg=Model.vgg(width=8),
        vgg_weights=RANDOM,
        resnet=Model.imagenet(family="residual", depth=18, shortcut="A", width=4),
        recipe=recipes.minute_of_detection,
        norm="batch",  # a backbone of four iterations is too little to freeze
        recalibrate=64,
        detection=replace(
            recipes.FASTER_RCNN, fixed_stages=0, anchors=(24, 32, 48), longest=192, proposals=50, regions=32
        ),
        improved=False,
        seeds=1,
    ),
    on_request=("detection-normalisation",),
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
    detectors=Detectors(
        voc=(recipes.VOC_DATA, recipes.VOC12_DATA),
        coco=recipes.COCO_DATA,
        vgg=Model.vgg(),
        vgg_weights=TORCHVISION,
        resnet=Model.imagenet(family="residual", depth=101, shortcut="B"),
        recipe=recipes.paper_detection,
        norm="frozen",
        recalibrate=10_000,
        detection=recipes.FASTER_RCNN,
        improved=True,
        seeds=2,
    ),
)

PROFILES = (SMOKE, QUICK, CLASS, PAPER)


def profile(name: str) -> Profile:
    """The profile of that name; raises `InputError` for another."""
    check_choice("profile", name, [p.name for p in PROFILES])
    return next(p for p in PROFILES if p.name == name)
