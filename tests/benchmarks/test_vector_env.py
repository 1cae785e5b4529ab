import numpy as np
import vector_env
from vector_env_rivals.rivals import Bare, bare_model, makers

from sim.core.registry import make_task


def test_a_row_compares_with_the_fastest_rival():
    medians = {
        "theirs, 2 workers": 100.0,
        "theirs, 4 workers": 80.0,
        "bare, 2 workers": 150.0,
        "bare, 4 workers": 200.0,
        "ours, one core": 400.0,
        "ours": 500.0,
        "floor": 1234.0,
    }
    worked = dict(zip(medians, (300, 250, 120, 140, 60, 50, 30), strict=True))
    result = {name: {"p50": medians[name], "core_us": worked[name]} for name in medians}
    assert vector_env.row("walker-walk", result) == (
        "| walker-walk | 100 (250) | 200 (120) | 400 (60) | 500 (50) | 1,234 (30) "
        "| 5.0 (5.0) | 2.5 (2.4) |"
    )


def test_a_rate_counts_all_copies():
    calls = []
    runner = vector_env.Runner(calls.append, n_copies=256)
    rate, core_us = vector_env.rate(runner, seconds=0.01)
    assert 0 <= core_us * rate <= 1.5e6  # one core, and the clocks' steps
    assert 0 < rate <= sum(calls) * 256 / 0.01  # they took .01 s or more


def test_the_bare_environment_moves_as_ours_does():
    """It has no sensors, so it could not be faster by simulating something else."""
    task = make_task("hopper-hop")
    model = bare_model(task)
    bare = Bare(task, model)
    first, _ = bare.reset(seed=0)
    ours = task.make_vec(1, 0)
    ours.reset()
    saved = ours.get_state()
    saved["state"][0, 1:] = np.concatenate([bare._data.qpos, bare._data.qvel])
    ours.set_state(saved)
    assert first.shape == (14,)
    for _ in range(5):
        action = np.full(4, 0.7, np.float32)
        obs, *_ = bare.step(action)
        ours.step(action[None])
    np.testing.assert_allclose(obs, ours.get_state()["state"][0, 1:], atol=1e-5)
    assert not bare._data.sensordata.any()
    assert task.model.opt.disableflags != model.opt.disableflags


def test_their_environment_is_one_of_gymnasiums():
    env = makers("cheetah-run")["theirs"]()
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (17,)
    after = env.step(np.zeros(6))
    assert after[0].shape == (17,) and after[2:] == (False, False, {})
