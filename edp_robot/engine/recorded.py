"""A grad_step that is recorded once and then replayed, without what Python adds to it.

A grad_step of small networks is some 900 operations. Nearly half of them only make views, and
Python, modules, autograd and optimizers find every one of them anew each time. A recording is the
list of those that compute, each with the tensors that it reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from edp_robot.engine.program import Call, Program, tensors_in

Metrics = dict[str, Tensor]


class Recorded:
    """Does what `step` does, on new inputs. Random draws are drawn anew, all else is repeated.

    The first call runs `step`, so that optimizers make their state. The next one with inputs of
    some shapes runs and records it. Every later one with these shapes is a replay, with the same
    result to the last bit. Of more than MAX_SHAPES shapes the others run `step`, and so does a GPU.

    `step` takes and returns tensors. It may change networks, buffers and optimizers in place. What
    it does outside of torch is not repeated: it must not count, branch on what changes, or put new
    tensors into old places. Learning rates have to be tensors, as `Adam` keeps them.

    Args:
        step: What is recorded.
        recordable: False: every call runs `step`, which may then do anything.

    Raises:
        RuntimeError: When recording, if `step` makes a Python number of a tensor, or a tensor
            whose shape depends on values.
    """

    MAX_SHAPES = 4

    def __init__(self, step: Callable[..., Metrics], recordable: bool = True) -> None:
        self.step = step
        self.recordable = recordable
        self.forget()

    def forget(self) -> None:
        """Drops the recordings. To be called after tensors that `step` uses were replaced."""
        self._is_first = True
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, *inputs: Tensor) -> Metrics:
        """Returns what `step` returns, valid until the next call."""
        if self._is_first or not self.recordable or inputs[0].device.type != "cpu":
            self._is_first = False
            return self.step(*inputs)
        key = tuple((given.shape, given.dtype) for given in inputs)
        known = self.recordings.get(key)
        if known is not None:
            return known.replay(*inputs)
        if len(self.recordings) == self.MAX_SHAPES:
            return self.step(*inputs)
        self.recordings[key] = Recording(self.step, *inputs)
        return self.recordings[key].first


class Recording:
    """One call of `step` on inputs of some shapes, and how to repeat it.

    Attributes:
        first: What the call returned.
        program: Its operations.
    """

    def __init__(self, step: Callable[..., Metrics], *inputs: Tensor) -> None:
        self._inputs = [given.clone() for given in inputs]
        with _Recorder() as recorder:
            result = step(*self._inputs)
        self.first = tree_map(torch.clone, result)
        self.program = Program(recorder.calls, tree_leaves(result))
        self._result = tree_map(self.program.placed, result)

    def replay(self, *inputs: Tensor) -> Metrics:
        """Returns what `step` would return."""
        with torch.inference_mode():
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self.program.run()
        return self._result


class _Recorder(TorchDispatchMode):
    """Keeps every operation below autograd, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        masks = any(tensor.dtype == torch.bool for tensor in tensors_in(args))
        by_mask = torch.Tag.dynamic_output_shape in func.tags and masks
        if by_mask or torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(
                f"{func} depends on values, so the step cannot be recorded; keep it out of the step"
            )
        made = func(*args, **kwargs)
        if func.namespace != "profiler":
            self.calls.append(Call(func, args, kwargs, tensors_in(made)))
        return made
