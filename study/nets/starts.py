"""The constructed solution (Sec. 1): deeper nets that do what shallower ones do; added layers pass their input on.

Owns how BatchNorm is set so that it undoes itself, and how a net is grown. Knows neither files nor where images come
from. Convolutions that are the identity are of `study/nets/resnet.py`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from study.nets.evaluation import autocast
from study.nets.resnet import BatchNorm, Net, as_identity, way_through


@torch.no_grad()
def pass_through(net: Net, images: Tensor) -> None:
    """Let BatchNorm behind each square convolution on the way through undo itself on `images` [N, C, H, W].

    Its scale and shift are the deviation and mean of its input, over all these images. Where the convolution is the
    identity and its input not negative, ReLU(BN(conv(x))) is x. Every BatchNorm's averages become those of its input,
    so that the net does the same in evaluation mode. In training mode BatchNorm normalises by the batch, so that layers
    pass on up to the difference between its statistics and these. With noise in the convolutions no layer is normalised
    either at this start: signals grow with depth as without BatchNorm. In fp32, whatever the trial's precision.
    """
    _set(net, images, [norm for norm in net.modules() if isinstance(norm, BatchNorm)], _behind(net))


@torch.no_grad()
def grow(net: Net, shallower: Net, images: Tensor) -> None:
    """Make `net` the shallower plain net of the same width, with blocks added at each stage's end that pass on.

    Their functions are equal in evaluation mode, on any images; in training mode up to the statistics of batches.
    """
    added: list[nn.Module] = []
    for own, others in zip(net.stages, shallower.stages, strict=True):
        assert isinstance(own, nn.Sequential) and isinstance(others, nn.Sequential)
        for block, other in zip(own, others, strict=False):
            block.load_state_dict(other.state_dict())
        added += own[len(others) :]
    for part in ("stem", "stem_norm", "classifier"):
        getattr(net, part).load_state_dict(getattr(shallower, part).state_dict())
    new = {norm for block in added for norm in block.modules() if isinstance(norm, BatchNorm)}
    for conv, norm in way_through(net):
        if norm in new:
            as_identity(conv, 0.0)
    _set(net, images, new, new)


def _behind(net: Net) -> set[BatchNorm]:
    return {norm for _, norm in way_through(net)}


def _set(net: Net, images: Tensor, observing: Iterable[BatchNorm], undone: set[BatchNorm]) -> None:
    """In one pass: each norm sees what those before it, which are set, let through."""

    def observe(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        var, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        if norm in undone:
            norm.weight.copy_((var + norm.eps).sqrt())
            norm.bias.copy_(mean)

    hooks = [norm.register_forward_pre_hook(observe) for norm in observing]
    was_training = net.training
    try:
        net.eval()
        with autocast(images.device, "fp32"):
            net(images)
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
