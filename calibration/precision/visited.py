"""The observations that a policy meets: in its own simulated task, or recorded on a robot. Never made up."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from calibration.errors import CalibrationError
from policy_server.contract.bundle import Manifest
from sim.core.evaluate import evaluate
from sim.core.registry import task_names, task_spec
from sim.core.spec import TaskSpec

N_EPISODES = 32  # for calibration, and as many others to judge on
MAX_ROWS = 1024  # of each
MIN_ROWS = 40  # of a recording
HELD_OUT = 0.25  # of a recording, its end


class Policy(Protocol):
    """What answers: a backend, or a bare graph of `policy_server.runtime.base`."""

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns commands (n, horizon, act_dim)."""
        ...


@dataclass(frozen=True)
class Rows:
    """Inputs of a policy.

    Attributes:
        obs: (n, obs_dim) float32.
        noise: (n, latent_dim) float32.
    """

    obs: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class Visited:
    """What to calibrate with, and what to judge by: other episodes, or the end of a recording.

    Attributes:
        calibration: rows that set the scales.
        held_out: rows that did not.
        source: where they come from, for people.
    """

    calibration: Rows
    held_out: Rows
    source: str


def bundle_actor(
    policy: Policy,
    spec: TaskSpec,
    latent_dim: int,
    seed: int,
    on_rows: Callable[[Rows], None] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the ActFn of a policy on a task: commands go back to normalised actions by the task's action map.

    Args:
        policy: answers in physical units.
        spec: of the task.
        latent_dim: numbers of noise a decision.
        seed: of the noise.
        on_rows: sees what the policy is asked, before it answers.
    """
    rng = np.random.default_rng(seed)

    def act(obs: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(obs), latent_dim), dtype=np.float32)
        if on_rows is not None:
            on_rows(Rows(obs, noise))
        return spec.action_map.action(obs, policy.act(obs, noise))

    return act


def simulated_task(manifest: Manifest) -> TaskSpec | None:
    """Returns the spec of the bundle's task, None where `sim` does not know it.

    Raises:
        CalibrationError: it does, with other observations or actions than the bundle's.
    """
    try:
        spec = task_spec(manifest.task)
    except ValueError:
        return None
    ours, theirs = (manifest.obs_dim, manifest.act_dim), (spec.obs_dim, spec.act_dim)
    if ours != theirs:
        raise CalibrationError(
            f"the bundle has (obs_dim, act_dim) {ours}, task {manifest.task!r} in sim {theirs}: not the task that it "
            "was made for; export it again, or give the bundle's task another name"
        )
    return spec


def collect(
    policy: Policy, manifest: Manifest, spec: TaskSpec | None, data: Path | None, seed: int
) -> Visited:
    """Returns visited rows: of `data` where that is given, else of the policy in closed loop on its own task.

    Raises:
        CalibrationError: there is nothing to calibrate with.
    """
    if data is not None:
        return from_recording(data, manifest, seed)
    if spec is None:
        raise CalibrationError(
            f"no calibration data: the bundle's task {manifest.task!r} is not one that sim can run, and no --data was "
            "given; give --data FILE.npz with obs (n, obs_dim) as `edp control --record FILE.npz` writes them on the "
            f"robot. Random inputs are never used. Tasks of sim: {', '.join(task_names())}"
        )
    first, second = (sample(policy, manifest, spec, 1000 * seed + i) for i in range(2))
    return Visited(first, second, f"{N_EPISODES} simulated episodes of {spec.name}")


def sample(policy: Policy, manifest: Manifest, spec: TaskSpec, seed: int) -> Rows:
    """Returns at most MAX_ROWS decisions (obs and noise) out of N_EPISODES whole episodes, drawn without return."""
    seen: list[Rows] = []
    act = bundle_actor(policy, spec, manifest.latent_dim, seed, seen.append)
    evaluate(act, spec.name, N_EPISODES, seed, manifest.n_action_steps)
    obs, noise = (
        np.concatenate([getattr(rows, name) for rows in seen]) for name in ("obs", "noise")
    )
    picks = _thin(np.arange(len(obs)), seed)
    return Rows(obs[picks].astype(np.float32), noise[picks])


def from_recording(data: Path, manifest: Manifest, seed: int) -> Visited:
    """Returns rows of a recording with fresh noise; its last quarter is held out.

    Neighbours in time are alike, so that a row held out at random would have its twin among the others.
    """
    obs, rng = read_obs(data, manifest.obs_dim), np.random.default_rng(seed)
    cut = round(len(obs) * (1 - HELD_OUT))
    parts = []
    for rows in (np.arange(cut), np.arange(cut, len(obs))):
        picks = _thin(rows, seed)
        noise = rng.standard_normal((len(picks), manifest.latent_dim), dtype=np.float32)
        parts.append(Rows(obs[picks], noise))
    return Visited(*parts, source=f"recording {Path(data).name}, {len(obs)} rows")


def read_obs(data: Path, obs_dim: int) -> np.ndarray:
    """Returns the observations (n, obs_dim) float32 of an .npz file.

    Raises:
        CalibrationError: no such array in it, another shape, too few rows, or rows that are not finite.
    """
    try:
        with np.load(data, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CalibrationError(
            f"no calibration data: {data} is not an .npz file of plain arrays: {error}"
        ) from error
    expected = (
        f"obs (n, {obs_dim}) with n >= {MIN_ROWS}, as `edp control --record FILE.npz` writes it"
    )
    if "obs" not in arrays:
        raise CalibrationError(
            f"no calibration data: {data} holds {sorted(arrays)}; expected {expected}"
        )
    obs = arrays["obs"]
    if (
        obs.ndim != 2
        or obs.shape[1] != obs_dim
        or len(obs) < MIN_ROWS
        or obs.dtype.kind not in "fiu"
    ):
        raise CalibrationError(
            f"no calibration data: obs of {data} is {obs.dtype} {obs.shape}; expected {expected}. Random inputs are "
            "never used; record the robot for longer"
        )
    bad = np.flatnonzero(~np.isfinite(obs).all(axis=1))
    if len(bad):
        raise CalibrationError(
            f"obs of {data} is not finite in {len(bad)} rows, {bad[:5].tolist()} first; drop them"
        )
    return obs.astype(np.float32)


def _thin(rows: np.ndarray, seed: int) -> np.ndarray:
    """Returns at most MAX_ROWS of `rows` (n,), in order, each at most once."""
    if len(rows) <= MAX_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
