"""What a trial costs, by arithmetic alone: parameters, multiply-adds, predicted seconds and memory.

Owns the counts that plans and tables print, without importing torch. The tests hold them against the real modules
and against the paper's printed numbers. Predictions rest on five constants measured on one CPU core and are scaled by
what finished trials really took.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from study.spec import Data, Model, Trial

# Of one x86-64 core with AVX-512, fp32: fitted to the quick profile's trials and a width-16, 32x32 ResNet-20.
SECONDS_AN_UPDATE = 3.9e-3  # whatever the net
SECONDS_A_LAYER = 4.6e-4  # forward, backward and update of one convolution with BatchNorm, however small
MULTIPLY_ADDS_A_SECOND = 3.5e10
BYTES_A_PROCESS = 1050 * 2**20  # a Ray worker with torch and MLflow
BYTES = {"fp32": 4, "bf16": 2}  # of an activation
WORKING_TENSORS = 4  # gradients and copies of the largest map that exist at once in the backward pass


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
    yield Convolution(data.channels, channels, 3, size)
    for stage in range(3):
        inner = model.width * 2**stage
        outputs = inner * model.expansion
        for index in range(model.blocks_per_stage):
            entry = size
            if stage > 0 and index == 0:
                size = -(-size // 2)  # stride 2
            if model.block == "basic":
                yield Convolution(channels, inner, 3, size)
                yield Convolution(inner, outputs, 3, size)
            else:  # the stride sits in the first 1x1, as in the authors' released nets
                yield Convolution(channels, inner, 1, size)
                yield Convolution(inner, inner, 3, size)
                yield Convolution(inner, outputs, 1, size)
            changes = channels != outputs or entry != size
            if model.shortcut == "C" or (model.shortcut == "B" and changes):
                yield Convolution(channels, outputs, 1, size, projection=True)
            channels = outputs


def parameters(model: Model, data: Data) -> int:
    """Trained parameters: convolutions, BatchNorm's scale and shift, the classifier with its bias."""
    features = 4 * model.width * model.expansion
    return sum(c.parameters for c in convolutions(model, data)) + (features + 1) * data.classes


def multiply_adds(model: Model, data: Data) -> int:
    """Multiply-adds of one image's forward pass, convolutions and classifier (the paper's 'FLOPs')."""
    features = 4 * model.width * model.expansion
    return sum(c.multiply_adds for c in convolutions(model, data)) + features * data.classes


def predicted_seconds(trial: Trial) -> float:
    """Seconds of training and evaluation on one core; scale by `calibration` where trials have finished."""
    model, data, recipe = trial.model, trial.data, trial.recipe
    layers = sum(1 for _ in convolutions(model, data))
    one_image = 3 * multiply_adds(model, data) / MULTIPLY_ADDS_A_SECOND  # backward costs twice forward
    return recipe.iterations * (SECONDS_AN_UPDATE + layers * SECONDS_A_LAYER + recipe.batch * one_image)


def activation_bytes(trial: Trial) -> int:
    """What autograd keeps for the backward pass: of a convolution its input and its output, which BatchNorm needs.

    A projection shares its input with the block's first convolution.
    `study.memory` measures the same on the net itself, and divides it where the machine has too little memory.
    """
    kept = sum((1 if c.projection else 2) * c.outputs * c.size**2 for c in convolutions(trial.model, trial.data))
    return kept * trial.recipe.batch * BYTES[trial.recipe.precision]


def predicted_bytes(trial: Trial) -> int:
    """Peak memory of the process that trains the trial on a CPU: weights, gradients, velocities and activations."""
    largest = trial.model.width * trial.model.expansion * trial.data.size**2
    working = WORKING_TENSORS * largest * trial.recipe.batch * BYTES[trial.recipe.precision]
    return BYTES_A_PROCESS + 3 * 4 * parameters(trial.model, trial.data) + activation_bytes(trial) + working


def calibration(took: Iterable[tuple[Trial, float]]) -> float:
    """Total of the seconds that finished trials took over their predicted total; 1 where none has finished."""
    pairs = list(took)
    predicted = sum(predicted_seconds(trial) for trial, _ in pairs)
    return sum(seconds for _, seconds in pairs) / predicted if predicted else 1.0


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last trial ends if `slots` run at a time, longest first."""
    free = [0.0] * slots
    for duration in sorted(seconds, reverse=True):
        free[free.index(min(free))] += duration
    return max(free)
