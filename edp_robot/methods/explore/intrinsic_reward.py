"""The base class of intrinsic rewards, which is the door for new ones, and their registry."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edp_robot.methods.doors import NoConfig, part_class
from policy_server.contract.doors.registries import Registry
from sim.core.spec import TaskSpec

INTRINSIC_REWARDS: Registry[type[IntrinsicReward]] = Registry(
    "intrinsic reward", package="edp_robot.methods.explore", group="edp_robot.intrinsic_rewards"
)
"""The registry of intrinsic rewards."""


class IntrinsicReward(nn.Module):
    """Pays `n_seeds` independent learners for states that are new to them.

    Observations come normalised, as (n_seeds, batch, obs_dim). A subclass sets `Config` to its
    frozen config dataclass and defines `error`. It defines `update` and `optimizers` where it
    learns, and `preset` where a preset or a kind of task needs settings of its own. State that a
    resumed run needs belongs in buffers, parameters and `optimizers`.

    Args:
        spec: The task: names, units and limits of the observation.
        config: An instance of `Config`.
        n_seeds: Learners side by side. None of them sees the states of another.
        centre: Whether `reward` subtracts the running mean. Then an actor with a bounded horizon
            seeks what pays more than average.
    """

    Config: ClassVar[type] = NoConfig
    learns: ClassVar[bool] = True  # False: actions are uniform and no network is trained
    # `update` and `error` are fit for edp_robot.engine.Recorded. A subclass says so of itself.
    recordable: ClassVar[bool] = False
    memory: ClassVar[int] = 100  # calls that the running moments look back on
    mean: Tensor
    mean_square: Tensor
    n_updates: Tensor

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.recordable = vars(cls).get("recordable", False)

    def __init__(
        self, spec: TaskSpec, config: Any, *, n_seeds: int = 1, centre: bool = False
    ) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.n_seeds = n_seeds
        self.centre = centre
        for name in ("mean", "mean_square", "n_updates"):
            self.register_buffer(name, torch.zeros(n_seeds))

    @classmethod
    def form(cls, config: Any) -> type[IntrinsicReward]:
        """Returns the class that `config` asks for, if a method has several."""
        return cls

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> Any:
        """Returns the config for a preset ("smoke", "demo" or "paper") and a task."""
        return cls.Config()

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Learns that obs (n_seeds, batch, obs_dim) were visited; returns metrics (n_seeds,)."""
        return {}

    def error(self, obs: Tensor) -> Tensor:
        """Returns how new each state is (n_seeds, batch), larger for newer, not yet scaled."""
        raise NotImplementedError

    @torch.no_grad()
    def reward(self, obs: Tensor) -> Tensor:
        """Returns the error over its running standard deviation (n_seeds, batch)."""
        error = self.error(obs)
        self.n_updates += 1
        rate = torch.clamp(1 / self.n_updates, min=1 / self.memory)
        self.mean += rate * (error.mean(-1) - self.mean)
        self.mean_square += rate * (error.square().mean(-1) - self.mean_square)
        std = (self.mean_square - self.mean.square()).clamp(min=1e-8).sqrt().unsqueeze(-1)
        return (error - self.mean.unsqueeze(-1)) / std if self.centre else error / std

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns its optimizers by name, for the checkpoint."""
        return {}


def reward_class(name: str) -> type[IntrinsicReward]:
    """Returns the intrinsic reward that `name` or `package.module:attribute` stands for.

    Raises:
        UnknownName: There is no such reward. The message lists those that exist.
        ValueError: The attribute does not extend IntrinsicReward.
    """
    return part_class(INTRINSIC_REWARDS, name, IntrinsicReward)
