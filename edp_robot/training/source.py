"""What later stages take from a run: pre-trained networks, a diffusion policy, a critic, states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.diffusion.networks import TwinCritic, unstacked
from edp_robot.methods.models import noise_model, normaliser
from edp_robot.training.actor import torch_actor
from edp_robot.training.pretrain import PretrainConfig
from edp_robot.training.runs import RunConfig, RunRecord
from sim.core.evaluate import copies
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.core.spec import TaskSpec

STACKED = ("ddpg.", "action_model.")
N_REPLAYED = 20_000  # newest observations of the replay among the states that a student learns on


@dataclass(frozen=True)
class Stored:
    """One learner of a run: weights by name, and its replay as `Replay.state` returns it."""

    path: Path
    weights: dict[str, Tensor]
    replay: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Returns the weights of the network `name`.

        Raises:
            ValueError: The run holds no such network. The message lists those that it holds.
        """
        prefix = f"{name}."
        found = {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}
        if not found:
            networks = sorted({key.split(".")[0] for key in self.weights})
            raise ValueError(
                f"{self.path} holds no network {name!r}; it holds: {', '.join(networks) or 'none'}"
            )
        return found


@dataclass(frozen=True)
class Source:
    """A run with a policy: the policy, its task, held steps, states visited.

    `replay_obs` are raw observations (n, obs_dim).
    """

    record: RunRecord
    policy: nn.Module
    spec: TaskSpec
    n_action_steps: int
    replay_obs: Tensor

    @property
    def teacher(self) -> DiffusionPolicy:
        """Returns the policy of a run that `load_source` gave: a diffusion policy."""
        assert isinstance(self.policy, DiffusionPolicy)
        return self.policy


def load_pretrained(run: str | Path, index: int = 0) -> Stored:
    """Returns learner `index` of a pre-training run, cut out of the stack.

    Raises:
        FileNotFoundError: `run` holds no checkpoint.
        ValueError: It is no pre-training, or has no such learner.
    """
    record = RunRecord.load(run, PretrainConfig)
    n_seeds = record.config.n_seeds
    if not 0 <= index < n_seeds:
        raise ValueError(f"{run} has {n_seeds} seeds, 0 to {n_seeds - 1}; there is no seed {index}")
    saved = record.checkpoint()
    model = saved["learner"].get("model", {})  # uniform actions train none
    stacked = {k: v for k, v in model.items() if k.startswith(STACKED)}
    own = {k: v for k, v in model.items() if k.startswith("normaliser.")}
    own = {k: v[index] if v.dim() > 1 else v for k, v in own.items()}  # limits are all learners'
    weights = own | (unstacked(stacked, index) if stacked else {})
    arrays = saved["replay"]["arrays"]
    width = arrays["obs"].shape[1] // n_seeds
    mine = {k: v[:, index * width : (index + 1) * width] for k, v in arrays.items()}
    return Stored(record.path, weights, {**saved["replay"], "arrays": mine})


def load_source(run: str | Path, n_denoise_steps: int = 15) -> Source:
    """Returns the fine-tuned, pre-trained or cloned diffusion policy of a run folder.

    Of a pre-training of several seeds it is the first seed's.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: It holds no diffusion policy.
    """
    record = RunRecord.load(run)
    config = record.config
    stored = _stored(record)
    if not any(name.startswith(f"{config.POLICY}.") for name in stored.weights):
        raise ValueError(
            f"{run} is a {config.TITLE} that holds no diffusion policy; "
            "give a run of `edp pretrain` or `edp finetune` with --method edp, or of `edp clone`"
            f"{_shortcut(config)}"
        )
    spec = record.spec
    model = noise_model(spec.act_dim, spec.obs_dim, config.policy_model)
    model.load_state_dict(stored.part(config.POLICY))
    norm = normaliser(spec)
    norm.load_state_dict(stored.part("normaliser"))
    teacher = DiffusionPolicy(norm, model, spec.act_dim, n_denoise_steps)
    return Source(
        record,
        teacher.requires_grad_(False).eval(),
        spec,
        config.n_action_steps,
        stored.replay["arrays"]["obs"].reshape(-1, spec.obs_dim),
    )


def _shortcut(config: RunConfig) -> str:
    """Returns what to do with a policy that needs no distillation."""
    needs_none = config.is_direct
    return f". Its {config.method} policy acts in one call: export it" if needs_none else ""


def _stored(record: RunRecord) -> Stored:
    """Returns the weights and the replay of a run; of a pre-training, those of the first seed."""
    if isinstance(record.config, PretrainConfig):
        return load_pretrained(record.path)
    if not record.config.POLICY:
        return Stored(record.path, {}, {})
    saved = record.checkpoint()
    return Stored(record.path, saved["learner"]["model"], saved["replay"])


def load_critic(run: str | Path, spec: TaskSpec) -> TwinCritic:
    """Returns the critic that fine-tuned a run's policy; for a distillation, its teacher's policy.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: The policy never had a critic.
    """
    record = RunRecord.load(run)
    if record.config.teacher:
        return load_critic(record.config.teacher, spec)
    config = record.config.critic
    if config is None:
        raise ValueError(
            f"{run} is a {record.config.TITLE} without a critic; "
            "best of K wants a run of `edp finetune`"
        )
    critic = TwinCritic(spec.obs_dim, spec.act_dim, config.width, layer_norm=config.layer_norm)
    critic.load_state_dict(_stored(record).part("iql.critic_target"))
    return critic.requires_grad_(False).eval()


def visited_states(source: Source, n_envs: int, n_episodes: int, seed: int) -> Tensor:
    """Returns raw observations (n, obs_dim) that the policy meets, and the replay's newest.

    The replay adds states around the policy's own.

    Args:
        source: The run with the policy.
        n_envs: Environments, as many at once as the task's `max_copies` allows.
        n_episodes: Episodes in each.
        seed: Seeds the worlds and the policy's noise.
    """
    spec = source.spec
    n_copies = copies(spec, n_envs)
    env = Hold(make_vec(spec.name, n_copies, seed), source.n_action_steps)
    act = torch_actor(source.policy, seed)
    rounds = -(-n_envs // n_copies) * n_episodes
    n_decisions = rounds * -(-spec.episode_steps // source.n_action_steps)
    rows = []
    try:
        obs, _ = env.reset(seed=seed)
        for _ in range(n_decisions):
            rows.append(obs)
            obs, *_ = env.step(act(obs))
    finally:
        env.close()
    return torch.cat([torch.from_numpy(np.concatenate(rows)), source.replay_obs[-N_REPLAYED:]])
