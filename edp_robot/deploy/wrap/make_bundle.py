"""Any ONNX policy as a bundle: surgery, golden vectors, and a check against the graph as it came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.deploy.export import N_GOLDEN, PARITY_LIMIT, ParityError, onnx_session
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

UNBOUNDED = 3.0  # golden obs are drawn in [-UNBOUNDED, UNBOUNDED] where nothing bounds them
HUGE = 1e6  # a limit beyond it bounds nothing: Gymnasium writes the largest float32 for infinity
N_PARITY = 1024
MUCH_CLIPPED = 0.5


@dataclass(frozen=True)
class Wrapped:
    """What `wrap` made: the bundle, and the share of the commands that its limits clipped."""

    bundle: Bundle
    clipped: float


def gather(
    foreign: Foreign,
    spec: TaskSpec | None = None,
    fields: str | Path | None = None,
    told: Known | None = None,
    name: str = "wrapped",
) -> Known:
    """Returns what is known of a policy: of options, task, fields file and metadata, the first that knows.

    Args:
        foreign: The policy.
        spec: Task that it was trained for.
        fields: Fields file.
        told: Options of the command line.
        name: Of the policy where nothing says it.

    Raises:
        WrapError: Two of them contradict each other, or the graph; the message says both.
    """
    told, task = told or Known(), from_task(spec) if spec else Known()
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
        known: Its fields, rate and action map; nothing missing.
        out: The bundle's folder; a bundle that is there is replaced.
        task: Name of its task, if it has one.

    Raises:
        WrapError, BundleError: Something is missing or does not fit together.
        ParityError: The wrapped graph computes something else than the original; nothing was written.
    """
    if known.missing():
        raise WrapError(f"not known: {known.missing()}")
    obs, action = known.to_fields("obs"), known.to_fields("action")
    low, high = limits(action)
    spec = task_spec(task) if task else None
    cmap = command_map(known.action_map, spec, foreign.metadata, tuple(low), tuple(high))  # type: ignore[arg-type]
    graph = wrapped_graph(foreign, cmap, low, high)
    rng = np.random.default_rng(0)
    states = draw(obs, N_PARITY, rng)
    noise = rng.standard_normal((N_PARITY, foreign.latent_dim), np.float32)
    free = cmap.apply(states, foreign.act(states, noise))
    parity, got = check(graph, foreign, states, noise, np.clip(free, low, high), high - low)
    bundle = save(
        Path(out),
        Manifest(
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
        ),
        onnx_bytes=graph,
        golden={"obs": states[:N_GOLDEN], "noise": noise[:N_GOLDEN], "action": got[:N_GOLDEN]},
    )
    return Wrapped(bundle, float(np.mean((free < low) | (free > high))))


def draw(obs: tuple[Field, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Returns observations (n, obs_dim) float32, uniform inside the limits.

    Where there is no limit (or one beyond HUGE), they are drawn from [-UNBOUNDED, UNBOUNDED]; with a limit on one
    side only, from the 2 UNBOUNDED next to it.
    """
    low, high = limits(obs)
    no_low, no_high = low < -HUGE, high > HUGE
    low = np.where(no_low, np.where(no_high, -UNBOUNDED, high - 2 * UNBOUNDED), low)
    high = np.where(no_high, np.where(no_low, UNBOUNDED, low + 2 * UNBOUNDED), high)
    return rng.uniform(low, high, (n, len(low))).astype(np.float32)


def check(
    graph: bytes,
    foreign: Foreign,
    obs: np.ndarray,
    noise: np.ndarray,
    expected: np.ndarray,
    span: np.ndarray,
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns (parity, commands): the wrapped graph against `expected`, in one batch and one by one.

    Parity is {"max_abs_error" [unit], "max_relative_error", "n"}; relative to the span of each action's limits, or
    where that is infinite to the largest command, 1 at least.

    Raises:
        ParityError: The relative error is above PARITY_LIMIT, or not a number.
        WrapError: ONNX Runtime cannot run the wrapped graph.
    """
    feeds = {"obs": obs, **({"noise": noise} if foreign.noise else {})}

    def run(n: int, size: int) -> np.ndarray:
        rows = (slice(i, i + size) for i in range(0, n, size))
        answers = (session.run(["action"], {k: v[at] for k, v in feeds.items()})[0] for at in rows)
        return np.concatenate([np.asarray(answer) for answer in answers])

    try:
        session = onnx_session(graph)
        got = run(len(obs), 1 if foreign.batch == 1 else len(obs))
        single = run(N_GOLDEN, 1)
    except Exception as error:  # ONNX Runtime raises several private types
        baked = (
            f" (its batch size {foreign.batch} is baked in: export with batch 1 or free)"
            if foreign.batch
            else ""
        )
        raise WrapError(
            f"ONNX Runtime could not run the wrapped graph{baked}: {first_line(error)}"
        ) from error
    error = np.maximum(
        np.abs(got - expected).max((0, 1)), np.abs(single - expected[:N_GOLDEN]).max((0, 1))
    )
    scale = np.where(
        (span > 0) & (span < HUGE), span, np.maximum(1.0, np.abs(expected).max((0, 1)))
    )
    relative = float((error / scale).max())
    if not relative <= PARITY_LIMIT:
        raise ParityError(
            f"the wrapped graph and the original differ by {float(error.max()):.3g}, {relative:.3g} of the range, "
            f"allowed is {PARITY_LIMIT}; nothing was written. NaN: it answers no numbers to obs inside the limits"
        )
    return {"max_abs_error": float(error.max()), "max_relative_error": relative, "n": len(obs)}, got


def _sampler(foreign: Foreign, known: Known) -> dict[str, Any]:
    """Returns the manifest's entry on how the graph answers."""
    ports = {
        "obs": foreign.obs,
        "noise": foreign.noise,
        "output": foreign.output,
        "action_map": known.action_map,
    }
    return {
        "method": "wrapped",
        "n_denoise_steps": 1,
        "opset": foreign.opset,
        "batch_sizes": [1],
        **ports,
    }
