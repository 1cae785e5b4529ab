"""Makes a bundle of a foreign policy: surgery, golden vectors, a check against the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.deploy.export import (
    N_GOLDEN,
    PARITY_SHARE,
    ParityError,
    agreement,
    check_finite,
    onnx_session,
    warn_of_unnamed,
)
from edp_robot.deploy.wrap.command_map import command_map
from edp_robot.deploy.wrap.foreign_file import WrapError, first_line
from edp_robot.deploy.wrap.foreign_policy import Foreign
from edp_robot.deploy.wrap.history import History
from edp_robot.deploy.wrap.known_fields import Known, blank, from_file, from_metadata, from_task
from edp_robot.deploy.wrap.surgery import wrapped_graph
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.field import Field, limits
from policy_server.contract.manifest import Manifest
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec

UNBOUNDED = 3.0  # golden obs are drawn from [-UNBOUNDED, UNBOUNDED] where they have no limits
HUGE = 1e6  # a larger limit is none: Gymnasium writes the largest float32 for infinity
N_PARITY = 1024
N_STEPS = 16  # rows of an episode, where the policy has memory
N_EPISODES = 2  # golden ones
MUCH_CLIPPED = 0.5
Rows = dict[str, np.ndarray]
# (obs, noise, state) -> (answer, next state), a row for each episode
Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Wrapped:
    """What `wrap` made.

    Attributes:
        bundle: The bundle.
        clipped: Share of the drawn commands that the limits clipped.
    """

    bundle: Bundle
    clipped: float


def gather(
    foreign: Foreign,
    spec: TaskSpec | None = None,
    fields: str | Path | None = None,
    told: Known | None = None,
    name: str = "wrapped",
) -> Known:
    """Returns what is known of a policy.

    For each part, the first that knows it counts: options, task, fields file, metadata, graph.

    Args:
        foreign: The policy.
        spec: Task that it was trained for.
        fields: Fields file.
        told: What the options of the command line say.
        name: Name of the policy, unless `told` or the fields file has one.

    Raises:
        WrapError: Two of them contradict each other, or the graph. The message has both values.
    """
    told = told or Known()
    task = from_task(spec) if spec else Known()
    file = from_file(fields) if fields else Known()
    hz = told.control_hz or file.control_hz
    if task.control_hz and hz and abs(hz / task.control_hz - 1) > 1e-6:
        raise WrapError(
            f"{task.sources['control_hz']} acts at {task.control_hz:g} Hz, but {hz:g} Hz was given"
        )
    metadata = from_metadata(foreign.metadata, foreign.obs_dim, foreign.act_dim)
    known = told.over(task).over(file).over(metadata)
    obs_dim = None if known.history else foreign.obs_dim
    known = known.over(blank(obs_dim, foreign.act_dim, foreign.horizon, name))
    known = _with_steps(known, foreign)
    known = known.fitted("obs", foreign.obs_dim, f"input {foreign.obs!r}")
    return known.fitted("action", foreign.act_dim, f"output {foreign.output!r}")


def _with_steps(known: Known, foreign: Foreign) -> Known:
    """Returns what is known together with the steps that the observation input has.

    Raises:
        WrapError: The input has several steps, and nothing says that they are a history of as many.
    """
    *n_rows, row = foreign.obs_shape
    n = n_rows[0] if n_rows else 1
    if n == 1:
        return known
    if known.history != n:
        raise WrapError(
            f"input {foreign.obs!r} has {n} rows of {row} numbers, and the history is "
            f"{known.history or 'unknown'}: give --history {n} if the rows are the last {n} "
            "observations, the oldest first; pictures and several observations at once are not "
            "supported"
        )
    sources = {**known.sources, "history_order": "the graph's rows"}
    return replace(known, history_order="step", sources=sources)


def wrap(foreign: Foreign, known: Known, out: str | Path, task: str | None = None) -> Wrapped:
    """Writes a bundle of `foreign` to `out`.

    Args:
        foreign: The policy.
        known: Its fields, rate and action map, with nothing missing.
        out: The bundle's folder. A bundle that is there, with nothing beside it, is replaced.
        task: Name of its task, if it has one.

    Raises:
        WrapError, BundleError: Something is missing or does not fit together.
        ParityError: The wrapped graph computes something else than the original.
    """
    if known.missing():
        raise WrapError(f"not known: {known.missing()}")
    obs = known.to_fields("obs")
    action = known.to_fields("action")
    low, high = limits(action)
    spec = task_spec(task) if task else None
    commands = command_map(str(known.action_map), spec, foreign.metadata, low, high)
    past = known.past()
    graph = wrapped_graph(foreign, commands, past)
    n_steps = N_STEPS if foreign.states or past else 1
    expected = drawn(obs, foreign.latent_dim)
    answers, states = episodes(_original(foreign, past), expected, n_steps, foreign.state_dim)
    unlimited = commands.unlimited(expected["obs"], answers)
    expected |= {"action": np.clip(unlimited, low, high), **states}
    parity, got = check(graph, foreign, expected, action, n_steps)
    manifest = Manifest(
        name=str(known.name),
        task=task or "none",
        source_commit=foreign.metadata.get("run_path") or "wrapped",
        config_hash=foreign.sha256,
        obs=obs,
        action=action,
        horizon=foreign.horizon,
        n_action_steps=int(known.n_action_steps or foreign.horizon),
        control_period_s=1 / float(known.control_hz or 0),
        latent_dim=foreign.latent_dim,
        sampler=_sampler(foreign, known, past),
        parity=parity,
        state_dim=got["state"].shape[1],
        history=past.n if past else 1,
    )
    golden = _golden({**expected, **got}, manifest.state_dim > 0)
    bundle = save(out, manifest, onnx_bytes=graph, golden=golden)
    warn_of_unnamed((*obs, *action))
    return Wrapped(bundle, float(np.mean((unlimited < low) | (unlimited > high))))


def _golden(rows: Rows, has_memory: bool) -> Rows:
    """Returns the first rows as golden vectors; with memory, whole episodes with their states."""
    names = ("obs", "noise", "action", *(("state", "next_state") if has_memory else ()))
    n = N_EPISODES * N_STEPS if has_memory else N_GOLDEN
    return {name: rows[name][:n] for name in names}


def draw(obs: tuple[Field, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Returns observations (n, obs_dim) float32, uniform inside the limits.

    Without limits, or with limits beyond HUGE, they are drawn from [-UNBOUNDED, UNBOUNDED]. With a
    limit on one side they are drawn from the 2 UNBOUNDED next to it.

    Args:
        obs: Fields of the observation.
        n: Number of observations.
        rng: Source of randomness.
    """
    low, high = limits(obs)
    no_low = low < -HUGE
    no_high = high > HUGE
    low = np.where(no_low, np.where(no_high, -UNBOUNDED, high - 2 * UNBOUNDED), low)
    high = np.where(no_high, np.where(no_low, UNBOUNDED, low + 2 * UNBOUNDED), high)
    return rng.uniform(low, high, (n, len(low))).astype(np.float32)


def drawn(obs: tuple[Field, ...], latent_dim: int) -> Rows:
    """Returns N_PARITY rows of obs (n, obs_dim) and noise (n, latent_dim)."""
    rng = np.random.default_rng(0)
    states = draw(obs, N_PARITY, rng)
    return {"obs": states, "noise": rng.standard_normal((N_PARITY, latent_dim), np.float32)}


def episodes(step: Step, rows: Rows, n_steps: int, state_dim: int) -> tuple[np.ndarray, Rows]:
    """Returns the answers (n, horizon, act_dim) to rows, and the states (n, state_dim).

    The states are `state`, before each row, and `next_state`, after it. Each `n_steps` rows are an
    episode, which begins with zeros. All episodes go on side by side.

    Args:
        step: Answers one row of each episode.
        rows: obs and noise, one episode after the other.
        n_steps: Rows of an episode; 1 where nothing is remembered.
        state_dim: Length of the state.
    """
    n_rows = len(rows["obs"])
    n = n_rows // n_steps
    obs, noise = (rows[k].reshape(n, n_steps, rows[k].shape[1]) for k in ("obs", "noise"))
    state = np.zeros((n, state_dim), np.float32)
    answers = []
    states = [state]
    for t in range(n_steps):
        answer, state = step(obs[:, t], noise[:, t], state)
        answers.append(answer)
        states.append(state)
    flat = [np.stack(parts, axis=1) for parts in (answers, states[:-1], states[1:])]
    answer, before, after = (part.reshape(n_rows, *part.shape[2:]) for part in flat)
    return answer, {"state": before, "next_state": after}


def _original(foreign: Foreign, past: History | None) -> Step:
    """Returns the step of the original, which keeps the history itself."""
    seen: list[np.ndarray] = []

    def step(
        obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        seen.append(obs)
        return foreign.step(past.seen(seen) if past else obs, noise, state)

    return step


def _wrapped(session: Any, size: int | None) -> Step:
    """Returns the step of a wrapped graph, `size` rows at once or all."""
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]

    def step(
        obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        given = {"obs": obs, "noise": noise, "state": state}
        got: list[list[np.ndarray]] = []
        for i in range(0, len(obs), size or len(obs)):
            feeds = {name: given[name][i : i + (size or len(obs))] for name in names}
            got.append(session.run(outputs, feeds))
        named = dict(zip(outputs, map(np.concatenate, zip(*got, strict=True)), strict=True))
        return named["action"], named.get("next_state", state)

    return step


def check(
    graph: bytes, foreign: Foreign, expected: Rows, fields: tuple[Field, ...], n_steps: int = 1
) -> tuple[dict[str, Any], Rows]:
    """Returns (parity, rows): the wrapped graph against the original, at once and one by one.

    Parity is what `agreement` returns, with "n", the number of obs. The rows are action, state and
    next_state.

    Args:
        graph: The wrapped graph.
        foreign: The original.
        expected: Its obs (n, obs_dim), noise (n, latent_dim), commands `action` and `next_state`.
        fields: Fields of the command.
        n_steps: Rows of an episode.

    Raises:
        ParityError: A difference is above PARITY_SHARE of the range, or not a number.
        WrapError: ONNX Runtime cannot run the wrapped graph.
    """
    action = expected["action"]
    few = {name: array[: max(N_GOLDEN, n_steps)] for name, array in expected.items()}
    try:
        session = onnx_session(graph)
        state_dim = {node.name: node.shape[1] for node in session.get_inputs()}.get("state", 0)
        at_once = _wrapped(session, 1 if foreign.batch == 1 else None)
        got, states = episodes(at_once, expected, n_steps, state_dim)
        single, _ = episodes(_wrapped(session, 1), few, n_steps, state_dim)
    except Exception as error:  # ONNX Runtime raises several private types
        fixed = f" (its batch size {foreign.batch} is baked in: export with batch 1 or free)"
        raise WrapError(
            f"ONNX Runtime could not run the wrapped graph{fixed if foreign.batch else ''}: "
            f"{first_line(error)}"
        ) from error
    check_finite(graph, {**expected, **states}, got)
    together = np.abs(got - action).max((0, 1))
    one_by_one = np.abs(single - few["action"]).max((0, 1))
    errors = np.maximum(together, one_by_one)
    rounding = foreign.rounding
    parity = {**agreement(fields, errors, action, PARITY_SHARE + rounding), "n": len(action)}
    if rounding:
        parity["rounding"] = rounding  # a server allows it on top
    _check_states(states["next_state"], expected)
    return parity, {"action": got, **states}


def _check_states(got: np.ndarray, expected: Rows) -> None:
    """Raises ParityError unless the foreign states, which come first in the state, are equal.

    A difference counts in shares of the state's largest number, at least 1.
    """
    original = expected.get("next_state", np.zeros((len(got), 0)))
    error = np.abs(got[:, : original.shape[1]] - original)
    share = float((error / np.maximum(1.0, np.abs(original).max(0))).max(initial=0.0))
    if not share <= PARITY_SHARE:
        raise ParityError(
            f"the states of the wrapped graph and of the original differ by {share:.3g} of their "
            f"largest number, allowed is {PARITY_SHARE}; nothing was written"
        )


def _sampler(foreign: Foreign, known: Known, past: History | None) -> dict[str, Any]:
    """Returns the manifest's entry on how the graph answers."""
    ports = {"obs": foreign.obs, "noise": foreign.noise, "output": foreign.output}
    entry = {"method": "wrapped", "n_denoise_steps": 1, "opset": foreign.opset}
    said = {**entry, "batch_sizes": [1], **ports, "action_map": known.action_map}
    if foreign.states:
        said["states"] = [[port.input, port.output, list(port.shape)] for port in foreign.states]
    if past is not None:
        said["history_order"] = known.history_order or "step"
    return said
