"""Where networks are trained. torch's meta device stands for a device that is not the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.methods.replay import Replay
from edp_robot.training import devices
from edp_robot.training.pretrain import Pretrainer
from sim.core.registry import task_spec

META = torch.device("meta")


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick("auto").type == "cuda"
    assert devices.pick("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick("auto").type == "cpu"


def test_cuda_is_never_replaced_in_silence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cpu"):
        devices.pick("cuda")
    with pytest.raises(ValueError, match="'tpu'"):
        devices.pick("tpu")


def test_random_state_comes_back():
    saved = devices.random_state(devices.CPU)
    expected = torch.rand(3)
    devices.set_random_state(saved, devices.CPU)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_of_another_device_is_refused():
    saved = devices.random_state(devices.CPU)
    with pytest.raises(ValueError, match="--device cpu"):
        devices.set_random_state(saved, torch.device("cuda"))


@pytest.mark.parametrize("method", ["edp", "network", "rnd", "particle"])
def test_a_grad_step_makes_no_tensor_elsewhere(method):
    """A tensor made on the CPU does not go together with those on the device."""
    name = "edp" if method == "network" else method
    config = presets.pretrain("demo", "maze-square-a", method=name, n_seeds=2)
    if method == "network":
        config = changed(config, ["reward.estimator=shared"])
    learner = Pretrainer(task_spec("maze-square-a"), replace(config, batch=8)).to(META)
    replay = Replay(capacity=40, n_envs=4, obs_dim=2, act_dim=2, seed=0, n_seeds=2)
    vectors = np.zeros((4, 2))
    scalars = np.zeros(4)
    for _ in range(10):
        replay.add(vectors, vectors, scalars, vectors, scalars, scalars)
    metrics = learner.update_once(replay.sample(8, config.ddpg.n_step, META))
    assert "critic_loss" in metrics
    assert {value.device for value in metrics.values()} == {META}
    assert learner.ddpg.explore(torch.zeros(2, 2, 2, device=META)).device == META


def test_the_shared_generators_are_seeded_saved_and_restored(tmp_path):
    import random

    import numpy as np

    from edp_robot.training.checkpoint import load_tree, save_tree
    from edp_robot.training.devices import CPU, random_state, seed_all, set_random_state

    def drawn():
        return [random.random(), np.random.randn(), torch.rand(1).item()]  # noqa: NPY002

    seed_all(7)
    first = drawn()
    save_tree(tmp_path / "c", random_state(CPU))
    second = drawn()
    set_random_state(load_tree(tmp_path / "c"), CPU)
    assert drawn() == second
    seed_all(7)
    assert drawn() == first
    set_random_state({"cpu": torch.get_rng_state()}, CPU)  # as an older version saved it
