"""SGD with momentum (Sec. 3.4), whose learning rate lies on the device.

Owns the velocities, the groups of weight decay, and Caffe's rule for a rate that changes. Does not know when it does.
"""

from typing import Any

import torch
from torch import Tensor, nn

from study.spec import Recipe


class SGD(torch.optim.SGD):
    """PyTorch's, with gradients and velocities in place before the first pass.

    Allocated later, one by one, they would lie between the activations and keep the memory of these from being used
    again: 1202 layers of width 16 would need about twice as much.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, fused: bool) -> None:
        """`fused`: with kernels that read the rate on the device, so that an update can be captured. The CPU's results
        have the bits of those that are not, which take the rate as a number of the host.
        """
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        weights = [parameter for parameter in trained if parameter.ndim > 1]
        others = [parameter for parameter in trained if parameter.ndim <= 1]  # BatchNorm's scale and shift, biases
        groups = [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": recipe.weight_decay if recipe.decay == "all" else 0.0},
        ]
        nesterov = recipe.momentum_rule == "nesterov"
        super().__init__(groups, lr=0.0, momentum=recipe.momentum, nesterov=nesterov, foreach=not fused, fused=fused)
        self.fused, self.caffe = fused, recipe.momentum_rule == "caffe"
        device = trained[0].device
        self.rate = torch.zeros((), dtype=torch.float64, device=device)  # of the last update; 0 before the first
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
            if recipe.momentum:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        ordered = (*weights, *others) if recipe.momentum else ()
        self.velocities: list[Tensor] = [self.state[parameter]["momentum_buffer"] for parameter in ordered]
        if fused:
            self._set_rate(torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, rate: Tensor) -> None:
        """One update at this learning rate, float64 [], from the gradients.

        By 'caffe' the velocity is Caffe's, v = momentum v + rate gradient. PyTorch's holds gradients only, so to be
        Caffe's it is rescaled by old / new where the rate changes.
        """
        if self.fused:
            if self.caffe and self.velocities:
                kept = torch.where((self.rate > 0) & (rate > 0), self.rate / rate, 1.0)
                torch._foreach_mul_(self.velocities, kept.float())
            self.param_groups[0]["lr"].copy_(rate)  # one tensor, of all groups
        else:
            before, now = self.rate.item(), rate.item()
            if self.caffe and before not in (0.0, now) and now > 0:
                for velocity in self.velocities:
                    velocity.mul_(before / now)
            self._set_rate(now)
        self.step()
        self.rate.copy_(rate)

    def saved(self) -> dict[str, Any]:
        """What `restore` takes: PyTorch's `state_dict`, with the rate as a number. Reading it waits for the device."""
        state = self.state_dict()
        for group in state["param_groups"]:
            group["lr"] = self.rate.item()
        return state

    def restore(self, saved: dict[str, Any]) -> None:
        """Take the velocities and the rate of a saved state, in place."""
        slots = [saved["state"][index] for index in sorted(saved["state"])]
        for velocity, slot in zip(self.velocities, slots, strict=True):
            velocity.copy_(slot["momentum_buffer"])
        self.rate.fill_(saved["param_groups"][0]["lr"])

    def _set_rate(self, rate: Tensor | float) -> None:
        for group in self.param_groups:
            group["lr"] = rate
