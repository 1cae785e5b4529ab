"""The operations of a recorded step: which of them compute, and where their results go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

SHAPE_ONLY = {"ones_like", "zeros_like", "full_like"}  # their results depend on shapes alone
UNSET = {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"}


@dataclass(frozen=True)
class Call:
    """One operation as it was called.

    Attributes:
        func: The operation, an OpOverload.
        args: Its arguments.
        kwargs: Its keyword arguments.
        made: The tensors that it returned.
    """

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    made: list[Tensor]

    @property
    def name(self) -> str:
        """Returns the operation's name without its overload."""
        return self.func._overloadpacket.__name__

    def reads(self) -> set[int]:
        """Returns the memories of its arguments."""
        return {memory(tensor) for tensor in tensors_in((self.args, self.kwargs))}

    def makes(self) -> set[int]:
        """Returns the memories of its results."""
        return {memory(tensor) for tensor in self.made}

    def writes(self) -> set[int]:
        """Returns the memories of the arguments that it changes in place."""
        by_place = zip(self.func._schema.arguments, self.args, strict=False)
        given = [(argument, value) for argument, value in by_place]
        given += [(a, self.kwargs[a.name]) for a in _named(self.func) if a.name in self.kwargs]
        changed = [
            value for a, value in given if a.alias_info is not None and a.alias_info.is_write
        ]
        return {memory(tensor) for tensor in tensors_in(changed)}


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
        return tensor.set_(own, value.storage_offset(), value.shape, value.stride())

    def _operation(self, call: Call) -> tuple[Callable[..., Any], tuple, dict[str, Any]] | None:
        """Returns (function, arguments, keyword arguments) that put the results into place."""
        args, kwargs, made = tree_map(self.placed, (call.args, call.kwargs, call.made))
        if call.writes():
            return call.func._op, args, kwargs
        into, names = _variant_into(call.func)
        if len(names) == len(made):
            return into._op, args, {**kwargs, **dict(zip(names, made, strict=True))}
        if call.name in UNSET:
            return None
        return _copying(call.func._op, made), args, kwargs


def memory(tensor: Tensor) -> int:
    """Returns the identity of the memory that a tensor views."""
    return tensor.untyped_storage()._cdata


def tensors_in(tree: Any) -> list[Tensor]:
    """Returns all tensors in nested arguments."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _named(func: Any) -> list[Any]:
    return [argument for argument in func._schema.arguments if argument.kwarg_only]


def _computing(calls: list[Call]) -> list[Call]:
    """Returns the calls that change or make tensors, without those whose result never changes."""
    written = set().union(*(call.writes() for call in calls))
    constant: set[int] = set()
    kept = []
    for call in calls:
        reads = set() if call.name in SHAPE_ONLY else call.reads()
        makes = call.makes()
        draws = torch.Tag.nondeterministic_seeded in call.func.tags
        if call.writes():
            kept.append(call)
        elif makes <= call.reads() and call.name not in SHAPE_ONLY:
            continue  # a view
        elif reads <= constant and not makes & written and not draws:
            constant |= makes
        else:
            kept.append(call)
    return kept


def _shared_memories(calls: list[Call], final: set[int]) -> dict[int, torch.UntypedStorage]:
    """Returns new memory for what the calls make, used again after its last use.

    A processor's cache is small, so less memory is faster.

    Args:
        calls: What is kept of a step.
        final: Memories of the step's results. They are not shared.
    """
    last_use: dict[int, int] = {}
    for i, call in enumerate(calls):
        last_use |= dict.fromkeys(call.reads() | call.makes(), i)
    ending = defaultdict(list)
    free = defaultdict(list)
    shared: dict[int, torch.UntypedStorage] = {}
    for i, call in enumerate(calls):
        for tensor in [] if call.writes() else call.made:
            key = memory(tensor)
            size = tensor.untyped_storage().nbytes()
            if key not in shared and key not in final:
                shared[key] = free[size].pop() if free[size] else torch.UntypedStorage(size)
                ending[last_use[key]].append((key, size))
        for key, size in ending[i]:
            free[size].append(shared[key])
    return shared


def _variant_into(func: Any) -> tuple[Any, list[str]]:
    """Returns the variant of an operation that writes into given tensors, and these one's names.

    Where there is none, there are no names.
    """

    def arguments(overload: Any) -> list[tuple[str, str]]:
        given = [a for a in overload._schema.arguments if not a.is_out]
        return [(a.name, str(a.type)) for a in given]

    packet = func._overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):
        names = [argument.name for argument in overload._schema.arguments if argument.is_out]
        if names and arguments(overload) == arguments(func):
            return overload, names
    return None, []


def _copying(operation: Any, places: list[Tensor]) -> Callable[..., None]:
    """Returns a function that calls the operation and copies its results into `places`."""

    def call(*args: Any, **kwargs: Any) -> None:
        results = tensors_in(operation(*args, **kwargs))
        for place, result in zip(places, results, strict=True):
            place.copy_(result)

    return call
