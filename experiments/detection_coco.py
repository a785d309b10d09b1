"""Do the deeper net's features carry over? COCO, Faster R-CNN with ResNet-101 in the place of VGG-16.

Paper: Tables 8 and 9, Sec. 4.3, Appendices A and B. Claims S43-2 to S43-4, SB-*; trained on train2014, tested on
val2014. A detector with context is tested with box refinement, and with multi-scale testing on top; one without it is
tested with and without box refinement.
Cost: paper, 6 trials of 320,000 iterations, after the ImageNet trials of ResNet-101, whose nets they start from.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "detection-coco"


def trials(profile: Profile) -> list[Trial]:
    if not profile.detectors or not profile.imagenet:
        return []
    ours, backbones = profile.detectors, profile.backbones()
    return [*backbones, *ours.of_vgg(ours.coco), *ours.of_resnet(ours.coco, backbones), *with_context(profile)]


def with_context(profile: Profile) -> list[Trial]:
    """COCO's detectors with the feature of the whole image (Appendix B), if the profile trains them."""
    if not profile.detectors or not profile.imagenet or not profile.detectors.improved:
        return []
    return profile.detectors.of_resnet(profile.detectors.coco, profile.backbones(), context=True)
