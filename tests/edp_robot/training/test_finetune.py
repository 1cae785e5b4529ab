import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_finetune, tiny_pretrain
from support.trained import checkpoint, differing, stop_after

from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.training import finetune as stage
from edp_robot.training.finetune import FinetuneConfig, final_policy, finetune, make_learner
from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import read_metrics
from edp_robot.training.train_loop import Loop
from sim.core.registry import task_spec

SPEC = task_spec("arm-press")


METHODS = sorted(FINE_TUNERS.names())


@pytest.mark.parametrize("method", METHODS)
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
    assert learner.normaliser.frozen


def at_zero(run, name):
    steps, values = read_metrics(run, name)
    return values[steps == 0].tolist()


def test_learning_offline_comes_before_the_first_env_step(pretrained, tmp_path, monkeypatch):
    config = tiny_finetune(pretrained, offline_rounds=2, n_eval_episodes=4)
    run = tmp_path / "run"
    seen = []
    first = Loop.decision
    monkeypatch.setattr(Loop, "decision", lambda loop: (seen.append(loop), first(loop)))
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, str(run), eval_every=10**6)
    n_grad_steps = 2 * config.loop.updates_per_round
    assert at_zero(run, "grad_steps") == [n_grad_steps]
    assert len(at_zero(run, "mean_return")) == len(at_zero(run, "success")) == 1
    assert 0 < at_zero(run, "learn_cpu_s")[0] <= at_zero(run, "cpu_s")[0]
    assert seen[0].learner.iql.optimizer.state_dict()["state"][0]["step"] == n_grad_steps


def test_from_scratch_there_is_nothing_to_learn_offline(pretrained, tmp_path, monkeypatch):
    config = replace(tiny_finetune(pretrained, offline_rounds=2, n_eval_episodes=4), start="")
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, str(tmp_path / "run"), eval_every=10**6)
    assert at_zero(tmp_path / "run", "grad_steps") == []
    assert len(at_zero(tmp_path / "run", "mean_return")) == 1


@pytest.mark.parametrize(("after", "n_rounds"), [(1, 1), (3, 3), (4, 3)])
def test_what_is_learned_offline_is_learned_once(
    pretrained, tmp_path, monkeypatch, after, n_rounds
):
    """A signal in the first offline round, in the last, or while the first evaluation runs."""
    config = tiny_finetune(pretrained, offline_rounds=3, n_eval_episodes=4)
    finetune(config, str(tmp_path / "whole"), eval_every=1_000)
    cut = tmp_path / "cut"
    calls = []

    def interrupting(function):
        def called(*given):
            calls.append(function)
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGINT)
            return function(*given)

        return called

    monkeypatch.setattr(Loop, "_round", interrupting(Loop._round))
    monkeypatch.setattr(stage, "evaluate", interrupting(stage.evaluate))
    with pytest.raises(KeyboardInterrupt):
        finetune(config, str(cut), eval_every=1_000)
    monkeypatch.undo()
    progress = checkpoint(cut)["progress"]
    assert (progress["env_step"], progress["offline_rounds"]) == (0, n_rounds)
    finetune(config, str(cut), resume=True, eval_every=1_000)
    assert differing(tmp_path / "whole", cut) == []
    for name in ("mean_return", "grad_steps"):
        whole = [values.tolist() for values in read_metrics(tmp_path / "whole", name)]
        assert [values.tolist() for values in read_metrics(cut, name)] == whole


def test_evaluations_change_nothing(pretrained, tmp_path):
    config = tiny_finetune(pretrained, n_eval_episodes=4)
    finetune(config, str(tmp_path / "without"))
    finetune(config, str(tmp_path / "with"), eval_every=1_000)
    assert differing(tmp_path / "without", tmp_path / "with") == []


def test_data_without_networks_scale_the_observations(tmp_path):
    """A body's velocities have no limits: their statistics are those of the data, and stay."""
    config = tiny_pretrain(task="hopper", method="random")
    loop = replace(config.loop, env_steps=1_600, random_env_steps=1_600)
    pretrain(replace(config, loop=loop), str(tmp_path / "random"))
    made = tiny_finetune(tmp_path / "random", task="hopper-hop", method="ddpg", reuse_policy=False)
    spec = task_spec("hopper-hop")
    learner = make_learner(spec, made)
    seen = checkpoint(tmp_path / "random")["replay"]["arrays"]["next_obs"].reshape(-1, 15)
    centre = learner.normaliser.centre.numpy()
    assert learner.normaliser.frozen
    assert np.abs(centre[-1] - seen[:, -1].mean().item()) < 0.2 * seen[:, -1].std().item()


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
    with pytest.raises(ValueError, match=r"no fine-tuner 'dpgd'.*ddpg, dipo, dql, edp, "):
        finetune(FinetuneConfig(method="dpgd"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_method_and_settings_must_belong_together():
    config = replace(tiny_finetune(""), method="ddpg")
    with pytest.raises(ValueError, match="tuner is a ResamplingConfig, but method 'ddpg' wants a "):
        make_learner(SPEC, config)
