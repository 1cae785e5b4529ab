"""Numbers that are not finite are refused at the step that brought them, and never learned."""

import re

import numpy as np
import pytest
from support import toys

from sim.core.evaluate import evaluate
from sim.core.finite import NotFinite
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.tasks.gym import GymTask

assert toys  # its import registers the environments


def run(env, n=12):
    try:
        env.reset(seed=0)
        for _ in range(n):
            env.step(np.zeros((env.num_envs, 1)))
    finally:
        env.close()


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("obs", "observation 'observation'[1] is"),
        ("final", "observation 'observation'[0] is"),
        ("reward", "reward is"),
        ("success", "success is"),
    ],
)
def test_the_error_names_task_copy_and_step(bad, place, what):
    task = GymTask("EdpBroken-v0", bad=bad, place=place)
    for n in (1, 5):  # inside a hold too
        expected = (
            "task 'gym:EdpBroken-v0', copy 0, control step 7 of its episode (step 7 in all): "
        )
        with pytest.raises(NotFinite, match=re.escape(f"{expected}{what} {bad}")):
            run(Hold(task.make_vec(2, 0), n))


def test_a_reward_that_float32_does_not_hold_is_refused():
    with pytest.raises(NotFinite, match=r"reward is 1e\+39"):
        run(GymTask("EdpBroken-v0", bad="1e39", place="reward").make_vec(1, 0))


def test_a_first_observation_is_checked_at_reset_and_after_an_episode():
    broken = GymTask("EdpBroken-v0", at=0)
    with pytest.raises(NotFinite, match="copy 0, the reset of its episode"):
        broken.make_vec(1, 0).reset(seed=0)
    env = GymTask("EdpBroken-v0", place="final", at=3, bad="1").make_vec(2, 0)
    env.reset(seed=0)
    env._envs.envs[1].unwrapped.place = "obs"  # the second copy's resets come out broken
    env._envs.envs[1].unwrapped.bad = float("nan")
    env._envs.envs[1].unwrapped.at = 0
    env._envs.envs[1]._episode_steps = 3
    with pytest.raises(NotFinite, match=r"copy 1, the reset of its episode \(step 3 in all\)"):
        run_on(env)


def run_on(env):
    for _ in range(4):
        env.step(np.zeros((2, 1)))


def test_an_evaluation_refuses_them(monkeypatch):
    with pytest.raises(NotFinite, match="copy 0, control step 7"):
        evaluate(lambda obs: np.zeros((len(obs), 1)), "gym:EdpBroken-v0", 2, 0, 5)


def test_a_batch_refuses_them():
    env = make_vec("arm", 2, 0)
    env.reset()
    env._obs_of = lambda sensor, command: np.where([[0], [1]], np.nan, np.zeros((2, 22)))
    with pytest.raises(NotFinite, match=r"task 'arm', copy 1, control step 1 .* 'joint_pos'\[0\]"):
        env.step(np.zeros((2, 6)))
