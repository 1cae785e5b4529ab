"""Two replays as one: the pre-training's, relabelled with the task's reward, and the task's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from edp_robot.methods.replay import Batch, Replay
from sim.core.spec import TaskSpec


def relabelled(saved: dict[str, Any], spec: TaskSpec, seed: int) -> Replay:
    """Returns a pre-training's replay with the task's reward of each next observation.

    Args:
        saved: What `Replay.state` returned.
        spec: The task.
        seed: Seeds the sampling.

    Raises:
        ValueError: The task's reward is no function of the observation.
    """
    if spec.reward is None:
        raise ValueError(
            f"task {spec.name!r} has no reward that follows from the observation; "
            "use reuse_replay=False"
        )
    rows, n_envs, obs_dim = saved["arrays"]["obs"].shape
    replay = Replay(rows * n_envs, n_envs, obs_dim, saved["arrays"]["action"].shape[-1], seed)
    replay.load({**saved, "rng": replay.rng.bit_generator.state})
    reward = spec.reward(replay.next_obs[:rows].reshape(-1, obs_dim))
    replay.reward[:rows] = reward.reshape(rows, n_envs)
    return replay


def sampler_state(prior: Replay | None) -> Mapping[str, Any] | None:
    """Returns a prior replay's random state for the checkpoint.

    Its content stays in the pre-training's checkpoint.
    """
    return None if prior is None else prior.rng.bit_generator.state


def set_sampler_state(prior: Replay | None, saved: Mapping[str, Any] | None) -> None:
    """Restores what `sampler_state` returned."""
    if prior is not None and saved is not None:
        prior.rng.bit_generator.state = saved


class MixedReplay:
    """Samples half of each batch from each of two replays.

    All come from one of them while the other holds too little.
    """

    def __init__(self, prior: Replay, online: Replay) -> None:
        self.prior = prior
        self.online = online

    def sample(self, batch: int, n_step: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Returns `batch` transitions as `Replay.sample` does.

        Args:
            batch: Transitions.
            n_step: Steps of future with each.
            device: Where the tensors go.

        Raises:
            TooFewSteps: Both hold too little.
        """
        if self.prior.n_rows < n_step:
            return self.online.sample(batch, n_step, device)
        if self.online.n_rows < n_step:
            return self.prior.sample(batch, n_step, device)
        half = batch // 2
        old = self.prior.sample(half, n_step, device)
        new = self.online.sample(batch - half, n_step, device)
        names = [field.name for field in fields(Batch)]
        return Batch(*(torch.cat([getattr(old, name), getattr(new, name)]) for name in names))
