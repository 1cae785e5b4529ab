import math
from dataclasses import replace

import pytest
import torch
from support.tiny import plain_spec
from torch import nn

from edp_robot.diffusion.schedule import alpha_sigma, half_log_snr
from edp_robot.methods.explore.score_config import ESTIMATORS, ScoreRewardConfig
from edp_robot.methods.explore.score_reward import ScoreReward
from edp_robot.methods.models import NoiseModelConfig

MODEL = NoiseModelConfig(
    width=32, inner=64, n_blocks=2, dropout=0.0, activation="silu", learning_rate=2e-3
)


def tiny_reward(
    obs_dim=2, n_seeds=1, centre=False, network=None, model=MODEL, **options
) -> ScoreReward:
    """Returns a reward of its own noise model, or of `network` in its place."""
    config = ScoreRewardConfig(model=model, **options)
    intrinsic = ScoreReward(plain_spec(obs_dim), config, n_seeds=n_seeds, centre=centre)
    if network is not None:
        intrinsic.model = network
    return intrinsic


def seen(n: int) -> torch.Tensor:
    return torch.tensor([-0.5, -0.5]) + 0.1 * torch.randn(1, n, 2)


def unseen(n: int) -> torch.Tensor:
    return torch.tensor([0.6, 0.4]) + 0.1 * torch.randn(1, n, 2)


@pytest.fixture(scope="module")
def trained() -> ScoreReward:
    torch.manual_seed(0)
    intrinsic = tiny_reward()
    losses = [intrinsic.update(seen(128))["state_loss"].item() for _ in range(300)]
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    return intrinsic


def test_unseen_states_pay_more(trained):
    torch.manual_seed(1)
    rewards = trained.reward(torch.cat([seen(200), unseen(200)], 1))[0]
    assert rewards[200:].min() > rewards[:200].max()
    assert rewards[200:].mean() > 2 * rewards[:200].mean()


def test_states_learned_since_pay_less(trained):
    torch.manual_seed(1)
    states = unseen(64)
    other = tiny_reward()
    other.load_state_dict(trained.state_dict())
    excess = [(other.error(states).mean() - other.error(seen(64)).mean()).item()]
    for _ in range(200):
        other.update(torch.cat([seen(64), unseen(64)], 1))
    excess.append((other.error(states).mean() - other.error(seen(64)).mean()).item())
    assert excess[0] > 0.5 and abs(excess[1]) < 0.5 * excess[0]


def signal_to_noise(estimate, states, n_repeats=200) -> float:
    """Returns the variance between states over the Monte-Carlo variance within a call."""
    values = torch.stack([estimate(states)[0] for _ in range(n_repeats)])
    values = values - values.mean(1, keepdim=True)
    return (values.mean(0).var() / values.var(0).mean()).item()


@pytest.mark.parametrize(("n_draws", "gain"), [(4, 2), (20, 10)])
def test_shared_noise_beats_independent_draws(trained, n_draws, gain):
    torch.manual_seed(2)
    states = torch.rand(1, 64, 2) * 2 - 1
    values = {}
    for estimator in ("iid", "shared"):
        intrinsic = tiny_reward(n_draws=n_draws, estimator=estimator)
        intrinsic.load_state_dict(trained.state_dict())
        values[estimator] = signal_to_noise(intrinsic.error, states)
    assert values["shared"] > gain * values["iid"], values


def test_centred_is_shared_without_the_noise_that_all_states_have_in_common(trained):
    states = torch.rand(1, 64, 2) * 2 - 1
    values = {}
    for estimator in ("shared", "centred"):
        torch.manual_seed(2)
        intrinsic = tiny_reward(n_draws=2, estimator=estimator)
        intrinsic.load_state_dict(trained.state_dict())
        values[estimator] = torch.stack([intrinsic.error(states)[0] for _ in range(100)])
    shared = values["shared"]
    torch.testing.assert_close(values["centred"], shared - shared.mean(1, keepdim=True))
    common = shared.mean(1).var()
    assert common > shared.mean(0).var()  # more than what tells the states apart


@pytest.mark.parametrize(
    "estimator", [n for n in ESTIMATORS if n not in ("centred", "fixed", "exact")]
)
def test_all_estimators_have_the_same_mean(trained, estimator):
    torch.manual_seed(3)
    states = torch.rand(1, 8, 2) * 2 - 1
    means = []
    for name in ("iid", estimator):
        intrinsic = tiny_reward(n_draws=40, estimator=name)
        intrinsic.load_state_dict(trained.state_dict())
        values = torch.stack([intrinsic.error(states)[0] for _ in range(200)])
        means.append(values.mean(0))
        error = values.std(0) / math.sqrt(200)
    assert ((means[0] - means[1]).abs() < 0.1 * means[0] + 4 * error).all()


def test_fixed_draws_last_for_the_run_and_are_each_learners_own():
    torch.manual_seed(4)
    options = {"estimator": "fixed", "n_draws": 4, "t_low": 0.2, "t_high": 0.6}
    intrinsic = tiny_reward(n_seeds=2, **options)
    states = torch.rand(1, 8, 2).expand(2, 8, 2)
    first = intrinsic.error(states)
    assert torch.equal(first, intrinsic.error(states))
    torch.testing.assert_close(intrinsic.kept_t[0, 0], torch.tensor([0.3, 0.5, 0.3, 0.5]))
    assert not torch.allclose(intrinsic.kept_eps[0], intrinsic.kept_eps[1])
    other = tiny_reward(n_seeds=2, **options)
    assert not torch.allclose(other.error(states), first)
    other.load_state_dict(intrinsic.state_dict())
    assert torch.equal(other.error(states), first)


@pytest.mark.parametrize(
    ("estimator", "strata", "paired"),
    [("iid", 1, False), ("stratified", 8, False), ("antithetic", 4, True)],
)
def test_draws_of_the_estimators(estimator, strata, paired):
    intrinsic = tiny_reward(n_draws=8, estimator=estimator, t_low=0.0, t_high=1.0)
    t, eps = intrinsic.draws(torch.Size((1, 500, 2)), torch.device("cpu"))
    assert (t.shape, eps.shape) == ((1, 500, 8), (1, 500, 8, 2))
    assert len(t[..., 0].unique()) == 500
    occupied = torch.tensor([len(set(row)) for row in (t[0] * strata).long().tolist()])
    assert (occupied == strata).all()
    assert torch.equal(eps[..., :4, :], -eps[..., 4:, :]) == paired
    if estimator == "iid":
        assert t.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)


def test_levels_are_even_in_log_snr():
    intrinsic = tiny_reward(spacing="log_snr", t_low=0.01, t_high=0.5)
    lam = half_log_snr(intrinsic.level(torch.tensor([0.0, 0.25, 0.5, 1.0])))
    low, high = half_log_snr(torch.tensor([0.01, 0.5])).tolist()
    torch.testing.assert_close(
        lam, low + (high - low) * torch.tensor([0.0, 0.25, 0.5, 1.0]), atol=1e-4, rtol=1e-4
    )


class Exact(nn.Module):
    """The best noise model of N(0, s^2): E[eps | x_t] = sigma x_t / (alpha^2 s^2 + sigma^2)."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (a.unsqueeze(-1) for a in alpha_sigma(t))
        return sigma * x_t / (alpha**2 * self.s**2 + sigma**2)


def test_even_in_log_snr_the_error_is_the_log_density():
    """-log p(x) = c + 1/2 int E||eps_hat - eps||^2 d log_snr for the best model.

    Source: Kingma et al. 2021.
    """
    torch.manual_seed(0)
    options = {"spacing": "log_snr", "t_low": 1e-5, "t_high": 1.0, "n_draws": 4000}
    intrinsic = tiny_reward(1, network=Exact(0.5), **options)
    x = torch.tensor([0.0, 0.5, 1.0, 1.5]).reshape(1, 4, 1)
    error = torch.stack([intrinsic.error(x)[0] for _ in range(20)]).mean(0)
    span = 2 * (half_log_snr(torch.tensor(1e-5)) - half_log_snr(torch.tensor(1.0))).item()
    expected = x.flatten() ** 2 / (2 * 0.5**2)  # -log p(x) + log p(0)
    torch.testing.assert_close(0.5 * span * (error - error[0]), expected, atol=0.05, rtol=0.05)


def test_even_in_log_snr_the_reward_knows_the_rarer_half():
    """Nine of ten states lie in the left half of a square. Both halves are full of states."""
    torch.manual_seed(0)

    def visited(n: int) -> torch.Tensor:
        states = torch.rand(1, n, 2) * 2 - 1
        states[..., 0] = states[..., 0].abs() * torch.where(torch.rand(1, n) < 0.9, -1.0, 1.0)
        return states

    options = {"spacing": "log_snr", "t_low": 0.005, "t_high": 0.2, "n_draws": 16}
    intrinsic = tiny_reward(model=replace(MODEL, n_features=32, time_dim=32), **options)
    for _ in range(600):
        intrinsic.update(visited(128))
    line = torch.linspace(-0.9, 0.9, 10)
    grid = torch.cartesian_prod(line, line).unsqueeze(0)
    error = torch.stack([intrinsic.error(grid)[0] for _ in range(20)]).mean(0)
    rare = grid[0, :, 0] > 0
    area_under_roc = (error[rare].unsqueeze(1) > error[~rare]).float().mean()
    assert area_under_roc > 0.8


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="no estimator 'best'; there are: iid, stratified"):
        tiny_reward(estimator="best")
    with pytest.raises(ValueError, match="no spacing 'even'; there are: time, log_snr"):
        tiny_reward(spacing="even")


def test_seeds_side_by_side_learn_their_own_states():
    torch.manual_seed(4)
    intrinsic = tiny_reward(n_seeds=2)
    for _ in range(300):
        intrinsic.update(torch.cat([seen(128), unseen(128)]))
    first, second = intrinsic.error(torch.cat([seen(100), seen(100)]))
    assert first.max() < second.min()
    first, second = intrinsic.error(torch.cat([unseen(100), unseen(100)]))
    assert first.min() > second.max()


class Constant(nn.Module):
    """Predicts (x_t - alpha_t c) / sigma_t, which is right for data at c.

    Elsewhere it is off by alpha_t (x_0 - c) / sigma_t.
    """

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x_t, t, condition=None):
        alpha, sigma = (v.unsqueeze(-1) for v in alpha_sigma(t))
        return (x_t - alpha * self.c) / sigma


def test_error_in_closed_form():
    options = {"fields": ("x0", "x2"), "n_draws": 4, "t_low": 0.3, "t_high": 0.3}
    intrinsic = tiny_reward(3, network=Constant(0.25), **options)
    obs = torch.tensor([[[0.25, 9.0, 0.25], [0.5, 9.0, 0.25], [0.25, 0.0, -0.75]]])
    alpha, sigma = (v.item() for v in alpha_sigma(torch.tensor(0.3)))
    over_two_columns = torch.tensor([[0.0, 0.25**2 / 2, 1 / 2]])
    expected = (alpha / sigma) ** 2 * over_two_columns
    torch.testing.assert_close(intrinsic.error(obs), expected, atol=1e-6, rtol=1e-5)


def test_equal_states_get_equal_rewards_and_fresh_noise_at_each_call(trained):
    obs = torch.zeros(1, 8, 2)
    first = trained.error(obs)[0]
    second = trained.error(obs)[0]
    assert first.max() - first.min() < 1e-5
    assert abs(first[0] - second[0]) > 1e-4


def test_noise_is_antithetic_and_times_are_stratified():
    calls = []

    class Spy(nn.Module):
        def forward(self, x_t, t, condition=None):
            calls.append((x_t, t))
            return torch.zeros_like(x_t)

    intrinsic = tiny_reward(network=Spy(), n_draws=8, t_low=0.2, t_high=0.6)
    intrinsic.error(torch.zeros(1, 3, 2))
    ((x_t, t),) = calls
    assert (x_t.shape, t.shape) == ((1, 3, 8, 2), (8,))
    torch.testing.assert_close(x_t[..., :4, :], -x_t[..., 4:, :])
    torch.testing.assert_close(t[:4], t[4:])
    assert sorted(((t[:4] - 0.2) / 0.1).long().tolist()) == [0, 1, 2, 3]


def test_rewards_are_measured_without_dropout():
    torch.manual_seed(0)
    intrinsic = tiny_reward(model=replace(MODEL, dropout=0.5))
    for _ in range(3):
        intrinsic.update(seen(32))
    states = seen(16)
    values = []
    for _ in range(2):
        torch.manual_seed(7)
        intrinsic.model.train()
        values.append(intrinsic.error(states))
    torch.manual_seed(7)
    no_dropout = nn.Dropout.forward
    nn.Dropout.forward = lambda self, x: x
    try:
        expected = intrinsic.error(states)
    finally:
        nn.Dropout.forward = no_dropout
    torch.testing.assert_close(values[0], expected)
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize("centre", [False, True])
def test_scale_is_the_running_standard_deviation(centre):
    intrinsic = tiny_reward(centre=centre)
    errors = iter([torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 11.0]])])
    intrinsic.error = lambda obs: next(errors)
    first = intrinsic.reward(torch.zeros(1, 2, 2))[0]
    second = intrinsic.reward(torch.zeros(1, 2, 2))[0]
    torch.testing.assert_close(first, torch.tensor([1.0, 3.0]) - 2 * centre)  # mean 2, std 1
    std = math.sqrt((1 + 9 + 25 + 121) / 4 - 5**2)  # of all four: mean 5
    torch.testing.assert_close(second, (torch.tensor([5.0, 11.0]) - 5 * centre) / std)


def test_scale_survives_a_checkpoint(trained):
    other = tiny_reward()
    other.load_state_dict(trained.state_dict())
    for name in ("mean", "mean_square", "n_updates"):
        assert getattr(other, name) == getattr(trained, name)


@pytest.mark.parametrize("n_draws", [0, 1, 3])
def test_odd_numbers_of_draws_are_refused(n_draws):
    with pytest.raises(ValueError, match=f"n_draws={n_draws}.*even"):
        tiny_reward(n_draws=n_draws)


def test_what_the_model_sees_has_the_same_neighbours_whatever_the_scale():
    torch.manual_seed(0)
    spreads = []
    for scale in (0.1, 3.0):
        intrinsic = tiny_reward(n_neighbours=8.0, t_low=0.2)
        for _ in range(400):
            intrinsic.update(scale * torch.randn(1, 64, 2))
        spreads.append(intrinsic.seen(scale * torch.randn(1, 500, 2)).std().item())
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)


def test_without_neighbours_to_find_the_model_sees_the_obs():
    obs = torch.randn(1, 5, 2)
    torch.testing.assert_close(tiny_reward().seen(obs), obs)


def test_a_resolution_needs_noise_to_begin_with():
    with pytest.raises(ValueError, match="t_low above 0"):
        ScoreRewardConfig(n_neighbours=8.0, t_low=0.0)
