"""Tiny configurations: every stage in a second or two."""

from dataclasses import replace

from edp_robot.config import presets
from edp_robot.training.distillers import DistillConfig
from sim.core.registry import task_spec


def plain_spec(obs_dim=2, act_dim=1):
    """Returns a spec whose observation fields x0, x1, ... have one element each, in [-1, 1]."""
    spec = task_spec("modes")

    def field(old, name, start, n):
        return replace(
            old, name=name, start=start, stop=start + n, low=(-1.0,) * n, high=(1.0,) * n
        )

    obs = tuple(field(spec.obs[0], f"x{i}", i, 1) for i in range(obs_dim))
    action = field(spec.action[0], "action", 0, act_dim)
    return replace(spec, obs=obs, action=(action,))


def tiny_pretrain(task="arm", **changes):
    config = presets.pretrain("smoke", task, **changes)
    loop = replace(
        config.loop, env_steps=3_200, n_envs=8, random_env_steps=800, updates_per_round=2
    )
    return replace(config, loop=loop, batch=32)


def tiny_finetune(start, task="arm-press", **changes):
    """Returns a configuration for a task; `changes` as for presets.finetune."""
    config = presets.finetune("smoke", task, start=str(start), **changes)
    loop = replace(
        config.loop, env_steps=1_600, n_envs=4, decisions_per_update=10, updates_per_round=3
    )
    sizes = {
        "batch": 32,
        "n_states": 32,
        "n_proposals": 6,
        "n_uniform": 2,
        "proposal_denoise_steps": 3,
        "acting_denoise_steps": 3,
    }
    known = {name: value for name, value in sizes.items() if name in vars(config.tuner)}
    return replace(config, loop=loop, tuner=replace(config.tuner, **known))


def tiny_distill(start, **changes):
    sizes = {"n_chunks": 2, "pairs_per_chunk": 256, "passes_per_chunk": 2, "rollout_episodes": 1}
    return DistillConfig(start=str(start), width=32, n_layers=2, batch=64, **sizes, **changes)
