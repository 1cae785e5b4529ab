from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_finetune, tiny_pretrain
from support.trained import checkpoint, differing, stop_after

from edp_robot.methods.replay import Replay
from edp_robot.training.finetune import (
    FinetuneConfig,
    final_policy,
    finetune,
    learn_offline,
    make_learner,
)
from edp_robot.training.pretrain import pretrain
from sim.core.registry import task_spec

SPEC = task_spec("arm-press")


@pytest.mark.parametrize("method", ["edp", "edp-guidance", "ddpg"])
def test_resumed_finetuning_equals_uninterrupted(pretrained, tmp_path, monkeypatch, method):
    config = tiny_finetune(pretrained, method=method)
    finetune(config, str(tmp_path / "whole"))
    stop_after(monkeypatch, 25)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    finetune(config, str(tmp_path / "cut"), resume=True)
    assert differing(tmp_path / "whole", tmp_path / "cut") == []
    found = final_policy(config, tmp_path / "whole", n_episodes=2)
    assert 0 <= found.success <= 1


def test_finetuning_starts_as_the_pretrained_policy_with_relabelled_replay(pretrained):
    saved = checkpoint(pretrained)
    learner = make_learner(SPEC, tiny_finetune(pretrained))
    for model in (learner.reference, learner.psi, learner.psi_average):
        for name, value in model.state_dict().items():
            assert torch.equal(value, saved["learner"]["model"][f"action_model.{name}"][0])
    obs = saved["replay"]["arrays"]["next_obs"].numpy()
    assert np.array_equal(learner.prior.reward, (obs[..., 21] > 0.005).astype(np.float32))


def test_without_relabelling_there_is_no_prior(pretrained):
    config = tiny_finetune(pretrained, reuse_replay=False)
    assert make_learner(SPEC, config).prior is None


def test_data_of_random_actions_is_taken_over_without_networks(tmp_path):
    pretrain(tiny_pretrain(method="random"), str(tmp_path / "random"))
    config = tiny_finetune(tmp_path / "random", method="ddpg")
    with pytest.raises(ValueError, match="holds no network"):
        make_learner(SPEC, config)
    learner = make_learner(SPEC, replace(config, reuse_policy=False))
    saved = checkpoint(tmp_path / "random")["replay"]["arrays"]["obs"]
    assert learner.prior is not None and len(learner.prior) == saved.shape[0] * saved.shape[1]
    assert not learner.normaliser.frozen


def test_learning_offline_takes_no_env_step(pretrained):
    config = tiny_finetune(pretrained, offline_rounds=2)
    learner = make_learner(SPEC, config)
    online = Replay(capacity=100, n_envs=4, obs_dim=22, act_dim=6, seed=0)
    learn_offline(learner, online, config)
    pairs = zip(learner.psi.parameters(), learner.reference.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)
    assert len(online) == 0
    n_steps = learner.iql.optimizer.state_dict()["state"][0]["step"]
    assert n_steps == 2 * config.loop.updates_per_round


def test_from_scratch_there_is_nothing_to_learn_offline(pretrained):
    config = replace(tiny_finetune(pretrained, offline_rounds=2), start="")
    scratch = make_learner(SPEC, config)
    before = [p.clone() for p in scratch.psi.parameters()]
    learn_offline(scratch, Replay(100, 4, 22, 6, 0), config)
    pairs = zip(before, scratch.psi.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_start_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        finetune(tiny_finetune(tmp_path / "nothing"), str(tmp_path / "out"))


def test_a_start_without_networks_is_refused(tmp_path):
    config = tiny_pretrain(method="random")
    config = replace(config, loop=replace(config.loop, env_steps=800))
    pretrain(config, str(tmp_path / "random"))
    with pytest.raises(ValueError, match="holds no network 'action_model'; it holds: none"):
        make_learner(SPEC, tiny_finetune(tmp_path / "random"))


def test_one_of_several_seeds_is_the_start(tmp_path):
    config = tiny_pretrain(n_seeds=2)
    config = replace(config, loop=replace(config.loop, env_steps=1_600, n_envs=4))
    pretrain(config, str(tmp_path / "run"))
    learner = make_learner(SPEC, tiny_finetune(tmp_path / "run", start_seed=1))
    assert learner.prior.n_envs == 4
    assert torch.isfinite(learner.policy(torch.randn(5, 22), torch.randn(5, 6))).all()


def test_an_unknown_fine_tuner_is_refused(tmp_path):
    """It does not fall through to a default."""
    with pytest.raises(ValueError, match=r"no fine-tuner 'dpgd'.*ddpg, edp, edp-guidance"):
        finetune(FinetuneConfig(method="dpgd"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_method_and_settings_must_belong_together():
    config = replace(tiny_finetune(""), method="ddpg")
    with pytest.raises(ValueError, match="tuner is a ResamplingConfig, but method 'ddpg' wants a "):
        make_learner(SPEC, config)
