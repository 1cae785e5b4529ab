"""DDPG with twin critics: collects the data of pre-training, and fine-tunes a Gaussian policy."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from edp_robot.diffusion.networks import Fourier, Stack, TwinCritic, mlp
from edp_robot.engine import Adam
from edp_robot.methods.ranges import Natural, NotNegative, Range, Ranged, Rate
from edp_robot.methods.replay import Batch


@dataclass(frozen=True)
class DDPGConfig(Ranged):
    """Hyperparameters of the Gaussian policy and its critic (method section 2).

    `action_noise` smooths targets. `explore_noise` is the noise of the first and the last
    environment while collecting, with a log-spaced spread between them, so that some of them try
    other things. `noise_correlation` correlates it from decision to decision. `n_features` counts
    Fourier features of the observation of `feature_scale` [cycles per unit]; they let actor and
    critic change sharply, as at a wall. `pre_tanh_penalty` keeps the actor out of tanh's flat ends,
    where its gradient vanishes.
    """

    width: int = 256
    n_layers: int = 2
    layer_norm: bool = True
    learning_rate: NotNegative = 3e-4
    polyak: Rate = 0.01
    discount: Annotated[float, Range(0, 1, below=True)] = 0.99
    n_step: int = 1
    action_noise: NotNegative = 0.2
    explore_noise: tuple[float, float] = (0.2, 0.2)
    noise_correlation: Annotated[float, Range(-1, 1)] = 0.0
    target_noise_clip: NotNegative = 0.3
    pre_tanh_penalty: NotNegative = 0.0
    n_features: Natural = 0
    feature_scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.explore_noise) != 2 or not min(self.explore_noise) > 0:
            raise ValueError(
                f"explore_noise={self.explore_noise}: give two numbers, both must be above 0 (they "
                "are spaced in log)"
            )
        super().__post_init__()


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, polyak: float) -> None:
    """Moves the parameters of `target` towards those of `online`.

    Args:
        target: The lagged network.
        online: The network that learns.
        polyak: Share of the way.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), polyak)


class DDPG(nn.Module):
    """Actor a = tanh(mu(s)) with Gaussian action noise, and a twin critic with LayerNorm.

    Observations come normalised. A `stack` makes as many independent learners: every tensor has the
    stack's axes in front.

    Args:
        obs_dim: Length of an observation.
        act_dim: Length of an action.
        config: Hyperparameters.
        stack: Leading axes, one learner for each index.
    """

    def __init__(self, obs_dim: int, act_dim: int, config: DDPGConfig, stack: Stack = ()) -> None:
        super().__init__()
        self.config = config
        fourier = (config.n_features, config.feature_scale)
        self.actor = make_actor(self.n_actor_inputs(obs_dim, act_dim), act_dim, config, stack)
        self.critic = TwinCritic(
            obs_dim, act_dim, config.width, config.n_layers, config.layer_norm, stack, fourier
        )
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("noise", torch.zeros(0), persistent=False)
        rate = config.learning_rate
        self.actor_optimizer = Adam(self.actor.parameters(), rate)
        self.critic_optimizer = Adam(self.critic.parameters(), rate)

    def n_actor_inputs(self, obs_dim: int, act_dim: int) -> int:
        """Returns the length of the actor's input, here an observation's."""
        return obs_dim

    def pre_tanh(self, obs: Tensor) -> Tensor:
        """Returns mu(s), whose tanh is the action (*stack, batch, act_dim)."""
        return self.actor(obs)

    def policy(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns actions (*stack, batch, act_dim) in [-1, 1]; `noise` is added before clipping."""
        action = torch.tanh(self.pre_tanh(obs))
        return action if noise is None else (action + noise).clamp(-1, 1)

    @torch.no_grad()
    def explore(self, obs: Tensor) -> Tensor:
        """Returns actions (*stack, n_envs, act_dim) with exploration noise.

        `obs` is (*stack, n_envs, obs_dim), one observation of each environment.
        """
        return self.with_noise(self.policy(obs))

    @torch.no_grad()
    def with_noise(self, action: Tensor) -> Tensor:
        """Returns actions (*stack, n_envs, act_dim), one of each environment, with their noise."""
        low, high = (math.log(x) for x in self.config.explore_noise)
        std = torch.linspace(low, high, action.shape[-2], device=action.device).exp().unsqueeze(-1)
        noise = torch.randn_like(action)
        rho = self.config.noise_correlation
        if self.noise.shape == noise.shape:
            noise = rho * self.noise + math.sqrt(1 - rho**2) * noise
        self.noise = noise
        return (action + std * self.noise).clamp(-1, 1)

    def target(self, batch: Batch, reward: Tensor) -> Tensor:
        """Returns R^(n) + gamma^n min_i Q_target,i(s_n, pi(s_n) + noise) (*stack, batch)."""
        config = self.config
        with torch.no_grad():
            total, next_obs, factor = batch.n_step_return(reward, config.discount)
            noise = config.action_noise * torch.randn_like(batch.action)
            noise = noise.clamp(-config.target_noise_clip, config.target_noise_clip)
            value = self.critic_target(next_obs, self.policy(next_obs, noise)).amin(-2)
            return total + factor * value

    def update(self, batch: Batch, reward: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of critic and actor; returns metrics, (*stack) each.

        The batch's observations are normalised. `reward` is (*stack, batch, n_step).
        """
        critic_loss = self.update_critic(batch, reward)
        q, penalty = self.values(batch.obs)
        value = q.mean(-1)
        self.actor_optimizer.descend(penalty - value)
        polyak_update(self.critic_target, self.critic, self.config.polyak)
        return {
            "critic_loss": critic_loss.detach(),
            "value": value.detach(),
            "reward": reward.mean((-2, -1)),
        }

    def update_critic(self, batch: Batch, reward: Tensor) -> Tensor:
        """Takes one grad_step of the critic; returns its loss (*stack)."""
        target = self.target(batch, reward).unsqueeze(-2)
        loss = (self.critic(batch.obs, batch.action) - target).square().mean((-2, -1)) * 2
        self.critic_optimizer.descend(loss)
        return loss

    def values(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (smaller Q of the policy's actions, the penalty of large mu).

        They are (*stack, batch) and (*stack).
        """
        pre_tanh = self.pre_tanh(obs)
        q = self.critic(obs, torch.tanh(pre_tanh)).amin(-2)
        return q, self.config.pre_tanh_penalty * pre_tanh.square().mean((-2, -1))


def make_actor(n_in: int, act_dim: int, config: DDPGConfig, stack: Stack = ()) -> nn.Sequential:
    """Returns the network mu, whose tanh is an action.

    Args:
        n_in: Length of its input.
        act_dim: Length of an action.
        config: Hyperparameters.
        stack: Leading axes.
    """
    features = Fourier(n_in, config.n_features, config.feature_scale, stack)
    sizes = [features.n_out, *[config.width] * config.n_layers, act_dim]
    return nn.Sequential(features, *mlp(sizes, config.layer_norm, stack))
