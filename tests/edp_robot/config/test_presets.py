from dataclasses import replace

import pytest

from edp_robot.config import presets
from edp_robot.methods.explore.particle import ParticleConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.finetune.gaussian import GaussianConfig
from sim.core.registry import task_spec


def test_presets_list_what_exists():
    with pytest.raises(ValueError, match=r"no preset 'papr'; there are: smoke, demo, paper"):
        presets.pretrain("papr", "arm")
    with pytest.raises(ValueError, match=r"no task 'arn'"):
        presets.pretrain("demo", "arn")


@pytest.mark.parametrize(("task", "steps"), [("arm", 10), ("maze-square-a", 1), ("modes", 1)])
def test_an_action_is_held_as_long_as_the_task_says(task, steps):
    assert presets.pretrain("demo", task).loop.n_action_steps == steps
    assert presets.finetune("demo", task).loop.n_action_steps == steps
    assert presets.clone("demo", task).n_action_steps == steps


def test_paper_preset_is_the_papers():
    maze = presets.pretrain("paper", "maze-square-a")
    walker = presets.pretrain("paper", "gym:Walker2d-v5")
    assert (maze.reward.n_draws, maze.loop.updates_per_round, maze.batch) == (20, 5, 1024)
    assert walker.batch == 256
    assert (maze.ddpg.width, maze.ddpg.n_step) == (1024, 3)
    model = maze.reward.model
    assert (model.width, model.inner, model.dropout) == (256, 1024, 0.1)


def test_paper_preset_fine_tunes_as_the_paper_does():
    config = presets.finetune("paper", "arm-press")
    assert config.method == "edp-guidance"
    assert not config.reuse_replay
    tuner = config.tuner
    assert (tuner.n_proposals, tuner.inverse_temp, tuner.iql.expectile) == (32, 3.0, 0.7)
    assert config.loop.updates_per_round == config.loop.decisions_per_update == 10_000


def test_a_method_brings_its_own_settings():
    assert presets.pretrain("demo", "arm", method="particle").reward == ParticleConfig()
    assert presets.pretrain("demo", "maze-square-a").reward.estimator == "exact"
    arm = presets.pretrain("demo", "arm").reward
    assert (arm.estimator, arm.fields) == ("exact", ("end_effector", "button_travel"))
    other = presets.pretrain("demo", "gym:Pendulum-v1").reward
    assert (other.estimator, other.fields, other.n_neighbours) == ("exact", (), 8.0)
    quadruped = presets.pretrain("demo", "quadruped").reward
    assert (quadruped.estimator, quadruped.fields) == ("exact", ())
    ddpg = presets.finetune("demo", "arm-press", method="ddpg")
    assert isinstance(ddpg.tuner, GaussianConfig)
    assert (ddpg.loop.decisions_per_update, ddpg.loop.updates_per_round) == (1, 40)
    assert presets.finetune("demo", "arm-press", method="ddpg", env_steps=7).loop.env_steps == 7


@pytest.mark.parametrize(("task", "per_transition"), [("arm-press", 2), ("walker-walk", 0.5)])
def test_held_tasks_get_more_grad_steps_for_a_transition(task, per_transition):
    for method in ("ddpg", "onestep"):
        loop = presets.finetune("demo", task, method=method).loop
        n_new = loop.n_envs * loop.decisions_per_update
        assert loop.updates_per_round == per_transition * n_new


@pytest.mark.parametrize("method", sorted(FINE_TUNERS.names()))
def test_every_method_learns_as_much_offline(method):
    config = presets.finetune("demo", "arm-press", method=method)
    offline = config.offline_rounds * config.loop.updates_per_round
    assert 900 <= offline < 900 + config.loop.updates_per_round
    assert presets.finetune("paper", "arm-press", method=method).offline_rounds == 0


def test_replay_is_reused_where_the_reward_follows_from_the_observation():
    assert presets.finetune("demo", "arm-press").reuse_replay
    assert not presets.finetune("demo", "gym:FetchReach-v4").reuse_replay
    assert presets.finetune("demo", "gym:FetchReach-v4", reuse_replay=True).reuse_replay


@pytest.mark.parametrize("preset", presets.NAMES)
def test_the_arm_with_a_puck_has_the_arms_presets(preset):
    arm = presets.pretrain(preset, "arm")
    puck = presets.pretrain(preset, "arm-puck")
    fields = () if preset == "paper" else task_spec("arm-puck").novelty_fields
    assert puck == replace(arm, task="arm-puck", reward=replace(arm.reward, fields=fields))
    assert presets.finetune(preset, "arm-push").reuse_replay == (preset != "paper")
