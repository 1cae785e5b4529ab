import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from edp_robot.methods.ddpg import DDPG, DDPGConfig, polyak_update
from edp_robot.methods.replay import Batch


def agent(obs_dim=1, act_dim=1, **changes) -> DDPG:
    torch.manual_seed(0)
    return DDPG(obs_dim, act_dim, DDPGConfig(**{"width": 32, **changes}))


def batch_of(obs, action, reward, terminated=1.0) -> Batch:
    n, n_step = reward.shape
    next_obs = obs.unsqueeze(1).expand(-1, n_step, -1)
    valid = torch.ones(n, n_step)
    return Batch(obs, action, next_obs, reward, valid, torch.full((n,), terminated))


def test_bandit_with_a_known_optimum():
    ddpg = agent(learning_rate=3e-3)
    for _ in range(400):
        obs = torch.rand(128, 1) * 2 - 1
        action = torch.rand(128, 1) * 2 - 1
        reward = -((action - 0.6 * obs) ** 2)
        ddpg.update(batch_of(obs, action, reward), reward)
    obs = torch.linspace(-0.9, 0.9, 9).unsqueeze(-1)
    assert (ddpg.policy(obs) - 0.6 * obs).abs().max() < 0.12
    value = ddpg.critic(obs, torch.zeros(9, 1))
    assert (value + (0.6 * obs.squeeze(-1)) ** 2).abs().max() < 0.12


class Fixed(nn.Module):
    """Twin critic with Q1 = 10 s + a, Q2 = 10 s + 2 a."""

    def forward(self, obs, action):
        return torch.stack([10 * obs[:, 0] + action[:, 0], 10 * obs[:, 0] + 2 * action[:, 0]])


def test_target_by_hand():
    ddpg = agent(action_noise=0.0, discount=0.5)
    ddpg.critic_target = Fixed()
    ddpg.actor = nn.Linear(1, 1)
    nn.init.constant_(ddpg.actor.weight, math.atanh(0.5))
    nn.init.zeros_(ddpg.actor.bias)  # pi(1) = 0.5, pi(-1) = -0.5
    batch = Batch(
        obs=torch.zeros(3, 1),
        action=torch.zeros(3, 1),
        next_obs=torch.tensor([[[9.0], [1.0]], [[-1.0], [9.0]], [[9.0], [1.0]]]),
        reward=torch.zeros(3, 2),
        valid=torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
        terminated=torch.tensor([0.0, 0.0, 1.0]),
    )
    target = ddpg.target(batch, torch.tensor([[1.0, 2.0], [3.0, 99.0], [1.0, 2.0]]))
    # 1 + 0.5 * 2 + 0.25 min(10.5, 11);  3 + 0.5 min(-10.5, -11);  1 + 0.5 * 2, terminal
    torch.testing.assert_close(target, torch.tensor([2 + 0.25 * 10.5, 3 - 0.5 * 11.0, 2.0]))


def test_target_noise_is_clipped():
    ddpg = agent(action_noise=5.0, target_noise_clip=0.3, discount=0.5)
    ddpg.actor = nn.Linear(1, 1)
    nn.init.zeros_(ddpg.actor.weight)
    nn.init.zeros_(ddpg.actor.bias)
    actions = []

    def spy(obs, action):
        actions.append(action)
        return torch.zeros(2, len(obs))

    ddpg.critic_target.forward = spy
    zeros = torch.zeros(500, 1)
    ddpg.target(batch_of(zeros, zeros, zeros, 0.0), zeros)
    assert actions[0].abs().max().item() == pytest.approx(0.3)
    assert (actions[0].abs() == actions[0].abs().max()).float().mean() > 0.8


def test_critic_loss_and_value_by_hand():
    ddpg = agent(learning_rate=0.0)
    obs = torch.randn(6, 1)
    action = torch.randn(6, 1).clamp(-1, 1)
    reward = torch.randn(6, 1)
    q = ddpg.critic(obs, action)
    metrics = ddpg.update(batch_of(obs, action, reward), reward)
    expected = sum(((q[i] - reward[:, 0]) ** 2).mean().item() for i in (0, 1))
    assert metrics["critic_loss"] == pytest.approx(expected, rel=1e-5)
    value = ddpg.critic(obs, ddpg.policy(obs)).min(0).values.mean().item()
    assert metrics["value"] == pytest.approx(value, rel=1e-5)


def test_actor_step_leaves_the_critic_alone():
    ddpg = agent()
    alone = copy.deepcopy(ddpg.critic)
    obs = torch.randn(6, 1)
    action = torch.zeros(6, 1)
    reward = torch.randn(6, 1)
    loss = (alone(obs, action) - reward[:, 0]).square().sum(0).mean()
    loss.backward()
    torch.optim.Adam(alone.parameters(), lr=ddpg.config.learning_rate).step()
    ddpg.update(batch_of(obs, action, reward), reward)
    for p, expected in zip(ddpg.critic.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, expected)
    assert all(p.requires_grad for p in ddpg.critic.parameters())
    assert not any(p.requires_grad for p in ddpg.critic_target.parameters())


def test_polyak_is_exact():
    target = nn.Linear(3, 2)
    online = nn.Linear(3, 2)
    old = [p.detach().clone() for p in target.parameters()]
    polyak_update(target, online, 0.1)
    for p, was, goal in zip(target.parameters(), old, online.parameters(), strict=True):
        torch.testing.assert_close(p.data, 0.9 * was + 0.1 * goal.data)
    polyak_update(target, online, 1.0)
    torch.testing.assert_close(target.weight, online.weight)


def test_target_follows_after_an_update():
    ddpg = agent(learning_rate=1e-2, polyak=0.25)
    old = [p.clone() for p in ddpg.critic_target.parameters()]
    ddpg.update(batch_of(torch.ones(4, 1), torch.zeros(4, 1), torch.ones(4, 1)), torch.ones(4, 1))
    new = ddpg.critic_target.parameters()
    for p, was, online in zip(new, old, ddpg.critic.parameters(), strict=True):
        torch.testing.assert_close(p, 0.75 * was + 0.25 * online.data)


def zero_actor(**changes) -> DDPG:
    ddpg = agent(**changes)
    nn.init.zeros_(ddpg.actor[-1].weight)
    nn.init.zeros_(ddpg.actor[-1].bias)
    return ddpg


def test_exploration_noise_is_spread_over_the_environments():
    ddpg = zero_actor(explore_noise=(0.02, 0.2))
    noise = torch.stack([ddpg.explore(torch.zeros(3, 1))[:, 0] for _ in range(4000)])
    std = noise.std(0)
    expected = torch.tensor([0.02, math.sqrt(0.02 * 0.2), 0.2])
    assert (std / expected - 1).abs().max() < 4 / math.sqrt(2 * 4000)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_exploration_noise_has_its_size_and_correlation_from_the_first_step(rho):
    runs = []
    for seed in range(30):
        ddpg = zero_actor(explore_noise=(0.1, 0.1), noise_correlation=rho)
        torch.manual_seed(seed)
        runs.append(torch.stack([ddpg.explore(torch.zeros(100, 1))[:, 0] for _ in range(3)]))
    noise = torch.cat(runs, 1)  # (3, 3000)
    assert (noise.std(1) / 0.1 - 1).abs().max() < 4 / math.sqrt(2 * 3000)
    for a, b in pairwise(noise):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        assert correlation == pytest.approx(rho, abs=4 / math.sqrt(3000))


def test_actions_stay_in_bounds():
    ddpg = agent(act_dim=2, explore_noise=(3.0, 3.0))
    assert ddpg.explore(torch.randn(100, 1)).abs().max() == 1
    assert ddpg.policy(torch.randn(5, 1), torch.full((5, 2), 9.0)).tolist() == [[1.0, 1.0]] * 5


@pytest.mark.parametrize("discount", [-0.1, 1.0])
def test_discount_outside_its_range_is_refused(discount):
    with pytest.raises(ValueError, match=r"discount=.*\[0, 1\)"):
        DDPGConfig(discount=discount)
