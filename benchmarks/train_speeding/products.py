"""The matrix products that a step calls, and the time of these calls alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAMES = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"}


class _Listening(TorchDispatchMode):
    """Keeps the products' operations and the layouts of their arguments, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket.__name__ in NAMES:
            self.calls.append((func, tree_map(_layout, args), kwargs))
        return func(*args, **kwargs)


class Products:
    """The matrix products of a step, on tensors of the same shapes and strides.

    Calls of one kind share their tensors, so those lie in the cache: no step can be faster.

    Args:
        step: What is listened to, once. It has to run plainly, since a replay cannot be heard.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        with _Listening() as listening:
            step()
        made: dict[str, Callable[[], Any]] = {}
        self._calls = [made.setdefault(str(call), _bare(*call)) for call in listening.calls]
        self.kinds = Counter(_shown(call) for call in listening.calls)

    def __len__(self) -> int:
        """Returns how many products there are."""
        return len(self._calls)

    def __call__(self) -> None:
        """Calculates all of them in order."""
        with torch.inference_mode():
            for call in self._calls:
                call()


def _layout(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _Layout(tuple(value.shape), value.stride(), value.dtype)


@dataclass(frozen=True)
class _Layout:
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """Returns a random tensor of this layout."""
        size = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(size).to(self.dtype).as_strided(self.shape, self.stride)


def _bare(func: Any, args: tuple, kwargs: dict[str, Any]) -> Callable[[], Any]:
    """Returns a call of the operation on tensors of its own, into a place of its own."""
    own = [arg.tensor() if isinstance(arg, _Layout) else arg for arg in args]
    out = func(*own, **kwargs)
    into = func._overloadpacket.out
    return lambda: into(*own, **kwargs, out=out)


def _shown(call: tuple[Any, tuple, dict[str, Any]]) -> str:
    func, args, _ = call
    shapes = [str(list(arg.shape)) for arg in args if isinstance(arg, _Layout)]
    return f"{func._overloadpacket.__name__} {' '.join(shapes)}"
