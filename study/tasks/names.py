"""The names that evaluations have: splits, protocols and measures, of classifiers and of detectors.

Owns the vocabulary that whoever tests nets shares with whoever reads the numbers: the values of the columns `split`,
`protocol` and `measure`. A number without its protocol means nothing. Standard library only.
"""

# Splits. ImageNet's validation images are what its nets are tested on; the labels of its test images are a server's.
VALIDATION = "validation"
TEST_SPLIT = "test"
COCO_VAL = "COCO val"
COCO_TEST_DEV = "COCO test-dev"
VOC_12 = "VOC 12 test"
SERVERS = (VOC_12, COCO_TEST_DEV, TEST_SPLIT)  # splits whose labels only a server has

# Protocols of classifiers (Sec. 3.4, Tables 2-5).
CENTRE = "centre crop"
TEN_CROP = "10-crop"
MULTI_SCALE = "multi-scale"
CLASSIFIER_PROTOCOLS = (CENTRE, TEN_CROP, MULTI_SCALE)

# Protocols of detectors (Table 9, from the top: each row adds to those before it).
SINGLE_SCALE = "single scale"
REFINED = "+box refinement"
CONTEXT = "+context"
TESTED_MULTI_SCALE = "+multi-scale testing"
DETECTOR_PROTOCOLS = (SINGLE_SCALE, REFINED, CONTEXT, TESTED_MULTI_SCALE)
UNTRAINED = "untrained"  # a detector before its first update
DENSE = "dense"  # localisation (Appendix C)

# Measures.
TOP1 = "top1_error_pct"
TOP5 = "top5_error_pct"
MAP = "map"  # at IoU .5, by VOC's rule
MAP_50 = "map_50"  # COCO's, at IoU .5
MAP_50_95 = "map_50_95"  # COCO's, the mean over IoU .5 to .95
LOCALISED = "localisation_error_pct"
LOCALISED_CLASS = "localisation_error_gt_class_pct"  # given the class
WORDS = {
    TOP1: "top-1 error",
    TOP5: "top-5 error",
    MAP: "detection mAP",
    MAP_50: "detection mAP@.5",
    MAP_50_95: "detection mAP@[.5, .95]",
    LOCALISED: "top-5 localisation error",
    LOCALISED_CLASS: "localisation error given the class",
}
