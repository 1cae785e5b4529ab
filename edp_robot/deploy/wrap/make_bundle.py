"""Makes a bundle of a foreign policy: surgery, golden vectors, a check against the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.deploy.export import N_GOLDEN, PARITY_SHARE, agreement, onnx_session, warn_of_unnamed
from edp_robot.deploy.wrap.command_map import command_map
from edp_robot.deploy.wrap.foreign_file import WrapError, first_line
from edp_robot.deploy.wrap.foreign_policy import Foreign
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
MUCH_CLIPPED = 0.5


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
    graph = blank(foreign.obs_dim, foreign.act_dim, foreign.horizon, name)
    known = told.over(task).over(file).over(metadata).over(graph)
    known = known.fitted("obs", foreign.obs_dim, f"input {foreign.obs!r}")
    return known.fitted("action", foreign.act_dim, f"output {foreign.output!r}")


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
    graph = wrapped_graph(foreign, commands)
    rng = np.random.default_rng(0)
    states = draw(obs, N_PARITY, rng)
    noise = rng.standard_normal((N_PARITY, foreign.latent_dim), np.float32)
    unlimited = commands.unlimited(states, foreign.act(states, noise))
    expected = {"obs": states, "noise": noise, "action": np.clip(unlimited, low, high)}
    parity, got = check(graph, foreign, expected, action)
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
        sampler=_sampler(foreign, known),
        parity=parity,
    )
    golden = {name: array[:N_GOLDEN] for name, array in {**expected, "action": got}.items()}
    bundle = save(out, manifest, onnx_bytes=graph, golden=golden)
    warn_of_unnamed((*obs, *action))
    return Wrapped(bundle, float(np.mean((unlimited < low) | (unlimited > high))))


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


def check(
    graph: bytes, foreign: Foreign, expected: dict[str, np.ndarray], fields: tuple[Field, ...]
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns (parity, commands): the wrapped graph against the original, at once and one by one.

    Parity is what `agreement` returns, with "n", the number of obs.

    Args:
        graph: The wrapped graph.
        foreign: The original.
        expected: Its obs (n, obs_dim), noise (n, latent_dim) and commands `action`.
        fields: Fields of the command.

    Raises:
        ParityError: A difference is above PARITY_SHARE of the range, or not a number.
        WrapError: ONNX Runtime cannot run the wrapped graph.
    """
    names = ("obs", "noise") if foreign.noise else ("obs",)
    action = expected["action"]
    n = len(action)

    def run(session: Any, n_rows: int, size: int) -> np.ndarray:
        feeds = ({k: expected[k][i : i + size] for k in names} for i in range(0, n_rows, size))
        return np.concatenate([np.asarray(session.run(["action"], feed)[0]) for feed in feeds])

    try:
        session = onnx_session(graph)
        got = run(session, n, 1 if foreign.batch == 1 else n)
        single = run(session, N_GOLDEN, 1)
    except Exception as error:  # ONNX Runtime raises several private types
        fixed = f" (its batch size {foreign.batch} is baked in: export with batch 1 or free)"
        raise WrapError(
            f"ONNX Runtime could not run the wrapped graph{fixed if foreign.batch else ''}: "
            f"{first_line(error)}"
        ) from error
    at_once = np.abs(got - action).max((0, 1))
    one_by_one = np.abs(single - action[:N_GOLDEN]).max((0, 1))
    errors = np.maximum(at_once, one_by_one)
    return {**agreement(fields, errors, action, PARITY_SHARE), "n": n}, got


def _sampler(foreign: Foreign, known: Known) -> dict[str, Any]:
    """Returns the manifest's entry on how the graph answers."""
    ports = {"obs": foreign.obs, "noise": foreign.noise, "output": foreign.output}
    entry = {"method": "wrapped", "n_denoise_steps": 1, "opset": foreign.opset}
    return {**entry, "batch_sizes": [1], **ports, "action_map": known.action_map}
