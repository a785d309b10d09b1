"""Do the deeper net's features carry over? PASCAL VOC, Faster R-CNN with ResNet-101 in the place of VGG-16.

Paper: Tables 7, 10 and 11, Sec. 4.3, Appendix B. Claims S43-1 and SB-5, which need VOC 2012's test server.
Cost: paper, 12 trials of 80,000 iterations, after the ImageNet trials of ResNet-101 and COCO's with context, whose nets
they start from.
"""

from experiments.detection_coco import with_context
from experiments.profiles import Profile
from study.spec import Trial

NAME = "detection-voc"


def trials(profile: Profile) -> list[Trial]:
    if not profile.detectors or not profile.imagenet:
        return []
    backbones, found = profile.backbones(), list[Trial]()
    improved = with_context(profile)
    for data in profile.detectors.voc:
        found += profile.detectors.of_vgg(data)
        found += profile.detectors.of_resnet(data, backbones)
        if improved:  # 'baseline+++', fine-tuned from COCO
            found += profile.detectors.of_resnet(data, improved, context=True)
    return backbones + improved + found
