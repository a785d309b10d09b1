"""The nets of Table 1 and Sec. 4.2: plain and residual, shortcut options A, B and C, basic and bottleneck blocks.

Owns the modules and their initial weights. Knows nothing of data, training or devices.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.seeds import generator
from study.spec import DIRAC, PASS_THROUGH, Model, Trial


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm over at most `images` images at a time, as on the paper's two GPUs; PyTorch's own otherwise."""

    def __init__(self, channels: int, images: int) -> None:
        super().__init__(channels)
        self.images = images
        self.observing = True  # whether a pass in training mode moves the running averages; see `without_observing`
        self.num_batches_tracked = None  # its momentum is constant: a counter would only cost time

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var, affine = self.running_mean, self.running_var, (self.weight, self.bias)
        assert mean is not None and var is not None
        if not self.observing:
            mean, var = mean.clone(), var.clone()  # throw-away copies, so that the running averages stay as they are
        parts = [
            functional.batch_norm(part, mean, var, *affine, training=True, momentum=self.momentum or 0.0, eps=self.eps)
            for part in (x.split(self.images) if len(x) > self.images else (x,))  # a split costs a copy going back
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def without_observing(*modules: nn.Module) -> Iterator[None]:
    """Passes in training mode normalise by their batch but leave the running averages of these modules alone."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, BatchNorm) and norm.observing]
    for norm in norms:
        norm.observing = False
    try:
        yield
    finally:
        for norm in norms:
            norm.observing = True


class OptionA(nn.Module):
    """Identity shortcut: every second pixel where the map shrinks, zeros for added channels. No parameters.

    With `average`, the mean of each 2x2 pixels instead (at an odd edge, of those there are), as some implementations.
    """

    def __init__(self, added: int, stride: int, average: bool, members: int) -> None:
        super().__init__()
        self.added, self.stride, self.average, self.members = added, stride, average, members

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C + added, H / stride, W / stride], rounded up
        if self.average:
            x = functional.avg_pool2d(x, self.stride, ceil_mode=True)
        else:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.members == 1:
            return functional.pad(x, (0, 0, 0, 0, 0, self.added))
        by_member = x.permute(0, 2, 3, 1).unflatten(3, (self.members, -1))  # each gets its own zeros
        return functional.pad(by_member, (0, self.added)).flatten(3).permute(0, 3, 1, 2)


Norm = Callable[[int], nn.Module]  # of so many channels


def shortcut(inputs: int, outputs: int, stride: int, option: str, norm: Norm, members: int) -> nn.Module | None:
    """The way around a block (Eq. 1 and 2): options A, B and C of Sec. 4.1, or none in a plain net."""
    if option == "none":
        return None
    changes = inputs != outputs or stride != 1
    if option == "C" or (option == "B" and changes):
        return nn.Sequential(convolution(inputs, outputs, 1, stride, members), norm(members * outputs))
    if not changes:
        return nn.Identity()
    return OptionA(outputs - inputs, stride, option == "A-average", members)


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1; with a shortcut around them unless the net is plain."""

    def __init__(self, inputs: int, inner: int, stride: int, model: Model, norm: Norm, members: int) -> None:
        super().__init__()
        outputs = inner * model.expansion
        if model.block == "basic":
            shapes = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
        else:  # the paper's stride is in the first: Table 1's multiply-adds and the authors' released nets say so
            first, second = (stride, 1) if model.stride == "first" else (1, stride)
            shapes = [(inputs, inner, 1, first), (inner, inner, 3, second), (inner, outputs, 1, 1)]
        self.convs = nn.ModuleList(convolution(*shape, members) for shape in shapes)
        self.norms = nn.ModuleList(norm(members * shape[1]) for shape in shapes)
        self.shortcut = shortcut(inputs, outputs, stride, model.shortcut, norm, members)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            y = functional.relu_(norm(conv(y)))
        y = self.norms[-1](self.convs[-1](y))
        if self.shortcut is not None:
            y += self.shortcut(x)  # y = F(x, {W_i}) + x, Eq. 1
        return functional.relu_(y)


class Net(nn.Module):
    """Stem, stages of blocks on maps that halve from one to the next, average pooling, classifier.

    Fully convolutional: on larger images the scores are the mean of those at every place, because averaging features
    before a linear classifier is averaging scores after it.

    Several `members` are as many nets beside each other in one, each on images of its own: the channels, and the first
    dimension of every weight, are those of the first member, then of the second, and so on. Every convolution has a
    group a member, and BatchNorm works by channel, so that no member's numbers reach another's.
    """

    def __init__(self, model: Model, channels: int, classes: int, norm: Norm, members: int = 1) -> None:
        super().__init__()
        imagenet = model.stem == "imagenet"
        self.stem = convolution(channels, model.width, *((7, 2) if imagenet else (3, 1)), members)
        self.stem_norm = norm(members * model.width)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        stages, inputs = [], model.width
        for stage, count in enumerate(model.stages):
            inner, blocks = model.width * 2**stage, []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(inputs, inner, stride, model, norm, members))
                inputs = inner * model.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, classes) if members == 1 else Classifiers(inputs, classes, members)

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self.stages.modules() if isinstance(block, Block)]

    def forward(
        self, x: Tensor
    ) -> Tensor:  # [N, C, H, W] -> [N, classes]; [N, members C, H, W] -> [members, N, classes]
        return self.score(self.stages(self.begin(x)))

    def begin(self, x: Tensor) -> Tensor:
        """What comes before the blocks."""
        maps: Tensor = self.pool(functional.relu_(self.stem_norm(self.stem(x))))
        return maps

    def score(self, x: Tensor) -> Tensor:
        """What comes after them."""
        scores: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return scores


class Classifiers(nn.Linear):
    """The linear classifiers of the members of a net: weight [members classes, features]."""

    def __init__(self, features: int, classes: int, members: int) -> None:
        super().__init__(features, members * classes)
        self.members = members

    def forward(self, x: Tensor) -> Tensor:  # [N, members features] -> [members, N, classes]
        by_member = x.unflatten(1, (self.members, -1)).transpose(0, 1)
        weight, bias = self.weight.unflatten(0, (self.members, -1)), self.bias.unflatten(0, (self.members, 1, -1))
        return torch.baddbmm(bias, by_member, weight.transpose(1, 2))


def convolution(inputs: int, outputs: int, kernel: int, stride: int, members: int = 1) -> nn.Conv2d:
    """Without bias: BatchNorm follows. `inputs` and `outputs` are those of each member."""
    channels = members * inputs, members * outputs
    return nn.Conv2d(*channels, kernel, stride, padding=kernel // 2, bias=False, groups=members)


def build(trial: Trial) -> Net:
    """The trial's net with its initial weights, on the current default device (also 'meta')."""
    net = build_together(trial, 1)
    initialise(net, trial.seed, trial.recipe.init)
    if trial.recipe.start in (DIRAC, PASS_THROUGH):
        for conv, _ in way_through(net):
            as_identity(conv, trial.recipe.start_noise)
    return net


def build_together(trial: Trial, members: int) -> Net:
    """A net of so many nets like the trial's, with PyTorch's weights."""
    data, images = trial.data, trial.recipe.bn_batch
    return Net(trial.model, data.channels, data.classes, lambda channels: BatchNorm(channels, images), members)


@torch.no_grad()
def initialise(net: Net, seed: int, mode: str) -> None:
    """He initialisation (Sec. 3.4): zero-mean Gaussians of deviation sqrt(2 / fan), zero bias.

    'torch' is PyTorch's default instead: uniform within 1 / sqrt(fan_in), the classifier's bias included.
    Each tensor is drawn from its own stream, named by seed and parameter, so that nets of one seed start from the same
    weights wherever their shapes agree, whatever else they contain.
    """
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            fan_out = len(module.weight) * module.weight[0, 0].numel()
            fan = fan_out if mode == "fan_out" and isinstance(module, nn.Conv2d) else fan_in
            stream = generator(seed, "weights", name)
            if mode == "torch":
                module.weight.copy_(_uniform(module.weight, stream) / math.sqrt(fan_in))
            else:
                draw = torch.randn(module.weight.shape, generator=stream, device="cpu")
                module.weight.copy_(draw * math.sqrt(2 / fan))
        if isinstance(module, nn.Linear):
            module.bias.zero_()
            if mode == "torch":
                module.bias.copy_(_uniform(module.bias, generator(seed, "bias", name)) / math.sqrt(fan_in))


def way_through(net: Net) -> list[tuple[nn.Conv2d, BatchNorm]]:
    """The square convolutions, of stride 1, on the way through the net, and what normalises each: those of a plain net,
    the projections of a residual one.
    """
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for block in net.blocks:
        if block.shortcut is None:
            pairs += zip(block.convs, block.norms, strict=True)
        elif isinstance(block.shortcut, nn.Sequential):
            pairs.append((block.shortcut[0], block.shortcut[1]))
    return [
        (conv, norm)
        for conv, norm in pairs
        if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNorm)
        if conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    ]


@torch.no_grad()
def as_identity(conv: nn.Conv2d, noise: float) -> None:
    """Make a square convolution the identity (Dirac's delta) and `noise` times what it was."""
    middle = conv.kernel_size[0] // 2
    conv.weight.mul_(noise)
    conv.weight[:, :, middle, middle].diagonal().add_(1)


def _uniform(like: Tensor, stream: torch.Generator) -> Tensor:
    """Draws from -1 to 1, as many as `like` has elements."""
    return 2 * torch.rand(like.shape, generator=stream, device="cpu") - 1
