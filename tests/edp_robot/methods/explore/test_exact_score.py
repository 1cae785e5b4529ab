import math
from functools import partial

import numpy as np
import pytest
import torch
from support.tiny import plain_spec

from edp_robot.diffusion.schedule import (
    alpha_sigma,
    half_log_snr,
    scalar_coefficients,
    t_of_half_log_snr,
)
from edp_robot.methods.explore.exact_score import ExactScoreReward
from edp_robot.methods.explore.novelty import novelty_columns
from edp_robot.methods.explore.ring import Ring
from edp_robot.methods.explore.score_config import ScoreRewardConfig
from sim.core.registry import task_spec

T_LOW = 0.05


def reward(obs_dim=1, n_seeds=1, **options) -> ExactScoreReward:
    config = ScoreRewardConfig(estimator="exact", **{"t_low": T_LOW, **options})
    return ExactScoreReward(plain_spec(obs_dim), config, n_seeds=n_seeds)


def exact(states, pseudo_count=1e-30, **options) -> ExactScoreReward:
    """Returns a reward that compares with `states`, and leaves out what came last."""
    made = reward(states.shape[-1], len(states), pseudo_count=pseudo_count, **options)
    made.update(states)
    made.update(states[:, :1])
    return made


def test_one_state_by_hand():
    """One state at (1, 2): -log Normal(s; (1, 2), std^2 I) with std = sigma / alpha."""
    alpha, sigma, _ = scalar_coefficients(T_LOW)
    std = sigma / alpha
    intrinsic = exact(torch.tensor([[[1.0, 9.0, 2.0]]]), fields=("x2", "x0"))
    got = intrinsic.error(torch.tensor([[[1.0, 0.0, 2.0], [1.0, 0.0, 2.5]]]))
    at = math.log(2 * math.pi * std**2)
    torch.testing.assert_close(got, torch.tensor([[at, at + 0.25 / (2 * std**2)]]))


def test_many_states_of_a_gaussian_give_its_log_density():
    torch.manual_seed(0)
    alpha, sigma, _ = scalar_coefficients(T_LOW)
    variance = 0.5**2 + (sigma / alpha) ** 2
    intrinsic = exact(0.5 * torch.randn(1, 200_000, 1), n_states=200_001)
    x = torch.tensor([0.0, 0.5, 1.0])
    expected = x**2 / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
    torch.testing.assert_close(
        intrinsic.error(x.reshape(1, 3, 1))[0], expected, atol=0.02, rtol=0.02
    )


def best_noise_model(states, x_t, t):
    """Returns (x_t - alpha E[x_0 | x_t]) / sigma of the diffusion of `states` (n,), x_t (m,)."""
    alpha, sigma = alpha_sigma(t)
    weights = torch.softmax(-((x_t[:, None] - alpha * states) ** 2) / (2 * sigma**2), -1)
    return (x_t - alpha * (weights * states).sum(-1)) / sigma


def test_it_is_the_integral_of_the_best_models_errors():
    """The change of E log p from high to low noise is 1/2 int (E||eps_hat - eps||^2 - 1) d log_snr.

    s_t = s + sigma / alpha eps, in one dimension. -log p of pure noise of that scale is the entropy
    of a Gaussian, whose growth with the scale is the -1.
    """
    torch.manual_seed(0)
    states = torch.tensor([-1.0, -0.8, 0.1, 0.9], dtype=torch.float64)
    s = 0.3
    eps = torch.randn(4_000, dtype=torch.float64)
    eps = torch.cat([eps, -eps])
    ends = half_log_snr(torch.tensor([0.7, T_LOW], dtype=torch.float64))
    grid = torch.linspace(*ends.tolist(), 200, dtype=torch.float64)

    def error(lam):
        t = t_of_half_log_snr(lam)
        alpha, sigma = alpha_sigma(t)
        return (best_noise_model(states, alpha * s + sigma * eps, t) - eps).square().mean()

    def log_p(lam):
        std = torch.exp(-lam)
        noisy = s + std * eps
        each = torch.distributions.Normal(states, std).log_prob(noisy[:, None])
        return (torch.logsumexp(each, -1) - math.log(len(states))).mean()

    errors = torch.stack([error(lam) for lam in grid])
    integral = torch.trapezoid(errors - 1, 2 * grid) / 2
    assert integral.item() == pytest.approx((log_p(ends[0]) - log_p(ends[1])).item(), abs=0.03)


def test_what_was_seen_pays_less_at_once():
    torch.manual_seed(0)
    seen = torch.rand(1, 128, 2)
    new = torch.tensor([[[3.0, 3.0]]])
    intrinsic = exact(seen)
    before = intrinsic.error(new).item()
    intrinsic.update(new)
    # The newest state may be the one that is paid for, so it does not count yet.
    assert intrinsic.error(new).item() == pytest.approx(before, abs=0.1)
    intrinsic.update(seen[:, :1])
    assert intrinsic.error(new).item() < before - 50
    assert intrinsic.error(torch.tensor([[[-1.0, -1.0]]])).item() > intrinsic.error(new).item() + 10


def test_seeds_see_their_own_states():
    intrinsic = exact(torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]]))
    first, second = intrinsic.error(torch.zeros(2, 1, 2)).flatten().tolist()
    assert first < second


def test_a_state_near_no_other_counts_as_the_pseudo_count():
    """-log(pseudo_count / (n sqrt(2 pi)^2 std^2)) with n = 4; half of it pays log 2 more."""
    alpha, sigma, _ = scalar_coefficients(T_LOW)
    far = torch.full((1, 1, 2), 50.0)
    states = torch.rand(1, 4, 2)
    got = [exact(states, pseudo_count=c).error(far).item() for c in (0.1, 0.05)]
    assert got[0] == pytest.approx(math.log(4 * 2 * math.pi * (sigma / alpha) ** 2 / 0.1), rel=1e-4)
    assert got[1] - got[0] == pytest.approx(math.log(2), rel=1e-4)


def test_nothing_seen_pays_nothing():
    assert reward(2).error(torch.ones(1, 3, 2)).tolist() == [[0.0] * 3]


@pytest.mark.parametrize("t_low", [0.0, 1.0])
def test_levels_that_cannot_be_are_refused(t_low):
    with pytest.raises(ValueError, match=f"t_low={t_low}"):
        reward(t_low=t_low)


def test_a_pseudo_count_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"pseudo_count=0\.0: give a number above 0"):
        reward(pseudo_count=0.0)


def test_a_field_that_the_task_lacks_is_refused():
    with pytest.raises(ValueError, match=r"no obs field or number 'x7'.*x0, x1"):
        reward(2, fields=("x0", "x7"))


def test_a_batch_that_fills_the_ring_is_refused():
    with pytest.raises(ValueError, match="batch of 4 states, and n_states=4 are held"):
        reward(n_states=4).update(torch.zeros(1, 4, 1))


def test_a_ring_keeps_the_newest_and_knows_what_is_empty():
    ring = Ring(1, 3, 1)
    ring.add(torch.tensor([[[1.0], [2.0]]]))
    assert ring.filled().tolist() == [True, True, False]
    assert ring.distance(torch.zeros(1, 1, 1)).tolist() == [[[1.0, 2.0, math.inf]]]
    assert (ring.older().tolist(), ring.n_older().item()) == ([False] * 3, 0)
    ring.add(torch.tensor([[[3.0], [4.0]]]))
    assert (ring.states[0, ring.older()].tolist(), ring.n_older().item()) == ([[2.0]], 1)
    assert sorted(ring.states.flatten().tolist()) == [2.0, 3.0, 4.0]


def perplexity(intrinsic, x):
    """Returns the mean over states x (batch, dim) of log(number of neighbours), in plain numpy."""
    states = intrinsic.ring.states[0][intrinsic.ring.older()].double().numpy()
    std = math.exp(float(intrinsic.resolution.log_std))
    squared = ((x.double().numpy()[:, None] - states) ** 2).sum(-1)
    weights = np.exp(-(squared - squared.min(-1, keepdims=True)) / (2 * std**2))
    weights /= weights.sum(-1, keepdims=True)
    logs = np.log(np.maximum(weights, 1e-300))
    return float(np.exp(-(weights * logs).sum(-1).mean()))


@pytest.mark.parametrize(("dim", "scale"), [(2, 1.0), (24, 1.0), (24, 0.05), (78, 3.0)])
def test_the_resolution_finds_the_number_of_neighbours(dim, scale):
    torch.manual_seed(0)
    intrinsic = reward(dim, n_neighbours=16.0, t_low=0.2)
    for _ in range(1_000):
        batch = scale * torch.randn(1, 64, dim)
        intrinsic.update(batch)
    assert perplexity(intrinsic, scale * torch.randn(256, dim)) == pytest.approx(16, rel=0.2)


def test_the_resolution_stays_without_neighbours_to_find_and_without_older_states():
    fixed = reward(3)
    found = reward(3, n_neighbours=16.0)
    start = float(fixed.resolution.log_std)
    found.update(torch.randn(1, 64, 3))  # all are the newest: nothing to compare with
    for _ in range(3):
        fixed.update(torch.randn(1, 64, 3))
    assert float(found.resolution.log_std) == float(fixed.resolution.log_std) == start


def test_each_learner_finds_its_own_resolution():
    torch.manual_seed(0)
    intrinsic = reward(4, n_seeds=2, n_neighbours=16.0)
    for _ in range(500):
        intrinsic.update(torch.tensor([1.0, 10.0]).reshape(2, 1, 1) * torch.randn(2, 64, 4))
    near, far = intrinsic.resolution.log_std.flatten().tolist()
    assert far - near == pytest.approx(math.log(10), abs=0.1)


def test_novelty_looks_at_fields_and_at_single_numbers_by_their_entries():
    columns = partial(novelty_columns, task_spec("arm"))
    assert columns(()) == list(range(22))
    assert columns(("button_travel", "end_effector.z", "end_effector.x")) == [18, 20, 21]
    assert columns(("end_effector", "end_effector.z")) == [18, 19, 20]
    with pytest.raises(ValueError, match=r"number 'elbow' in 'arm'.*end_effector, .*elbow_flex"):
        columns(("elbow",))
