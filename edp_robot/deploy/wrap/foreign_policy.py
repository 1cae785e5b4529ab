"""A foreign ONNX policy: which of its inputs and outputs is what, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edp_robot.deploy.wrap.foreign_file import WrapError, first_line, load_file, open_session, opset
from edp_robot.deploy.wrap.pruning import needed, operators, prune
from edp_robot.deploy.wrap.roles import Asked, find_roles
from edp_robot.deploy.wrap.state_ports import StatePort, state_port

RANDOM_OPS = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
HALF_ROUNDS = 2**-9  # share of a number that float16 rounds away, in one of two ways


@dataclass(frozen=True)
class Foreign:
    """An ONNX policy as it came, and what was found out about it.

    Attributes:
        model: The graph with its weights inside, pruned to what `output` and `states` need.
        session: ONNX Runtime on the whole graph.
        obs: Name of the observation input.
        output: Name of the answer.
        noise: Name of the noise input, or None.
        noise_shape: The noise's dimensions after the batch; () where there is none.
        batch: The batch size that the graph is fixed to, or None where it is free.
        obs_shape: The observation's dimensions after the batch; two where it is several steps.
        states: What it keeps between two calls.
        horizon: Actions of an answer; 1 where answers are (batch, act_dim).
        act_dim: Length of an action.
        metadata: The file's metadata_props.
        sha256: Hash of the file and of its files of weights in the order of their names.
    """

    model: onnx.ModelProto
    session: Any
    obs: str
    output: str
    noise: str | None
    noise_shape: tuple[int, ...]
    batch: int | None
    obs_shape: tuple[int, ...]
    states: tuple[StatePort, ...]
    horizon: int
    act_dim: int
    metadata: dict[str, str]
    sha256: str

    @property
    def obs_dim(self) -> int:
        """Numbers in the observation input, all steps of a history together."""
        return int(np.prod(self.obs_shape))

    @property
    def state_dim(self) -> int:
        """Numbers that it keeps between two calls; 0 where it keeps nothing."""
        return sum(port.size for port in self.states)

    @property
    def latent_dim(self) -> int:
        """Numbers of noise for one answer; 0 where there is no noise input."""
        return int(np.prod(self.noise_shape)) if self.noise else 0

    @property
    def rounding(self) -> float:
        """Share of an answer that the graph's own precision rounds away; 0 for float32 and more."""
        half = onnx.TensorProto.FLOAT16
        graph = self.model.graph
        casts = (a.i for node in graph.node for a in node.attribute if a.name == "to")
        ports = (v.type.tensor_type.elem_type for v in (*graph.input, *graph.output))
        weights = (tensor.data_type for tensor in graph.initializer)
        return HALF_ROUNDS if half in (*casts, *ports, *weights) else 0.0

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return opset(self.model)

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns the original's answers (n, horizon, act_dim), each from an empty memory.

        The obs is (n, obs_dim), the noise (n, latent_dim).
        """
        return self.step(obs, noise, np.zeros((len(obs), self.state_dim), np.float32))[0]

    def step(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the original's answers (n, horizon, act_dim), and the states after them.

        A fixed batch is filled up with copies of the last row.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim).
            state: (n, state_dim).
        """
        n = len(obs)
        size = self.batch or n
        index = np.minimum(np.arange(-(-n // size) * size), n - 1)
        obs = obs.reshape(n, *self.obs_shape)
        noise = noise.reshape(n, *(self.noise_shape or (0,)))
        chunks = np.split(index, len(index) // size)
        rows = [self.answer(obs[i], noise[i], state[i]) for i in chunks]
        answers, states = (np.concatenate(parts)[:n] for parts in zip(*rows, strict=True))
        return answers.reshape(n, self.horizon, self.act_dim), states

    def answer(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the graph's own answer to one batch, and the states after it (n, state_dim).

        Args:
            obs: (n, *obs_shape).
            noise: (n, *noise_shape).
            state: (n, state_dim).

        Raises:
            WrapError: ONNX Runtime could not run the graph, or a state changes its shape.
        """
        feeds = {self.obs: obs, **({self.noise: noise} if self.noise else {})}
        ends = np.cumsum([port.size for port in self.states])[:-1]
        parts = np.split(state, ends, axis=1) if self.states else []
        for port, part in zip(self.states, parts, strict=True):
            feeds[port.input] = port.unpacked(part)
        outputs = [self.output, *(port.output for port in self.states)]
        answer, *after = _run(self.session, outputs, feeds)
        packed = [p.packed(new, len(obs)) for p, new in zip(self.states, after, strict=True)]
        return answer, np.concatenate([np.zeros((len(obs), 0), np.float32), *packed], axis=1)


def read_policy(
    path: str | Path,
    output: str | None = None,
    noise: str | None = None,
    states: Sequence[str] = (),
) -> Foreign:
    """Returns the policy in an ONNX file.

    Args:
        path: The file. Weights in files of their own must lie beside it.
        output: Name of the answer. None: the only output, or one of OUTPUT_NAMES.
        noise: Name of a second input that is noise. None: "noise", if there is such an input.
        states: Texts IN:OUT, the input and output of a state. Others are found by their names.

    Raises:
        WrapError: The file is no policy of one observation vector.
    """
    model, digest = load_file(Path(path))
    session = open_session(model)
    inputs = {node.name: node for node in session.get_inputs()}
    roles = find_roles(
        inputs={name: node.shape for name, node in inputs.items()},
        outputs={node.name: node.shape for node in session.get_outputs()},
        needs=lambda names: needed(model, names),
        asked=Asked(output, noise, states),
    )
    prune(model, [roles.answer, *roles.states.values()])
    _refuse_chance(model, roles.answer)
    batch, obs_shape = _dims(inputs[roles.obs], (1, 2), "the observation")
    noise_shape = _dims(inputs[roles.noise], (1, 2), "the noise")[1] if roles.noise else ()
    batch = _batch_with([inputs[name] for name in roles.states], batch)
    states_found = [state_port(inputs[i], o, batch == 1) for i, o in roles.states.items()]
    foreign = Foreign(
        model=model,
        session=session,
        obs=roles.obs,
        output=roles.answer,
        noise=roles.noise,
        noise_shape=noise_shape,
        batch=batch,
        obs_shape=obs_shape,
        states=tuple(states_found),
        horizon=1,
        act_dim=1,
        metadata={entry.key: entry.value for entry in model.metadata_props},
        sha256=digest,
    )
    horizon, act_dim = _probe(foreign)
    return replace(foreign, horizon=horizon, act_dim=act_dim)


def _refuse_chance(model: onnx.ModelProto, output: str) -> None:
    """Raises WrapError where the answer depends on random numbers drawn inside the graph."""
    drawn = sorted(RANDOM_OPS & operators(model))
    if drawn:
        raise WrapError(
            f"output {output!r} draws random numbers inside the graph ({', '.join(drawn)}), so a "
            "server could not replay its golden vectors; export the deterministic policy (the "
            "mean), or make the noise an input and name it by --noise"
        )


def _batch_with(states: Sequence[Any], batch: int | None) -> int | None:
    """Returns the batch size that a graph with these state inputs is fixed to, or None.

    A state without an open dimension is that of one session, and so fixes the batch to 1.

    Args:
        states: State inputs of a session.
        batch: Fixed batch size of the observation, or None.

    Raises:
        WrapError: The batch is fixed to another size than 1.
    """
    if not states:
        return batch
    if batch not in (None, 1):
        raise WrapError(
            f"a policy with states and the fixed batch size {batch}: expected 1 or an open one; "
            "export it again"
        )
    is_open = all(any(not isinstance(dim, int) for dim in node.shape) for node in states)
    return batch if is_open else 1


def _dims(node: Any, ranks: tuple[int, ...], what: str) -> tuple[int | None, tuple[int, ...]]:
    """Returns (fixed batch size or None, the dimensions after it) of an input."""
    batch, *rest = node.shape or [None]
    sizes = tuple(n for n in rest if isinstance(n, int) and n > 0)
    if node.type not in FLOATS or len(rest) not in ranks or len(sizes) != len(rest):
        raise WrapError(
            f"input {node.name!r} is {node.type} {node.shape}: expected {what} as float32, "
            "float64 or float16, (batch, dimensions) with numbers for the dimensions; pictures "
            "and several observations at once are not supported"
        )
    return (batch if isinstance(batch, int) else None), sizes


def _probe(foreign: Foreign) -> tuple[int, int]:
    """Returns (horizon, act_dim), found by running the graph on zeros.

    Raises:
        WrapError: Answer or states have other shapes than those of a policy.
    """
    n = foreign.batch or 2
    noise = np.zeros((n, *(foreign.noise_shape or (0,))))
    state = np.zeros((n, foreign.state_dim), np.float32)
    answer, _ = foreign.answer(np.zeros((n, *foreign.obs_shape)), noise, state)
    shape = answer.shape
    kind = answer.dtype
    if (
        len(shape) not in (2, 3)
        or shape[0] != n
        or kind not in (np.float32, np.float64, np.float16)
    ):
        raise WrapError(
            f"output {foreign.output!r} is {kind} {shape} for {n} observations: expected float32, "
            f"float64 or float16, ({n}, act_dim) or ({n}, horizon, act_dim); discrete actions are "
            "not supported"
        )
    return (1, shape[1]) if len(shape) == 2 else (shape[1], shape[2])


def _run(session: Any, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Returns `outputs`. Inputs without a feed are zero; the answer does not need them."""
    full = {}
    for node in session.get_inputs():
        shape = [n if isinstance(n, int) else 1 for n in node.shape]
        value = feeds.get(node.name, np.zeros(shape))
        full[node.name] = np.asarray(value, NUMPY.get(node.type, np.float32))
    try:
        return session.run(outputs, full)
    except Exception as error:  # ONNX Runtime raises several private types
        raise WrapError(f"ONNX Runtime could not run the graph: {first_line(error)}") from error
