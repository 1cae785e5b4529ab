"""One operation of a recorded step: what it reads, makes and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

UNSET = {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"}
SHAPE_ONLY = UNSET | {  # their results depend on shapes alone
    "ones_like",
    "zeros_like",
    "full_like",
    "new_ones",
    "new_zeros",
    "new_full",
}


@dataclass
class Call:
    """One operation as it was called.

    Attributes:
        func: The operation, an OpOverload.
        args: Its arguments.
        kwargs: Its keyword arguments.
        made: The tensors that it returned.
        repeats: Whether it does the same at every replay, whatever the inputs.
    """

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    made: list[Tensor]
    repeats: bool = False

    @property
    def name(self) -> str:
        """Returns the operation's name without its overload."""
        return self.func._overloadpacket.__name__

    def draws(self) -> bool:
        """Returns whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.func.tags

    def reads(self) -> set[int]:
        """Returns the memories whose values it depends on."""
        return set() if self.name in SHAPE_ONLY else self.takes()

    def takes(self) -> set[int]:
        """Returns the memories of its arguments."""
        return {memory(tensor) for tensor in tensors_in((self.args, self.kwargs))}

    def makes(self) -> set[int]:
        """Returns the memories of its results, those that it views or writes too."""
        return {memory(tensor) for tensor in self.made}

    def fresh(self) -> list[Tensor]:
        """Returns those of its results that have memory of their own."""
        taken = self.takes()
        return [tensor for tensor in self.made if memory(tensor) not in taken]

    def writes(self) -> set[int]:
        """Returns the memories of the arguments that it changes in place."""
        return written(self.func, self.args, self.kwargs)


def memory(tensor: Tensor) -> int:
    """Returns the identity of the memory that a tensor views."""
    return tensor.untyped_storage()._cdata


def tensors_in(tree: Any) -> list[Tensor]:
    """Returns all tensors in nested arguments."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def written(func: Any, args: tuple, kwargs: dict[str, Any]) -> set[int]:
    """Returns the memories of the arguments that an operation changes in place.

    Args:
        func: The operation, an OpOverload.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    if not func._schema.is_mutable:
        return set()
    given = list(zip(func._schema.arguments, args, strict=False))
    given += [(a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs]
    changed = [value for a, value in given if a.alias_info is not None and a.alias_info.is_write]
    return {memory(tensor) for tensor in tensors_in(changed)}
