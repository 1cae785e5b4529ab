from dataclasses import replace

import pytest
import torch
from support.tiny import tiny_pretrain
from support.trained import checkpoint

import edp_robot.training.source as source_module
from edp_robot.training.pretrain import pretrain
from edp_robot.training.source import load_critic, load_pretrained, load_source, visited_states
from sim.core.registry import make_vec, task_spec


def explored(folder, **changes):
    config = tiny_pretrain(**changes)
    loop = replace(config.loop, env_steps=1_600, n_envs=4)
    pretrain(replace(config, loop=loop), str(folder))
    return folder


def test_one_of_several_seeds_is_cut_out(tmp_path):
    run = explored(tmp_path / "run", n_seeds=2)
    saved = checkpoint(run)
    second = load_pretrained(run, 1)
    for name, own in second.part("ddpg.actor").items():
        assert torch.equal(own, saved["learner"]["model"][f"ddpg.actor.{name}"][1])
    assert torch.equal(second.replay["arrays"]["obs"], saved["replay"]["arrays"]["obs"][:, 4:])
    with pytest.raises(ValueError, match="has 2 seeds, 0 to 1; there is no seed 2"):
        load_pretrained(run, 2)


@pytest.mark.parametrize("method", ["edp", "rnd", "particle"])
def test_the_policy_of_every_intrinsic_reward_is_a_teacher(tmp_path, method):
    source = load_source(explored(tmp_path / "run", method=method), 2)
    with torch.no_grad():
        action = source.teacher(torch.zeros(3, 22), torch.randn(3, 6))
    assert action.shape == (3, 6)
    assert (source.spec.name, source.n_action_steps) == ("arm", 10)


def test_the_visited_states_come_from_a_bounded_number_of_copies(pretrained, monkeypatch):
    """5 environments asked, 2 allowed at once: 3 rounds of 40 decisions of 2."""
    source = load_source(pretrained, 1)
    source = replace(source, spec=replace(source.spec, max_copies=2))
    made = []

    def watched(task, n_envs, seed):
        made.append(n_envs)
        return make_vec(task, n_envs, seed)

    monkeypatch.setattr(source_module, "make_vec", watched)
    states = visited_states(source, 5, 1, 0)
    assert made == [2] and len(states) == 3 * 40 * 2 + len(source.replay_obs)


def test_a_run_without_diffusion_policy_says_so(tmp_path):
    run = explored(tmp_path / "run", method="random")
    with pytest.raises(ValueError, match="is a pre-training that holds no diffusion policy"):
        load_source(run)


def test_a_pretraining_has_no_critic_for_best_of_k(pretrained):
    with pytest.raises(ValueError, match="is a pre-training without a critic; best of K wants"):
        load_critic(pretrained, task_spec("arm"))
