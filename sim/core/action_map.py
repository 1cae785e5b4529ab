"""How a normalised action becomes a command in physical units. Every environment uses this map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ActionMap:
    """Maps actions in [-1, 1]^act_dim to commands.

    `absolute`: command = offset + scale * action.
    `increment`: command = previous command + scale * action, in each control step.
    Both are clipped to [low, high].

    Attributes:
        kind: absolute or increment.
        scale: Command units for one unit of action, for each action.
        offset: Command of action 0 (`absolute` only).
        low: Lowest command of each action.
        high: Highest command of each action.
        command_start: Index in the obs where the previous command begins (`increment` only).
    """

    kind: Literal["absolute", "increment"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    command_start: int = -1

    @classmethod
    def spread(cls, low: np.ndarray, high: np.ndarray) -> ActionMap:
        """Returns the absolute map that spreads [-1, 1] over `low` to `high`, each (act_dim,)."""
        low = np.asarray(low, np.float64)
        high = np.asarray(high, np.float64)
        return cls(
            kind="absolute",
            scale=tuple(((high - low) / 2).tolist()),
            offset=tuple(((high + low) / 2).tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
        )

    def command(self, previous: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Returns the commands (n, act_dim) of one control step.

        Both arguments are (n, act_dim): the previous commands, which `absolute` ignores, and the
        actions.
        """
        base = self._offset if self.kind == "absolute" else previous
        return self._clipped(base + self._scale * action)

    def unlimited(self, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Returns the commands (n, horizon, act_dim) of a chunk of actions before they are clipped.

        The obs is (n, obs_dim), the actions (n, horizon, act_dim).
        """
        moved = self._scale * actions
        if self.kind == "absolute":
            return self._offset + moved
        return self._previous(obs)[:, None] + np.cumsum(moved, axis=1)

    def chunk(self, obs: np.ndarray, action: np.ndarray, n_action_steps: int) -> np.ndarray:
        """Returns the commands (n, n_action_steps, act_dim) of one action that is held.

        Args:
            obs: (n, obs_dim), in which `increment` finds the previous command.
            action: (n, act_dim).
            n_action_steps: Control steps that the action is held for.
        """
        moved = (self._scale * action)[:, None]
        if self.kind == "absolute":
            command = np.repeat(self._offset + moved, n_action_steps, axis=1)
        else:
            k = np.arange(1, n_action_steps + 1)[None, :, None]
            command = self._previous(obs)[:, None] + k * moved
        return self._clipped(command)

    @cached_property
    def _scale(self) -> np.ndarray:
        return np.asarray(self.scale)

    @cached_property
    def _offset(self) -> np.ndarray:
        return np.asarray(self.offset)

    @cached_property
    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.low), np.asarray(self.high)

    def _clipped(self, command: np.ndarray) -> np.ndarray:
        """Returns the commands within their limits. This is np.clip, but faster on small arrays."""
        low, high = self._limits
        return np.minimum(np.maximum(command, low), high)

    def _previous(self, obs: np.ndarray) -> np.ndarray:
        """Returns the previous commands (n, act_dim), which stand in the obs."""
        return obs[:, self.command_start : self.command_start + len(self.scale)]
