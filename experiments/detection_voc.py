"""Do the deeper net's features carry over? PASCAL VOC, Faster R-CNN with ResNet-101 in the place of VGG-16.

Paper: Tables 7, 10 and 11, Sec. 4.3, Appendix B. Claims S43-1 and SB-5, which need VOC 2012's test server.
Cost: paper, 12 trials of 80,000 iterations, after the ImageNet trials of ResNet-101 and COCO's with context, whose nets
they start from.
"""

from dataclasses import dataclass

from experiments import recipes
from experiments.detection_coco import with_context
from experiments.profiles import SCENES_IN_VOC, Profile, Scale
from study.spec import Data, Trial

NAME = "detection-voc"


@dataclass(frozen=True, kw_only=True)
class VocScale(Scale):
    data: tuple[Data, ...]


SCALE = {
    "smoke": VocScale(data=(SCENES_IN_VOC,), seeds=1),
    "paper": VocScale(data=(recipes.VOC_DATA, recipes.VOC12_DATA), seeds=2),
}


def trials(profile: Profile) -> list[Trial]:
    scale, detectors = profile.scale(NAME, SCALE), profile.detectors
    if not scale or not detectors:
        return []
    backbones, on_coco = profile.backbones(scale.seeds), with_context(profile)
    planned = [*backbones, *on_coco]
    for data in profile.detected(*scale.data):
        planned += detectors.of_vgg(data, scale.seeds)
        planned += detectors.of_resnet(data, backbones)
        planned += detectors.fine_tuned(data, on_coco)  # 'baseline+++'
    return planned
