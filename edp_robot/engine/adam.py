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

    Raises:
        ValueError: A parameter is a part of a larger tensor, with gaps in its memory.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        given = list(parameters)
        for parameter in given:
            if parameter.stride() != torch.empty_like(parameter).stride():
                raise ValueError(
                    f"a parameter {tuple(parameter.shape)} has strides {parameter.stride()}: "
                    "its memory has gaps; give a clone of it"
                )
        super().__init__(given, lr=torch.tensor(rate, dtype=torch.float64), fused=True)

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
            parameter.grad = None if gradient is None else _laid_out_as(parameter, gradient)
        self.step()
        self.zero_grad(set_to_none=True)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient with the parameter's strides.

    torch's fused Adam on a CPU goes through the memory of both and looks at no strides.
    """
    are_contiguous = parameter.is_contiguous() and gradient.is_contiguous()
    if are_contiguous or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
