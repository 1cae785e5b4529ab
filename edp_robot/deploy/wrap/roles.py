"""The roles of a foreign graph's inputs and outputs: answer, observation, noise, states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.state_ports import asked_pairs, named_pairs

OUTPUT_NAMES = ("action", "actions", "mu", "mean")  # an output of such a name is the answer
Shapes = dict[str, Any]
Needs = Callable[[Sequence[str]], set[str]]


class Roles(NamedTuple):
    """What is what in a graph.

    Attributes:
        answer: Name of the output that is the action.
        obs: Name of the observation input.
        noise: Name of the noise input, or None.
        states: Name of the output that gives the next state, by state input.
    """

    answer: str
    obs: str
    noise: str | None
    states: dict[str, str]


class Asked(NamedTuple):
    """What the user says about them.

    Attributes:
        output: Name of the answer. None: the only output, or one of OUTPUT_NAMES.
        noise: Name of the noise input. None: "noise", if there is such an input.
        states: Texts IN:OUT, the input and output of a state. Others are found by their names.
    """

    output: str | None = None
    noise: str | None = None
    states: Sequence[str] = ()


def find_roles(inputs: Shapes, outputs: Shapes, needs: Needs, asked: Asked) -> Roles:
    """Returns the roles in a graph.

    Args:
        inputs: Shape of each input.
        outputs: Shape of each output.
        needs: Returns the names that some outputs depend on.
        asked: What the user says.

    Raises:
        WrapError: The names do not tell, or the graph is no policy of one observation vector.
    """
    told = asked_pairs(asked.states, list(inputs), list(outputs))
    answer = _answer(inputs, outputs, asked.output)
    states = dict(told)
    while True:
        needed = needs([answer, *states.values()])
        used = {name: shape for name, shape in inputs.items() if name in needed}
        noise = _noise(used, asked.noise, answer)
        others = [name for name in used if name != noise and name not in states]
        free = [name for name in outputs if name != answer and name not in states.values()]
        found = named_pairs(others, free)
        if len(others) == 1:
            # A state may be all that the answer needs, if the observation reaches the next state.
            more = {name for name in inputs if found and name in needs([*found.values()])}
            if not more - {*others, *states, noise}:
                return Roles(answer, others[0], noise, states)
        if not others:
            raise WrapError(
                f"output {answer!r} depends on no observation; its answer is a constant, noise or "
                f"a state alone (states {states})"
            )
        if not found:
            raise WrapError(_unclear(answer, used, outputs))
        states |= found


def _answer(inputs: Shapes, outputs: Shapes, asked: str | None) -> str:
    """Returns the name of the answer among the outputs."""
    if asked is not None:
        if asked not in outputs:
            raise WrapError(f"no output {asked!r}; the graph has {outputs}")
        return asked
    known = [name for wanted in OUTPUT_NAMES for name in outputs if name.lower() == wanted]
    states = named_pairs(list(inputs), list(outputs)).values()
    left = [name for name in outputs if name not in states]
    candidates = list(outputs) if len(outputs) == 1 else known or (left if len(left) == 1 else [])
    if not candidates:
        raise WrapError(
            f"outputs {outputs}: none is called {', '.join(OUTPUT_NAMES)}; say with --output NAME "
            "which one is the action (in Stable-Baselines3's exports the first)"
        )
    return candidates[0]


def _noise(used: Shapes, asked: str | None, answer: str) -> str | None:
    """Returns the name of the noise among the inputs that the answer needs."""
    if asked is not None and asked not in used:
        raise WrapError(f"no input {asked!r} that {answer!r} depends on; there are {used}")
    return asked or ("noise" if "noise" in used and len(used) > 1 else None)


def _unclear(answer: str, used: Shapes, outputs: Shapes) -> str:
    return (
        f"output {answer!r} needs the inputs {used}, and the outputs are {outputs}: a bundle has "
        "one observation vector, where --noise NAME says so one noise vector, and the states of a "
        "recurrent policy. A state is known by its names (h_in and h_out, state and next_state); "
        "otherwise say with --state IN:OUT which output gives the next value of an input. Several "
        "observation vectors: concatenate them inside the module that you export"
    )
