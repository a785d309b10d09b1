"""Error of a net on fixed batches. Owns evaluation mode; leaves the training state exactly as it found it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def loss_and_error(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str
) -> tuple[float | None, float | None]:
    """Mean cross-entropy (nats) and top-1 error (percent), single view, BatchNorm's running averages (Sec. 4.2).

    `(None, None)` when there are no batches.
    """
    was_training = net.training
    net.eval()
    loss, wrong, images = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64), 0
    for x, labels in batches:
        with autocast(x.device, precision):
            logits = net(x).float()
        loss = loss.to(x.device) + functional.cross_entropy(logits, labels, reduction="sum").double()
        wrong = wrong.to(x.device) + (logits.argmax(1) != labels).sum()
        images += len(labels)
    net.train(was_training)
    return (loss.item() / images, 100 * wrong.item() / images) if images else (None, None)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a net of this precision computes; weights and BatchNorm statistics stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
