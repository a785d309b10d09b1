"""The optimisation settings and data views that profiles choose from, and how each departs from the paper's.

Every recipe is a pure function of the net, because the paper's own depends on depth (Sec. 4.2: warm-up at 110 layers).
"""

from dataclasses import asdict, replace

from study.spec import Data, Model, Recipe, Trial

PAPER_DATA = Data(
    name="cifar10",
    channels=3,
    size=32,
    classes=10,
    held_out=0,  # 45k/5k chose the schedule; the reported nets are trained on all 50k
    padding=4,
    flip=True,
    normalise="pixel-mean",
    digest="",
)
PAPER_WIDTH = 16

# Departures that no field of a trial shows.
DEVIATIONS = (
    "PyTorch instead of Caffe: BatchNorm's running averages (momentum 0.1, epsilon 1e-5) are used for evaluation; the"
    " paper does not say which statistics its CIFAR nets used.",
    "He initialisation by fan-in, Caffe's default; the paper does not say which fan it took, nor how it initialised"
    " the classifier (here: the same rule, zero bias).",
    "Weight decay acts on all parameters, as in Caffe unless told otherwise; the paper does not say.",
    "The warm-up ends when the training error over the last 50 batches falls below 80 %, after at most 2,000"
    " iterations, and counts towards the 64,000; the paper gives neither window nor limit. It is used at 110 layers and"
    " above, plain nets included.",
    "The ragged last batch of an epoch is dropped, so that every iteration sees exactly one full batch.",
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
        drops=(32_000, 48_000),
        momentum=0.9,
        weight_decay=1e-4,
        decay="all",
        init="fan_in",
        precision="fp32",
        bn_batch=64,
        warmup="threshold" if deep else "none",
        warmup_learning_rate=0.01 if deep else 0.0,
        warmup_iterations=2_000 if deep else 0,
        record_every=100,
        evaluate_every=1_000,
    )


def whole_batch_norm(model: Model) -> Recipe:
    """The paper's recipe with BatchNorm over all 128 images, as one device computes it."""
    return replace(paper_cifar(model), bn_batch=128)


def shortened(model: Model) -> Recipe:
    """The paper's schedule at a thirty-second of its length: 2,000 iterations, the same shape."""
    return replace(whole_batch_norm(model), iterations=2_000, drops=(1_000, 1_500), record_every=20, evaluate_every=200)


def minutes(model: Model) -> Recipe:
    """A few hundred small steps at a low rate: the effect on a laptop CPU in seconds a trial."""
    return Recipe(
        iterations=360,
        batch=32,
        learning_rate=0.005,
        drops=(288,),
        momentum=0.9,
        weight_decay=1e-4,
        decay="all",
        init="fan_in",
        precision="fp32",
        bn_batch=32,
        warmup="none",
        warmup_learning_rate=0.0,
        warmup_iterations=0,
        record_every=12,
        evaluate_every=72,
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


def deviations(trial: Trial) -> list[str]:
    """Each field in which a trial departs from the paper's, as `field: ours (paper: theirs)`."""
    ours = {"width": trial.model.width, **asdict(trial.data), **asdict(trial.recipe)}
    theirs = {"width": PAPER_WIDTH, **asdict(PAPER_DATA), **asdict(paper_cifar(trial.model))}
    how_recorded = {"record_every", "evaluate_every"}
    return [
        f"{field}: {value} (paper: {theirs[field]})"
        for field, value in ours.items()
        if value != theirs[field] and field not in how_recorded
    ]
