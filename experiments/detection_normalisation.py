"""Which normalisation, where a batch has too few images for BatchNorm? The paper freezes it, 'mainly' to save memory.

Past the paper (Appendix A): statistics frozen, as there; frozen with a trained affine; over each image; over the whole
batch, as synchronised BatchNorm takes them; and GroupNorm. All layers are trained, so that all can adapt. Detectors
start from nets trained with BatchNorm: measured is what a change of it costs or gains. No claim of the paper's.
Cost: paper, 10 trials of 80,000 iterations on VOC 07+12.
"""

from experiments.profiles import Profile
from study.spec import Trial

NAME = "detection-normalisation"


def trials(profile: Profile) -> list[Trial]:
    if not profile.detectors or not profile.imagenet:
        return []
    ours, backbones = profile.detectors, profile.backbones()
    data, *_ = ours.voc
    found = [*backbones]
    for norm, bn_batch in (("frozen", 0), ("frozen-affine", 0), ("batch", 1), ("batch", 0), ("group", 0)):
        found += ours.of_resnet(data, backbones, bn_batch, norm=norm, fixed_stages=0)
    return found
