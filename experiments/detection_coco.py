"""Do the deeper net's features carry over? COCO, Faster R-CNN with ResNet-101 in the place of VGG-16.

Paper: Tables 8 and 9, Sec. 4.3, Appendices A and B. Claims S43-2 to S43-4, SB-*; trained on train2014, tested on
val2014. A detector with context is tested with box refinement, and with multi-scale testing on top; one without it is
tested with and without box refinement.
Cost: paper, 6 trials of 320,000 iterations, after the ImageNet trials of ResNet-101, whose nets they start from.
"""

from dataclasses import dataclass

from experiments import recipes
from experiments.profiles import SCENES_IN_COCO, Profile, Scale
from study.spec import Data, Trial

NAME = "detection-coco"


@dataclass(frozen=True, kw_only=True)
class CocoScale(Scale):
    data: Data
    context: bool  # whether detectors with context are trained, too (Appendix B)


SCALE = {
    "smoke": CocoScale(data=SCENES_IN_COCO, context=False, seeds=1),
    "paper": CocoScale(data=recipes.COCO_DATA, context=True, seeds=2),
}


def trials(profile: Profile) -> list[Trial]:
    scale, detectors = profile.scale(NAME, SCALE), profile.detectors
    if not scale or not detectors:
        return []
    backbones, (data,) = profile.backbones(scale.seeds), profile.detected(scale.data)
    return [
        *backbones,
        *detectors.of_vgg(data, scale.seeds),
        *detectors.of_resnet(data, backbones),
        *with_context(profile),
    ]


def with_context(profile: Profile) -> list[Trial]:
    """COCO's detectors with the feature of the whole image (Appendix B), if the profile trains them."""
    scale, detectors = profile.scale(NAME, SCALE), profile.detectors
    if not scale or not scale.context or not detectors:
        return []
    (data,) = profile.detected(scale.data)
    return detectors.of_resnet(data, profile.backbones(scale.seeds), detection=detectors.with_context)
