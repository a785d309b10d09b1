"""Profiles: what all experiments of a study share. Data, width, recipes, and the claims that cannot be tested.

How large an experiment is in each profile, its depths, seeds and rates, is stated in the experiment's own file.
"""

import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from experiments import recipes
from study.data.detection_sets import is_scenes
from study.spec import (
    RANDOM,
    TORCHVISION,
    Data,
    Detection,
    DetectionTrial,
    InputError,
    Model,
    Recipe,
    Trial,
    check_at_least,
    check_at_most,
    check_choice,
)
from study.store import atomic

MOST_SEEDS = 10_000  # of a condition: a plan of a billion trials would be computed for hours


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large an experiment is in one profile. An experiment with more to choose adds fields."""

    seeds: int
    on_request: bool = False  # planned only where the experiment is named


@dataclass(frozen=True, kw_only=True)
class Depths(Scale):
    """The scale of an experiment that compares nets of several depths."""

    depths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Nets(Scale):
    """The scale of an experiment on some nets alone."""

    nets: tuple[tuple[str, int], ...]  # (family, depth)


ScaleType = TypeVar("ScaleType", bound=Scale)


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """The photographs, width and recipe of a profile's ImageNet half."""

    data: Data
    width: int
    recipe: Callable[[Model], Recipe]

    def model(self, family: str, depth: int, shortcut: str) -> Model:
        return Model.imagenet(family=family, depth=depth, shortcut=shortcut, width=self.width)

    def trials(self, model: Model, seeds: int) -> list[Trial]:
        recipe = self.recipe(model)
        return [Trial(model=model, data=self.data, recipe=recipe, seed=seed) for seed in range(seeds)]


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """Faster R-CNN as a profile trains it, with VGG-16 and with one residual net."""

    vgg: Model
    vgg_weights: str
    resnet: Model  # its weights are those of its ImageNet trials
    recipe: Callable[[Data], Recipe]
    recalibrate: int  # images over which BatchNorm's statistics are taken before they are frozen
    detection: Detection  # around the residual net; `weights` is replaced by what a detector starts from

    def of_vgg(self, data: Data, seeds: int) -> list[Trial]:
        """One detector a seed. torchvision's weights were trained on pixels divided by their deviation."""
        if self.vgg_weights == TORCHVISION:
            data = replace(data, normalise="imagenet")
        detection = replace(self.detection, weights=self.vgg_weights, norm="frozen")
        recipe = self.recipe(data)
        return [
            DetectionTrial(model=self.vgg, data=data, recipe=recipe, seed=seed, detection=detection)
            for seed in range(seeds)
        ]

    def of_resnet(
        self, data: Data, backbones: Sequence[Trial], *, detection: Detection | None = None, bn_batch: int = 0
    ) -> list[Trial]:
        """One detector a seed, from the classifier of that seed; with another `detection` or `bn_batch` if given."""
        detection, recipe = detection or self.detection, self.recipe(data)
        recalibrate = 0 if detection.norm == "group" else self.recalibrate
        recipe = replace(recipe, recalibrate=recalibrate, bn_batch=bn_batch or recipe.bn_batch)
        return self._starting_from(backbones, data, recipe, detection)

    def fine_tuned(self, data: Data, detectors: Sequence[Trial]) -> list[Trial]:
        """One detector with context a seed, from the detector with context of that seed (Appendix B)."""
        return self._starting_from(detectors, data, self.recipe(data), self.with_context)

    @property
    def with_context(self) -> Detection:
        """The detector with the feature of the whole image (Appendix B)."""
        return replace(self.detection, context=True)

    def _starting_from(self, starts: Sequence[Trial], data: Data, recipe: Recipe, detection: Detection) -> list[Trial]:
        return [
            DetectionTrial(
                model=self.resnet,
                data=data,
                recipe=recipe,
                seed=start.seed,
                detection=replace(detection, weights=start.condition),
            )
            for start in starts
        ]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What all experiments share. `untestable` maps a claim's id, or '*' for all, to the reason."""

    name: str
    summary: str
    data: Data
    width: int
    recipe: Callable[[Model], Recipe]
    imagenet: ImageNet | None = None
    detectors: Detectors | None = None
    scenes: Data | None = None  # of every detector, instead of what experiments state
    untestable: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None  # of every condition, instead of what experiments state
    # By an experiment's name: its scale, instead of what its file states; None leaves the experiment out.
    scales: Mapping[str, Scale | None] = field(default_factory=dict)

    def scale(self, name: str, stated: Mapping[str, ScaleType]) -> ScaleType | None:
        """How large the experiment is in this profile, by its name and what its file states; None if it has no part."""
        scale = self.scales[name] if name in self.scales else stated.get(self.name)
        if scale and self.seeds is not None:
            scale = replace(scale, seeds=self.seeds)
        return cast("ScaleType | None", scale)

    def model(self, family: str, depth: int, shortcut: str = "A", block: str = "basic") -> Model:
        shortcut = "none" if family == "plain" else shortcut
        return Model.cifar(family=family, block=block, depth=depth, shortcut=shortcut, width=self.width)

    def trials(self, model: Model, recipe: Recipe, seeds: int) -> list[Trial]:
        return [Trial(model=model, data=self.data, recipe=recipe, seed=seed) for seed in range(seeds)]

    def backbones(self, seeds: int) -> list[Trial]:
        """The ImageNet trials, one a seed, whose nets the detectors of residual nets start from."""
        if not self.imagenet or not self.detectors:
            return []
        return self.imagenet.trials(self.detectors.resnet, seeds)

    def with_seeds(self, seeds: int) -> "Profile":
        """The same profile with `seeds` seeds of every condition."""
        check_at_least("seeds", seeds, 1)
        check_at_most("seeds", seeds, MOST_SEEDS)
        return replace(self, seeds=seeds)

    def on_scales(self, scales: Mapping[str, Scale | None]) -> "Profile":
        """The same profile with these scales, by the experiments' names; None leaves an experiment out."""
        return replace(self, scales={**self.scales, **scales})

    def with_data(self, data: Data) -> "Profile":
        """The same profile on other data, augmented and normalised as the profile does it; photographs stay."""
        return replace(self, data=data)

    def on_data(self, data: Data) -> "Profile":
        """The same profile on data that a person chose, in the place of its own of that kind.

        Scenes are those of every detector; photographs are those of the ImageNet half, too, cropped as it does it.
        """
        if is_scenes(data.name):
            return replace(self, scenes=data)
        other = self.with_data(data)
        if not data.photographs or not self.imagenet:
            return other
        own = replace(self.imagenet.data, name=data.name, classes=data.classes, digest=data.digest)
        return replace(other, imagenet=replace(self.imagenet, data=own))

    def with_held_out(self, count: int) -> "Profile":
        """The same profile with so many training images kept for validation, of photographs, too."""
        held = replace(self, data=replace(self.data, held_out=count))
        if not self.imagenet:
            return held
        return replace(held, imagenet=replace(self.imagenet, data=replace(self.imagenet.data, held_out=count)))

    def detected(self, *stated: Data) -> tuple[Data, ...]:
        """The scenes that detectors are trained on: what the experiment states, or what was chosen instead."""
        return (self.scenes,) if self.scenes else stated


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
    imagenet=ImageNet(data=PHOTOGRAPHS, width=4, recipe=recipes.seconds_of_photographs),
    detectors=Detectors(
        vgg=Model.vgg(width=8),
        vgg_weights=RANDOM,
        resnet=Model.imagenet(family="residual", depth=18, shortcut="A", width=4),
        recipe=recipes.minute_of_detection,
        recalibrate=64,
        detection=replace(
            recipes.FASTER_RCNN,
            norm="batch",  # a backbone of four iterations is too little to freeze
            fixed_stages=0,
            anchors=(24, 32, 48),
            longest=192,
            proposals=50,
            regions=32,
        ),
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
    summary=(
        "Fashion-MNIST, width 16, 2,000 iterations, five seeds: one GPU for an hour, two CPU cores for a day and a half"
    ),
    data=FASHION,
    width=16,
    recipe=recipes.shortened,
    imagenet=ImageNet(data=IMAGENETTE, width=32, recipe=recipes.shortened_imagenet),
    untestable={
        "S42-11": "the state of the art it is compared with is CIFAR-10's",
        **{claim: "this profile has no 1202-layer net" for claim in ("S42-15", "S42-16", "S42-17", "S42-18", "S42-19")},
    },
)

ONE_GPU = Profile(
    name="one-gpu",
    summary=(
        "CIFAR-10, width 16, 64,000 iterations, five seeds (of 1202 layers one): the paper's CIFAR nets on one"
        " data-centre GPU in an evening; departs from `paper` in bf16, BatchNorm over 128 images, and its 1202 layers"
    ),
    data=recipes.PAPER_DATA,
    width=recipes.PAPER_WIDTH,
    recipe=recipes.in_bf16,
)

PAPER = Profile(
    name="paper",
    summary="CIFAR-10, width 16, 64,000 iterations, five seeds, for a GPU cluster: the paper's nets and recipes",
    data=recipes.PAPER_DATA,
    width=recipes.PAPER_WIDTH,
    recipe=recipes.paper_cifar,
    imagenet=ImageNet(data=recipes.IMAGENET_DATA, width=recipes.IMAGENET_WIDTH, recipe=recipes.paper_imagenet),
    detectors=Detectors(
        vgg=Model.vgg(),
        vgg_weights=TORCHVISION,
        resnet=Model.imagenet(family="residual", depth=101, shortcut="B"),
        recipe=recipes.paper_detection,
        recalibrate=10_000,
        detection=recipes.FASTER_RCNN,
    ),
)

PROFILES = (SMOKE, QUICK, CLASS, ONE_GPU, PAPER)


def profile(name: str) -> Profile:
    """The profile of that name, or that which a Python file defines: `FILE.py:VARIABLE`. Raises `InputError`."""
    by_name = {profile.name: profile for profile in PROFILES}
    if ".py:" in name:
        own = _defined(name)
        if own.name in by_name:
            raise InputError(f"profile {name} is named {own.name!r} as one of the study's; choose another name")
        return own
    check_choice("profile", name, by_name)
    return by_name[name]


def _defined(place: str) -> Profile:
    """The `Profile` that a Python file, which is executed, assigns to a variable."""
    typed, _, variable = place.rpartition(":")
    file = str(atomic.local(typed))
    try:
        defined = runpy.run_path(file)
    except Exception as error:  # the file is a person's program
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        lines = [line.lineno for line in traceback.extract_tb(error.__traceback__) if line.filename == file]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(
            f"profile {place} cannot be read ({reason}{where}); name a FILE.py:VARIABLE that can"
        ) from None
    except SystemExit:
        raise InputError(f"profile {place} cannot be read: {file} ends Python; name a FILE.py:VARIABLE") from None
    if not isinstance(own := defined.get(variable), Profile):
        raise InputError(f"{file} has no profile {variable}; assign a Profile to it")
    return own
