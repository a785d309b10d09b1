"""Which normalisation, where a batch has too few images for BatchNorm? The paper freezes it, 'mainly' to save memory.

Past the paper (Appendix A): statistics frozen, as there; frozen with a trained affine; over each image; over the whole
batch, as synchronised BatchNorm takes them; and GroupNorm. All layers are trained, so that all can adapt. Detectors
start from nets trained with BatchNorm: measured is what a change of it costs or gains. No claim of the paper's.
Cost: paper, 10 trials of 80,000 iterations on VOC 07+12.
"""

from dataclasses import dataclass, replace

from experiments import recipes
from experiments.profiles import SCENES_IN_VOC, Profile, Scale
from study.spec import Data, Trial

NAME = "detection-normalisation"


@dataclass(frozen=True, kw_only=True)
class NormalisationScale(Scale):
    data: Data


SCALE = {
    "smoke": NormalisationScale(data=SCENES_IN_VOC, seeds=1, on_request=True),
    "paper": NormalisationScale(data=recipes.VOC_DATA, seeds=2),
}
NORMALISATIONS = (  # kind, and images of a BatchNorm statistic; 0 is the whole batch
    ("frozen", 0),
    ("frozen-affine", 0),
    ("batch", 1),
    ("batch", 0),
    ("group", 0),
)


def trials(profile: Profile) -> list[Trial]:
    scale, detectors = profile.scale(NAME, SCALE), profile.detectors
    if not scale or not detectors:
        return []
    backbones, (data,) = profile.backbones(scale.seeds), profile.detected(scale.data)
    planned = [*backbones]
    for norm, bn_batch in NORMALISATIONS:
        detection = replace(detectors.detection, norm=norm, fixed_stages=0)
        planned += detectors.of_resnet(data, backbones, detection=detection, bn_batch=bn_batch)
    return planned
