"""Adam whose learning rate can change between recorded grad_steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class Adam(torch.optim.Adam):
    """Fused Adam with the learning rate in a tensor, because a recording repeats plain numbers.

    Args:
        parameters: What it changes.
        rate: Learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        super().__init__(parameters, lr=torch.tensor(rate, dtype=torch.float64), fused=True)

    def parameters(self) -> list[Tensor]:
        """Returns what it changes."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of all parameters."""
        for group in self.param_groups:
            group["lr"].fill_(rate)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state, also one with the learning rate as a number."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float64)

    def descend(self, loss: Tensor) -> None:
        """Moves its own parameters one step down the sum of `loss` (*stack).

        No other parameter gets a gradient, so networks that the loss passes through stay as they
        are.
        """
        parameters = self.parameters()
        gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # torch's fused Adam on a CPU reads a gradient's memory in the parameter's order,
            # whatever its strides, so it has to be contiguous.
            parameter.grad = None if gradient is None else gradient.contiguous()
        self.step()
        self.zero_grad(set_to_none=True)
