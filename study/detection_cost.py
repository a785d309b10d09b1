"""What a detection trial costs, by arithmetic alone: parameters, multiply-adds, predicted seconds and memory.

Owns the counts of what a detector has beyond `study/cost.py`'s nets: maps that are not square, VGG-16, the RPN, and
layers that see each region. Standard library only; the tests hold the counts against the real modules.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

from study import cost
from study.cost import BYTES, BYTES_A_METRIC, BYTES_A_PROCESS, BYTES_A_RECORD, BYTES_A_RUN, BYTES_A_TENSOR
from study.spec import DetectionTrial

RATIOS = 3  # of an anchor's sides: 1:2, 1:1 and 2:1
POOLED = {"vgg": 7, "residual": 14, "plain": 14}  # side of a pooled region: what its head sees of a 224x224 image
SUPPRESSED = 12_000  # boxes of highest score that the RPN sorts out in training
SECONDS_A_PAIR = 2.4e-9  # of these, compared with each other: on one core, fitted to 12,000 boxes


@dataclass(frozen=True)
class Layer:
    """A convolution, or a fully connected layer, on an output map of so many `places`."""

    inputs: int
    outputs: int
    kernel: int = 1
    places: int = 1
    norm: bool = False  # whether a normalisation's scale and shift follow it; else it has a bias
    projection: bool = False  # on a shortcut
    pooled: bool = False  # whether it sees what max pooling left, on a map like its own

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


@dataclass(frozen=True)
class Parts:
    """A detector's layers by how often they run: once an image (of 4:3, its shorter side `data.size`), or a region."""

    fixed: tuple[Layer, ...]  # of `fixed_stages`, which have no backward pass
    image: tuple[Layer, ...]  # the other shared ones, and the RPN
    head: tuple[Layer, ...]  # of each region, and of the whole image where there is context
    predictor: tuple[Layer, ...]  # of each region: scores of classes and box deltas

    @property
    def all(self) -> Iterator[Layer]:
        return chain(self.fixed, self.image, self.head, self.predictor)


def parts(trial: DetectionTrial) -> Parts:
    model, detection, classes = trial.model, trial.detection, trial.data.classes + 1  # and the background
    stages = list(_stages(trial, trial.data.size, round(trial.data.size * 4 / 3)))
    if model.family == "vgg":
        channels, features = stages[-1][-1].outputs, 64 * model.width
        head = [Layer(channels * POOLED["vgg"] ** 2, features), Layer(features, features)]  # fc6 and fc7
    else:
        channels, features = model.features // 2, model.features
        *_, head = _stages(trial, 224, 224)
        stages.pop()
    anchors, places = RATIOS * len(detection.anchors), stages[-1][-1].places
    rpn = [Layer(channels, channels, 3, places), *(Layer(channels, n * anchors, 1, places) for n in (1, 4))]
    seen = features * (1 + detection.context)
    return Parts(
        fixed=tuple(chain(*stages[: detection.fixed_stages])),
        image=(*chain(*stages[detection.fixed_stages :]), *rpn),
        head=tuple(head),
        predictor=(Layer(seen, classes), Layer(seen, 4 * classes)),
    )


def _stages(trial: DetectionTrial, height: int, width: int) -> Iterator[list[Layer]]:
    """conv1, conv2, ..., conv5 of an image of height x width pixels."""
    model = trial.model
    if model.family == "vgg":
        inputs = trial.data.channels
        for stage, count in enumerate(model.stages):
            outputs = model.width * 2 ** min(stage, 3)
            places = (height >> stage) * (width >> stage)  # 2x2 max pooling between stages
            first = Layer(inputs, outputs, 3, places, pooled=stage > 0)
            yield [first] + [Layer(outputs, outputs, 3, places)] * (count - 1)
            inputs = outputs
        return
    rows, columns = (cost.convolutions(model, replace(trial.data, size=side)) for side in (height, width))
    layers = (
        Layer(row.inputs, row.outputs, row.kernel, row.size * column.size, True, row.projection, pooled=number == 1)
        for number, (row, column) in enumerate(zip(rows, columns, strict=True))
    )
    yield [next(layers)]
    for stage, blocks in enumerate(model.stages):
        changes = stage > 0 or model.expansion > 1  # the stage's first block has other outputs than inputs
        projections = {"B": int(changes), "C": blocks}.get(model.shortcut, 0)
        yield list(islice(layers, blocks * model.convolutions_per_block + projections))


def parameters(trial: DetectionTrial) -> int:
    """All of the detector, fixed ones included."""
    return sum(layer.parameters for layer in parts(trial).all)


def trained_parameters(trial: DetectionTrial) -> int:
    """Those without fixed stages, and without the scale and shift of frozen normalisation."""
    of = parts(trial)
    frozen = trial.detection.norm == "frozen"
    return sum(
        layer.parameters - 2 * layer.outputs * (frozen and layer.norm)
        for layer in chain(of.image, of.head, of.predictor)
    )


def multiply_adds(trial: DetectionTrial) -> int:
    """Of testing one image of 4:3, whose shorter side is `data.size`, with `detection.proposals` regions."""
    of = parts(trial)
    return _multiply_adds((*of.fixed, *of.image)) + _of_regions(trial, of, trial.detection.proposals)


@cost.size.register
def size(trial: DetectionTrial) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    return parameters(trial), multiply_adds(trial)


def _multiply_adds(layers: Iterable[Layer]) -> int:
    return sum(layer.multiply_adds for layer in layers)


def _of_regions(trial: DetectionTrial, of: Parts, regions: int) -> int:
    return (regions + trial.detection.context) * _multiply_adds(of.head) + regions * _multiply_adds(of.predictor)


@cost.predicted_seconds.register
def predicted_seconds(trial: DetectionTrial) -> float:
    """Seconds of training on one core, without tests; scale by `study.cost.calibration` where trials have finished."""
    of, recipe = parts(trial), trial.recipe
    trained = _multiply_adds(of.image) + _of_regions(trial, of, trial.detection.regions)
    one_image = (_multiply_adds(of.fixed) + 3 * trained) / cost.MULTIPLY_ADDS_A_SECOND  # backward costs twice forward
    boxes = min(of.image[-2].map, SUPPRESSED)  # a score for each
    one_image += cost.SECONDS_A_PHOTOGRAPH + SECONDS_A_PAIR * boxes**2
    layers = sum(1 for _ in of.all)
    return recipe.iterations * (cost.SECONDS_AN_UPDATE + layers * cost.SECONDS_A_LAYER + recipe.batch * one_image)


def activation_bytes(trial: DetectionTrial) -> int:
    """What autograd keeps for the backward pass of a batch: of fixed stages nothing, of regions also what is pooled."""
    of, regions = parts(trial), trial.detection.regions + trial.detection.context
    pooled = of.image[-1].inputs * POOLED[trial.model.family] ** 2
    head = 2 * pooled + sum(layer.kept for layer in of.head)  # and which number of the map each is
    numbers = sum(layer.kept for layer in of.image) + regions * head
    # Of max pooling an index of each number, twice its size, unless what is pooled is of a fixed stage.
    numbers += sum(2 * layer.inputs * layer.places for layer in of.image[1:] if layer.pooled)
    return numbers * trial.recipe.batch * BYTES[trial.recipe.precision]


@cost.net_bytes.register
def net_bytes(trial: DetectionTrial) -> int:
    """Bytes of tensors in a training step: weights; gradients and velocities of those that are trained; activations."""
    of, regions = parts(trial), trial.detection.regions + trial.detection.context
    largest = max(*(layer.map for layer in (*of.fixed, *of.image)), *(regions * layer.map for layer in of.head))
    working = cost.WORKING_TENSORS * largest * trial.recipe.batch * BYTES[trial.recipe.precision]
    return 4 * parameters(trial) + 2 * 4 * trained_parameters(trial) + activation_bytes(trial) + working


@cost.predicted_bytes.register
@cost.least_bytes.register
def predicted_bytes(trial: DetectionTrial) -> int:
    """Peak memory of the process that trains the trial on a CPU. Detectors do not run in segments: also the least."""
    return BYTES_A_PROCESS + net_bytes(trial)


@cost.checkpoint_bytes.register
def checkpoint_bytes(trial: DetectionTrial) -> int:
    """Size of one checkpoint: weights, velocities and BatchNorm's averages, with what `torch.save` adds to each."""
    of = parts(trial)
    normalised = [layer for layer in of.all if layer.norm]
    averages = 0 if trial.detection.norm == "group" else sum(2 * layer.outputs for layer in normalised)
    # Of a layer weights and their velocities: two with a bias, with BatchNorm three and its two averages.
    tensors = 4 * sum(1 for _ in of.all) + 4 * len(normalised)
    return 4 * (parameters(trial) + trained_parameters(trial) + averages) + BYTES_A_TENSOR * tensors


@cost.record_bytes.register
def record_bytes(trial: DetectionTrial) -> int:
    """What the storage keeps of a trial beside its checkpoints: records, their view in MLflow, small files."""
    rows, tests = (
        -(-trial.recipe.iterations // each) for each in (trial.recipe.record_every, trial.recipe.evaluate_every)
    )
    shown = 6 * min(rows, 150 + tests) + 2 * tests  # MLflow gets about 150 points of a series: the rate, five losses
    return BYTES_A_RUN + rows * BYTES_A_RECORD + shown * BYTES_A_METRIC
