"""The base class of fine-tuners, which is the door for new ones, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.engine import Recorded
from edp_robot.methods.doors import NoConfig, part_class
from edp_robot.methods.models import normaliser
from edp_robot.methods.obs_statistics import follow
from edp_robot.methods.replay import Batch, Replay
from edp_robot.methods.replay_mix import MixedReplay, sampler_state, set_sampler_state
from policy_server.contract.doors.registries import Registry
from sim.core.spec import TaskSpec

FINE_TUNERS: Registry[type[FineTuner]] = Registry(
    "fine-tuner", package="edp_robot.methods.finetune", group="edp_robot.fine_tuners"
)
"""The registry of fine-tuners."""


class FineTuner(nn.Module):
    """Improves a policy on the task's reward.

    A subclass sets `Config` to its frozen config dataclass, assigns `policy`, and defines `act`,
    `update` and `start_from`. A subclass that keeps a noise model should extend DiffusionTuner
    instead: then its policy can be distilled and exported. State that a resumed run needs belongs
    in parameters, buffers and `optimizers`.

    `policy` maps (raw obs (n, obs_dim), noise (n, policy.latent_dim)) to actions (n, act_dim) in
    [-1, 1]. `prior` is the pre-training's replay with the task's reward, or None.

    Args:
        spec: The task.
        config: An instance of `Config`.
    """

    Config: ClassVar[type] = NoConfig
    policy: nn.Module
    prior: Replay | None

    def __init__(self, spec: TaskSpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.prior = None
        self.normaliser = normaliser(spec)
        self._recordings: list[Recorded] = []

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> Any:
        """Returns the config for a preset ("smoke", "demo" or "paper") and a task."""
        return cls.Config()

    @classmethod
    def loop_changes(cls, preset: str) -> dict[str, Any]:
        """Returns the fields of LoopConfig that this method sets differently from the preset."""
        return {}

    @classmethod
    def updates_per_transition(cls, preset: str, spec: TaskSpec) -> float | None:
        """Returns the grad_steps for each decision of a world; None: those of the preset's loop."""
        return None

    def start_from(self, weights: Callable[[str], dict[str, Tensor]]) -> None:
        """Takes over pre-trained networks.

        Args:
            weights: Returns a network's weights by its name in the pre-training's checkpoint:
                "action_model" is the diffusion policy pi_d, "ddpg.actor" the Gaussian policy.
        """
        raise NotImplementedError

    def keep_normaliser(self, weights: dict[str, Tensor]) -> None:
        """Takes over the normaliser of a pre-training for good; `start_from`'s networks know it."""
        self.normaliser.load_state_dict(weights)
        self.normaliser.frozen = True

    def follow(self, replay: Replay) -> None:
        """Lets the normaliser follow the replay, unless it is a pre-training's."""
        follow(self.normaliser, self.spec, replay)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions (n, act_dim) in [-1, 1] for raw observations (n, obs_dim)."""
        raise NotImplementedError

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns from the replay; returns metrics.

        Args:
            replay: What the task has shown so far; `sample` mixes it with `prior`.
            n_updates: grad_steps of this round.
            done: Share of the run that is over, in [0, 1].
        """
        raise NotImplementedError

    def final_policy(self) -> nn.Module:
        """Returns the policy with the sampler that evaluation uses."""
        return self.policy

    def sample(self, replay: Replay, batch: int, n_step: int = 1) -> Batch:
        """Returns transitions of `replay` and the prior with normalised observations.

        Args:
            replay: The task's own replay.
            batch: Transitions.
            n_step: Steps of future with each.
        """
        source = replay if self.prior is None else MixedReplay(self.prior, replay)
        return source.sample(batch, n_step).normalised(self.normaliser)

    def recorded(self, step: Callable[..., dict[str, Tensor]]) -> Recorded:
        """Returns a grad_step that is replayed from its third call on (edp_robot/engine)."""
        self._recordings.append(Recorded(step))
        return self._recordings[-1]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns its optimizers by name, for the checkpoint."""
        return {}

    def state(self) -> dict[str, Any]:
        """Returns networks, optimizers and the prior's random state as a tree."""
        optimizers = {name: o.state_dict() for name, o in self.optimizers().items()}
        counted = {"prior": sampler_state(self.prior), "follows": not self.normaliser.frozen}
        return {"model": self.state_dict(), **counted, **optimizers}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.load_state_dict(saved["model"])
        self.normaliser.frozen = not saved.get("follows")
        set_sampler_state(self.prior, saved["prior"])
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(saved[name])
        for recording in self._recordings:
            recording.forget()


def tuner_class(name: str) -> type[FineTuner]:
    """Returns the fine-tuner that `name` or `package.module:attribute` stands for.

    Raises:
        UnknownName: There is no such fine-tuner. The message lists those that exist.
        ValueError: The attribute does not extend FineTuner.
    """
    return part_class(FINE_TUNERS, name, FineTuner)
