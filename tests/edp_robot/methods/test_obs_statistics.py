"""Which entries are scaled by limits and which by data, and by how much."""

import numpy as np
import pytest
import torch
from support.one_step import OneStep

from edp_robot.methods.models import normaliser
from edp_robot.methods.obs_statistics import ENOUGH, Seen, fit, follow
from edp_robot.methods.replay import Replay
from sim.core.registry import task_spec
from sim.core.spec import Part, tile

LARGEST = float(np.finfo(np.float32).max)
rng = np.random.default_rng(0)


def spec_of(*limits, names=None):
    """Returns a spec with a field of one number for each (low, high)."""
    spec = OneStep(-1.0, 1.0).spec
    names = names or [f"x{i}" for i in range(len(limits))]
    parts = (Part(name, "1", *pair) for name, pair in zip(names, limits, strict=True))
    return spec.__class__(**{**vars(spec), "obs": tile(*parts)})


def fitted(values, *limits, **changes):
    """Returns the normaliser of one entry with the values (n,) and limits (low, high)."""
    spec = spec_of(*limits)
    norm = normaliser(spec)
    fit(norm, spec, np.float32(values)[:, None], **changes)
    return norm


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-np.inf, np.inf),
        (0.0, np.inf),
        (-np.inf, 100.0),
        (-LARGEST, LARGEST),
        (0.0, LARGEST),
        (-1.7e308, 1.7e308),
        (-1e6, 1e6),
        (-1e3, 1e3),
        (0.0, 1e5),
        (-1.0, 1.0),
    ],
)
@pytest.mark.parametrize(("shift", "size"), [(13.0, 7.0), (1013.0, 7.0), (13e-6, 7e-6), (0, 1e-9)])
def test_where_limits_are_not_real_the_data_are(low, high, shift, size):
    values = shift + size * rng.uniform(-1, 1, 1000)
    norm = fitted(values, (low, high))
    seen = norm(torch.tensor(np.float32(values))[:, None]).double()
    assert norm.by_data.all()
    assert seen.abs().max() < 2 and abs(seen.mean()) < 0.02 and abs(seen.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (rng.uniform(6, 20, 1000), -20.0, 20.0),
        (rng.uniform(-1.3, 1.3, 1000), -1.0, 1.0),  # a velocity that overshoots
        (rng.uniform(0.10, 0.13, 1000), -1.0, 1.0),  # 1.5 % of the width
        (np.full(1000, 3.0), -1e6, 1e6),
        (np.where(rng.random(1000) < 0.1, 1e-5, 0.0), 0.0, 0.008),  # a button at rest
    ],
)
def test_real_limits_stay_to_the_last_bit(values, low, high):
    norm = fitted(values, (low, high))
    assert not norm.uses_data and set(norm.state_dict()) == {"centre", "scale"}
    before = normaliser(spec_of((low, high)))
    x = torch.linspace(8 * low, 8 * high, 999)[:, None]
    torch.testing.assert_close(norm(x), before(x), rtol=0, atol=0)


def test_each_entry_is_judged_alone():
    spec = spec_of((-1.0, 1.0), (-np.inf, np.inf), (0.0, 2.0))
    norm = normaliser(spec)
    rows = np.float32([[-1, 5, 0], [1, 7, 2]])
    fit(norm, spec, rows)
    assert norm.by_data.tolist() == [False, True, False]
    assert (norm.centre.tolist(), norm.scale.tolist()) == ([0.0, 6.0, 1.0], [1.0, 1.0, 1.0])
    x = torch.tensor([[4.5, 6.5, 1.0], [9.0, 11.0, -9.0]])
    expected = torch.tensor([[4.5, 0.5, 0.0], [5.0, 4.5, -5.0]])  # z = 5 by data: 4 + 1 / (1 + 1)
    torch.testing.assert_close(norm(x), expected)


def test_what_lies_outside_keeps_its_order_and_its_bound():
    norm = fitted(np.linspace(-1, 1, 1000), (-np.inf, np.inf))
    x = torch.tensor([0.0, 2.0, 3.0, 10.0, 100.0, 1e30, np.inf])[:, None]
    seen = norm(x).flatten()
    assert (seen.diff()[:5] > 0).all() and seen[-2] == seen[-1] < 5 and seen[-3] > 4.9
    torch.testing.assert_close(norm(-x).flatten(), -seen, atol=1e-4, rtol=0)


def test_a_constant_is_subtracted_and_not_blown_up():
    norm = fitted(np.full(1000, 1e5 + 0.1), (-np.inf, np.inf))
    seen = norm(torch.tensor([[np.float32(1e5 + 0.1)], [1e5 + 1.1]])).flatten()
    assert seen[0] == 0 and 0.9 < seen[1] < 1.1


def test_rounding_errors_of_a_constant_are_no_data():
    assert fitted(1e-16 * rng.standard_normal(1000), (-np.inf, np.inf)).scale.item() == 1.0


def test_an_outlier_has_no_weight():
    values = np.append(rng.uniform(6, 20, 999), 1e9)
    for limits in ((-np.inf, np.inf), (-1e9, 1e9)):
        assert 3 < fitted(values, limits).scale.item() < 5
    assert fitted([1.0, 2.0, 3.0, 1e9], (-np.inf, np.inf)).scale.item() < 1


def test_a_rare_event_is_seen():
    values = np.zeros(5000)
    values[7] = 2.0
    norm = fitted(values, (-np.inf, np.inf))
    assert norm(torch.tensor([[2.0]])) - norm(torch.tensor([[0.0]])) > 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_averaged_in(bad):
    assert fitted([1.0, 3.0, bad], (-np.inf, np.inf)).centre.item() == 2.0
    assert not fitted([bad], (-np.inf, np.inf)).uses_data


def test_float32_overflow_and_large_whole_numbers():
    whole = 16_777_216 + 2 * rng.integers(0, 1000, 1000)
    assert fitted(whole, (-np.inf, np.inf)).scale.item() == pytest.approx(whole.std(), rel=0.03)
    assert np.isfinite(fitted(3e38 * rng.uniform(-1, 1, 1000), (-np.inf, np.inf)).scale.item())


def test_many_rows_are_thinned():
    values = rng.uniform(6, 20, 200_000)
    assert fitted(values, (-np.inf, np.inf)).centre.item() == pytest.approx(13, abs=0.2)


def test_a_goal_is_scaled_like_what_is_achieved_of_it():
    free = (-np.inf, np.inf)
    spec = spec_of(free, free, free, names=["observation", "desired_goal", "achieved_goal"])
    norm = normaliser(spec)
    fit(norm, spec, np.float32([[0, 8, 0], [1, 8, 1], [0, 8, 2], [1, 8, 3]]))
    assert norm.centre[1] == norm.centre[2] and norm.scale[1] == norm.scale[2] > 1


def test_of_few_rows_by_hand():
    """Of five values, the lowest and the highest count as the next one inwards: 2 2 3 4 4."""
    seen = Seen.of(np.array([[1.0], [2.0], [3.0], [4.0], [100.0]]))
    assert (seen.low.item(), seen.high.item(), seen.mean.item()) == (2.0, 4.0, 3.0)
    assert seen.std.item() == pytest.approx(0.8**0.5)


def replay_of(spec, n_seeds=0, n_envs=2):
    return Replay(10_000, n_envs, spec.obs_dim, 1, 0, n_seeds)


def grown(replay, values):
    """Adds one vector step (n_envs,) of a single entry."""
    nothing = np.zeros(replay.n_envs)
    obs = np.float32(values)[:, None]
    replay.add(obs, nothing[:, None], nothing, obs, nothing, nothing)


def test_it_follows_a_replay_that_moves():
    spec = spec_of((-np.inf, np.inf))
    norm = normaliser(spec)
    replay = replay_of(spec)
    scales = []
    for step in range(400):
        grown(replay, step * rng.uniform(-1, 1, 2))
        follow(norm, spec, replay)
        scales.append(norm.scale.item())
    assert scales[-1] > 4 * scales[50]
    assert len(set(scales)) < 30  # it stands still between fits
    norm.frozen = True
    for _ in range(400):
        grown(replay, 1e4 * rng.uniform(-1, 1, 2))
        follow(norm, spec, replay)
    assert norm.scale.item() == scales[-1]


def test_finite_limits_are_given_up_late_and_for_good():
    spec = spec_of((-1e4, 1e4))
    norm = normaliser(spec)
    replay = replay_of(spec)
    given_up = []
    for _ in range(3 * ENOUGH):
        grown(replay, rng.uniform(6, 20, 2))
        follow(norm, spec, replay)
        given_up.append(norm.uses_data)
    assert given_up == sorted(given_up) and given_up[-1] and not any(given_up[: ENOUGH - 1])
    for _ in range(3 * ENOUGH):
        grown(replay, rng.uniform(-1e4, 1e4, 2))
        follow(norm, spec, replay)
    assert norm.uses_data and norm.scale.item() > 100


def test_each_learner_has_its_own_statistics():
    spec = spec_of((-np.inf, np.inf))
    norm = normaliser(spec)
    replay = replay_of(spec, n_seeds=2, n_envs=4)
    for step in range(100):
        grown(replay, [step % 2, step % 2, 100 * (step % 2), 100 * (step % 2)])
    fit(norm, spec, replay.observations(1000))
    assert norm.centre.flatten().tolist() == [0.5, 50.0]
    rows = torch.tensor([[[0.0], [1.0]], [[0.0], [100.0]]])
    expected = torch.tensor([[[-1.0], [1.0]], [[-1.0], [1.0]]])
    torch.testing.assert_close(norm(rows), expected)
    torch.testing.assert_close(norm(rows.unsqueeze(2)), expected.unsqueeze(2))


def test_looking_at_a_replay_does_not_change_what_it_samples():
    spec = spec_of((-np.inf, np.inf))
    one = replay_of(spec)
    other = replay_of(spec)
    for replay in (one, other):
        for step in range(50):
            grown(replay, [step, -step])
    held = one.observations(10)
    assert held.shape == (10, 1) and np.isin(held, one.obs[:50]).all()
    np.testing.assert_array_equal(held, one.observations(10))
    assert (
        np.sort(one.observations(100).flatten()).tolist()
        == np.sort(one.obs[:50].flatten()).tolist()
    )
    torch.testing.assert_close(one.sample(8).obs, other.sample(8).obs, rtol=0, atol=0)


@pytest.mark.parametrize("task", ["arm", "arm-press", "maze-square-a", "modes"])
def test_our_own_tasks_keep_their_limits(task):
    """What uniform actions show of them, from the start of an episode on, is within real limits."""
    from sim.core.hold import Hold
    from sim.core.registry import make_vec

    spec = task_spec(task)
    env = Hold(make_vec(task, 4, 0), spec.hold)
    norm = normaliser(spec)
    replay = Replay(1000, 4, spec.obs_dim, spec.act_dim, 0)
    obs, _ = env.reset(seed=0)
    for _ in range(2 * ENOUGH):
        action = rng.uniform(-1, 1, (4, spec.act_dim))
        after, reward, terminated, truncated, infos = env.step(action)
        replay.add(obs, action, reward, infos["final_obs"], terminated, truncated)
        follow(norm, spec, replay)
        obs = after
    assert not norm.uses_data
