"""The observations that a policy meets: in its own simulated task, or recorded on a robot."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.file import CalibrationError
from policy_server.contract.manifest import Manifest
from policy_server.contract.policy import BatchPolicy
from sim.core.evaluate import evaluate_commands
from sim.core.registry import task_names, task_spec

N_EPISODES = 32  # episodes to calibrate on, and as many others to compare actions on
MAX_ROWS = 1024  # rows of each
MIN_ROWS = 40  # rows of a recording
HELD_OUT = 0.25  # share of a recording, at its end
RECORDING_ERRORS = (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile)


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
    """Rows to calibrate with, and rows to judge by: other episodes, or the end of a recording.

    Attributes:
        calibration: Rows that set the scales.
        held_out: Rows that did not.
        source: Where the rows come from, in words.
    """

    calibration: Rows
    held_out: Rows
    source: str


def answers(
    policy: BatchPolicy, latent_dim: int, seed: int, on_rows: Callable[[Rows], None] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from obs (n, obs_dim) to commands (n, horizon, act_dim), with fresh noise.

    Args:
        policy: Computes the commands.
        latent_dim: Numbers of noise in one decision.
        seed: Seeds the noise.
        on_rows: Called with the policy's input before it answers.
    """
    rng = np.random.default_rng(seed)

    def answer(obs: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(obs), latent_dim), dtype=np.float32)
        if on_rows is not None:
            on_rows(Rows(obs, noise))
        return policy.act(obs, noise)

    return answer


def is_simulated(manifest: Manifest) -> bool:
    """Returns whether `sim` can run the bundle's task.

    The name is in a file that others may have written, so it must not import code.

    Raises:
        CalibrationError: `sim` has other observations or actions under this name.
    """
    try:
        spec = task_spec(manifest.task, may_import=False)
    except ValueError:
        return False
    ours = (manifest.obs_dim, manifest.act_dim)
    theirs = (spec.obs_dim, spec.act_dim)
    if ours != theirs:
        raise CalibrationError(
            f"the bundle has (obs_dim, act_dim) {ours}, task {manifest.task!r} in sim {theirs}, so "
            "it was made for another task; export it again, or give the bundle's task another name"
        )
    return True


def collect(
    policy: BatchPolicy, manifest: Manifest, simulated: bool, data: Path | None, seed: int
) -> Visited:
    """Returns the rows of `data`, or without it those of the policy in closed loop on its own task.

    Args:
        policy: Computes the commands.
        manifest: The policy's manifest.
        simulated: Whether `sim` can run its task.
        data: Recording (.npz) of a robot.
        seed: Seeds start states, noise and the choice of rows.

    Raises:
        CalibrationError: There is nothing to calibrate with.
    """
    if data is not None:
        return from_recording(data, manifest, seed)
    if not simulated:
        raise CalibrationError(
            f"no calibration data: the bundle's task {manifest.task!r} is none of sim's, and no "
            "--data was given; give --data FILE.npz with obs (n, obs_dim) as "
            "`edp control --record FILE.npz` writes them on the robot. Random inputs are never "
            f"used. Tasks of sim: {', '.join(task_names())}"
        )
    first, second = (sample(policy, manifest, 1000 * seed + i) for i in range(2))
    return Visited(first, second, f"{N_EPISODES} simulated episodes of {manifest.task}")


def sample(policy: BatchPolicy, manifest: Manifest, seed: int) -> Rows:
    """Returns at most MAX_ROWS decisions out of N_EPISODES whole episodes, each at most once.

    Args:
        policy: Computes the commands.
        manifest: The policy's manifest.
        seed: Seeds start states, noise and the choice of rows.
    """
    seen: list[Rows] = []
    answer = answers(policy, manifest.latent_dim, seed, seen.append)
    evaluate_commands(answer, manifest.task, N_EPISODES, seed, manifest.n_action_steps)
    obs = np.concatenate([rows.obs for rows in seen])
    noise = np.concatenate([rows.noise for rows in seen])
    picks = _thin(np.arange(len(obs)), seed)
    return Rows(obs[picks].astype(np.float32), noise[picks])


def from_recording(data: Path, manifest: Manifest, seed: int) -> Visited:
    """Returns rows of a recording with fresh noise. Its last quarter is held out.

    Neighbours in time are alike, so rows held out at random would be nearly equal to rows that are
    not.

    Args:
        data: Recording (.npz) of a robot.
        manifest: The policy's manifest.
        seed: Seeds noise and the choice of rows.
    """
    obs = read_obs(data, manifest.obs_dim)
    rng = np.random.default_rng(seed)
    cut = round(len(obs) * (1 - HELD_OUT))
    parts = []
    for rows in (np.arange(cut), np.arange(cut, len(obs))):
        picks = _thin(rows, seed)
        noise = rng.standard_normal((len(picks), manifest.latent_dim), dtype=np.float32)
        parts.append(Rows(obs[picks], noise))
    return Visited(*parts, source=f"recording {data.name}, {len(obs)} rows")


def read_obs(data: Path, obs_dim: int) -> np.ndarray:
    """Returns the observations (n, obs_dim) float32 of an .npz file.

    Raises:
        CalibrationError: The file has no such array, its shape differs, it has too few rows, or a
            row is not finite.
    """
    try:
        with np.load(data, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except RECORDING_ERRORS as error:
        raise CalibrationError(
            f"no calibration data: {data} is not an .npz file of plain arrays: {error}"
        ) from error
    expected = f"obs (n, {obs_dim}) with n >= {MIN_ROWS}, as `edp control --record FILE.npz` writes"
    if "obs" not in arrays:
        raise CalibrationError(
            f"no calibration data: {data} holds {sorted(arrays)}; expected {expected}"
        )
    obs = arrays["obs"]
    fits = obs.ndim == 2 and obs.shape[1] == obs_dim and len(obs) >= MIN_ROWS
    if not fits or obs.dtype.kind not in "fiu":
        raise CalibrationError(
            f"no calibration data: obs of {data} is {obs.dtype} {obs.shape}; expected {expected}. "
            "Random inputs are never used; record the robot for longer"
        )
    bad = np.flatnonzero(~np.isfinite(obs).all(axis=1))
    if len(bad):
        first = bad[:5].tolist()
        raise CalibrationError(
            f"obs of {data} is not finite in {len(bad)} rows, {first} first; drop them"
        )
    return obs.astype(np.float32)


def _thin(rows: np.ndarray, seed: int) -> np.ndarray:
    """Returns at most MAX_ROWS of `rows` (n,), in order, each at most once."""
    if len(rows) <= MAX_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
