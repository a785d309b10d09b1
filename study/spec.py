"""What a trial is, and its id.

Owns identity: two trials are the same exactly when their ids are equal. A field belongs to `Trial` if changing it
could change a reported number beyond rounding; how a trial is run (`Execution`) is never hashed. Standard library
only: this file must not know torch, ray, mlflow or any particular experiment.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

SCHEMA = 3  # raise when a field is added, removed or renamed
PROTOCOL = 1  # raise when the same fields come to mean other numbers; list the ids it invalidates in CHANGELOG.md


class InputError(ValueError):
    """The user's input is wrong. The message is one line: the value, the rule, the alternatives (exit code 2)."""


def check_choice(what: str, value: object, allowed: Iterable[Any]) -> None:
    """Raise `InputError` unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{what} {value!r} is unknown; choose one of {', '.join(map(str, allowed))}")


def check_at_least(what: str, value: float, least: float) -> None:
    """Raise `InputError` unless `value >= least`."""
    if not value >= least:
        raise InputError(f"{what} {value} is too small; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A net of the CIFAR family (Sec. 4.2): 3x3 stem, three stages of `width`, 2 and 4 times `width` filters."""

    family: str  # 'plain' or 'residual'
    block: str  # 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1; four times wider outside)
    depth: int  # weighted layers: 6n+2 with basic blocks, 9n+2 with bottlenecks
    shortcut: str  # 'A', 'B' or 'C' (Sec. 3.3, 4.1); 'A-average' pools where A takes every 2nd pixel; plain: 'none'
    width: int  # filters of the first stage; the paper's CIFAR nets have 16

    def __post_init__(self) -> None:
        check_choice("family", self.family, ("plain", "residual"))
        check_choice("block", self.block, ("basic", "bottleneck"))
        check_choice(
            f"shortcut of a {self.family} net",
            self.shortcut,
            ("none",) if self.family == "plain" else ("A", "B", "C", "A-average"),
        )
        check_at_least("width", self.width, 1)
        step = 3 * self.convolutions_per_block
        n = (self.depth - 2) // step
        if n < 1 or self.depth != step * n + 2:
            n = max(n, 1)
            raise InputError(
                f"depth {self.depth} is not {step}n+2, as nets of {self.block} blocks are;"
                f" the nearest are {step * n + 2} and {step * (n + 1) + 2}"
            )

    @property
    def convolutions_per_block(self) -> int:
        return 2 if self.block == "basic" else 3

    @property
    def blocks_per_stage(self) -> int:
        """The paper's n."""
        return (self.depth - 2) // (3 * self.convolutions_per_block)

    @property
    def expansion(self) -> int:
        """Output channels of a block as a multiple of its stage's filters."""
        return 1 if self.block == "basic" else 4

    @property
    def label(self) -> str:
        """Short name for ids: `plain20`, `resnet110A`, `resnet20A-average`, `resnet29B-bottleneck`."""
        kind, option = ("plain", "") if self.family == "plain" else ("resnet", self.shortcut)
        return f"{kind}{self.depth}{option}" + ("-bottleneck" if self.block == "bottleneck" else "")

    @property
    def title(self) -> str:
        """Name as the paper prints it: `plain-20`, `ResNet-110`; options other than A are named."""
        title = f"plain-{self.depth}" if self.family == "plain" else f"ResNet-{self.depth}"
        title += {"B": " (B)", "C": " (C)", "A-average": " (A, average pooling)"}.get(self.shortcut, "")
        return title + (" bottleneck" if self.block == "bottleneck" else "")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set as training sees it. `study.data` checks that what it loads is what this says."""

    name: str  # 'digits', 'fashion-mnist', 'cifar10', 'cifar100', 'folder:NAME' or 'synthetic'
    channels: int
    size: int  # images are size x size pixels
    classes: int
    held_out: int  # training images kept for validation: 5000 in the paper's 45k/5k split, else 0
    padding: int  # zero pixels on each side before the random crop; 0 crops nothing
    flip: bool  # random horizontal flips
    # Of pixels in 0..1: 'pixel-mean' subtracts the mean image, 'pixel-mean-128' also divides by 128/255. 'scalar' and
    # 'channel' subtract a mean and divide by a deviation, one or one a channel; 'imagenet' takes those of ImageNet.
    normalise: str
    labels: str  # 'true', or 'shuffled': those of training images permuted, a negative control; test labels never are
    digest: str  # SHA-256 of a folder's images; '' where the name says exactly which images

    def __post_init__(self) -> None:
        check_choice("normalise", self.normalise, ("pixel-mean", "pixel-mean-128", "scalar", "channel", "imagenet"))
        check_choice("labels", self.labels, ("true", "shuffled"))
        if self.normalise == "imagenet" and self.channels != 3:
            raise InputError(f"normalise 'imagenet' has constants of 3 channels, not {self.channels}; choose 'channel'")
        for what in ("channels", "size", "classes"):
            check_at_least(what, getattr(self, what), 1)
        for what in ("held_out", "padding"):
            check_at_least(what, getattr(self, what), 0)

    @property
    def label(self) -> str:
        return self.name.replace(":", "-") + ("-shuffled" if self.labels == "shuffled" else "")


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
    schedule: str  # 'steps' at the drops, or 'cosine' from learning_rate to 0 over all iterations
    drops: tuple[int, ...]  # iterations at which the learning rate is divided by 10
    momentum: float
    momentum_rule: str  # 'caffe', 'torch' or 'nesterov'
    weight_decay: float
    decay: str  # 'all' parameters, or only the 'weights' of convolutions and the classifier
    init: str  # He initialisation by 'fan_in' or 'fan_out', or PyTorch's default, 'torch'
    precision: str  # 'fp32', or 'bf16' autocast
    bn_batch: int  # images a BatchNorm statistic is taken over; the paper's two GPUs had 64 of 128
    recalibrate: int  # training images over which BatchNorm's statistics are averaged anew for an evaluation, or 0
    warmup: str  # 'none', 'threshold' (until running training error < 80 %) or 'fixed'
    warmup_learning_rate: float
    warmup_iterations: int  # length of a 'fixed' warm-up, longest 'threshold' warm-up, else 0
    record_every: int  # iterations between records of the running training error
    evaluate_every: int  # iterations between clean training and test errors

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, ("all", "weights"))
        check_choice("init", self.init, ("fan_in", "fan_out", "torch"))
        check_choice("schedule", self.schedule, ("steps", "cosine"))
        check_choice("momentum_rule", self.momentum_rule, ("caffe", "torch", "nesterov"))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("warmup", self.warmup, ("none", "threshold", "fixed"))
        for what in ("iterations", "batch", "bn_batch", "record_every", "evaluate_every"):
            check_at_least(what, getattr(self, what), 1)
        for what in ("learning_rate", "momentum", "weight_decay", "warmup_learning_rate", "warmup_iterations"):
            check_at_least(what, getattr(self, what), 0)
        if self.schedule == "cosine" and self.drops:
            raise InputError(f"drops {self.drops} are not part of schedule 'cosine'; choose 'steps', or no drops: ()")
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

    @cached_property
    def condition(self) -> str:
        """The id without its seed: `resnet110A-cifar10-7d6af16a54`."""
        spec = {"schema": SCHEMA, "protocol": PROTOCOL, **self.to_dict()}
        del spec["seed"]
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        return f"{self.model.label}-{self.data.label}-{digest}"

    @cached_property
    def id(self) -> str:
        """The only name a trial ever has: `resnet110A-cifar10-7d6af16a54-s0`."""
        return f"{self.condition}-s{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, spec: dict[str, Any]) -> "Trial":
        """The inverse of `to_dict`, also after a trip through JSON. Unknown and missing keys raise `InputError`."""
        spec = dict(_exactly(cls, spec))
        recipe = dict(_exactly(Recipe, spec["recipe"]))
        recipe["drops"] = tuple(recipe["drops"])
        return cls(
            model=Model(**_exactly(Model, spec["model"])),
            data=Data(**_exactly(Data, spec["data"])),
            recipe=Recipe(**recipe),
            seed=spec["seed"],
        )


def _exactly(kind: type, spec: dict[str, Any]) -> dict[str, Any]:
    expected = {field.name for field in fields(kind)}
    if set(spec) != expected:
        wrong = ", ".join(sorted(set(spec) ^ expected))
        raise InputError(f"{kind.__name__} has other fields than its specification: {wrong}")
    return spec


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How trials are run: recorded as tags, never part of an id."""

    storage: Path  # holds the store: tracking database, artifacts, a folder a trial; see `storage.place` for URLs
    data_root: Path  # where data sets are looked for and downloaded to
    tracking_uri: str = ""  # '' is the sqlite database inside the storage
    device: str = "auto"  # 'auto', 'cpu' or 'cuda'
    threads: int = 1  # CPU threads a trial; small nets want one thread each and several at a time
    cpus: int = 0  # cores to fill; 0 is all that there are
    gpus_per_trial: float = 1.0  # share of a GPU that a trial takes where there are GPUs; 0 is what it needs
    retries: int = 2  # further attempts at a trial that failed; processes that die of something else do not count
    checkpoint_seconds: float = 30.0  # at most so much work is lost when a trial is killed
    memory_gib: float = 0.0  # memory a trial may take; 0 is an equal share of the machine's, or of its GPU's
    compile: bool = False  # torch.compile the training pass; on a GPU with CUDA graphs
    deterministic: bool = True  # on a GPU: choose kernels whose results repeat; CPUs always do
    profile_trace: str = ""  # id of a trial to profile; 'longest' is the one that is started first
    address: str = ""  # of a running Ray cluster; '' starts Ray on this machine
    local: bool = False  # a plain for-loop instead of Ray Tune
    launch: str = ""  # name of the launch that a worker belongs to; its launcher sets it

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_at_least("threads", self.threads, 1)
        check_at_least("cpus", self.cpus, 0)
        check_at_least("retries", self.retries, 0)
        check_at_least("checkpoint-seconds", self.checkpoint_seconds, 0)
        check_at_least("memory-gib", self.memory_gib, 0)
        if not 0 <= self.gpus_per_trial < math.inf or self.memory_gib == math.inf:
            raise InputError(
                f"gpus-per-trial {self.gpus_per_trial} must be 0 (as measured) or more,"
                f" and memory-gib {self.memory_gib} finite"
            )

    @property
    def trials_at_once(self) -> int:
        """How many trials run at a time on this machine's cores; where there are GPUs, their shares may allow fewer."""
        return 1 if self.local else max(1, (self.cpus or os.cpu_count() or 1) // self.threads)

    def trial_folder(self, trial_id: str) -> Path:
        return self.storage / "trials" / trial_id
