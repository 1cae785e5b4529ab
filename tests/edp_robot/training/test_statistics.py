"""Training on observations whose limits say nothing, from cloning to export."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.one_step import name, right_action
from support.tiny import tiny_distill
from support.trained import checkpoint, differing, stop_after

from edp_robot.config import presets
from edp_robot.deploy.export import export, load_policy
from edp_robot.training.actor import torch_actor
from edp_robot.training.checkpoint import save_tree
from edp_robot.training.clone import clone
from edp_robot.training.distill import distill
from edp_robot.training.finetune import finetune
from edp_robot.training.pretrain import pretrain
from edp_robot.training.source import load_source
from policy_server.contract.bundle import Bundle
from policy_server.runtime.base import load_backend
from sim.core.evaluate import evaluate

FREE = name("-inf", "inf")


def small(model):
    return replace(model, width=16, inner=16, n_blocks=1, time_dim=16)


def cloned(folder, task, first=6.0, last=20.0, n_chunks=6):
    """Returns the run folder of a clone of right actions."""
    g = np.random.default_rng(0).uniform(first, last, (1000, 1)).astype(np.float32)
    obs = np.concatenate([g, np.full_like(g, 3.0)], 1)
    np.savez(folder / "d.npz", obs=obs, action=right_action(g, first, last))
    config = presets.clone("demo", task, data=str(folder / "d.npz"), n_chunks=n_chunks)
    model = replace(small(config.action_model), learning_rate=1e-2)
    clone(replace(config, action_model=model, polyak=0.05, batch=128), str(folder / "run"))
    return folder / "run"


def explored(folder, task=FREE, **changes):
    """Returns the run folder of a tiny pre-training."""
    pretrain(pretraining(task, **changes), str(folder))
    return folder


def pretraining(task=FREE, **changes):
    config = presets.pretrain("smoke", task, env_steps=320, n_envs=4, **changes)
    loop = replace(config.loop, random_env_steps=240, updates_per_round=1, checkpoint_every_s=1e9)
    return replace(config, loop=loop, batch=16, action_model=small(config.action_model))


def finetuning(start, task=FREE, **changes):
    config = presets.finetune("smoke", task, start=str(start), env_steps=80, n_envs=4, **changes)
    tuner = config.tuner
    if config.method != "ddpg":
        tuner = replace(tuner, action_model=small(tuner.action_model), acting_denoise_steps=2)
    return replace(config, tuner=tuner, loop=replace(config.loop, updates_per_round=1))


def statistics(run):
    """Returns the normaliser's tensors in a checkpoint."""
    weights = checkpoint(run)["learner"]["model"]
    return {
        k.removeprefix("normaliser."): v for k, v in weights.items() if k.startswith("normaliser.")
    }


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [("-inf", "inf", 6.0, 20.0), ("-1e6", "1e6", 1006.0, 1020.0), ("0", "inf", 6e-6, 20e-6)],
)
def test_a_clone_does_its_task_whatever_the_limits_say(tmp_path, low, high, first, last):
    task = name(low, high, first, last)
    source = load_source(cloned(tmp_path, task, first, last), 8)
    assert evaluate(torch_actor(source.teacher, 0), task, 200, 1).success > 0.9


def test_the_bundle_answers_what_torch_does_also_far_outside_of_the_data(tmp_path):
    """The frozen statistics are in the graph; the manifest's limits are still the task's own."""
    run = cloned(tmp_path, FREE, n_chunks=1)
    export(run, tmp_path / "bundle", n_denoise_steps=4)
    bundle = Bundle.load(tmp_path / "bundle")
    assert (bundle.manifest.obs[0].low, bundle.manifest.obs[0].high) == ((-np.inf,), (np.inf,))
    source = load_source(run, 4)
    g = np.float32([-1e30, -50, 0, 6, 13, 20, 40, 1e6, 3e38])
    obs = np.stack([g, np.full_like(g, 3.0)], 1)
    noise = np.random.default_rng(0).standard_normal((len(g), 1)).astype(np.float32)
    answer = load_backend(bundle, provider="cpu").act(obs, noise)[:, 0]
    with torch.no_grad():
        expected = source.teacher(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_a_pretraining_scales_by_its_replay(tmp_path, n_seeds):
    run = explored(tmp_path / "run", n_seeds=n_seeds)
    held = statistics(run)
    obs = checkpoint(run)["replay"]["arrays"]["obs"]
    for k in range(n_seeds):
        g = obs[:, 4 * k : 4 * (k + 1), 0].double()
        assert held["centre"][k, 0].item() == pytest.approx(g.mean().item(), abs=0.5)
        assert held["scale"][k, 0].item() == pytest.approx(g.std().item(), rel=0.1)
        assert (held["centre"][k, 1], held["scale"][k, 1]) == (0, 5)  # the limits of `place`
    assert held["by_data"].tolist() == [[True, False]] * n_seeds
    teacher = load_source(run, 2).teacher
    assert torch.equal(teacher.normaliser.scale, held["scale"][0])


@pytest.mark.parametrize("method", ["edp", "particle"])
def test_a_resumed_pretraining_ends_where_a_whole_one_does(tmp_path, monkeypatch, method):
    explored(tmp_path / "whole", method=method)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 61)
        pretrain(pretraining(method=method), str(tmp_path / "cut"))
    assert (
        statistics(tmp_path / "cut")["scale"][0, 0] != statistics(tmp_path / "whole")["scale"][0, 0]
    )
    pretrain(pretraining(method=method), str(tmp_path / "cut"), resume=True)
    assert differing(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.parametrize("method", ["edp", "ddpg"])
def test_a_finetuning_keeps_the_normaliser_that_its_policy_was_trained_with(tmp_path, method):
    """Its own data are another's: the task is shifted by 1,000."""
    start = explored(tmp_path / "start", n_seeds=2)
    shifted = name("-inf", "inf", 1006.0, 1020.0)
    finetune(finetuning(start, shifted, method=method, start_seed=1), str(tmp_path / "run"))
    for key, value in statistics(tmp_path / "run").items():
        assert torch.equal(value, statistics(start)[key][1])


@pytest.mark.parametrize("method", ["edp", "ddpg"])
def test_a_finetuning_from_scratch_scales_by_its_own_replay_and_resumes(
    tmp_path, monkeypatch, method
):
    config = finetuning("", method=method, reuse_replay=False)
    finetune(config, str(tmp_path / "whole"))
    assert statistics(tmp_path / "whole")["centre"][0] == pytest.approx(13, abs=1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 11)
        finetune(config, str(tmp_path / "cut"))
    finetune(config, str(tmp_path / "cut"), resume=True)
    assert differing(tmp_path / "whole", tmp_path / "cut") == []


def test_student_and_best_of_k_see_what_their_teacher_saw(tmp_path):
    start = explored(tmp_path / "start")
    finetune(finetuning(start), str(tmp_path / "tuned"))
    student = distill(tiny_distill(tmp_path / "tuned", steps=2), str(tmp_path / "student"))
    assert torch.equal(student.normaliser.scale, statistics(start)["scale"][0])
    assert student.normaliser.uses_data
    best = load_policy(tmp_path / "student", best_of=2).policy
    assert torch.equal(best.normaliser.scale, student.normaliser.scale)


def without_statistics(run, task=FREE):
    """Makes a checkpoint what an older version wrote: limits only, and no word of a replay."""
    saved = checkpoint(run)
    weights = saved["learner"]["model"]
    del weights["normaliser.by_data"]
    del saved["learner"]["follows"]
    weights["normaliser.centre"] = torch.tensor([0.0, 0.0])
    weights["normaliser.scale"] = torch.tensor([1.0, 5.0])
    save_tree(run / "checkpoint.safetensors", saved)


def test_an_older_run_goes_on_and_is_used_without_statistics(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 70)
        pretrain(pretraining(), str(tmp_path / "run"))
    without_statistics(tmp_path / "run")
    seen = load_source(tmp_path / "run", 2).teacher.normaliser(torch.tensor([[13.0, 3.0]]))
    assert seen.tolist() == [[5.0, pytest.approx(0.6)]]
    pretrain(pretraining(), str(tmp_path / "run"), resume=True)
    assert set(statistics(tmp_path / "run")) == {"centre", "scale"}
    finetune(finetuning(tmp_path / "run"), str(tmp_path / "tuned"))
    assert set(statistics(tmp_path / "tuned")) == {"centre", "scale"}
