"""The operations of a recorded step: which of them compute, and where their results go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from edp_robot.engine.binding import bound
from edp_robot.engine.call import UNSET, Call, memory, tensors_in


class Program:
    """Operations that compute, with tensors of their own; views and constants are left out.

    Args:
        calls: All operations of the step, in order.
        results: What the step returned. It keeps memory of its own.
    """

    def __init__(self, calls: list[Call], results: list[Tensor]) -> None:
        kept = _computing(calls)
        self._memories = _shared_memories(kept, {memory(tensor) for tensor in results})
        operations = (self._operation(call) for call in kept)
        self.operations = [operation for operation in operations if operation is not None]

    def run(self) -> None:
        """Runs all operations in order."""
        for operation, args, kwargs in self.operations:
            operation(*args, **kwargs)

    def placed(self, value: Any) -> Any:
        """Returns the program's own tensor in place of a recorded one; other values unchanged."""
        if not isinstance(value, Tensor):
            return value
        own = self._memories.get(memory(value), value.untyped_storage())
        tensor = torch.empty(0, dtype=value.dtype, device=value.device)
        tensor.set_(own, value.storage_offset(), value.shape, value.stride())
        tensor = tensor.conj() if value.is_conj() else tensor
        return torch._neg_view(tensor) if value.is_neg() else tensor

    def _operation(self, call: Call) -> tuple[Callable[..., Any], tuple, dict[str, Any]] | None:
        """Returns (function, arguments, keyword arguments) that put the results into place."""
        if call.name in UNSET:
            return None
        args, kwargs, made = tree_map(self.placed, (call.args, call.kwargs, call.made))
        fresh = {memory(tensor) for tensor in call.fresh()}
        if not fresh:
            return bound(call.func, args, kwargs), args, kwargs
        places = [
            place if memory(tensor) in fresh else None
            for tensor, place in zip(call.made, made, strict=True)
        ]
        into = None if call.writes() or None in places else _into(call.func, made)
        if into is None:
            return _copying(bound(call.func, args, kwargs), places), args, kwargs
        variant, outs = into
        kwargs = kwargs | outs
        return bound(variant, args, kwargs), args, kwargs


def _computing(calls: list[Call]) -> list[Call]:
    """Returns the calls that change or make tensors, without those whose result never changes."""
    written = set().union(*(call.writes() for call in calls))

    def computes(call: Call) -> bool:
        if call.writes():
            return True
        is_view = not call.fresh()
        return not is_view and not (call.repeats and not call.makes() & written)

    return [call for call in calls if computes(call)]


def _shared_memories(calls: list[Call], final: set[int]) -> dict[int, torch.UntypedStorage]:
    """Returns new memory for what the calls make, used again after its last use.

    A processor's cache is small, so less memory is faster.

    Args:
        calls: What is kept of a step.
        final: Memories of the step's results. They are not shared.
    """
    last_use: dict[int, int] = {}
    for i, call in enumerate(calls):
        last_use |= dict.fromkeys(call.takes() | call.makes(), i)
    ending = defaultdict(list)
    free = defaultdict(list)
    shared: dict[int, torch.UntypedStorage] = {}
    for i, call in enumerate(calls):
        for tensor in call.fresh():
            key = memory(tensor)
            size = tensor.untyped_storage().nbytes()
            kind = (size, tensor.device)
            if key not in shared and key not in final:
                new = None if free[kind] else torch.UntypedStorage(size, device=tensor.device)
                shared[key] = free[kind].pop() if new is None else new
                ending[last_use[key]].append((key, kind))
        for key, kind in ending[i]:
            free[kind].append(shared[key])
    return shared


def _into(func: Any, made: list[Tensor]) -> tuple[Any, dict[str, Any]] | None:
    """Returns an operation's variant that writes into given tensors, and `made` as its arguments.

    Where there is none, it returns None.
    """

    def arguments(overload: Any) -> list[tuple[str, str]]:
        given = [a for a in overload._schema.arguments if not a.is_out]
        return [(a.name, str(a.type)) for a in given]

    packet = func._overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):
        outs = [argument for argument in overload._schema.arguments if argument.is_out]
        if not outs or arguments(overload) != arguments(func):
            continue
        if str(outs[0].type) == "List[Tensor]":
            return overload, {outs[0].name: made}
        if len(outs) == len(made):
            return overload, {a.name: place for a, place in zip(outs, made, strict=True)}
    return None


def _copying(operation: Any, places: list[Tensor | None]) -> Callable[..., None]:
    """Returns a function that calls the operation and copies its results into `places`."""

    def call(*args: Any, **kwargs: Any) -> None:
        results = tensors_in(operation(*args, **kwargs))
        for place, result in zip(places, results, strict=True):
            if place is not None:
                place.copy_(result)

    return call
