"""Gymnasium environments of a few lines, registered as gym:Edp<Name>-v0, for training on theirs."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box


class Unequal(gym.Env):
    """Pays 1 a step and ends after 3 to 20; obs: (steps so far, steps in all, last action)."""

    observation_space = Box(-50, 50, (3,), np.float32)
    action_space = Box(-10, 10, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        self.n = int(self.np_random.integers(3, 21))
        self.action = 0.0
        return self.obs(), {}

    def obs(self):
        return np.array([self.k, self.n, self.action], np.float32)

    def step(self, action):
        self.k += 1
        self.action = float(action[0])
        return self.obs(), 1.0, self.k >= self.n, False, {}


class Endless(Unequal):
    """Never ends by itself."""

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated, info


class Broken(Endless):
    """Gives `bad` in an obs, reward, success or final obs, at control step `at`."""

    def __init__(self, bad="nan", place="obs", at=7):
        self.bad = float(bad)
        self.place = place
        self.at = at

    def obs(self):
        obs = super().obs()
        if self.place == "obs" and self.k == self.at:
            obs[1] = self.bad
        return obs

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        is_bad = self.k == self.at
        if self.place == "reward" and is_bad:
            reward = self.bad
        if self.place == "success":
            info = {"is_success": self.bad if is_bad else 0.0}
        if self.place == "final" and is_bad:
            obs[0] = self.bad
            terminated = True
        return obs, reward, terminated, truncated, info


gym.register("EdpUnequal-v0", entry_point=Unequal)
gym.register("EdpUnequalLimit-v0", entry_point=Unequal, max_episode_steps=13)
gym.register("EdpEndless-v0", entry_point=Endless)
gym.register("EdpEndlessLimit-v0", entry_point=Endless, max_episode_steps=30)
gym.register("EdpBroken-v0", entry_point=Broken)
for _place in ("obs", "reward", "success", "final"):
    gym.register(f"EdpBroken_{_place}-v0", entry_point=Broken, kwargs={"place": _place})
