"""What a trial costs, by arithmetic alone: parameters, multiply-adds, predicted seconds, memory and bytes on disk.

Owns the counts that plans and tables print, of classifiers and detectors: both are lists of layers. Standard library
only. The tests hold the counts against the real modules and against the paper's printed numbers. Predictions rest on
constants measured on one CPU core and are scaled by what finished trials really took.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from itertools import chain, islice

from study.spec import Data, Detection, Model, Trial, detection_of

# Of one x86-64 core with AVX-512, fp32: fitted to the quick profile's trials and a width-16, 32x32 ResNet-20.
SECONDS_AN_UPDATE = 3.9e-3  # whatever the net
SECONDS_A_LAYER = 4.6e-4  # forward, backward and update of one convolution with BatchNorm, however small
MULTIPLY_ADDS_A_SECOND = 3.5e10
SECONDS_A_PHOTOGRAPH = 2e-3  # decoded and augmented, of 500x375 pixels: `make bench BENCH=decode`
BYTES_A_PROCESS = 950 * 2**20  # a Ray worker with torch
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}  # of an activation
MARGIN = 0.9  # of the memory that a trial may take is planned for
WORKING_TENSORS = 4  # gradients and copies of the largest map that exist at once in the backward pass
# Activations that glibc cannot use again when segments come and go: fitted to nets of 110 and 1202 layers.
LOST_OF_ALL, LOST_OF_SEGMENT = 0.12, 0.7
# On disk, measured on the quick profile's trials.
BYTES_A_TENSOR = 300  # of a checkpoint, beside the numbers in it
BYTES_A_RECORD = 2 * 9 * 8  # a row of nine numbers, in the trial's folder and among MLflow's artifacts
BYTES_A_METRIC = 270  # a row of MLflow's database
BYTES_A_RUN = 200 * 2**10  # tags and small files, in the folder of the trial and in MLflow
# Of detectors.
RATIOS = 3  # of an anchor's sides: 1:2, 1:1 and 2:1
POOLED = {"vgg": 7, "residual": 14, "plain": 14}  # side of a pooled region: what its head sees of a 224x224 image
SUPPRESSED = 12_000  # boxes of highest score that the RPN sorts out in training
SECONDS_A_PAIR = 2.4e-9  # of these, compared with each other: on one core, fitted to 12,000 boxes


# ---------------------------------------------------------------- layers


class Part(Enum):
    """Where a layer is in a net, which says how often it runs."""

    FIXED = "fixed"  # a stage of a detector that has no backward pass: once an image
    IMAGE = "image"  # once an image: all of a classifier's convolutions; a detector's shared ones and its RPN
    CLASSIFIER = "classifier"  # once an image
    HEAD = "head"  # of each region, and of the whole image where there is context
    PREDICTOR = "predictor"  # of each region: scores of classes and box deltas


@dataclass(frozen=True)
class Layer:
    """A convolution, or a fully connected layer, on an output map of `height` x `width` places."""

    inputs: int
    outputs: int
    kernel: int = 1
    height: int = 1
    width: int = 1
    norm: bool = False  # whether a normalisation's scale and shift follow it; else it has a bias
    projection: bool = False  # on a shortcut
    pooled: bool = False  # whether autograd keeps its input, too: what max pooling left, on a map like its own
    part: Part = Part.IMAGE

    @property
    def places(self) -> int:
        return self.height * self.width

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 + self.outputs * (2 if self.norm else 1)

    @property
    def multiply_adds(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 * self.places

    @property
    def map(self) -> int:
        """Numbers of its output."""
        return self.outputs * self.places

    @property
    def kept(self) -> int:
        """Numbers that autograd keeps: what the next layer sees, and before that what a normalisation sees.

        A projection's sum with its block is counted there.
        """
        return self.map * (2 if self.norm and not self.projection else 1) + self.pooled * self.inputs * self.places


def convolutions(model: Model, channels: int, height: int, width: int) -> Iterator[Layer]:
    """Every convolution of a plain or residual net on images [channels, height, width], in order.

    Projections of shortcuts come after their block. BatchNorm follows each.
    """
    inputs, size = model.width, (height, width)
    if model.stem == "cifar":
        yield Layer(channels, inputs, 3, *size, norm=True)
    else:
        size = _halved(size)
        yield Layer(channels, inputs, 7, *size, norm=True)
        size = _halved(size)  # 3x3 max pooling, stride 2
    for stage, blocks in enumerate(model.stages):
        inner = model.width * 2**stage
        outputs = inner * model.expansion
        for index in range(blocks):
            entry = size
            if stage > 0 and index == 0:
                size = _halved(size)
            if model.block == "basic":
                yield Layer(inputs, inner, 3, *size, norm=True)
                yield Layer(inner, outputs, 3, *size, norm=True)
            else:
                yield Layer(inputs, inner, 1, *(size if model.stride == "first" else entry), norm=True)
                yield Layer(inner, inner, 3, *size, norm=True)
                yield Layer(inner, outputs, 1, *size, norm=True)
            changes = inputs != outputs or entry != size
            if model.shortcut == "C" or (model.shortcut == "B" and changes):
                yield Layer(inputs, outputs, 1, *size, norm=True, projection=True)
            inputs = outputs


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    """What stride 2 leaves of two sides."""
    return -(-size[0] // 2), -(-size[1] // 2)


@cache  # the seeds of a condition ask again; so do other questions about it
def _classifier(model: Model, data: Data) -> tuple[Layer, ...]:
    last = Layer(model.features, data.classes, part=Part.CLASSIFIER)
    return (*convolutions(model, data.channels, data.size, data.size), last)


@cache
def _detector(model: Model, data: Data, detection: Detection) -> tuple[Layer, ...]:
    """Of images of 4:3, whose shorter side is `data.size`."""
    stages = _stages(model, data.channels, data.size, round(data.size * 4 / 3))
    if model.family == "vgg":
        channels, features = stages[-1][-1].outputs, 64 * model.width
        head = [Layer(channels * POOLED["vgg"] ** 2, features), Layer(features, features)]  # fc6 and fc7
    else:
        channels, features = model.features // 2, model.features
        head = _stages(model, data.channels, 224, 224)[-1]
        stages.pop()
    anchors, last = RATIOS * len(detection.anchors), stages[-1][-1]
    rpn = [
        Layer(channels, channels, 3, last.height, last.width),
        Layer(channels, anchors, 1, last.height, last.width),
        Layer(channels, 4 * anchors, 1, last.height, last.width),
    ]
    seen = features * (1 + detection.context)
    classes = data.classes + 1  # and the background
    fixed, shared = stages[: detection.fixed_stages], stages[detection.fixed_stages :]
    return (
        *(replace(layer, part=Part.FIXED) for layer in chain(*fixed)),
        *chain(*shared),
        *rpn,
        *(replace(layer, part=Part.HEAD) for layer in head),
        Layer(seen, classes, part=Part.PREDICTOR),
        Layer(seen, 4 * classes, part=Part.PREDICTOR),
    )


def _stages(model: Model, channels: int, height: int, width: int) -> list[list[Layer]]:
    """conv1, conv2, ..., conv5."""
    stages: list[list[Layer]] = []
    if model.family == "vgg":
        for stage, count in enumerate(model.stages):
            outputs = model.width * 2 ** min(stage, 3)
            size = height >> stage, width >> stage  # 2x2 max pooling between stages
            first = Layer(channels, outputs, 3, *size, pooled=stage > 0)
            stages.append([first] + [Layer(outputs, outputs, 3, *size)] * (count - 1))
            channels = outputs
        return stages
    stem, after, *others = convolutions(model, channels, height, width)
    rest = iter([replace(after, pooled=True), *others])
    stages.append([stem])
    for stage, blocks in enumerate(model.stages):
        changes = stage > 0 or model.expansion > 1  # the stage's first block has other outputs than inputs
        projections = {"B": int(changes), "C": blocks}.get(model.shortcut, 0)
        stages.append(list(islice(rest, blocks * model.convolutions_per_block + projections)))
    return stages


def layers(trial: Trial) -> tuple[Layer, ...]:
    """Every layer with weights of what the trial trains, in order."""
    detection = detection_of(trial)
    return _detector(trial.model, trial.data, detection) if detection else _classifier(trial.model, trial.data)


# ---------------------------------------------------------------- counts


@cache
def parameters(model: Model, data: Data) -> int:
    """Trained parameters of a classifier: convolutions, BatchNorm's scale and shift, the last layer with its bias."""
    return sum(layer.parameters for layer in _classifier(model, data))


@cache
def multiply_adds(model: Model, data: Data) -> int:
    """Multiply-adds of one image's forward pass through a classifier (the paper's 'FLOPs')."""
    return sum(layer.multiply_adds for layer in _classifier(model, data))


@cache
def size(trial: Trial) -> tuple[int, int]:
    """Parameters, and multiply-adds of testing one image, of what the trial trains.

    A detector's image is of 4:3, its shorter side `data.size`, with `detection.proposals` regions.
    """
    detection = detection_of(trial)
    regions = detection.proposals if detection else 0
    return _parameters(layers(trial)), _multiply_adds(trial, layers(trial), regions)


@cache
def trained_parameters(trial: Trial) -> int:
    """Those without a detector's fixed stages, and without the scale and shift of frozen normalisation."""
    detection = detection_of(trial)
    frozen = detection is not None and detection.norm == "frozen"
    trained = [layer for layer in layers(trial) if layer.part is not Part.FIXED]
    return _parameters(trained) - sum(2 * layer.outputs for layer in trained if frozen and layer.norm)


def _parameters(some: Iterable[Layer]) -> int:
    return sum(layer.parameters for layer in some)


def _multiply_adds(trial: Trial, some: Iterable[Layer], regions: int) -> int:
    """Of one image with so many regions."""
    detection = detection_of(trial)
    context = detection is not None and detection.context
    runs = {Part.HEAD: regions + context, Part.PREDICTOR: regions}
    return sum(runs.get(layer.part, 1) * layer.multiply_adds for layer in some)


# ---------------------------------------------------------------- seconds


@cache
def predicted_seconds(trial: Trial, images: int = 0) -> float:
    """Seconds of training and evaluation on one core (of a detector, without its tests).

    `images`: what one process has of a batch; 0 is all of it. Scale by `calibration` where trials have finished.
    """
    recipe, net, detection = trial.recipe, layers(trial), detection_of(trial)
    regions = detection.regions if detection else 0
    fixed = _multiply_adds(trial, (layer for layer in net if layer.part is Part.FIXED), regions)
    trained = _multiply_adds(trial, (layer for layer in net if layer.part is not Part.FIXED), regions)
    one_image = (fixed + 3 * trained) / MULTIPLY_ADDS_A_SECOND  # backward costs twice forward
    if detection:
        *_, objectness, _ = (layer for layer in net if layer.part is Part.IMAGE)
        boxes = min(objectness.map, SUPPRESSED)  # a score for each
        one_image += SECONDS_A_PHOTOGRAPH + SECONDS_A_PAIR * boxes**2
    elif trial.data.photographs:
        one_image += SECONDS_A_PHOTOGRAPH
    count = sum(layer.part is not Part.CLASSIFIER for layer in net)
    return recipe.iterations * (SECONDS_AN_UPDATE + count * SECONDS_A_LAYER + (images or recipe.batch) * one_image)


def calibration(took: Iterable[tuple[Trial, float]], predicted: Callable[[Trial], float] = predicted_seconds) -> float:
    """Total of the seconds that finished trials took over their predicted total; 1 where none has finished."""
    pairs = list(took)
    total = sum(predicted(trial) for trial, _ in pairs)
    return sum(seconds for _, seconds in pairs) / total if total else 1.0


# ---------------------------------------------------------------- memory
# `images` is what one process has of a batch; 0 is all of it.


@cache
def activation_bytes(trial: Trial, images: int = 0) -> int:
    """What autograd keeps for the backward pass: of a convolution its input and its output, which BatchNorm needs.

    A projection shares its input with the block's first convolution. Of fixed stages nothing is kept, of regions also
    what is pooled. `study.training.memory` measures the same on the net itself, and divides it where the machine has
    too little memory.
    """
    net, detection = layers(trial), detection_of(trial)
    numbers = sum(layer.kept for layer in net if layer.part is Part.IMAGE)
    if detection:
        shared = [layer for layer in net if layer.part is Part.IMAGE]
        pooled = shared[-1].inputs * POOLED[trial.model.family] ** 2
        head = 2 * pooled + sum(layer.kept for layer in net if layer.part is Part.HEAD)  # 2: and each one's place
        numbers += (detection.regions + detection.context) * head
        # Of max pooling an index of each number, twice its size, unless what is pooled is of a fixed stage.
        numbers += sum(2 * layer.inputs * layer.places for layer in shared[1:] if layer.pooled)
    return numbers * _activation(trial, images)


def net_bytes(trial: Trial, images: int = 0) -> int:
    """Bytes of tensors in a training step: weights; gradients and velocities of those that are trained; activations."""
    weights = 4 * _parameters(layers(trial)) + 2 * 4 * trained_parameters(trial)
    working = WORKING_TENSORS * _largest_map(trial) * _activation(trial, images)
    return weights + activation_bytes(trial, images) + working


def predicted_bytes(trial: Trial, images: int = 0) -> int:
    """Peak memory of the process that trains the trial on a CPU: weights, gradients, velocities and activations."""
    return BYTES_A_PROCESS + net_bytes(trial, images)


def least_bytes(trial: Trial, images: int = 0) -> int:
    """The least memory of a process in which the trial can run on a CPU, in as many segments as need least.

    An upper bound: of every segment but the last it counts the largest map that any block hands to the next. Detectors
    do not run in segments.
    """
    if detection_of(trial):
        return predicted_bytes(trial, images)
    whole, blocks = activation_bytes(trial, images), sum(trial.model.stages)
    handed = _largest_map(trial) * _activation(trial, images)
    divided = min((1 + LOST_OF_SEGMENT) * whole / n + (n - 1) * handed for n in range(1, blocks + 1))
    kept = min(whole, int(LOST_OF_ALL * whole + divided))
    return predicted_bytes(trial, images) - whole + kept


def _activation(trial: Trial, images: int) -> int:
    """Bytes of one number of a map, of all images."""
    return (images or trial.recipe.batch) * BYTES[trial.recipe.precision]


@cache
def _largest_map(trial: Trial) -> int:
    """Numbers, of one image: of a classifier, of the largest map between two blocks; of a detector, of any."""
    if detection := detection_of(trial):
        regions = detection.regions + detection.context
        runs = {Part.FIXED: 1, Part.IMAGE: 1, Part.HEAD: regions, Part.PREDICTOR: 0}
        return max(runs[layer.part] * layer.map for layer in layers(trial))
    side = trial.data.size, trial.data.size
    height, width = side if trial.model.stem == "cifar" else _halved(_halved(side))
    return trial.model.width * trial.model.expansion * height * width


# ---------------------------------------------------------------- bytes on disk


@cache
def checkpoint_bytes(trial: Trial) -> int:
    """Size of one checkpoint: weights, velocities and BatchNorm's averages, with what `torch.save` adds to each."""
    net, detection = layers(trial), detection_of(trial)
    normalised = [layer for layer in net if layer.norm]
    averages = 0 if detection and detection.norm == "group" else sum(2 * layer.outputs for layer in normalised)
    # Two weights a layer, with BatchNorm three, and their velocities; two averages. Fitted to nets that counted batches
    # in one tensor more: the studied classifiers do not, which is within the prediction's error.
    tensors = 4 * len(net) + (4 if detection else 5) * len(normalised)
    return 4 * (_parameters(net) + trained_parameters(trial) + averages) + BYTES_A_TENSOR * tensors


def record_bytes(trial: Trial) -> int:
    """What the storage keeps of a trial beside its checkpoints: records, their view in MLflow, small files."""
    recipe = trial.recipe
    rows, evaluated = -(-recipe.iterations // recipe.record_every), -(-recipe.iterations // recipe.evaluate_every)
    # Series of every record, and of those with evaluations; MLflow gets about 150 points of a series.
    always, at_evaluations = (6, 2) if detection_of(trial) else (3, 6)
    shown = always * min(rows, 150 + evaluated) + at_evaluations * evaluated
    return BYTES_A_RUN + rows * BYTES_A_RECORD + shown * BYTES_A_METRIC


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.4 h` or `12 days`."""
    for unit, size, digits in (("days", 86_400, 0), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
