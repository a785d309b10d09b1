"""Faster R-CNN around the study's nets and VGG-16: torchvision's parts in the paper's composition (Sec. 4.3, App. A).

Owns the modules, their initial weights, the training losses, and whose weights a detector takes over. Knows nothing of
data sets, of the training loop, or of how detections are made of scores: that is `study/tasks/detection_inference.py`.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model_weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import RoIPool

from study.data.batches import IMAGENET_MEAN, IMAGENET_STD
from study.data.constants import constants
from study.data.downloads import download, urls_of
from study.nets.resnet import BatchNorm, Net, initialise
from study.nets.torchvision_names import vgg_from_torchvision
from study.nets.weight_files import read_weights
from study.nets.weight_names import CENTRED, another, model_of, named, take, zeros_behind
from study.printable import bare
from study.seeds import generator
from study.spec import DetectionTrial, InputError, Model, Trial, check_choice

STRIDE = 16  # pixels of the image between those of the shared map
RATIOS = (0.5, 1.0, 2.0)  # of the anchors, height to width
DIVISORS = {"imagenet": IMAGENET_STD, "pixel-mean": (1.0, 1.0, 1.0)}  # of images, after ImageNet's mean


class FrozenNorm(BatchNorm):
    """BatchNorm that is always in evaluation mode: a constant offset and scale (App. A)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, images=1)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(False)
        return self


class Backbone(Net):
    """A net of Table 1, cut between conv4 and conv5; its weights have the names that they have in the classifier."""

    pooled = 14  # sides of a pooled region: conv5 halves it

    def __init__(self, trial: DetectionTrial) -> None:
        model, detection, images = trial.model, trial.detection, trial.recipe.bn_batch

        def norm(channels: int) -> nn.Module:
            if detection.norm == "group":
                return nn.GroupNorm(math.gcd(32, channels), channels)
            if detection.norm == "batch":
                return BatchNorm(channels, images)
            frozen = FrozenNorm(channels)
            return frozen.requires_grad_(detection.norm == "frozen-affine")

        super().__init__(model, 3, 1, norm)
        self.classifier = nn.Identity()  # type: ignore[assignment]  # forward gives what it would see
        self.channels, self.features = model.features // 2, model.features
        for module in self.stages[-1].modules():
            if isinstance(module, BatchNorm):  # what it sees are the regions of so many images
                module.images = images * (detection.regions + detection.context)

    def shared_stages(self) -> list[list[nn.Module]]:
        """conv1, conv2, conv3, conv4."""
        return [[self.stem, self.stem_norm], *([stage] for stage in self.stages[:-1])]

    def shared(self, images: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, channels, H / 16, W / 16], rounded up
        x = self.pool(functional.relu_(self.stem_norm(self.stem(images))))
        maps: Tensor = self.stages[:-1](x)
        return maps

    def head(self, regions: Tensor) -> Tensor:  # [K, channels, 14, 14] -> [K, features]
        features: Tensor = self.stages[-1](regions).mean(dim=(2, 3))
        return features


class VGG(nn.Module):
    """VGG-16 without its fifth pooling, which RoI pooling takes the place of, and without its classifier."""

    pooled = 7

    def __init__(self, model: Model) -> None:
        super().__init__()
        stages, inputs = [], 3
        for stage, count in enumerate(model.stages):
            outputs = model.width * 2 ** min(stage, 3)
            sizes = [inputs] + [outputs] * count
            stages.append(nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.channels, self.features = inputs, 64 * model.width
        self.fc6 = nn.Linear(inputs * self.pooled**2, self.features)
        self.fc7 = nn.Linear(self.features, self.features)

    def shared_stages(self) -> list[list[nn.Module]]:
        """conv1, ..., conv5."""
        return [[stage] for stage in self.stages]

    def shared(self, images: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, channels, H / 16, W / 16], rounded down
        x = images
        for number, stage in enumerate(self.stages):
            if number:
                x = functional.max_pool2d(x, 2)
            for conv in stage.children():
                x = functional.relu_(conv(x))
        return x

    def head(self, regions: Tensor) -> Tensor:  # [K, channels, 7, 7] -> [K, features]
        x = regions.flatten(1)
        for layer in (self.fc6, self.fc7):
            x = functional.dropout(functional.relu(layer(x)), 0.5, self.training)
        return x


class Detector(nn.Module):
    """Faster R-CNN: shared layers, an RPN on their map, and a head on each region that is pooled from it.

    Numbers are Faster R-CNN's, but where torchvision's parts have their own: the background is drawn from all regions
    whose IoU with every object is below 0.5, Fast R-CNN's from those of 0.1 and more; anchors across the image's edge
    take part in training; proposals of any size are kept; and the smooth L1 losses turn at 1/9 in the head too.

    BatchNorm in conv5 sees regions instead of images. With norm 'batch' its statistics are over those of `bn_batch`
    images, the whole image's own included where there is context; an image of which there were fewer regions than
    `detection.regions` makes the next one's count in its stead.
    """

    def __init__(self, trial: DetectionTrial) -> None:
        """With whatever weights PyTorch gives: see `build`. Raises `InputError` for a normalisation it has not."""
        super().__init__()
        self.trial = trial
        detection = trial.detection
        self.backbone = VGG(trial.model) if trial.model.family == "vgg" else Backbone(trial)
        self.transform = resizing(trial, trial.data.size)
        anchors = AnchorGenerator((detection.anchors,), (RATIOS,))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(self.backbone.channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 12_000, "testing": 6_000},
            post_nms_top_n={"training": 2_000, "testing": detection.proposals},
            nms_thresh=0.7,
        )
        self.pool = RoIPool(self.backbone.pooled, 1 / STRIDE)
        self.predictor = FastRCNNPredictor(self.backbone.features * (1 + detection.context), 1 + trial.data.classes)
        self.roi_heads = RoIHeads(  # how regions are sampled and coded; what computes is in `classify`
            box_roi_pool=None,
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=detection.regions,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.3,
            detections_per_img=100,
        )
        for stage in self.backbone.shared_stages()[: detection.fixed_stages]:
            for module in stage:
                module.requires_grad_(False)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses, under torchvision's names, of images float [3, H, W] in 0..1 of any size, in training mode.

        Targets have `boxes` float [n, 4] in the image's pixels, and `labels` int64 [n] from 1; 0 is the background.
        Anchors, regions and dropout are drawn from PyTorch's global generator, and from nothing else.
        """
        assert self.training, "the losses are those of training"
        batch, resized = self.transform(images, targets)
        shared = self.shared(batch)
        with _fp32(shared):
            proposals, rpn_losses = self.rpn(batch, {"0": shared}, resized)
            regions, _, labels, aims = self.roi_heads.select_training_samples(proposals, resized)
        scores, deltas = self.classify(self.describe(shared, regions, batch.image_sizes))
        classifier, box_reg = fastrcnn_loss(scores, deltas, labels, aims)
        return {"loss_classifier": classifier, "loss_box_reg": box_reg, **rpn_losses}

    def shared(self, batch: ImageList) -> Tensor:
        """The map [N, channels, h, w] that proposals and regions are taken from; float32, because boxes need it."""
        return self.backbone.shared(batch.tensors).float()

    def propose(self, batch: ImageList, shared: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The RPN's boxes [n, 4] of each image, in pixels as resized, and their scores [n], which fall.

        What the RPN itself does when it is tested; but it keeps the scores, by which several nets' are compared.
        """
        with _fp32(shared):
            scores, deltas = self.rpn.head([shared])
            anchors = self.rpn.anchor_generator(batch, [shared])
            counts = [scores[0][0].numel()]
            scores, deltas = concat_box_prediction_layers(scores, deltas)
            boxes = self.rpn.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
            proposals: tuple[list[Tensor], list[Tensor]]
            proposals = self.rpn.filter_proposals(boxes, scores, batch.image_sizes, counts)
            return proposals

    def describe(self, shared: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """What the siblings see of each image's boxes [n, 4], one image after another: [K, features].

        With context [K, 2 * features]: the feature of the image's whole size (height, width) follows each region's.
        """
        if not self.trial.detection.context:
            return self.backbone.head(self.pool(shared, list(boxes))).float()
        whole = [
            regions.new_tensor([[0, 0, width, height]]) for regions, (height, width) in zip(boxes, sizes, strict=True)
        ]
        rois = [torch.cat(pair) for pair in zip(boxes, whole, strict=True)]
        parts = self.backbone.head(self.pool(shared, rois)).float().split([len(regions) for regions in rois])
        return torch.cat([torch.cat([part[:-1], part[-1:].expand_as(part[:-1])], dim=1) for part in parts])

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [K, 1 + classes] before softmax, and box deltas [K, 4 * (1 + classes)]."""
        with _fp32(features):
            scores: Tensor
            deltas: Tensor
            scores, deltas = self.predictor(features)
            return scores, deltas


def resizing(trial: DetectionTrial, side: int) -> GeneralizedRCNNTransform:
    """Images and boxes for a shorter side of `side`; the bound on the longer one in proportion, so that scale is.

    Pixels are normalised as those of the classifier were, whose weights a detector starts from: by ImageNet's mean, and
    by its deviations with 'imagenet', by nothing with 'pixel-mean'. Raises `InputError` for others.
    """
    check_choice(f"normalise of {trial.label}", trial.data.normalise, DIVISORS)
    longest = round(trial.detection.longest * side / trial.data.size)
    return GeneralizedRCNNTransform(side, longest, list(IMAGENET_MEAN), list(DIVISORS[trial.data.normalise]))


def _fp32(like: Tensor) -> torch.autocast:
    """Within autocast, without it: bf16 has 8 bits, too few for a box in pixels."""
    return torch.autocast(like.device.type, enabled=False)


@torch.no_grad()
def build(trial: DetectionTrial) -> Detector:
    """The detector with its initial weights, on the current default device (also 'meta').

    The backbone's are those of the classifier of that seed. The new layers' are Gaussians of deviation 0.01, and 0.001
    for the box regressor (Fast R-CNN). All biases are 0.
    """
    detector = Detector(trial)
    initialise(detector.backbone, trial.seed, trial.recipe.init)  # type: ignore[arg-type]  # of VGG-16 just as well
    for name, module in detector.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        if module.bias is not None:
            module.bias.zero_()
        if not name.startswith("backbone."):
            draw = torch.randn(module.weight.shape, generator=generator(trial.seed, "weights", name), device="cpu")
            module.weight.copy_(draw * (0.001 if name == "predictor.bbox_pred" else 0.01))
    return detector


def take_backbone(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Give shared layers and head the weights of a classifier's state dict, all but its last layer's.

    Raises `InputError` unless they are of that net.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    _take(detector.backbone, given, f"no {detector.trial.model.title}")


def take_detector(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Give all layers but the siblings the weights of another detector's state dict: its classes may be others.

    Raises `InputError` unless they are of that net with these anchors.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith("predictor.")}
    _take(detector, given, f"no {detector.trial.title} with {len(detector.trial.detection.anchors)} sizes of anchors")


@torch.no_grad()
def _take(module: nn.Module, given: Mapping[str, Tensor], otherwise: str) -> None:
    """Copy all that is given; group normalisation takes BatchNorm's scale and offset, and has no use for averages."""
    own = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("predictor.")}
    grouped = any(isinstance(part, nn.GroupNorm) for part in module.modules())
    incoming = {name: tensor for name, tensor in given.items() if not (grouped and "running_" in name)}
    if wrong := sorted(set(own) ^ set(incoming)):
        raise InputError(f"the weights are of {otherwise}: {', '.join(wrong[:4])} {'...' if len(wrong) > 4 else ''}")
    for name, tensor in own.items():
        if incoming[name].shape != tensor.shape:
            shapes = f"{tuple(incoming[name].shape)}, and {tuple(tensor.shape)} here"
            raise InputError(f"the weights are of {otherwise}: {name} is {shapes}")
    for name, tensor in own.items():
        tensor.copy_(incoming[name])


def torchvision_backbone(detector: Detector, root: Path) -> None:
    """Give shared layers and head torchvision's ImageNet weights. Raises as `torchvision_file`."""
    path = torchvision_file(detector.trial, root)
    take_backbone(detector, from_torchvision_classifier(detector.trial.model, read_weights(path).tensors))


def file_backbone(detector: Detector, root: Path) -> None:
    """Give shared layers and head the weights of the classifier in a file of others. Raises as `file_state`."""
    take_backbone(detector, file_state(detector.trial, root))


def file_state(trial: DetectionTrial, root: Path) -> dict[str, Tensor]:
    """The weights of the classifier in the file below `root` that the trial starts from, as a backbone takes them.

    Its first convolution is changed to what pixels are here: their scale, and the order of their colours. Raises
    `InputError` for a file that is missing or another, of another net, or whose pixels had another mean.
    """
    assert trial.detection.weights_file
    normalise, file = trial.detection.weights_file
    known, path = constants(normalise), root / file
    if known is None or not np.allclose(known.mean, IMAGENET_MEAN, atol=5e-4):
        raise InputError(
            f"weights {trial.detection.weights!r} are of pixels less another mean than ImageNet's, {IMAGENET_MEAN},"
            " which detectors subtract; choose imagenet:FILE or detectron2:FILE"
        )
    state = from_torchvision_classifier(trial.model, read_weights(path).tensors)
    try:
        _verified(path)
    except ValueError as error:
        raise InputError(f"weights {path} {error}; get the file again, or name it by its own") from None
    first = "stages.0.0.weight" if trial.model.family == "vgg" else "stem.weight"
    scale = torch.tensor(DIVISORS[trial.data.normalise]) / torch.tensor(known.std)
    state[first] = (state[first].flip(1) if known.blue_first else state[first]) * scale.reshape(1, -1, 1, 1)
    return state


def torchvision_file(trial: Trial, root: Path) -> Path:
    """The file of torchvision's ImageNet weights of the trial's net, checked; downloaded to `root` unless there.

    Raises `InputError` for a net or a normalisation that they are not of, a damaged file, and when the download fails.
    """
    model = trial.model
    deep = model.block == "bottleneck"
    if model.width != 64 or model.family != "vgg" and (model.shortcut != "B" or deep != (model.stride == "3x3")):
        raise InputError(
            f"weights 'torchvision' are not of {trial.label} of width {model.width}; choose VGG-16, ResNet-18 or 34 of"
            " option B, or ResNet-50, 101 or 152 of option B with stride '3x3', all of width 64"
        )
    if trial.data.normalise != "imagenet":
        raise InputError(
            f"normalise {trial.data.normalise!r} is not what weights 'torchvision' were trained with; choose 'imagenet'"
        )
    name = f"{'vgg' if model.family == 'vgg' else 'resnet'}{model.depth}"
    base, _, file = get_model_weights(name)["IMAGENET1K_V1"].url.rpartition("/")
    path: Path = root / file
    urls = urls_of(file, (base,))
    if not path.is_file():
        download(path, urls, _verified, lambda problem: InputError(bare(f"weights {path} are missing{problem}")))
    try:
        _verified(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"weights {path} {error}; delete it, then run again or get it from {bare(', '.join(urls))}"
        ) from error
    return path


def _verified(path: Path) -> None:
    """Raise `ValueError` unless the file's SHA-256 begins as torchvision's name for it ends: `vgg16-397923af.pth`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = path.stem.rpartition("-")[2]
    if not digest.startswith(wanted):
        raise ValueError(f"is damaged or half-downloaded: its SHA-256 is {digest} and must begin with {wanted}")


def from_torchvision_classifier(model: Model, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a classifier under torchvision's or others' names under ours, but for its last layer.

    Raises `InputError` unless they are of that net.
    """
    if model.family == "vgg":
        return vgg_from_torchvision(weights)
    found = named(weights)
    shortcut = found.option_a if found.option_a and model.shortcut == "A" else model.shortcut
    other = model_of(found, family=model.family, stride=model.stride, shortcut=shortcut)
    if other != model:
        raise another(f"{other.title} of width {other.width}, not {model.title} of width {model.width}")
    if shortcut == CENTRED:
        zeros_behind(found, model)
    net = Net(model, 3, 1, lambda channels: BatchNorm(channels, 1))
    take(net, found, classifier=False)
    return net.state_dict()
