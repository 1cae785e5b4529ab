"""A synthetic task whose good actions have four modes, while the mean of the modes is wrong.

An episode is one decision. Observation: context (2,) in [-1, 1]. Action (3,). Mode k = 0 ... 3
lies at

    centre_k = (.6 cos phi, .6 sin phi, .5 c_2 (-1)^k),   phi = pi / 4 + k pi / 2 + .8 c_1

and pays 1 within RADIUS of it. `expert` shows all four modes, some more often than others. The mean
of its actions, which a network fitted by squared error answers, is never paid.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sim.core.action_map import ActionMap
from sim.core.registry import TASKS
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import SameStepVectorEnv

TASK = "modes"
WEIGHTS = (0.4, 0.3, 0.2, 0.1)  # how often `expert` shows each mode
STD = 0.05
RADIUS = 0.2  # four standard deviations: 1 - .0011 of the expert's actions


def centres(obs: np.ndarray) -> np.ndarray:
    """Returns the modes (n, 4, 3) at contexts (n, 2)."""
    k = np.arange(len(WEIGHTS))
    c = np.asarray(obs, np.float64)[:, :, None]
    phi = np.pi / 4 + k * np.pi / 2 + 0.8 * c[:, 0]
    return np.stack([0.6 * np.cos(phi), 0.6 * np.sin(phi), 0.5 * c[:, 1] * (-1.0) ** k], -1)


def distances(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Returns how far actions (n, 3) are from each mode (n, 4)."""
    return np.linalg.norm(centres(obs) - np.asarray(action)[:, None], axis=-1)


def expert(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns demonstrated actions (n, 3) float32 at contexts (n, 2)."""
    rows = rng.choice(len(WEIGHTS), len(obs), p=WEIGHTS)
    noise = STD * rng.standard_normal((len(obs), 3))
    return np.clip(centres(obs)[np.arange(len(obs)), rows] + noise, -1, 1).astype(np.float32)


@TASKS.register(TASK)
class ModesTask:
    """The task `modes`."""

    @cached_property
    def spec(self) -> TaskSpec:
        """Context (2,) and choice (3,), without units."""
        unit = np.ones(3)
        return TaskSpec(
            name=TASK,
            obs=tile(Part("context", "1", -unit[:2], unit[:2])),
            action=tile(Part("choice", "1", -unit, unit)),
            action_map=ActionMap.spread(-unit, unit),
            control_period_s=1.0,  # nominal: it has no clock
            episode_steps=1,
            domain="modes",
        )

    def make_vec(self, n_envs: int, seed: int) -> ModesVecEnv:
        """Returns `n_envs` contexts as one vector environment."""
        return ModesVecEnv(self.spec, n_envs, seed)


class ModesVecEnv(SameStepVectorEnv):
    """`n_envs` contexts. `infos["success"]` and the reward say whether the action hit a mode.

    Args:
        spec: The task's contract.
        n_envs: Number of contexts.
        seed: Seeds the first `reset()` that gives no seed itself.
    """

    def __init__(self, spec: TaskSpec, n_envs: int, seed: int = 0) -> None:
        super().__init__(spec, n_envs, seed)
        self.context = np.zeros((n_envs, 2), np.float32)

    def _start(self, rows: np.ndarray) -> None:
        self.context[rows] = self.rng.uniform(-1, 1, (len(rows), 2))

    def _observe(self) -> np.ndarray:
        return self.context

    def _advance(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        hit = distances(self.context, command).min(1) < RADIUS
        return hit.astype(float), np.zeros(self.num_envs, bool), {"success": hit}

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns the shared state and the contexts (n, 2)."""
        return {**super().get_state(), "context": self.context.copy()}

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self.context = np.array(saved["context"], np.float32)
