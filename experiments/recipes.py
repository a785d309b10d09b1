"""The optimisation settings and data views that profiles choose from, and how each departs from the paper's.

Every recipe is a pure function of the net, because the paper's own depends on depth (Sec. 4.2: warm-up at 110 layers).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from study.data.detection_sets import Metric, set_of
from study.spec import HE, TORCHVISION, Data, Detection, DetectionTrial, Model, Recipe, Trial, as_detector

PAPER_DATA = Data.arrays(  # 45k/5k chose the schedule; the reported nets are trained on all 50k
    name="cifar10", channels=3, size=32, classes=10, normalise="pixel-mean", padding=4, flip=True
)
PAPER_WIDTH = 16
IMAGENET_DATA = Data.crops(name="imagenet", size=224, classes=1000, scales=(256, 480))
IMAGENET_WIDTH = 64
COCO_DATA = Data.scenes(name="coco14", size=600, classes=80)
VOC_DATA = Data.scenes(name="voc07+12", size=600, classes=20)  # tested on VOC 2007
VOC12_DATA = Data.scenes(name="voc07++12", size=600, classes=20)  # tested on VOC 2012
FASTER_RCNN = Detection(
    weights=TORCHVISION,
    norm="frozen",
    fixed_stages=2,
    context=False,
    anchors=(128, 256, 512),
    longest=1000,
    proposals=300,
    regions=64,
)
EPOCH = 391  # updates that an epoch of CIFAR-10 takes elsewhere: batches of 128 of 50,000 images, the last one of 80

# Departures that no field of a trial shows.
DEVIATIONS = (
    "PyTorch instead of Caffe: BatchNorm's running averages (momentum 0.1, epsilon 1e-5) are used for evaluation unless"
    " the recipe says `recalibrate`; the paper does not say which statistics its CIFAR nets used.",
    "He initialisation by fan-in, Caffe's default; the paper does not say which fan it took, nor how it initialised"
    " the classifier (here: the same rule, zero bias).",
    "Weight decay acts on all parameters, as in Caffe unless told otherwise; the paper does not say.",
    "The warm-up ends when the training error over the last 50 batches falls below 80 %, after at most 2,000"
    " iterations, and counts towards the 64,000; the paper gives neither window nor limit. It is used at 110 layers and"
    " above, plain nets included.",
    "Detectors train RPN and regions jointly (approximate joint training) instead of in four alternating steps, on COCO"
    " in batches of 8 images where the paper's Fast R-CNN step has 16. Background regions have any overlap below 0.5,"
    " anchors across the image's edge are trained on, proposals of any size are kept, the head's smooth L1 loss turns"
    " at 1/9, and biases learn at the rate of weights.",
    "The ragged last batch of an epoch is dropped, so that every iteration sees exactly one full batch.",
    "The mean image and the principal components of colour of ImageNet are taken over 10,000 centre crops of its"
    " training images. Detectors subtract the channels' means where their classifier subtracted its mean image.",
    "Detectors on COCO have the nine anchors of VOC; Faster R-CNN's journal version adds three smaller ones there.",
)


def paper_cifar(model: Model) -> Recipe:
    """Sec. 4.2 to the letter where it is explicit: 64k iterations of 128, lr 0.1 divided by 10 at 32k and 48k.

    Cost: 64,000 iterations; see `make plan PROFILE=paper`.
    """
    deep = model.depth >= 110
    return Recipe(
        iterations=64_000,
        batch=128,
        learning_rate=0.1,
        schedule="steps",
        drops=(32_000, 48_000),
        patience=0,
        momentum=0.9,
        momentum_rule="caffe",
        weight_decay=1e-4,
        decay="all",
        init="fan_in",
        precision="fp32",
        bn_batch=64,
        recalibrate=0,
        warmup="threshold" if deep else "none",
        warmup_learning_rate=0.01 if deep else 0.0,
        warmup_iterations=2_000 if deep else 0,
        record_every=100,
        evaluate_every=1_000,
        start=HE,
        start_noise=0.0,
        grown_from="",
    )


def paper_imagenet(model: Model) -> Recipe:
    """Sec. 3.4: 600,000 iterations of 256 images, lr 0.1, divided by 10 where Fig. 4 shows it; BatchNorm over 32.

    Evaluations take BatchNorm's statistics as plain averages over training images, as the authors' released nets do by
    their README; over how many it does not say.

    The paper says 'when the error plateaus': schedule 'plateau' does that. It does not give the number of GPUs; 32
    images each correspond to 8.
    """
    return replace(
        paper_cifar(model),  # with its optimiser; no warm-up at any depth
        iterations=600_000,
        batch=256,
        drops=(150_000, 300_000),
        bn_batch=32,
        recalibrate=10_000,
        warmup="none",
        warmup_learning_rate=0.0,
        warmup_iterations=0,
        evaluate_every=5_000,
    )


def shortened_imagenet(model: Model) -> Recipe:
    """The paper's ImageNet schedule at a hundred-and-fiftieth of its length, in batches of 64."""
    recipe = paper_imagenet(model)
    shorter = replace(recipe, iterations=4_000, drops=(1_000, 2_000), record_every=20, evaluate_every=400)
    return replace(shorter, batch=64, recalibrate=2_560)


def seconds_of_photographs(model: Model) -> Recipe:
    """The machinery on photographs in a few iterations: no claim about science."""
    recipe = replace(paper_imagenet(model), iterations=4, drops=(2,), record_every=2, evaluate_every=2)
    return replace(recipe, batch=8, bn_batch=4, learning_rate=0.01, recalibrate=0)


def paper_detection(data: Data) -> Recipe:
    """Sec. 4.3 and Appendix A: COCO in 240k iterations at lr 0.001 and 80k at 0.0001, 8 images a batch; VOC as Faster
    R-CNN does, 60k and 20k, here of 2 images.
    """
    coco = data.name == COCO_DATA.name
    return replace(
        paper_imagenet(Model.vgg()),
        iterations=320_000 if coco else 80_000,
        batch=8 if coco else 2,
        bn_batch=8 if coco else 2,
        recalibrate=0,
        learning_rate=0.001,
        drops=(240_000,) if coco else (60_000,),
        weight_decay=5e-4,
        decay="weights",
        evaluate_every=80_000 if coco else 20_000,
    )


def minute_of_detection(data: Data) -> Recipe:
    """A minute on generated scenes: long enough for a detector to find some objects."""
    return replace(
        paper_detection(data),
        iterations=300,
        batch=2,
        bn_batch=2,
        learning_rate=0.01,
        drops=(240,),
        record_every=20,
        evaluate_every=300,
    )


def whole_batch_norm(model: Model) -> Recipe:
    """The paper's recipe with BatchNorm over all 128 images, as one device computes it."""
    return replace(paper_cifar(model), bn_batch=128)


def times(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with every count of iterations `factor` times as large: the same schedule, longer or shorter.

    Evaluations stay multiples of records.
    """
    record_every = max(1, round(factor * recipe.record_every))
    return replace(
        recipe,
        iterations=round(factor * recipe.iterations),
        drops=tuple(round(factor * drop) for drop in recipe.drops),
        warmup_iterations=round(factor * recipe.warmup_iterations),
        record_every=record_every,
        evaluate_every=record_every * (recipe.evaluate_every // recipe.record_every),
    )


def in_bf16(model: Model) -> Recipe:
    """`whole_batch_norm` in bf16 autocast."""
    return replace(whole_batch_norm(model), precision="bf16")


def shortened(model: Model) -> Recipe:
    """The paper's schedule at a thirty-second of its length: 2,000 iterations, the same shape, warm-up included."""
    return replace(times(whole_batch_norm(model), 1 / 32), record_every=20, evaluate_every=200)


def minutes(model: Model) -> Recipe:
    """A few hundred small steps at a low rate: the effect on a laptop CPU in seconds a trial."""
    return Recipe(
        iterations=360,
        batch=32,
        learning_rate=0.005,
        schedule="steps",
        drops=(288,),
        patience=0,
        momentum=0.9,
        momentum_rule="caffe",
        weight_decay=1e-4,
        decay="all",
        init="fan_in",
        precision="fp32",
        bn_batch=32,
        recalibrate=0,
        warmup="none",
        warmup_learning_rate=0.0,
        warmup_iterations=0,
        record_every=12,
        evaluate_every=72,
        start=HE,
        start_noise=0.0,
        grown_from="",
    )


def minutes_deep(model: Model) -> Recipe:
    """`minutes` slowed down until 1202 layers train: lr 0.002, and fewer iterations because each is long."""
    return replace(
        minutes(model), iterations=200, learning_rate=0.002, drops=(160,), record_every=10, evaluate_every=100
    )


def seconds(model: Model) -> Recipe:
    """The machinery in a few iterations: no claim about science."""
    return replace(minutes(model), iterations=6, batch=16, bn_batch=16, drops=(4,), record_every=2, evaluate_every=2)


def seconds_deep(model: Model) -> Recipe:
    return replace(seconds(model), iterations=2, batch=8, bn_batch=8, drops=(), record_every=1, evaluate_every=2)


def at_paper_rate(recipe: Recipe) -> Recipe:
    """Learning rate 0.1 from the first iteration, without warm-up."""
    return replace(recipe, learning_rate=0.1, warmup="none", warmup_learning_rate=0.0, warmup_iterations=0)


def akamaster(model: Model) -> Recipe:
    """akamaster/pytorch_resnet_cifar10 at d5489e8: 200 epochs, lr divided by 10 at 100 and 150, PyTorch's momentum.

    Copied: batch 128, decay 1e-4 of all parameters, He initialisation by fan-in, option A, ImageNet's mean and
    deviation, one epoch at 0.01 for 110 and 1202 layers. Read at another commit: its momentum is PyTorch's.
    Not copied: with a current PyTorch its warm-up does not end, and the rate stays at 0.01 until epoch 100 (its issue
    21); it reports the best test epoch. Read at another commit: it pads images with black before it normalises. From
    memory: the classifier's bias begins as PyTorch's.
    """
    deep = model.depth >= 110
    return replace(
        at_paper_rate(whole_batch_norm(model)),
        iterations=200 * EPOCH,
        drops=(100 * EPOCH, 150 * EPOCH),
        momentum_rule="torch",
        warmup="fixed" if deep else "none",
        warmup_learning_rate=0.01 if deep else 0.0,
        warmup_iterations=EPOCH if deep else 0,
    )


def fb_resnet_torch(model: Model) -> Recipe:
    """facebookarchive/fb.resnet.torch at 985e569: 164 epochs, lr divided by 10 at 81 and 122, Nesterov's momentum.

    Copied: batch 128, decay 1e-4 of all parameters, He initialisation by fan-out, option A, mean and deviation of each
    channel, no warm-up. Read at another commit: epochs are counted from 1, so that 80 and 121 pass before the drops;
    its instructions for CIFAR-10 take two GPUs, so that BatchNorm sees 64 images.
    Not copied: read at another commit, the classifier's weights begin as Torch's.
    """
    return replace(
        at_paper_rate(paper_cifar(model)),
        iterations=164 * EPOCH,
        drops=(80 * EPOCH, 121 * EPOCH),
        momentum_rule="nesterov",
        init="fan_out",
    )


def tensorpack(model: Model) -> Recipe:
    """tensorpack/tensorpack at 1547a54, examples/ResNet: 64,000 updates, decay 2e-4, lr 0.01 for the first 1,000.

    Copied: 64 images on each of two GPUs, decay of weights only, He initialisation by fan-out, a 2x2 average pooling in
    the shortcuts, the mean image subtracted and the rest divided by 128. Read at another commit: it drops the ragged
    batch, as this study does. From memory: its momentum (TensorFlow's) is the same as PyTorch's.
    Not copied: its blocks are of the pre-activation kind, which this study does not have. Read at another commit: it
    pads images with black before it subtracts the mean.
    """
    return replace(
        paper_cifar(model),
        momentum_rule="torch",
        weight_decay=2e-4,
        decay="weights",
        init="fan_out",
        warmup="fixed",
        warmup_learning_rate=0.01,
        warmup_iterations=1_000,
    )


def mmpretrain(model: Model) -> Recipe:
    """open-mmlab/mmpretrain at ee7f2e8: 200 epochs, lr divided by 10 at 100 and 150, PyTorch's momentum.

    Copied: batch 128, decay 1e-4. Read at another commit: decay of all parameters, eight GPUs of 16 images each, mean
    and deviation of each channel. From memory: BatchNorm sees one GPU's 16 images; He initialisation by fan-out;
    projections where dimensions grow.
    Not copied: its nets, which are ImageNet's (64 to 512 filters, 18 to 152 layers) behind a 3x3 stem; this is its
    recipe on the paper's. Read at another commit: its deviations are a fifth smaller than the channels'; it pads
    images with black before it normalises. From memory: the classifier begins with a deviation of 0.01.
    """
    return replace(
        at_paper_rate(whole_batch_norm(model)),
        iterations=200 * EPOCH,
        drops=(100 * EPOCH, 150 * EPOCH),
        momentum_rule="torch",
        init="fan_out",
        bn_batch=16,
    )


def kuangliu(model: Model) -> Recipe:
    """kuangliu/pytorch-cifar at 49b7aa9: 200 epochs of a cosine from lr 0.1, decay 5e-4, PyTorch's momentum.

    Read at another commit: decay of all parameters, mean and deviation of each channel. From memory: batch 128,
    PyTorch's initialisation, projections where dimensions grow.
    Not copied: its nets, which are ImageNet's (64 to 512 filters) behind a 3x3 stem; that it reports the best test
    epoch. Read at another commit: its cosine moves once an epoch, not at every update; its deviations are a fifth
    smaller than the channels'; it pads images with black before it normalises.
    """
    return replace(
        at_paper_rate(whole_batch_norm(model)),
        iterations=200 * EPOCH,
        schedule="cosine",
        drops=(),
        momentum_rule="torch",
        weight_decay=5e-4,
        init="torch",
    )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a public repository trains, as far as a trial's fields can express it; its recipe's docstring has the rest.

    Schedules that the repositories count in epochs are converted at 391 updates an epoch, the last one on a ragged
    batch there. Here every batch is full, and a pass over the images takes 390 of them.
    """

    recipe: Callable[[Model], Recipe]
    shortcut: str
    normalise: str

    def data(self, data: Data) -> Data:
        """The data in the preset's normalisation. All presets crop and flip as the paper does, and hold nothing out.

        ImageNet's constants exist for three channels only: other images are normalised by their own.
        """
        foreign = self.normalise == "imagenet" and data.channels != 3
        return replace(data, normalise="channel" if foreign else self.normalise)

    def as_long_as(self, shorter: Callable[[Model], Recipe]) -> "Preset":
        """The preset with the iterations and records of `shorter`; its schedule keeps its proportions."""

        def recipe(model: Model) -> Recipe:
            full, length = self.recipe(model), shorter(model)
            share = length.iterations / full.iterations
            return replace(
                full,
                iterations=length.iterations,
                drops=tuple(round(share * drop) for drop in full.drops),
                warmup_iterations=round(share * full.warmup_iterations),
                record_every=length.record_every,
                evaluate_every=length.evaluate_every,
            )

        return replace(self, recipe=recipe)


PRESETS = {
    "akamaster": Preset(recipe=akamaster, shortcut="A", normalise="imagenet"),
    "fb-resnet-torch": Preset(recipe=fb_resnet_torch, shortcut="A", normalise="channel"),
    "tensorpack": Preset(recipe=tensorpack, shortcut="A-average", normalise="pixel-mean-128"),
    "mmpretrain": Preset(recipe=mmpretrain, shortcut="B", normalise="channel"),
    "kuangliu": Preset(recipe=kuangliu, shortcut="B", normalise="channel"),
}


@dataclass(frozen=True)
class Deviation:
    """A field in which a trial departs from the paper's, with both values as they are printed."""

    field: str
    ours: str
    paper: str

    def __str__(self) -> str:
        return f"{self.field}: {self.ours} (paper: {self.paper})"


def deviations(trial: Trial, starts: Mapping[str, Trial]) -> tuple[Deviation, ...]:
    """Each field in which a trial departs from the paper's.

    `starts`: by id, trials among which are those that a detector's weights may be of.
    """
    model = trial.model
    if detector := as_detector(trial):
        return _detection_deviations(detector, starts)
    shortcut = "A" if model.shortcut == "A-average" else model.shortcut  # the others are the paper's own
    chosen = {
        "width": model.width,
        "shortcut": model.shortcut,
        "stride": model.stride,
        **asdict(trial.data),
        **asdict(trial.recipe),
    }
    width, data, recipe = (
        (IMAGENET_WIDTH, IMAGENET_DATA, paper_imagenet)
        if model.stem == "imagenet"
        else (PAPER_WIDTH, PAPER_DATA, paper_cifar)
    )
    of_paper = {"width": width, "shortcut": shortcut, "stride": "first", **asdict(data), **asdict(recipe(model))}
    return _differences(chosen, of_paper)


def _detection_deviations(trial: DetectionTrial, starts: Mapping[str, Trial]) -> tuple[Deviation, ...]:
    """Of the paper's detector on the same kind of data set; the weights of a trial are of the net that it names."""
    named = {data.name: data for data in (COCO_DATA, VOC_DATA, VOC12_DATA)}
    data = named.get(trial.data.name, COCO_DATA if set_of(trial.data.name).metric is Metric.COCO else VOC_DATA)
    paper = asdict(replace(FASTER_RCNN, context=trial.detection.context))
    paper["weights"], source = "of ImageNet's training", trial.detection.weights
    trained_on = {starts[id].data.name for id in trial.needs if id in starts}
    fine_tuned = trial.detection.context and COCO_DATA.name in trained_on  # Table 10: baseline+++ comes from COCO
    if source == TORCHVISION or IMAGENET_DATA.name in trained_on or fine_tuned:
        source = paper["weights"]
    recalibrated = {"recalibrate": "all of ImageNet" if trial.recipe.recalibrate else 0}
    return _differences(
        {"width": trial.model.width, "stride": trial.model.stride}
        | {**asdict(trial.data), **asdict(trial.recipe), **asdict(trial.detection), "weights": source},
        {"width": IMAGENET_WIDTH, "stride": "first"}
        | {**asdict(data), **asdict(paper_detection(data)), **recalibrated, **paper},
    )


def _differences(chosen: Mapping[str, object], paper: Mapping[str, object]) -> tuple[Deviation, ...]:
    how_recorded = {"record_every", "evaluate_every"}
    return tuple(
        Deviation(field, str(value), str(paper[field]))
        for field, value in chosen.items()
        if value != paper[field] and field not in how_recorded
    )
