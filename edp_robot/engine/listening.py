"""Listens to a step: which operations it calls, and what it may not do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edp_robot.engine.call import Call, memory, tensors_in, written

LITERAL = torch.ops.aten.lift_fresh.default
LEAVING = (Tensor.tolist, Tensor.numpy, Tensor.__array__)  # unseen below: they call no operation


class Recorder(TorchDispatchMode):
    """Keeps every operation below autograd, those of the backward pass too.

    Args:
        inputs: Tensors that the step may read and not change.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._inputs = {memory(tensor) for tensor in inputs}
        self._constant: set[int] = set()  # memories that hold the same numbers each time
        self._leaving = _Leaving(self)

    def __enter__(self) -> Recorder:
        self._leaving.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._leaving.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.check_repeats(func, _deciding(func, args))
        if written(func, args, kwargs) & self._inputs:
            raise RuntimeError(
                f"{func} changes an input of the step, and a replay would change a copy; "
                "clone the input first"
            )
        # A tensor's shape may change in place later, so a call keeps views of what it was given.
        given, named = tree_map(_view, (args, kwargs))
        made = func(*args, **kwargs)
        if func.namespace == "profiler" or torch.Tag.inplace_view in func.tags:
            return made
        if func is LITERAL and made.untyped_storage().resizable():  # it is not NumPy's memory
            before = made.clone()
            self._constant.add(memory(before))
            self._keep(torch.ops.aten.clone.default, (before,), {}, made)
        else:
            self._keep(func, given, named, made)
        return made

    def check_repeats(self, func: Any, tensors: list[Tensor]) -> None:
        """Raises RuntimeError if the values of `tensors`, which leave torch, may change."""
        if not {memory(tensor) for tensor in tensors} <= self._constant:
            raise RuntimeError(
                f"{func} depends on values, so the step cannot be recorded; take it out of the "
                "step, or run the step plainly (recordable = False)"
            )

    def _keep(self, func: Any, args: tuple, kwargs: dict[str, Any], made: Any) -> None:
        call = Call(func, args, kwargs, tensors_in(tree_map(_view, made)))
        call.repeats = call.reads() <= self._constant and not call.draws()
        if call.repeats:
            self._constant |= call.makes()
        else:
            self._constant -= call.writes()
        self.calls.append(call)


class _Leaving(TorchFunctionMode):
    """Notices functions that hand a tensor's values to Python or NumPy."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in LEAVING:
            self._recorder.check_repeats(f"Tensor.{func.__name__}", [args[0]])
        return func(*args, **(kwargs or {}))


def _view(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _deciding(func: Any, args: tuple) -> list[Tensor]:
    """Returns the tensors whose values become a Python number or decide on a shape."""
    if func is torch.ops.aten.index.Tensor:
        return [t for t in tensors_in(args[1]) if t.dtype in (torch.bool, torch.uint8)]
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return tensors_in(args) if tags & set(func.tags) else []
