import pytest
import torch

from edp_robot.methods.iql import IQL, IQLConfig
from edp_robot.methods.replay import Batch


def chain(n=256):
    """Two states, 0 -> 1 -> 1, with reward 1 in state 1.

    At discount .5, V(1) = 2 and Q(0, a) = 0 + .5 * 2 = 1.
    """
    state = torch.randint(0, 2, (n, 1)).float()
    return Batch(
        obs=state,
        action=torch.rand(n, 1),
        next_obs=torch.ones(n, 1, 1),
        reward=state.clone(),
        valid=torch.ones(n, 1),
        terminated=torch.zeros(n),
    )


def critic(**options):
    torch.manual_seed(0)
    return IQL(1, 1, IQLConfig(width=32, n_step=1, polyak=0.1, learning_rate=3e-3, **options))


def test_values_of_a_chain_are_exact():
    iql = critic(discount=0.5, expectile=0.7)
    for _ in range(600):
        iql.update(chain())
    states = torch.tensor([[0.0], [1.0]])
    assert iql.value(states).squeeze(-1).tolist() == pytest.approx([1.0, 2.0], abs=0.1)
    assert iql.q(states, torch.full((2, 1), 0.5)).tolist() == pytest.approx([1.0, 2.0], abs=0.1)


def test_value_leans_to_the_better_actions():
    """One step, Q(a) = a with a uniform.

    The expectile of U(0, 1) at .9 is .75, where .9 (1 - v)^2 = .1 v^2.
    """
    iql = critic(expectile=0.9)
    for _ in range(600):
        action = torch.rand(256, 1)
        obs = torch.zeros(256, 1)
        valid = torch.ones(256, 1)
        iql.update(Batch(obs, action, obs.unsqueeze(1), action.clone(), valid, torch.ones(256)))
    assert iql.value(torch.zeros(1, 1)).item() == pytest.approx(0.75, abs=0.05)


def test_expectile_below_one_half_is_refused():
    with pytest.raises(ValueError, match=r"expectile=0.3"):
        IQLConfig(expectile=0.3)
