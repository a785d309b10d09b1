"""What training takes on a GPU, from updates that were measured on a card; others are predicted like it. Standard
library only.

Owns the table of measurements and the model that is fitted to it. A prediction is of a trial as a member of its cohort:
its share of the time that the cohort takes, so that sums over trials are GPU hours.
"""

from dataclasses import dataclass
from functools import cache

from study import cost
from study.spec import Model, Trial, detection_of

EVALUATED_IMAGES = 20_000  # of an evaluation within training: CIFAR-10's test images and as many training images
EVALUATION_BATCH = 1_000
SECONDS_A_LAUNCH = 1e-5  # of a kernel that Python starts; an evaluation is not captured
KERNELS_A_LAYER = 4  # of a forward pass


@dataclass(frozen=True)
class Measured:
    """One update of nets of CIFAR's shape: width 16, 32x32 images, deterministic kernels in a captured step."""

    family: str
    depth: int
    precision: str
    batch: int
    cohort: int
    milliseconds: float  # of the whole cohort


@dataclass(frozen=True)
class Card:
    """The constants of one kind of GPU: an update takes its time a layer, and a time a number of all maps.

    They are fitted to `updates` with the least squares of relative errors (`tests/test_cards.py` holds by how much the
    predictions are off).
    """

    name: str
    source: str
    updates: tuple[Measured, ...]
    seconds_a_layer: float  # forward, backward and SGD of a convolution and what follows it, however small
    seconds_a_number: float  # of the outputs of all convolutions, of all images and members
    precision: dict[str, float]  # times of bf16

    @property
    def most_together(self) -> int:
        """The largest cohort that was measured."""
        return max(measured.cohort for measured in self.updates)

    def update_seconds(self, trial: Trial, cohort: int = 1, images: int = 0) -> float:
        """Seconds of one update of so many seeds of the trial; `images` is what one process has of a batch, 0 all."""
        numbers = cohort * (images or trial.recipe.batch) * _numbers(trial)
        seconds = len(cost.layers(trial)) * self.seconds_a_layer + numbers * self.seconds_a_number
        return seconds * self.precision[trial.recipe.precision]


# bf16 and cohorts were measured with deterministic kernels and without, at 2.37 and 2.07 ms of ResNet-20; the cohorts
# without them alone, and TF32 too: those are raised by that ratio here.
H200 = Card(
    name="NVIDIA H200",
    source="one NVIDIA H200, torch 2.11, cuDNN 9.19, a prototype of the captured step",
    updates=(
        Measured("residual", 20, "bf16", 128, 1, 2.37),
        Measured("residual", 20, "bf16", 1024, 1, 8.9),
        Measured("plain", 56, "bf16", 128, 1, 6.3),
        Measured("residual", 110, "bf16", 128, 1, 12.7),
        Measured("residual", 1202, "bf16", 128, 1, 138.0),
        Measured("residual", 20, "bf16", 128, 4, 3.73 * 2.37 / 2.07),
        Measured("residual", 20, "bf16", 128, 8, 6.28 * 2.37 / 2.07),
        Measured("residual", 20, "tf32", 128, 1, 2.65 * 2.37 / 2.07),
        Measured("residual", 20, "fp32", 128, 1, 5.8),
        Measured("residual", 56, "fp32", 128, 1, 18.6),
        Measured("residual", 110, "fp32", 128, 1, 35.0),
    ),
    seconds_a_layer=7.6e-5,
    seconds_a_number=3.17e-11,
    precision={"bf16": 1.0, "tf32": 1.35, "fp32": 2.75},
)


@cache
def gpu_seconds(trial: Trial, cohort: int = 1, images: int = 0, card: Card = H200) -> float:
    """Seconds of a GPU that training and evaluation of the trial take as one of so many seeds together: its share.

    Of photographs, decoding on one core is counted where it takes longer than the GPU. A detector's step is neither
    captured nor measured: it is taken for 40 times as fast as on a CPU core, without decoding.
    """
    recipe = trial.recipe
    if detection_of(trial):
        return cost.predicted_seconds(trial, images) / 40
    update = card.update_seconds(trial, cohort, images) / cohort
    if trial.data.photographs:
        update = max(update, (images or recipe.batch) * cost.SECONDS_A_PHOTOGRAPH)
    evaluations = -(-recipe.iterations // recipe.evaluate_every)
    return recipe.iterations * update + evaluations * _evaluation_seconds(trial, card)


def _evaluation_seconds(trial: Trial, card: Card) -> float:
    """A forward pass is a third of an update; each trial of a cohort is evaluated alone."""
    launches = EVALUATED_IMAGES / EVALUATION_BATCH * len(cost.layers(trial)) * KERNELS_A_LAYER
    numbers = EVALUATED_IMAGES * _numbers(trial) / 3
    return launches * SECONDS_A_LAUNCH + numbers * card.seconds_a_number * card.precision[trial.recipe.precision]


@cache
def _numbers_of(model: Model, channels: int, size: int) -> int:
    return sum(layer.map for layer in cost.convolutions(model, channels, size, size))


def _numbers(trial: Trial) -> int:
    """Outputs of all convolutions, of one image."""
    return _numbers_of(trial.model, trial.data.channels, trial.data.size)
