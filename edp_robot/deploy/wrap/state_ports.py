"""The states of a recurrent policy: which input goes with which output, and how a row lies in it.

A bundle has one state vector for each session. It holds the states of all ports, one after the
other, each flattened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edp_robot.deploy.wrap.foreign_file import WrapError

# Words that tell the two ends of a state apart: h_in and h_out, state and next_state, hn and h0.
ENDS = {
    *("in", "ins", "input", "inputs", "prev", "previous", "past", "old", "last", "init", "initial"),
    *("out", "outs", "output", "outputs", "next", "new", "present", "updated", "final"),
}
TORCH_NAMES = {f"{name}{end}": name for name in ("h", "c") for end in ("0", "n", "x")}
STATE_TYPES = {
    *("tensor(float)", "tensor(double)", "tensor(float16)"),
    *("tensor(int64)", "tensor(int32)", "tensor(bool)"),
}


@dataclass(frozen=True)
class StatePort:
    """An input that takes the state, and the output that gives the next one.

    Attributes:
        input: Name of the input.
        output: Name of the output.
        shape: Shape of one session's state.
        batch_axis: Where the batch stands among these dimensions. None: the graph takes one session
            at a time, and `shape` is that of the whole input.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    batch_axis: int | None

    @property
    def size(self) -> int:
        """Numbers in one session's state."""
        return prod(self.shape)

    def unpacked(self, rows: np.ndarray) -> np.ndarray:
        """Returns the input for states (n, size); n is 1 where there is no batch axis."""
        if self.batch_axis is None:
            return rows.reshape(self.shape)
        return np.moveaxis(rows.reshape(len(rows), *self.shape), 0, self.batch_axis)

    def packed(self, value: np.ndarray, n: int) -> np.ndarray:
        """Returns the states (n, size) float32 of an output.

        Raises:
            WrapError: The output has another shape than the input.
        """
        expected = self.unpacked(np.zeros((n, self.size), np.float32)).shape
        if value.shape != expected:
            raise WrapError(
                f"state output {self.output!r} has shape {value.shape}, its input {self.input!r} "
                f"{expected}: expected equal ones; say with --state IN:OUT what belongs together"
            )
        rows = value if self.batch_axis is None else np.moveaxis(value, self.batch_axis, 0)
        return rows.reshape(n, self.size).astype(np.float32)


def named_pairs(inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Returns the output of each input whose name tells that both are one state.

    The names are equal but for words like in, out and next. An input with several such outputs, or
    an output with several such inputs, is left out.

    Args:
        inputs: Names of inputs.
        outputs: Names of outputs.
    """
    stems = [_stem(name) for name in inputs]
    pairs = {}
    for name, stem in zip(inputs, stems, strict=True):
        found = [output for output in outputs if _stem(output) == stem]
        if stem and len(found) == 1 and stems.count(stem) == 1:
            pairs[name] = found[0]
    return pairs


def asked_pairs(
    asked: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, str]:
    """Returns the pairs that `--state IN:OUT` names.

    Args:
        asked: Texts IN:OUT.
        inputs: Names of all inputs.
        outputs: Names of all outputs.

    Raises:
        WrapError: A text is no pair, or the graph has no such input or output.
    """
    pairs = {}
    for text in asked:
        found = [(a, b) for a in inputs for b in outputs if text == f"{a}:{b}"]
        if len(found) != 1 or found[0][0] in pairs:
            raise WrapError(
                f"--state {text}: expected INPUT:OUTPUT, each input once; the graph has inputs "
                f"{list(inputs)} and outputs {list(outputs)}"
            )
        pairs[found[0][0]] = found[0][1]
    return pairs


def state_port(node: Any, output: str, one_at_a_time: bool) -> StatePort:
    """Returns the port of a state input.

    Args:
        node: The session's input.
        output: Name of the output that gives the next state.
        one_at_a_time: Whether the graph takes one session at a time.

    Raises:
        WrapError: The input is no array of numbers, or more of it than the batch is open.
    """
    shape = list(node.shape)
    is_open = [axis for axis, dim in enumerate(shape) if not isinstance(dim, int)]
    if node.type not in STATE_TYPES or len(is_open) > 1 or any(dim == 0 for dim in shape):
        raise WrapError(
            f"state input {node.name!r} is {node.type} {shape}: expected an array of numbers of "
            "fixed size, of which only the batch is open; a state that grows cannot be served"
        )
    if one_at_a_time:
        whole = tuple(dim if isinstance(dim, int) else 1 for dim in shape)
        return StatePort(node.name, output, whole, None)
    axis = is_open[0]
    row = tuple(dim for i, dim in enumerate(shape) if i != axis)
    return StatePort(node.name, output, row, axis)


def _stem(name: str) -> str:
    """Returns a name without the words that tell input and output apart; "" for "input" alone."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", spaced)
    text = "".join(word for word in words if word not in ENDS)
    return TORCH_NAMES.get(text, text)
