"""What a trial is, and its id.

Owns identity: two trials are the same exactly when their ids are equal. A field belongs to `Trial` if changing it
could change a reported number beyond rounding; how a trial is run (`Execution`) is never hashed. Standard library
only: this file must not know torch, ray, mlflow or any particular experiment.

To add a field, give it a neutral value: `sharpness: float = field(metadata=neutral(0.0))`. The neutral value says what
all earlier trials did. A trial that has it keeps its id and its spec.json, because both leave the field out. It is not
a default (every constructor call names every field), and it never changes.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

SCHEMA = 3  # raise when a field is removed, renamed, or added without a neutral value
PROTOCOL = 1  # raise when the same fields come to mean other numbers; list the ids it invalidates in CHANGELOG.md
NEUTRAL = "neutral"  # key of a field's metadata


class Version(NamedTuple):
    """What an id is made under, beside the trial's own fields."""

    schema: int
    protocol: int

    def __str__(self) -> str:
        return f"schema {self.schema}, protocol {self.protocol}"


THIS_VERSION = Version(SCHEMA, PROTOCOL)


class InputError(ValueError):
    """The user's input is wrong. The message is one line: the value, the rule, the alternatives (exit code 2)."""


Part = TypeVar("Part")


def neutral(value: object) -> dict[str, object]:
    """Metadata of a field that was added after ids were in use: at `value` it is left out of ids and spec.json."""
    return {NEUTRAL: value}


def written(part: Any) -> dict[str, Any]:
    """The fields of a dataclass as spec.json has them: nested, in order, without those at their neutral value."""
    spec = {}
    for known in fields(part):
        value = getattr(part, known.name)
        if NEUTRAL not in known.metadata or value != known.metadata[NEUTRAL]:
            spec[known.name] = written(value) if is_dataclass(value) else value
    return spec


def read(kind: type[Part], spec: Mapping[str, Any]) -> Part:
    """The inverse of `written`, also after a trip through JSON. Unknown and missing keys raise `InputError`."""
    if not isinstance(spec, Mapping):
        raise InputError(f"{kind.__name__} is {_short(spec)}; it must be an object with its fields")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    left_out = {name: field.metadata[NEUTRAL] for name, field in known.items() if NEUTRAL in field.metadata}
    wrong = set(spec) - set(known) | set(known) - set(spec) - set(left_out)
    if wrong:
        names = ", ".join(sorted(map(str, wrong)))
        raise InputError(f"{kind.__name__} has other fields than its specification: {names}")
    values = dict(left_out)
    for name, value in spec.items():
        kind_of_field: Any = known[name].type
        if isinstance(kind_of_field, type) and is_dataclass(kind_of_field):
            value = read(kind_of_field, value)
        elif get_origin(kind_of_field) is tuple:
            if not isinstance(value, list | tuple):  # JSON has lists alone
                raise InputError(f"{name} is {_short(value)}; it must be a list of whole numbers")
            value = tuple(_checked(f"each of {name}", number, int) for number in value)
        else:
            value = _checked(name, value, kind_of_field)
        values[name] = value
    return kind(**values)


def _checked(what: str, value: Any, kind: type) -> Any:
    """The value of a field. Raises `InputError` unless it is of its kind."""
    if not is_of(kind, value):
        raise InputError(f"{what} is {_short(value)}; it must be {_KINDS[kind]}")
    return value


def is_of(kind: Any, value: object) -> bool:
    """Whether a value from a JSON file is of a field's type; a whole number stands for a float, too."""
    if isinstance(kind, UnionType):
        return any(is_of(one, value) for one in get_args(kind))
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(is_of(get_args(kind)[1], one) for one in value.values())
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and -LARGEST <= value <= LARGEST  # type: ignore[operator]
    return isinstance(value, kind)


LARGEST = 2**62  # that a number in a JSON file may be: no count, time or size comes near it
_KINDS: Mapping[type, str] = {
    **{str: "text", bool: "true or false"},
    **{int: f"a whole number up to {LARGEST}", float: f"a finite number up to {LARGEST}"},
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def check_choice(what: str, value: object, allowed: Iterable[Any]) -> None:
    """Raise `InputError` unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{what} {value!r} is unknown; choose one of {', '.join(map(str, allowed))}")


def check_at_most(what: str, value: float, most: float) -> None:
    """Raise `InputError` unless `value <= most`."""
    if not value <= most:
        raise InputError(f"{what} {value} is too large; it must be at most {most}")


def check_at_least(what: str, value: float, least: float) -> None:
    """Raise `InputError` unless `value >= least`."""
    if not value >= least:
        raise InputError(f"{what} {value} is too small; it must be at least {least}")


RANDOM, TORCHVISION = "random", "torchvision"  # weights of a backbone that no trial trained
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
HE, DIRAC, PASS_THROUGH, GROWN = "he", "dirac", "pass-through", "grown"
NORMS = ("frozen", "frozen-affine", "batch", "group")

# Table 1: blocks of each stage, by kind of block and depth.
IMAGENET_STAGES = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A net of the paper's: stages of `width`, 2, 4 (and 8) times `width` filters behind a stem.

    'cifar' (Sec. 4.2) is a 3x3 stem and three stages; 'imagenet' (Table 1) a 7x7 one of stride 2 with max pooling, and
    four stages.
    """

    family: str  # 'plain', 'residual', or 'vgg': VGG-16, the backbone that detectors are compared with (Sec. 4.3)
    stem: str  # 'cifar' or 'imagenet'
    block: str  # 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1; four times wider outside)
    # Where a bottleneck that halves the map has its stride: the 'first' 1x1, as in the paper, or the '3x3' (v1.5).
    stride: str
    depth: int  # weighted layers: 6n+2 with basic blocks, 9n+2 with bottlenecks; with the stem 'imagenet' Table 1's
    shortcut: str  # 'A', 'B' or 'C' (Sec. 3.3, 4.1); 'A-average' pools where A takes every 2nd pixel; plain: 'none'
    width: int  # filters of the first stage; the paper's CIFAR nets have 16, its ImageNet nets 64

    def __post_init__(self) -> None:
        check_choice("family", self.family, ("plain", "residual", "vgg"))
        check_choice("stem", self.stem, ("cifar", "imagenet"))
        check_choice("block", self.block, ("basic", "bottleneck"))
        strides = ("first", "3x3") if self.block == "bottleneck" else ("first",)
        check_choice(f"stride of a {self.block} block", self.stride, strides)
        check_choice(
            f"shortcut of a {self.family} net",
            self.shortcut,
            ("A", "B", "C", "A-average") if self.family == "residual" else ("none",),
        )
        check_at_least("width", self.width, 1)
        if self.family == "vgg":
            check_choice("depth of a VGG net", self.depth, (16,))
            return
        if self.stem == "imagenet":
            check_choice(f"depth of an ImageNet net of {self.block} blocks", self.depth, IMAGENET_STAGES[self.block])
            return
        step = 3 * self.convolutions_per_block
        n = (self.depth - 2) // step
        if n < 1 or self.depth != step * n + 2:
            n = max(n, 1)
            raise InputError(
                f"depth {self.depth} is not {step}n+2, as nets of {self.block} blocks are;"
                f" the nearest are {step * n + 2} and {step * (n + 1) + 2}"
            )

    @classmethod
    def cifar(cls, *, family: str, depth: int, shortcut: str, width: int, block: str = "basic") -> "Model":
        """A net of Sec. 4.2."""
        return cls(
            family=family, stem="cifar", block=block, stride="first", depth=depth, shortcut=shortcut, width=width
        )

    @classmethod
    def imagenet(cls, *, family: str, depth: int, shortcut: str, width: int = 64, stride: str = "first") -> "Model":
        """A net of Table 1; 50 layers and more are of bottlenecks."""
        block = "basic" if depth in IMAGENET_STAGES["basic"] else "bottleneck"
        return cls(
            family=family, stem="imagenet", block=block, stride=stride, depth=depth, shortcut=shortcut, width=width
        )

    @classmethod
    def vgg(cls, *, width: int = 64) -> "Model":
        """VGG-16 (configuration D of Simonyan and Zisserman)."""
        return cls(family="vgg", stem="imagenet", block="basic", stride="first", depth=16, shortcut="none", width=width)

    @property
    def convolutions_per_block(self) -> int:
        return 2 if self.block == "basic" else 3

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks of each stage; the paper's n three times, or Table 1's. Convolutions of each stage of VGG-16."""
        if self.family == "vgg":
            return (2, 2, 3, 3, 3)
        if self.stem == "imagenet":
            return IMAGENET_STAGES[self.block][self.depth]
        return ((self.depth - 2) // (3 * self.convolutions_per_block),) * 3

    @property
    def has_square_convolutions(self) -> bool:
        """Whether a convolution with as many inputs as outputs and stride 1 lies on the way through the net.

        The way is of all convolutions in a plain net, and of the shortcuts in a residual one.
        """
        if self.family == "residual":
            return self.shortcut == "C" and (self.block == "basic" or max(self.stages) > 1)
        return self.family == "plain"

    @property
    def features(self) -> int:
        """Channels that the classifier sees."""
        doublings: int = 2 ** (len(self.stages) - 1)
        return self.width * doublings * self.expansion

    @property
    def expansion(self) -> int:
        """Output channels of a block as a multiple of its stage's filters."""
        return 1 if self.block == "basic" else 4

    @property
    def label(self) -> str:
        """Short name for ids: `plain20`, `resnet110A`, `resnet20A-average`, `resnet29B-bottleneck`, `resnet50B`."""
        if self.family == "vgg":
            return f"vgg{self.depth}"
        kind, option = ("plain", "") if self.family == "plain" else ("resnet", self.shortcut)
        block = "-bottleneck" if self.block == "bottleneck" and self.stem == "cifar" else ""
        return f"{kind}{self.depth}{option}{block}" + ("-v1.5" if self.stride == "3x3" else "")

    @property
    def title(self) -> str:
        """Name as the paper prints it: `plain-20`, `ResNet-110`; options other than its own for the net are named.

        Its own are A, and B for ImageNet nets of bottlenecks.
        """
        if self.family == "vgg":
            return f"VGG-{self.depth}"
        usual = "B" if self.stem == "imagenet" and self.block == "bottleneck" else "A"
        option = {"A-average": "A, average pooling"}.get(self.shortcut, self.shortcut)
        title = f"plain-{self.depth}" if self.family == "plain" else f"ResNet-{self.depth}"
        title += "" if self.shortcut in ("none", usual) else f" ({option})"
        title += " v1.5" if self.stride == "3x3" else ""
        return title + (" bottleneck" if self.block == "bottleneck" and self.stem == "cifar" else "")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set as training sees it. `study.data.arrays` checks that what it loads is what this says."""

    # 'digits', 'fashion-mnist', 'cifar10', 'cifar100', 'folder:NAME' or 'synthetic', whose images have one size; or
    # photographs of any size: 'imagenet', 'images:NAME', 'shards:NAME' or 'photographs'; or scenes, with annotated
    # objects: those of `study/data/detection_sets.py`.
    name: str
    channels: int
    size: int  # images, or crops of photographs, are size x size pixels; of scenes the shorter side is
    classes: int
    held_out: int  # training images kept for validation: 5000 in the paper's 45k/5k split, else 0
    padding: int  # zero pixels on each side before the random crop; 0 crops nothing
    flip: bool  # random horizontal flips
    scales: tuple[int, int]  # shorter side of a training photograph, drawn from these; (0, 0) for other data
    colour: str  # 'none', or 'pca': a random shift along the principal components of RGB, as AlexNet's (Sec. 3.4)
    # Of pixels in 0..1: 'pixel-mean' subtracts the mean image, 'pixel-mean-128' also divides by 128/255. 'scalar' and
    # 'channel' subtract a mean and divide by a deviation, one or one a channel; 'imagenet' takes those of ImageNet.
    normalise: str
    labels: str  # 'true', or 'shuffled': those of training images permuted, a negative control; test labels never are
    digest: str  # SHA-256 of the images; empty if the name identifies the data set, or if only the run records it

    def __post_init__(self) -> None:
        check_choice("normalise", self.normalise, ("pixel-mean", "pixel-mean-128", "scalar", "channel", "imagenet"))
        check_choice("labels", self.labels, ("true", "shuffled"))
        check_choice("colour", self.colour, ("none", "pca"))
        if self.photographs != (self.scales != (0, 0)) or not self.photographs and self.colour != "none":
            raise InputError(f"scales {self.scales} and colour {self.colour!r} do not go with data set {self.name}")
        if self.photographs and not self.size <= self.scales[0] <= self.scales[1]:
            raise InputError(f"scales {self.scales} must rise, and hold a crop of {self.size} pixels; say (256, 480)")
        if self.normalise == "imagenet" and self.channels != 3:
            raise InputError(f"normalise 'imagenet' has constants of 3 channels, not {self.channels}; choose 'channel'")
        for what in ("channels", "size", "classes"):
            check_at_least(what, getattr(self, what), 1)
        for what in ("held_out", "padding"):
            check_at_least(what, getattr(self, what), 0)

    @property
    def photographs(self) -> bool:
        """Whether images are of any size, and read while training."""
        return self.name.partition(":")[0] in ("imagenet", "images", "shards", "photographs")

    @classmethod
    def arrays(
        cls,
        *,
        name: str,
        channels: int,
        size: int,
        classes: int,
        normalise: str,
        held_out: int = 0,
        padding: int = 0,
        flip: bool = False,
        digest: str = "",
    ) -> "Data":
        """Images of one size with true labels; 4 pixels of padding and flips are Sec. 4.2's augmentation."""
        return cls(
            name=name,
            channels=channels,
            size=size,
            classes=classes,
            held_out=held_out,
            padding=padding,
            flip=flip,
            scales=(0, 0),
            colour="none",
            normalise=normalise,
            labels="true",
            digest=digest,
        )

    @classmethod
    def crops(cls, *, name: str, size: int, classes: int, scales: tuple[int, int]) -> "Data":
        """Photographs of any size with true labels, cropped and augmented as in Sec. 3.4."""
        return cls(
            name=name,
            channels=3,
            size=size,
            classes=classes,
            held_out=0,
            padding=0,
            flip=True,
            scales=scales,
            colour="pca",
            normalise="pixel-mean",
            labels="true",
            digest="",
        )

    @classmethod
    def scenes(cls, *, name: str, size: int, classes: int) -> "Data":
        """Photographs with annotated objects, resized to a shorter side of `size` pixels (Appendix A)."""
        return cls(
            name=name,
            channels=3,
            size=size,
            classes=classes,
            held_out=0,
            padding=0,
            flip=True,
            scales=(0, 0),
            colour="none",
            normalise="pixel-mean",
            labels="true",
            digest="",
        )

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "Data":
        """The inverse of `written`. Unknown and missing keys raise `InputError`."""
        return read(cls, spec)

    @property
    def label(self) -> str:
        return self.name.replace(":", "-").replace("+", "-") + ("-shuffled" if self.labels == "shuffled" else "")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The optimisation settings: SGD with momentum, a schedule, optional warm-up (Sec. 4.2), and BatchNorm's averages.

    `momentum_rule` says what the velocity holds: with 'caffe' the steps, rate included, so that old ones keep their
    size where the rate changes; with 'torch', as in PyTorch, gradients, to which the new rate applies at once;
    'nesterov' is PyTorch's look-ahead on top of that.
    """

    iterations: int
    batch: int
    learning_rate: float
    # 'steps' at the drops, 'plateau' (see `patience`), or 'cosine' from learning_rate to 0 over all iterations
    schedule: str
    drops: tuple[int, ...]  # iterations at which the learning rate is divided by 10
    patience: int  # of 'plateau': the rate is divided by 10 after so many records without a new least training error
    momentum: float
    momentum_rule: str  # 'caffe', 'torch' or 'nesterov'
    weight_decay: float
    decay: str  # 'all' parameters, or only the 'weights' of convolutions and the classifier
    init: str  # He initialisation by 'fan_in' or 'fan_out', or PyTorch's default, 'torch'
    precision: str  # 'fp32', 'tf32' (a GPU's rounding within fp32 products), or 'bf16' autocast
    bn_batch: int  # images a BatchNorm statistic is taken over; the paper's two GPUs had 64 of 128
    recalibrate: int  # training images over which BatchNorm's statistics are averaged anew for an evaluation, or 0
    warmup: str  # 'none', 'threshold' (until running training error < 80 %) or 'fixed'
    warmup_learning_rate: float
    warmup_iterations: int  # length of a 'fixed' warm-up, longest 'threshold' warm-up, else 0
    record_every: int  # iterations between records of the running training error
    evaluate_every: int  # iterations between clean training and test errors
    # What training starts from: 'he', what `init` draws; or the constructed solution (Sec. 1, `study/nets/starts.py`):
    # 'dirac', whose square convolutions are the identity; 'pass-through', where BatchNorm undoes itself behind them;
    # 'grown', the net of `grown_from` and layers that pass their input on.
    start: str = field(metadata=neutral("he"))
    start_noise: float = field(metadata=neutral(0.0))  # how much of what `init` draws is added to the identity
    grown_from: str = field(metadata=neutral(""))  # the condition of shallower nets: those of the same seeds are grown

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, ("all", "weights"))
        check_choice("init", self.init, ("fan_in", "fan_out", "torch"))
        check_choice("start", self.start, (HE, DIRAC, PASS_THROUGH, GROWN))
        check_choice("schedule", self.schedule, ("steps", "plateau", "cosine"))
        check_choice("momentum_rule", self.momentum_rule, ("caffe", "torch", "nesterov"))
        check_choice("precision", self.precision, ("fp32", "tf32", "bf16"))
        check_choice("warmup", self.warmup, ("none", "threshold", "fixed"))
        for what in ("iterations", "batch", "bn_batch", "record_every", "evaluate_every"):
            check_at_least(what, getattr(self, what), 1)
        for what in ("learning_rate", "momentum", "weight_decay", "warmup_learning_rate", "warmup_iterations"):
            check_at_least(what, getattr(self, what), 0)
        check_at_least("start_noise", self.start_noise, 0)
        if self.start_noise and self.start not in (DIRAC, PASS_THROUGH):
            raise InputError(f"start_noise {self.start_noise} is added to no start {self.start!r}; choose 0")
        if (self.start == GROWN) != bool(self.grown_from):
            raise InputError(
                f"grown_from {self.grown_from!r} does not go with start {self.start!r}: {GROWN!r} needs one"
            )
        if self.schedule != "steps" and self.drops:
            raise InputError(
                f"drops {self.drops} are not part of schedule {self.schedule!r}; choose 'steps', or no drops: ()"
            )
        if (self.schedule == "plateau") != (self.patience > 0):
            raise InputError(f"patience {self.patience} is 1 or more with schedule 'plateau', and otherwise 0")
        if self.momentum_rule == "nesterov" and not self.momentum:
            raise InputError("momentum 0 cannot look ahead as momentum_rule 'nesterov' does; choose 'caffe' or 'torch'")
        if self.recalibrate and not self.recalibrate >= self.bn_batch:
            raise InputError(
                f"recalibrate {self.recalibrate} is less than bn_batch {self.bn_batch}, one batch;"
                " choose more images, or 0 for the running averages"
            )
        if list(self.drops) != sorted(set(self.drops)):
            raise InputError(f"drops {self.drops} must rise strictly, for example (32000, 48000)")
        if self.batch % self.bn_batch:
            raise InputError(f"bn_batch {self.bn_batch} does not divide batch {self.batch}")
        if self.evaluate_every % self.record_every:
            raise InputError(
                f"evaluate_every {self.evaluate_every} is not a multiple of record_every {self.record_every};"
                " an evaluation is part of a record"
            )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One network, one data set, one recipe, one seed."""

    model: Model
    data: Data
    recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        check_at_least("seed", self.seed, 0)
        if self.model.family == "vgg" and type(self) is Trial:
            raise InputError(f"{self.model.title} is trained as a detector's backbone only; choose plain or residual")
        start = self.recipe.start
        if start in (DIRAC, PASS_THROUGH) and not self.model.has_square_convolutions:
            raise InputError(
                f"start {start!r}: {self.model.title} has no square convolution on its way through (those of a plain"
                f" net, the projections of option C); choose {HE!r}"
            )
        if start == GROWN and (self.model.family, self.model.block) != ("plain", "basic"):
            raise InputError(f"start {start!r} adds layers to plain nets, not to {self.model.title}; choose {HE!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the trials whose final nets it starts from, and which must have finished before it."""
        return (f"{self.recipe.grown_from}-s{self.seed}",) if self.recipe.grown_from else ()

    @property
    def label(self) -> str:
        return f"{self.model.label}-{self.data.label}"

    @property
    def title(self) -> str:
        """What is trained, as the paper prints it."""
        return self.model.title

    @cached_property
    def condition(self) -> str:
        """The id without its seed: `resnet110A-cifar10-7d6af16a54`."""
        return f"{self.label}-{_digest(self.to_dict(), THIS_VERSION)}"

    @cached_property
    def id(self) -> str:
        """The only name a trial ever has: `resnet110A-cifar10-7d6af16a54-s0`."""
        return f"{self.condition}-s{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """What spec.json holds and the id is made of: all fields, without those at their neutral value."""
        return written(self)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "Trial":
        """The inverse of `to_dict`, also after a trip through JSON; a detector's if it has a detector's part.

        Raises `InputError` for unknown and missing keys.
        """
        if isinstance(spec, Mapping) and "detection" in spec and issubclass(DetectionTrial, cls):
            return read(DetectionTrial, spec)
        return read(cls, spec)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Faster R-CNN around a net: of a ResNet conv1 to conv4 are shared, and conv5 is the head of each region; of VGG-16
    conv1 to conv5, and the fully connected layers (Sec. 4.3, Appendix A).
    """

    # What the backbone starts from: 'random', 'torchvision' (its ImageNet weights), or the condition (an id without its
    # seed), of classifiers or detectors, from whose final nets those of the same seeds start; or 'imagenet:FILE', a
    # classifier that others trained, normalised so (`study/data/normalisations.yaml`), in weights/ below the data root.
    weights: str
    # BatchNorm in the detector: 'frozen' statistics and affine, as in the paper; 'frozen-affine', whose affine is
    # trained; 'batch' statistics over `recipe.bn_batch` images, synchronised where these are the whole batch; or
    # 'group' normalisation instead. VGG-16 has none: 'frozen'.
    norm: str
    fixed_stages: int  # conv1, conv2, ... that keep the weights they start with; 2 in Faster R-CNN's VGG-16
    context: bool  # whether a feature of the whole image is concatenated to each region's (Appendix B)
    anchors: tuple[int, ...]  # sides of the square anchors, in pixels of the resized image
    longest: int  # pixels of the longer side at most; the shorter one is `data.size`
    proposals: int  # regions an image that are classified in testing; 300 in the paper
    regions: int  # regions an image that the loss is taken over; 64 in Fast R-CNN, which has 128 of 2 images

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        if not self.anchors or list(self.anchors) != sorted(set(self.anchors)) or self.anchors[0] < 1:
            raise InputError(f"anchors {self.anchors} must rise strictly from 1 or more, for example (128, 256, 512)")
        for what in ("proposals", "regions", "longest"):
            check_at_least(what, getattr(self, what), 1)
        if not self.weights:
            raise InputError(f"weights '' name nothing; choose {RANDOM}, {TORCHVISION} or the condition of trials")
        if self.weights_file and not re.fullmatch(r"[^/]+-[0-9a-f]{8,64}\.[a-z]+", self.weights_file[1]):
            raise InputError(
                f"weights {self.weights!r} name a file without its checksum; call it NAME-DIGITS.pth, with the first 8"
                " digits of its SHA-256 or more, as torchvision does"
            )

    @property
    def weights_file(self) -> tuple[str, str] | None:
        """How the classifier of others was fed whose file the backbone starts from, and the name of the file."""
        normalise, colon, file = self.weights.partition(":")
        return (normalise, file) if colon else None


@dataclass(frozen=True, kw_only=True)
class DetectionTrial(Trial):
    """One detector, one data set, one recipe, one seed; `model` is its backbone, `data.size` the shorter side."""

    detection: Detection

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe.start != HE:
            raise InputError(f"start {self.recipe.start!r} is of classifiers; detectors have weights: choose {HE!r}")
        if self.model.stem != "imagenet":
            raise InputError(f"{self.model.title} has no conv5 to be a detector's head; choose a net of Table 1")
        if self.model.family == "vgg" and self.detection.norm != "frozen":
            raise InputError(f"norm {self.detection.norm!r} is of BatchNorm, which VGG-16 has not; choose 'frozen'")
        stages = 1 + len(self.model.stages[:-1]) if self.model.family != "vgg" else len(self.model.stages)
        check_choice(f"fixed_stages of {self.model.title}", self.detection.fixed_stages, range(stages + 1))
        if self.recipe.recalibrate and not self.needs:
            raise InputError(
                f"recalibrate {self.recipe.recalibrate} takes the data of the trial that the weights are of, and"
                f" weights {self.detection.weights!r} are of none; choose 0"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        weights = self.detection.weights
        of_trials = weights not in (RANDOM, TORCHVISION) and not self.detection.weights_file
        return (f"{weights}-s{self.seed}",) if of_trials else ()

    @property
    def label(self) -> str:
        return f"faster-rcnn-{self.model.label}-{self.data.label}"

    @property
    def title(self) -> str:
        """As Tables 7-12 name it: `Faster R-CNN, ResNet-101`; normalisation that is not the paper's is named."""
        images = "1 image" if self.recipe.bn_batch == 1 else f"{self.recipe.bn_batch} images"
        norm = {"frozen-affine": "affine trained", "batch": f"BatchNorm over {images}", "group": "GroupNorm"}
        named = norm.get(self.detection.norm)
        return f"Faster R-CNN, {self.model.title}" + (f" ({named})" if named else "")


def as_detector(trial: Trial) -> DetectionTrial | None:
    """The trial as that of a detector; None of a classifier. The one place that asks which a trial is."""
    return trial if isinstance(trial, DetectionTrial) else None


def detection_of(trial: Trial) -> Detection | None:
    """What makes the trial's net a detector; None of a classifier."""
    detector = as_detector(trial)
    return detector.detection if detector else None


def _digest(spec: dict[str, Any], version: Version) -> str:
    """Ten hex digits of SHA-256 over the canonical JSON of a trial's specification without its seed."""
    hashed = {"schema": version.schema, "protocol": version.protocol, **spec}
    del hashed["seed"]
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def version_of(id: str, spec: dict[str, Any]) -> Version | None:
    """The version whose id of this specification (what spec.json holds) is `id`; None if no version's is.

    Reads specifications of other versions too, whatever their fields, up to a few versions after this code's.
    """
    versions = [THIS_VERSION]
    versions += [Version(schema, protocol) for schema in range(1, SCHEMA + 10) for protocol in range(1, PROTOCOL + 10)]
    for version in versions:
        if "seed" in spec and id.endswith(f"-{_digest(spec, version)}-s{spec['seed']}"):
            return version
    return None
