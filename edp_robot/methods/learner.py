"""What the training loop asks of a learner."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from edp_robot.methods.replay import Replay


class Learner(Protocol):
    """What the loop trains: Pretrainer, RandomActor and every FineTuner."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions (n, act_dim) in [-1, 1] for observations (n, obs_dim)."""
        ...

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns from the replay; returns metrics.

        Args:
            replay: What was collected.
            n_updates: grad_steps.
            done: Share of the run that is over.
        """
        ...

    def state(self) -> Any:
        """Returns a tree of tensors and JSON values for the checkpoint."""
        ...

    def load(self, saved: Any) -> None:
        """Restores what `state` returned."""
        ...


@runtime_checkable
class Follower(Protocol):
    """A learner that scales observations by what was seen. It is shown every vector step."""

    def follow(self, replay: Replay) -> None:
        """Takes note of what the replay holds."""
        ...


@runtime_checkable
class Finisher(Protocol):
    """A learner with networks that take no part in acting. They learn after the last env_step."""

    def finish(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns from the whole replay; returns metrics.

        Args:
            replay: What was collected.
            n_updates: grad_steps.
            done: Share of `final_updates` that is over.
        """
        ...
