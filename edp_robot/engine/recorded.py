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
from torch.utils._pytree import tree_leaves, tree_map

from edp_robot.engine.call import memory
from edp_robot.engine.listening import Recorder
from edp_robot.engine.program import Program

Metrics = dict[str, Tensor]


class Recorded:
    """Does what `step` does, on new inputs. Random draws are drawn anew, all else is repeated.

    The first call runs `step`, so that optimizers make their state. The next one with inputs of
    some shapes runs and records it. Every later one with these shapes (and strides) is a replay,
    with the same result to the last bit. Of more than MAX_SHAPES shapes the others run `step`, and
    so does a GPU.

    `step` takes and returns tensors. It may change networks, buffers and optimizers in place. What
    it does outside of torch is not repeated: it must not count, branch on what changes, or put new
    tensors into old places. Learning rates have to be tensors, as `Adam` keeps them. Callers do not
    change the results.

    Args:
        step: What is recorded. It should be a method, so that a deep copy of its object has a step
            of its own.
        recordable: False: every call runs `step`, which may then do anything.

    Raises:
        RuntimeError: When recording, if `step` makes Python numbers of a tensor that may change, or
            a tensor whose shape depends on such values; if it changes an input in place, or returns
            what is no tensor.
    """

    MAX_SHAPES = 4

    def __init__(self, step: Callable[..., Metrics], recordable: bool = True) -> None:
        self.step = step
        self.recordable = recordable
        self.forget()

    def forget(self) -> None:
        """Drops the recordings. To be called when tensors that `step` uses are replaced."""
        self._is_first = True
        self.recordings: dict[tuple, Recording] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy begins with: no recording, since those hold this one's tensors."""
        return {"step": self.step, "recordable": self.recordable}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.recordable = state["recordable"]
        self.forget()

    def __call__(self, *inputs: Tensor) -> Metrics:
        """Returns what `step` returns, valid until the next call."""
        on_cpu = all(given.device.type == "cpu" for given in inputs)
        if self._is_first or not self.recordable or not on_cpu:
            self._is_first = False
            return self.step(*inputs)
        key = tuple((given.shape, given.stride(), given.dtype) for given in inputs)
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
        with Recorder([*self._inputs, *inputs]) as recorder:
            result = tree_map(self._own, step(*self._inputs))
        self.first = tree_map(torch.clone, result)
        self.program = Program(recorder.calls, tree_leaves(result))
        self._result = tree_map(self.program.placed, result)

    def _own(self, value: Any) -> Tensor:
        """Returns a result of the step. Of an input, which the next call sets, it is a copy."""
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f"the step returned {value!r}, which every replay would repeat; return tensors only"
            )
        is_input = memory(value) in {memory(given) for given in self._inputs}
        return value.clone() if is_input else value

    def replay(self, *inputs: Tensor) -> Metrics:
        """Returns what `step` would return."""
        with torch.inference_mode():
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self.program.run()
        return self._result
