"""A foreign ONNX policy: which of its inputs and outputs is what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edp_robot.deploy.wrap.foreign_file import WrapError, first_line, load_file, open_session, opset

OUTPUT_NAMES = ("action", "actions", "mu", "mean")  # an output of such a name is the answer
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
FLOATS = ("tensor(float)", "tensor(double)")


@dataclass(frozen=True)
class Foreign:
    """An ONNX policy as it came, and what was found out about it.

    Attributes:
        model: The graph with its weights inside, pruned to what `output` needs.
        session: ONNX Runtime on the whole graph.
        obs: Name of the observation input.
        output: Name of the answer.
        noise: Name of the noise input, or None.
        noise_shape: The noise's dimensions after the batch; () where there is none.
        batch: The batch size that the graph is fixed to, or None where it is free.
        obs_dim: Length of an observation.
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
    obs_dim: int
    horizon: int
    act_dim: int
    metadata: dict[str, str]
    sha256: str

    @property
    def latent_dim(self) -> int:
        """Numbers of noise for one answer; 0 where there is no noise input."""
        return int(np.prod(self.noise_shape)) if self.noise else 0

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return opset(self.model)

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns the original's answers (n, horizon, act_dim).

        The obs is (n, obs_dim), the noise (n, latent_dim). A fixed batch is filled up with copies
        of the last row.
        """
        n = len(obs)
        size = self.batch or n
        index = np.minimum(np.arange(-(-n // size) * size), n - 1)
        noise = noise.reshape(n, *(self.noise_shape or (0,)))
        rows = [self._answer(obs[i], noise[i]) for i in np.split(index, len(index) // size)]
        return np.concatenate(rows)[:n].reshape(n, self.horizon, self.act_dim)

    def _answer(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        feeds = {self.obs: obs, **({self.noise: noise} if self.noise else {})}
        return _run(self.session, self.output, feeds)


def read_policy(path: str | Path, output: str | None = None, noise: str | None = None) -> Foreign:
    """Returns the policy in an ONNX file.

    Args:
        path: The file. Weights in files of their own must lie beside it.
        output: Name of the answer. None: the only output, or one of OUTPUT_NAMES.
        noise: Name of a second input that is noise. None: "noise", if there is such an input.

    Raises:
        WrapError: The file is no feed-forward policy of one observation vector.
    """
    model, digest = load_file(Path(path))
    session = open_session(model)
    answer = _pick_output(session.get_outputs(), output)
    needed = _prune(model, answer)
    _refuse_chance(model, answer)
    inputs = {node.name: node for node in session.get_inputs() if node.name in needed}
    obs = _pick_obs(inputs, noise, answer)
    noise = next((name for name in inputs if name != obs), None)
    batch, (obs_dim,) = _dims(inputs[obs], (1,), "the observation")
    noise_shape = _dims(inputs[noise], (1, 2), "the noise")[1] if noise else ()
    sizes = {obs: (obs_dim,), **({noise: noise_shape} if noise else {})}
    horizon, act_dim = _probe(session, answer, sizes, batch)
    return Foreign(
        model=model,
        session=session,
        obs=obs,
        output=answer,
        noise=noise,
        noise_shape=noise_shape,
        batch=batch,
        obs_dim=obs_dim,
        horizon=horizon,
        act_dim=act_dim,
        metadata={entry.key: entry.value for entry in model.metadata_props},
        sha256=digest,
    )


def _pick_output(outputs: list[Any], asked: str | None) -> str:
    """Returns the name of the answer among a session's outputs."""
    shapes = {node.name: node.shape for node in outputs}
    if asked is not None:
        if asked not in shapes:
            raise WrapError(f"no output {asked!r}; the graph has {shapes}")
        return asked
    if len(shapes) == 1:
        return next(iter(shapes))
    known = [name for wanted in OUTPUT_NAMES for name in shapes if name.lower() == wanted]
    if not known:
        raise WrapError(
            f"outputs {shapes}: none is called {', '.join(OUTPUT_NAMES)}; say with --output NAME "
            "which one is the action (in Stable-Baselines3's exports the first)"
        )
    return known[0]


def _prune(model: onnx.ModelProto, output: str) -> set[str]:
    """Removes what `output` does not need from the graph; returns the names that it needs."""
    graph = model.graph
    needed = {output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.insert(0, node)
            needed |= set(_reads(node))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    replace_all(graph.node, kept)
    replace_all(graph.initializer, weights)
    return needed


def replace_all(field: Any, values: Iterable[Any]) -> None:
    """Replaces the content of a repeated protobuf field."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names that a node reads, those inside its subgraphs included."""
    yield from node.input
    for inner in _inner_nodes(node):
        yield from _reads(inner)


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from graph.node


def _refuse_chance(model: onnx.ModelProto, output: str) -> None:
    """Raises WrapError where the answer depends on random numbers drawn inside the graph."""

    def ops(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
        for node in nodes:
            yield node.op_type
            yield from ops(_inner_nodes(node))

    functions = (node for function in model.functions for node in function.node)
    drawn = sorted(RANDOM_OPS & {*ops(model.graph.node), *ops(functions)})
    if drawn:
        raise WrapError(
            f"output {output!r} draws random numbers inside the graph ({', '.join(drawn)}), so a "
            "server could not replay its golden vectors; export the deterministic policy (the "
            "mean), or make the noise an input and name it by --noise"
        )


def _pick_obs(inputs: dict[str, Any], noise: str | None, output: str) -> str:
    """Returns the name of the observation among the inputs that the answer needs."""
    shapes = {name: node.shape for name, node in inputs.items()}
    if noise is not None and noise not in shapes:
        raise WrapError(f"no input {noise!r} that {output!r} depends on; there are {shapes}")
    noise = noise or ("noise" if "noise" in shapes and len(shapes) > 1 else None)
    others = [name for name in shapes if name != noise]
    if len(others) == 1:
        return others[0]
    if not others:
        raise WrapError(
            f"output {output!r} depends on no observation; its answer is a constant or noise"
        )
    raise WrapError(
        f"output {output!r} needs the inputs {shapes}: a bundle has one observation vector and, "
        "where --noise NAME says so, one noise vector. A recurrent policy (h_in, c_in) keeps a "
        "state between calls, which no bundle can: train one without memory, or with a history of "
        "observations. Several observation vectors: concatenate them inside the module that you "
        "export"
    )


def _dims(node: Any, ranks: tuple[int, ...], what: str) -> tuple[int | None, tuple[int, ...]]:
    """Returns (fixed batch size or None, the dimensions after it) of an input."""
    batch, *rest = node.shape or [None]
    sizes = tuple(n for n in rest if isinstance(n, int) and n > 0)
    if node.type not in FLOATS or len(rest) not in ranks or len(sizes) != len(rest):
        raise WrapError(
            f"input {node.name!r} is {node.type} {node.shape}: expected {what} as float32 or "
            "float64, (batch, dimensions) with numbers for the dimensions; pictures and several "
            "observations at once are not supported"
        )
    return (batch if isinstance(batch, int) else None), sizes


def _probe(
    session: Any, output: str, sizes: dict[str, tuple[int, ...]], batch: int | None
) -> tuple[int, int]:
    """Returns (horizon, act_dim), found by running the graph on zeros."""
    n = batch or 2
    answer = _run(session, output, {name: np.zeros((n, *dims)) for name, dims in sizes.items()})
    shape = answer.shape
    kind = answer.dtype
    if len(shape) not in (2, 3) or shape[0] != n or kind not in (np.float32, np.float64):
        raise WrapError(
            f"output {output!r} is {kind} {shape} for {n} observations: expected float32 or "
            f"float64, ({n}, act_dim) or ({n}, horizon, act_dim); discrete actions are not "
            "supported"
        )
    return (1, shape[1]) if len(shape) == 2 else (shape[1], shape[2])


def _run(session: Any, output: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Returns `output`. Inputs without a feed are zero; the answer does not need them."""
    full = {}
    for node in session.get_inputs():
        shape = [n if isinstance(n, int) else 1 for n in node.shape]
        value = feeds.get(node.name, np.zeros(shape))
        full[node.name] = np.asarray(value, NUMPY.get(node.type, np.float32))
    try:
        return session.run([output], full)[0]
    except Exception as error:  # ONNX Runtime raises several private types
        raise WrapError(f"ONNX Runtime could not run the graph: {first_line(error)}") from error
