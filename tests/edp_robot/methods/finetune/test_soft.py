"""Method Eq. 6 and 7 on random tabular problems: which Q makes the alternation reach the optimum.

pi_d has probabilities in twelfths, so that twelve support actions a state stand for it exactly and
the functions under test compute with it as they do with sampled actions.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from edp_robot.methods.finetune.soft import inverse_temp_for, kl_to_reference, soft_value

N_STATES = 6
N_ACTIONS = 4
DISCOUNT = 0.9
BETA = 0.3


@dataclass
class Problem:
    """Rewards (s, a), transitions (s, a, s'), and the support actions (s, 12) of pi_d."""

    reward: Tensor
    transition: Tensor
    support: Tensor

    @classmethod
    def drawn(cls, seed):
        generator = torch.Generator().manual_seed(seed)
        reward = torch.rand(N_STATES, N_ACTIONS, generator=generator, dtype=torch.float64)
        shape = (N_STATES, N_ACTIONS, N_STATES)
        transition = torch.rand(shape, generator=generator, dtype=torch.float64) ** 3
        rest = torch.randint(N_ACTIONS, (N_STATES, 8), generator=generator)
        every = torch.arange(N_ACTIONS).expand(N_STATES, -1)
        return cls(
            reward, transition / transition.sum(-1, keepdim=True), torch.cat([every, rest], 1)
        )

    @property
    def reference(self):
        """pi_d (s, a)."""
        return torch.nn.functional.one_hot(self.support, N_ACTIONS).double().mean(1)

    def q_of(self, value):
        return self.reward + DISCOUNT * self.transition @ value

    def value_of(self, policy, beta):
        """Returns V (s,) of a policy that pays beta log(pi / pi_d) at each decision."""
        cost = beta * torch.where(policy > 0, policy * (policy / self.reference).log(), 0)
        gained = (policy * self.reward - cost).sum(1)
        moves = torch.einsum("sa,sat->st", policy, self.transition)
        return torch.linalg.solve(
            torch.eye(N_STATES, dtype=torch.float64) - DISCOUNT * moves, gained
        )

    def improved(self, q, reference=None):
        """Returns pi exp(Q / beta) / Z (s, a); `reference` is pi_d by default."""
        weight = (self.reference if reference is None else reference) * (q / BETA).exp()
        return weight / weight.sum(1, keepdim=True)

    def on_support(self, q):
        return q.gather(1, self.support)

    def optimum(self):
        """Returns the optimal value of Eq. 6 (s,), by soft value iteration."""
        value = torch.zeros(N_STATES, dtype=torch.float64)
        for _ in range(800):
            value = soft_value(self.on_support(self.q_of(value)), 1 / BETA)
        return value


PROBLEMS = [Problem.drawn(seed) for seed in range(20)]


def alternated(problem, evaluate, n=60):
    """Returns Eq. 6's value (n, s) of the policies of the alternation, each from Q of the last."""
    policy = problem.reference
    values = []
    for _ in range(n):
        values.append(problem.value_of(policy, BETA))
        policy = problem.improved(problem.q_of(evaluate(policy)))
    return torch.stack(values)


def test_the_soft_value_by_hand():
    q = torch.tensor([[0.0, math.log(3.0)]])
    assert soft_value(q, 1.0).item() == pytest.approx(math.log(2.0))  # log((1 + 3) / 2)
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_to_reference(q, 1.0).item() == pytest.approx(kl)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_soft_value_is_that_of_the_improved_policy(problem):
    """beta log E_d exp(Q / beta) = E_pi[Q] - beta KL(pi || pi_d) at pi of Eq. 7."""
    q = problem.q_of(torch.zeros(N_STATES, dtype=torch.float64))
    policy = problem.improved(q)
    kl = (policy * (policy / problem.reference).log()).sum(1)
    expected = (policy * q).sum(1) - BETA * kl
    assert soft_value(problem.on_support(q), 1 / BETA) == pytest.approx(expected, abs=1e-12)
    assert kl_to_reference(problem.on_support(q), 1 / BETA) == pytest.approx(kl, abs=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_with_the_soft_q_the_alternation_climbs_to_the_optimum(problem):
    values = alternated(problem, lambda policy: problem.value_of(policy, BETA))
    assert (values.diff(dim=0) > -1e-12).all()
    assert (problem.optimum() - values[-1]).abs().max() < 1e-12


@pytest.mark.parametrize("problem", PROBLEMS)
def test_with_the_plain_q_it_misses_the_optimum(problem):
    values = alternated(problem, lambda policy: problem.value_of(policy, 0.0))
    assert (problem.optimum() - values[-1]).max() > 1e-4


def test_with_the_plain_q_it_takes_steps_down():
    steps = [
        alternated(p, lambda policy, p=p: p.value_of(policy, 0.0)).diff(dim=0) for p in PROBLEMS
    ]
    assert min(step.min() for step in steps) < -1e-4


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_reference_that_follows_the_policy_drifts_to_the_greedy_one(problem):
    """Half pi_d and half the policy so far, as `resampling` proposes."""
    policy = problem.reference
    for _ in range(400):
        mixed = (problem.reference + policy) / 2
        policy = problem.improved(problem.q_of(problem.value_of(policy, 0.0)), mixed)
    gap = (problem.optimum() - problem.value_of(policy, BETA)).max()
    assert gap > 0.05
    plain = problem.value_of(policy, 0.0) - problem.value_of(
        problem.improved(problem.q_of(problem.optimum())), 0.0
    )
    assert plain.min() > 0  # it earns more reward than Eq. 6's optimum, for its distance to pi_d


@pytest.mark.parametrize("target", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_temperature_meets_its_kl_at_any_scale_of_q(target, scale):
    q = scale * torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    found = kl_to_reference(q, inverse_temp_for(q, target)).mean().item()
    assert found == pytest.approx(target, rel=1e-3)


def test_a_kl_that_so_many_actions_cannot_have_is_refused():
    with pytest.raises(ValueError, match=r"target_kl=3: give a number in \(0, 2.08\)"):
        inverse_temp_for(torch.zeros(1, 8), 3.0)


def test_equal_values_leave_the_reference():
    q = torch.zeros(4, 8, dtype=torch.float64)
    assert kl_to_reference(q, inverse_temp_for(q, 1.0)).max() < 1e-12
