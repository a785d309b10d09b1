"""What a detection trial is: a trial whose net is the backbone of a Faster R-CNN.

Owns what a detector has beyond a classifier. Standard library only, as `study/spec.py`, whose `Trial` it extends: ids,
plans, runs and results are those of every trial.
"""

from dataclasses import dataclass
from typing import Any

from study.spec import InputError, Trial, check_at_least, check_choice, exactly

RANDOM, TORCHVISION = "random", "torchvision"  # weights of a backbone that no trial trained
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
NORMS = ("frozen", "frozen-affine", "batch", "group")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Faster R-CNN around a net: of a ResNet conv1 to conv4 are shared, and conv5 is the head of each region; of VGG-16
    conv1 to conv5, and the fully connected layers (Sec. 4.3, Appendix A).
    """

    # What the backbone starts from: 'random', 'torchvision' (its ImageNet weights), or the condition (an id without its
    # seed), of classifiers or detectors, from whose final nets those of the same seeds start.
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


@dataclass(frozen=True, kw_only=True)
class DetectionTrial(Trial):
    """One detector, one data set, one recipe, one seed; `model` is its backbone, `data.size` the shorter side."""

    detection: Detection

    shared = False

    def __post_init__(self) -> None:
        super().__post_init__()
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
        return () if weights in (RANDOM, TORCHVISION) else (f"{weights}-s{self.seed}",)

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

    @classmethod
    def _parts(cls, spec: dict[str, Any]) -> dict[str, Any]:
        detection = dict(exactly(Detection, spec["detection"]))
        detection["anchors"] = tuple(detection["anchors"])
        return super()._parts(spec) | {"detection": Detection(**detection)}
