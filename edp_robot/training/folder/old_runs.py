"""Translates config.json of older versions, where a config held the settings of every method."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]
DIFFUSION = ("action_model", "iql", "batch", "acting_denoise_steps", "anneal_from")
GUIDANCE = ("guidance", "guidance_batch")


def translated(kind: str, values: Values) -> Values:
    """Returns a config in today's layout; one that has it already comes back unchanged."""
    if kind == "PretrainConfig" and "score_reward" in values:
        return _pretrain(dict(values))
    if kind == "FinetuneConfig":
        return _renamed(_finetune(dict(values)) if "improve" in values else values)
    return values


def _renamed(values: Values) -> Values:
    """Returns the config with the method's name of today.

    `edp` was what is now `resampling`, the only one with uniform actions among its proposals.
    """
    is_resampling = values["method"] == "edp" and "n_uniform" in values["tuner"]
    return {**values, "method": "resampling"} if is_resampling else values


def _pretrain(values: Values) -> Values:
    """Returns the config with the chosen reward's settings as `reward`."""
    rewards = {
        "edp": {**values.pop("score_reward"), "model": values.pop("state_model")},
        "rnd": values.pop("rnd"),
        "particle": values.pop("particle"),
        "random": {},
    }
    return {**values, "reward": rewards[values["method"]]}


def _finetune(values: Values) -> Values:
    """Returns the config with the chosen fine-tuner's settings as `tuner`."""
    improve = dict(values.pop("improve"))
    improve["policy_batch"] = improve.pop("batch")
    ddpg = {**values.pop("ddpg"), "batch": values["batch"]}
    diffusion = {name: values.pop(name) for name in DIFFUSION} | improve
    guided = {name: value for name, value in diffusion.items() if name != "n_uniform"}
    resampled = {name: value for name, value in diffusion.items() if name not in GUIDANCE}
    tuners = {"edp": resampled, "edp-guidance": guided, "ddpg": ddpg}
    return {**values, "tuner": tuners[values["method"]]}
