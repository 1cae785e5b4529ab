"""A run that holds a diffusion policy, as distillation and export read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edp_robot.config.schema import NoiseModelConfig
from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.diffusion.networks import TwinCritic
from edp_robot.methods.iql import IQLConfig
from edp_robot.training.actor import torch_actor
from edp_robot.training.models import noise_model, normaliser
from edp_robot.training.pretrained import load_pretrained, part
from edp_robot.training.runs import load_tree, read_config
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.core.spec import TaskSpec

POLICY = {
    "PretrainConfig": "action_model",
    "FinetuneConfig": "psi_average",
    "CloneConfig": "action_model",
}


@dataclass(frozen=True)
class Source:
    """A run that holds a diffusion policy: its teacher, task, held steps, config, and replay's obs (n, obs_dim)."""

    teacher: DiffusionPolicy
    spec: TaskSpec
    n_action_steps: int
    config: dict[str, Any]
    replay_obs: Tensor


def load_source(run: str | Path, n_denoise_steps: int = 15) -> Source:
    """Returns the fine-tuned (or pre-trained) diffusion policy of a run folder, with its task.

    Raises:
        FileNotFoundError: no run there. ValueError: a run that holds no diffusion policy.
    """
    held = read_config(run)
    config, kind = held["config"], held["kind"]
    if kind not in POLICY or config.get("method", "edp") not in ("edp", "edp-guidance"):
        raise ValueError(
            f"{run} is a {kind} of method {config.get('method')!r} and holds no diffusion policy; "
            "give a run of `edp pretrain` or `edp finetune` with --method edp, or of `edp clone`"
        )
    weights, replay = policy_weights(run, kind)
    env = make_vec(config["task"], 1, 0)
    spec = env.task_spec  # type: ignore[attr-defined]
    env.close()
    model = noise_model(spec.act_dim, spec.obs_dim, NoiseModelConfig(**config["action_model"]))
    model.load_state_dict(part(weights, POLICY[kind]))
    norm = normaliser(spec)
    norm.load_state_dict(part(weights, "normaliser"))
    teacher = (
        DiffusionPolicy(norm, model, spec.act_dim, n_denoise_steps).requires_grad_(False).eval()
    )
    visited = replay["arrays"]["obs"].reshape(-1, spec.obs_dim)
    held_steps = config.get("loop", config)["n_action_steps"]
    return Source(teacher, spec, held_steps, config, visited)


def policy_weights(run: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns weights by name and replay of a run; of a pre-training of several seeds, those of the first."""
    if kind == "PretrainConfig":
        first = load_pretrained(run)
        return first.weights, first.replay
    saved = load_tree(Path(run) / "checkpoint.safetensors")
    return saved["learner"]["model"], saved["replay"]


def load_critic(run: str | Path, spec: TaskSpec) -> TwinCritic:
    """Returns the critic that fine-tuned the policy of a run; of a distillation, that of its teacher.

    Raises:
        FileNotFoundError: no run there. ValueError: the policy never had a critic.
    """
    held = read_config(run)
    if held["kind"] == "DistillConfig":
        return load_critic(held["config"]["start"], spec)
    if held["kind"] != "FinetuneConfig" or held["config"]["method"] == "ddpg":
        raise ValueError(
            f"{run} is a {held['kind']} without a critic; best of K wants a run of `edp finetune`"
        )
    config = IQLConfig(**held["config"]["iql"])
    critic = TwinCritic(spec.obs_dim, spec.act_dim, config.width, layer_norm=config.layer_norm)
    weights = load_tree(Path(run) / "checkpoint.safetensors")["learner"]["model"]
    critic.load_state_dict(part(weights, "iql.critic_target"))
    return critic.requires_grad_(False).eval()


def visited_states(source: Source, n_envs: int, n_episodes: int, seed: int) -> Tensor:
    """Returns raw observations (n, obs_dim) that the teacher itself meets, and the replay's newest, for width."""
    env, rows = Hold(make_vec(source.spec.name, n_envs, seed), source.n_action_steps), []
    act = torch_actor(source.teacher, seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(n_episodes * source.spec.episode_steps // source.n_action_steps):
        rows.append(obs)
        obs, *_ = env.step(act(obs))
    env.close()
    return torch.cat([torch.from_numpy(np.concatenate(rows)), source.replay_obs[-20_000:]])
