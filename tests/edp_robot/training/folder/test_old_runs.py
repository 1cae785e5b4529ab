"""Run folders of older versions, whose config had a field for every method, load and resume."""

import json

import pytest
from support.tiny import tiny_finetune, tiny_pretrain

from edp_robot.methods.explore.particle import ParticleConfig
from edp_robot.methods.explore.rnd import RNDConfig
from edp_robot.training.runs import Run, RunRecord, config_dict, read_config

OTHERS = {
    "rnd": {"width": 8, "out_dim": 4, "learning_rate": 0.5},
    "particle": {"n_neighbours": 2, "n_particles": 7},
}
DDPG = tiny_finetune("", method="ddpg")
GUIDED = tiny_finetune("", method="edp-guidance")
DIFFUSION = ("action_model", "iql", "batch", "acting_denoise_steps", "anneal_from")


def old_pretraining(**changes):
    """Returns the fields of a pre-training's config.json as they were."""
    values = config_dict(tiny_pretrain())
    score = values.pop("reward")
    model = score.pop("model")
    return {**values, "state_model": model, "score_reward": score, **OTHERS, **changes}


def old_finetuning(config):
    """Returns the fields of a fine-tuning's config.json as they were: of all methods together."""
    values = config_dict(config)
    ddpg = config_dict(DDPG)["tuner"]
    tuner = config_dict(GUIDED)["tuner"] | {"n_uniform": 0} | values.pop("tuner")
    shared = {name: tuner.pop(name) for name in DIFFUSION if name in tuner}
    improve = {name: value for name, value in tuner.items() if name not in ddpg}
    improve["batch"] = improve.pop("policy_batch")
    improve["polyak"] = config_dict(GUIDED)["tuner"]["polyak"]
    del ddpg["batch"]
    return {**values, **shared, "ddpg": ddpg, "improve": improve}


def store(folder, values):
    """Makes `values` the config that the run folder holds."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": values}))


def test_a_pretraining_loads_and_resumes(tmp_path):
    config = tiny_pretrain()
    Run(tmp_path, config)
    store(tmp_path, old_pretraining())
    assert RunRecord.load(tmp_path).config == config
    Run(tmp_path, config, resume=True).go_on()
    assert read_config(tmp_path)["config"] == config_dict(config)


@pytest.mark.parametrize(
    ("method", "reward"), [("rnd", RNDConfig(8, 4, 0.5)), ("particle", ParticleConfig(2, 7))]
)
def test_a_pretraining_keeps_the_settings_of_its_method(tmp_path, method, reward):
    Run(tmp_path, tiny_pretrain())
    store(tmp_path, old_pretraining(method=method))
    assert RunRecord.load(tmp_path).config.reward == reward
    with pytest.raises(ValueError, match=f"another config: method={method} there, edp asked"):
        Run(tmp_path, tiny_pretrain(), resume=True)


@pytest.mark.parametrize(
    ("method", "then"), [("resampling", "edp"), ("edp-guidance", "edp-guidance"), ("ddpg", "ddpg")]
)
def test_a_fine_tuning_loads_and_resumes(tmp_path, method, then):
    config = tiny_finetune("", method=method)
    Run(tmp_path, config)
    store(tmp_path, {**old_finetuning(config), "method": then})
    assert RunRecord.load(tmp_path).config == config
    Run(tmp_path, config, resume=True).go_on()
    assert read_config(tmp_path)["config"] == config_dict(config)


def test_a_fine_tuning_by_resampling_was_called_edp(tmp_path):
    config = tiny_finetune("", method="resampling")
    Run(tmp_path, config)
    store(tmp_path, {**config_dict(config), "method": "edp"})
    assert RunRecord.load(tmp_path).config == config
    today = tiny_finetune("", method="edp")
    store(tmp_path, config_dict(today))
    assert RunRecord.load(tmp_path).config == today
