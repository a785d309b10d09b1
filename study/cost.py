"""What a trial costs, by arithmetic alone: parameters, multiply-adds, predicted seconds and memory.

Owns the counts that plans and tables print, without importing torch; those of detectors are `study/detection_cost.py`,
which registers itself for their trials. The tests hold them against the real modules
and against the paper's printed numbers. Predictions rest on five constants measured on one CPU core and are scaled by
what finished trials really took.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, singledispatch

from study.spec import Data, Model, Recipe, Trial

# Of one x86-64 core with AVX-512, fp32: fitted to the quick profile's trials and a width-16, 32x32 ResNet-20.
SECONDS_AN_UPDATE = 3.9e-3  # whatever the net
SECONDS_A_LAYER = 4.6e-4  # forward, backward and update of one convolution with BatchNorm, however small
MULTIPLY_ADDS_A_SECOND = 3.5e10
SECONDS_A_PHOTOGRAPH = 2e-3  # decoded and augmented, of 500x375 pixels: `make bench BENCH=decode`
BYTES_A_PROCESS = 950 * 2**20  # a Ray worker with torch
BYTES = {"fp32": 4, "bf16": 2}  # of an activation
WORKING_TENSORS = 4  # gradients and copies of the largest map that exist at once in the backward pass
# Activations that glibc cannot use again when segments come and go: fitted to nets of 110 and 1202 layers.
LOST_OF_ALL, LOST_OF_SEGMENT = 0.12, 0.7
# On disk, measured on the quick profile's trials.
BYTES_A_TENSOR = 300  # of a checkpoint, beside the numbers in it
BYTES_A_RECORD = 2 * 9 * 8  # a row of nine numbers, in the trial's folder and among MLflow's artifacts
BYTES_A_METRIC = 270  # a row of MLflow's database
BYTES_A_RUN = 200 * 2**10  # tags and small files, in the folder of the trial and in MLflow


@dataclass(frozen=True)
class Convolution:
    """One convolution without bias, followed by BatchNorm. `size` is the side of its square output map."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    projection: bool = False  # on a shortcut

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 + 2 * self.outputs  # BatchNorm's scale and shift

    @property
    def multiply_adds(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 * self.size**2


def convolutions(model: Model, data: Data) -> Iterator[Convolution]:
    """Every convolution of the net, in order, projections of shortcuts included."""
    channels, size = model.width, data.size
    if model.stem == "cifar":
        yield Convolution(data.channels, channels, 3, size)
    else:
        size = _halved(size)
        yield Convolution(data.channels, channels, 7, size)
        size = _halved(size)  # 3x3 max pooling, stride 2
    for stage, blocks in enumerate(model.stages):
        inner = model.width * 2**stage
        outputs = inner * model.expansion
        for index in range(blocks):
            entry = size
            if stage > 0 and index == 0:
                size = _halved(size)
            if model.block == "basic":
                yield Convolution(channels, inner, 3, size)
                yield Convolution(inner, outputs, 3, size)
            else:
                yield Convolution(channels, inner, 1, size if model.stride == "first" else entry)
                yield Convolution(inner, inner, 3, size)
                yield Convolution(inner, outputs, 1, size)
            changes = channels != outputs or entry != size
            if model.shortcut == "C" or (model.shortcut == "B" and changes):
                yield Convolution(channels, outputs, 1, size, projection=True)
            channels = outputs


def _halved(size: int) -> int:
    """What stride 2 leaves of a side."""
    return -(-size // 2)


@cache  # the seeds of a condition ask again; so do other questions about it
def parameters(model: Model, data: Data) -> int:
    """Trained parameters: convolutions, BatchNorm's scale and shift, the classifier with its bias."""
    return sum(c.parameters for c in convolutions(model, data)) + (model.features + 1) * data.classes


@cache
def multiply_adds(model: Model, data: Data) -> int:
    """Multiply-adds of one image's forward pass, convolutions and classifier (the paper's 'FLOPs')."""
    return sum(c.multiply_adds for c in convolutions(model, data)) + model.features * data.classes


@singledispatch
def size(trial: Trial) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image's forward pass, of what the trial trains."""
    return parameters(trial.model, trial.data), multiply_adds(trial.model, trial.data)


@cache
def _layers(model: Model, data: Data) -> int:
    return sum(1 for _ in convolutions(model, data))


@cache
def _kept(model: Model, data: Data) -> int:
    """Numbers that autograd keeps of one image. A projection shares its input with the block's first convolution."""
    return sum((1 if c.projection else 2) * c.outputs * c.size**2 for c in convolutions(model, data))


@cache
def _averages(model: Model, data: Data) -> int:
    """BatchNorm's running means and variances."""
    return sum(2 * c.outputs for c in convolutions(model, data))


@singledispatch
def predicted_seconds(trial: Trial) -> float:
    """Seconds of training and evaluation on one core; scale by `calibration` where trials have finished."""
    model, data, recipe = trial.model, trial.data, trial.recipe
    layers = _layers(model, data)
    one_image = 3 * multiply_adds(model, data) / MULTIPLY_ADDS_A_SECOND  # backward costs twice forward
    one_image += SECONDS_A_PHOTOGRAPH * data.photographs
    return recipe.iterations * (SECONDS_AN_UPDATE + layers * SECONDS_A_LAYER + recipe.batch * one_image)


def activation_bytes(trial: Trial) -> int:
    """What autograd keeps for the backward pass: of a convolution its input and its output, which BatchNorm needs.

    `study.training.memory` measures the same on the net itself, and divides it where the machine has too little memory.
    """
    return _kept(trial.model, trial.data) * trial.recipe.batch * BYTES[trial.recipe.precision]


@singledispatch
def net_bytes(trial: Trial) -> int:
    """Bytes of tensors in a training step: weights, gradients, velocities, activations."""
    return 3 * 4 * parameters(trial.model, trial.data) + activation_bytes(trial) + _working_bytes(trial)


def _map_bytes(trial: Trial) -> int:
    """The largest map between two blocks, of a batch."""
    side = trial.data.size if trial.model.stem == "cifar" else _halved(_halved(trial.data.size))
    largest = trial.model.width * trial.model.expansion * side**2
    return largest * trial.recipe.batch * BYTES[trial.recipe.precision]


def _working_bytes(trial: Trial) -> int:
    return WORKING_TENSORS * _map_bytes(trial)


@singledispatch
def predicted_bytes(trial: Trial) -> int:
    """Peak memory of the process that trains the trial on a CPU: weights, gradients, velocities and activations."""
    return BYTES_A_PROCESS + net_bytes(trial)


@singledispatch
def least_bytes(trial: Trial) -> int:
    """The least memory of a process in which the trial can run on a CPU, in as many segments as need least.

    An upper bound: of every segment but the last it counts the largest map that any block hands to the next.
    """
    whole, handed, blocks = activation_bytes(trial), _map_bytes(trial), sum(trial.model.stages)
    divided = min((1 + LOST_OF_SEGMENT) * whole / n + (n - 1) * handed for n in range(1, blocks + 1))
    kept = min(whole, int(LOST_OF_ALL * whole + divided))
    return BYTES_A_PROCESS + net_bytes(trial) - whole + kept


@singledispatch
def checkpoint_bytes(trial: Trial) -> int:
    """Size of one checkpoint: weights, velocities and BatchNorm's averages, with what `torch.save` adds to each."""
    numbers = 2 * parameters(trial.model, trial.data) + _averages(trial.model, trial.data)
    tensors = 9 * _layers(trial.model, trial.data) + 4  # of a layer: 3 weights, their velocities, 2 averages, a count
    return 4 * numbers + BYTES_A_TENSOR * tensors


@singledispatch
def record_bytes(trial: Trial) -> int:
    """What the storage keeps of a trial beside its checkpoints: records, their view in MLflow, small files."""
    rows, evaluations = _records(trial.recipe)
    shown = 3 * min(rows, 150 + evaluations) + 6 * evaluations  # MLflow gets about 150 points of a series
    return BYTES_A_RUN + rows * BYTES_A_RECORD + shown * BYTES_A_METRIC


def _records(recipe: Recipe) -> tuple[int, int]:
    """How many records there are, and how many of them have evaluations."""
    return -(-recipe.iterations // recipe.record_every), -(-recipe.iterations // recipe.evaluate_every)


def calibration(took: Iterable[tuple[Trial, float]], predicted: Callable[[Trial], float] = predicted_seconds) -> float:
    """Total of the seconds that finished trials took over their predicted total; 1 where none has finished."""
    pairs = list(took)
    total = sum(predicted(trial) for trial, _ in pairs)
    return sum(seconds for _, seconds in pairs) / total if total else 1.0


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.4 h` or `12 days`."""
    for unit, size, digits in (("days", 86_400, 0), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
