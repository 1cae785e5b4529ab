"""Tiny configurations: every stage in a second or two."""

from dataclasses import replace

from edp_robot.config import presets
from edp_robot.config.schema import DistillConfig


def tiny_pretrain(**changes):
    config = presets.pretrain("smoke", "arm", **changes)
    return replace(
        config,
        loop=replace(
            config.loop, env_steps=3_200, n_envs=8, random_env_steps=800, updates_per_round=2
        ),
        batch=32,
    )


def tiny_finetune(start, **changes):
    config = presets.finetune("smoke", "arm-press", start=str(start), **changes)
    return replace(
        config,
        loop=replace(
            config.loop, env_steps=1_600, n_envs=4, decisions_per_update=10, updates_per_round=3
        ),
        improve=replace(
            config.improve, n_states=32, n_proposals=6, n_uniform=2, proposal_denoise_steps=3
        ),
        acting_denoise_steps=3,
        batch=32,
    )


def tiny_distill(start, **changes):
    sizes = {"n_chunks": 2, "pairs_per_chunk": 256, "passes_per_chunk": 2, "rollout_episodes": 1}
    return DistillConfig(start=str(start), width=32, n_layers=2, batch=64, **sizes, **changes)
