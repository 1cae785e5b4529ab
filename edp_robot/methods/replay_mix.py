"""Two replays as one: what pre-training saw, relabelled with the task's reward, beside what the task brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edp_robot.methods.replay import Batch, Replay
from sim.core.spec import TaskSpec


def relabelled(saved: dict[str, Any], spec: TaskSpec, seed: int) -> Replay:
    """Returns the replay of a pre-training checkpoint with `spec`'s reward of each next observation.

    Raises:
        ValueError: the task's reward is no function of the observation.
    """
    if spec.reward is None:
        raise ValueError(
            f"task {spec.name!r} has no reward that follows from the observation; use reuse_replay=False"
        )
    rows, n_envs, obs_dim = saved["arrays"]["obs"].shape
    replay = Replay(rows * n_envs, n_envs, obs_dim, saved["arrays"]["action"].shape[-1], seed)
    oldest = saved["n_added"] % rows if saved["n_added"] > rows else 0  # in a ring that has wrapped
    arrays = {k: torch.roll(v, -oldest, 0) for k, v in saved["arrays"].items()}
    replay.load({"arrays": arrays, "n_added": rows, "rng": replay.rng.bit_generator.state})
    replay.reward[:] = spec.reward(replay.next_obs.reshape(-1, obs_dim)).reshape(rows, n_envs)
    return replay


def sampler_state(prior: Replay | None) -> Mapping[str, Any] | None:
    """Returns the random state of a prior replay for the checkpoint (its content comes from the pre-training's)."""
    return None if prior is None else prior.rng.bit_generator.state


def set_sampler_state(prior: Replay | None, saved: Mapping[str, Any] | None) -> None:
    """Goes back to what `sampler_state` returned."""
    if prior is not None and saved is not None:
        prior.rng.bit_generator.state = saved


class MixedReplay:
    """Samples half of each batch from each of two replays, all from the first until the second holds enough."""

    def __init__(self, prior: Replay, online: Replay) -> None:
        self.prior, self.online = prior, online

    def sample(self, batch: int, n_step: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Returns `batch` transitions as `Replay.sample` does."""
        if min(self.online.n_added, self.online.rows) < n_step:
            return self.prior.sample(batch, n_step, device)
        parts = [
            self.prior.sample(batch // 2, n_step, device),
            self.online.sample(batch - batch // 2, n_step, device),
        ]
        return Batch(
            *(torch.cat([getattr(p, k) for p in parts]) for k in Batch.__dataclass_fields__)
        )
