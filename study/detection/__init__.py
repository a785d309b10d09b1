"""Does depth help a detector? Faster R-CNN around the study's nets, trained on VOC or COCO (Sec. 4.3, Appendices A, B).

A package of its own data, model, loop and metrics; what a detection trial is, is `study/detection/spec.py`.
"""

from study.detection import cost as cost  # what `study.cost` says of detectors
