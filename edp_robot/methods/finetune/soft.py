"""Soft values over a reference policy: the optimum of method Eq. 6 on a set of its actions.

For actions a_1 ... a_K ~ pi_d(.|s), the policy that maximises E_pi[Q] - beta KL(pi || pi_d) gives
a_i the weight softmax(Q_i / beta) (Eq. 7), and attains the soft value

    V(s) = beta log E_{a ~ pi_d} exp(Q(s, a) / beta)  ~  beta log (1 / K) sum_i exp(Q_i / beta).

Backing up this V, from which the KL is subtracted, makes the alternation of Eq. 7 climb to the
optimum of Eq. 6. Backing up the plain E_pi[Q] does not (tests/edp_robot/methods/finetune).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_STEPS = 60  # halvings of the search for a temperature
WIDEST = 30.0  # the search covers inverse temperatures of e^-WIDEST to e^WIDEST


def soft_value(q: Tensor, inverse_temp: float | Tensor) -> Tensor:
    """Returns V (m,) of the actions' values.

    Args:
        q: Q (m, K) of K actions drawn from the reference policy in each of m states.
        inverse_temp: 1 / beta, above 0.
    """
    return (torch.logsumexp(q * inverse_temp, -1) - math.log(q.shape[-1])) / inverse_temp


def kl_to_reference(q: Tensor, inverse_temp: float | Tensor) -> Tensor:
    """Returns KL(pi || pi_d) (m,) of the policy of Eq. 7 on the actions [nats], at most log K.

    Args:
        q: Q (m, K) of K actions drawn from the reference policy in each of m states.
        inverse_temp: 1 / beta.
    """
    log_weight = torch.log_softmax(q * inverse_temp, -1)
    return (log_weight.exp() * log_weight).sum(-1) + math.log(q.shape[-1])


def inverse_temp_for(q: Tensor, target_kl: float) -> float:
    """Returns the 1 / beta at which the mean KL to the reference is `target_kl`.

    The KL rises with 1 / beta, so halving an interval finds it. Where every state's actions are
    worth the same, no temperature reaches a target, and the largest is returned.

    Args:
        q: Q (m, K) of K actions drawn from the reference policy in each of m states.
        target_kl: Mean KL over the states [nats], in (0, log K).

    Raises:
        ValueError: K actions cannot be so far from the reference.
    """
    most = math.log(q.shape[-1])
    if not 0 < target_kl < most:
        raise ValueError(
            f"target_kl={target_kl:g}: give a number in (0, {most:.3g}), which is log K of "
            f"K = {q.shape[-1]} actions"
        )
    low = -WIDEST
    high = WIDEST
    for _ in range(MOST_STEPS):
        middle = (low + high) / 2
        if kl_to_reference(q, math.exp(middle)).mean() < target_kl:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
