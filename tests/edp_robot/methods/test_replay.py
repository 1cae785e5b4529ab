import json

import numpy as np
import pytest
import torch

from edp_robot.methods import memory
from edp_robot.methods.memory import MemoryTooSmall
from edp_robot.methods.replay import Batch, Replay, TooFewSteps
from edp_robot.methods.replay_mix import MixedReplay

EPISODE = 5


def fill(replay: Replay, n: int, start: int = 0, end_every: int = 0) -> None:
    """Adds vector steps start ... start + n - 1.

    Step k of environment e has obs 100 e + k, the next obs one more, and reward k.
    """
    for k in range(start, start + n):
        value = 100.0 * np.arange(replay.n_envs) + k
        ended = bool(end_every) and (k + 1) % end_every == 0
        obs = value[:, None]
        replay.add(
            obs,
            action=-obs,
            reward=np.full(replay.n_envs, float(k)),
            next_obs=obs + 1,
            terminated=np.zeros(replay.n_envs),
            truncated=np.full(replay.n_envs, ended),
        )


def by_hand() -> Replay:
    """Returns one environment's six steps, with powers of 2 as rewards.

    The second step ends by truncation, the fifth by termination. An episode's last observation is
    not the first of the next one.
    """
    replay = Replay(6, 1, 1, 1, seed=0)
    for k in range(6):
        obs = np.array([[float(k)]])
        final = np.array([[k + 0.5]]) if k in (1, 4) else obs + 1
        replay.add(obs, obs, [2.0**k], final, [k == 4], [k == 1])
    return replay


def by_start(batch: Batch) -> dict[int, int]:
    """Returns the row of the batch for every first observation in it."""
    return {int(o): i for i, o in enumerate(batch.obs[:, 0].tolist())}


def test_n_step_futures_by_hand():
    batch = by_hand().sample(200, n_step=3)
    total, next_obs, factor = batch.n_step_return(batch.reward, 0.5)
    expected = {  # start: (return, bootstrap observation, factor)
        # Truncated after two steps, it bootstraps with gamma^2 from the episode's last obs.
        0: (1 + 0.5 * 2, 1.5, 0.25),
        1: (2, 1.5, 0.5),
        2: (4 + 0.5 * 8 + 0.25 * 16, 4.5, 0.0),  # terminated at the third
        3: (8 + 0.5 * 16, 4.5, 0.0),
    }
    rows = by_start(batch)
    assert set(rows) == set(expected)
    for start, (r, s, f) in expected.items():
        i = rows[start]
        assert (total[i].item(), next_obs[i].item(), factor[i].item()) == (r, s, f), start


def test_valid_and_terminated_by_hand():
    batch = by_hand().sample(200, n_step=3)
    rows = by_start(batch)
    assert batch.valid[rows[0]].tolist() == [1, 1, 0]
    assert batch.valid[rows[1]].tolist() == [1, 0, 0]
    assert batch.valid[rows[2]].tolist() == [1, 1, 1]
    assert [batch.terminated[rows[k]].item() for k in range(4)] == [0, 0, 1, 1]


def test_end_of_the_next_episode_does_not_count():
    replay = Replay(3, 1, 1, 1, seed=0)
    for terminated, truncated in [(False, True), (True, False), (False, False)]:
        replay.add([[0.0]], [[0.0]], [1.0], [[1.0]], [terminated], [truncated])
    batch = replay.sample(10, n_step=3)
    assert batch.terminated.tolist() == [0] * 10
    assert batch.n_step_return(batch.reward, 0.9)[0].tolist() == [1] * 10


def test_one_step():
    batch = by_hand().sample(200)
    assert set(by_start(batch)) == set(range(6))
    total, next_obs, factor = batch.n_step_return(batch.reward, 0.9)
    torch.testing.assert_close(total, 2.0 ** batch.obs[:, 0])
    torch.testing.assert_close(factor, 0.9 * (batch.obs[:, 0] != 4).float())
    torch.testing.assert_close(next_obs, batch.next_obs[:, 0])


def test_return_takes_another_reward():
    batch = Batch(
        obs=torch.zeros(2, 1),
        action=torch.zeros(2, 1),
        next_obs=torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]),
        reward=torch.zeros(2, 3),
        valid=torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        terminated=torch.tensor([0.0, 0.0]),
    )
    other = torch.tensor([[1.0, 10.0, 100.0], [7.0, 9.0, 9.0]])
    total, next_obs, factor = batch.n_step_return(other, 0.1)
    torch.testing.assert_close(total, torch.tensor([3.0, 7.0]))
    torch.testing.assert_close(next_obs, torch.tensor([[3.0], [4.0]]))
    torch.testing.assert_close(factor, torch.tensor([0.001, 0.1]))


@pytest.mark.parametrize("n_added", [3, 7, 8, 9, 10, 13, 24, 30])
def test_no_sample_crosses_the_seam_of_the_ring(n_added):
    replay = Replay(capacity=16, n_envs=2, obs_dim=1, act_dim=1, seed=0)  # 8 rows
    fill(replay, n_added)
    batch = replay.sample(400, n_step=3)
    step = batch.obs[:, 0] % 100
    oldest = max(n_added - 8, 0)
    # Old data are gone, and every start is possible.
    assert set(step.tolist()) == set(range(oldest, n_added - 2))
    torch.testing.assert_close(batch.next_obs[..., 0], batch.obs + torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(batch.reward, step[:, None] + torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(batch.action, -batch.obs)
    assert set((batch.obs[:, 0] // 100).tolist()) == {0, 1}


def test_sampling_is_uniform():
    replay = Replay(10, 2, 1, 1, seed=0)
    fill(replay, 7)
    starts, counts = np.unique(replay.sample(40_000, n_step=2).obs.numpy(), return_counts=True)
    assert len(starts) == 8
    assert abs(counts / 5000 - 1).max() < 4 / np.sqrt(5000)


def test_length_and_capacity():
    replay = Replay(capacity=17, n_envs=2, obs_dim=1, act_dim=1, seed=0)
    assert len(replay) == 0
    fill(replay, 3)
    assert len(replay) == 6
    fill(replay, 20)
    assert len(replay) == 16


def test_too_little_data_is_refused():
    replay = Replay(16, 2, 1, 1, seed=0)
    fill(replay, 2)
    with pytest.raises(
        TooFewSteps, match=r"holds 2 vector steps \(at most 8\), fewer than n_step=3"
    ):
        replay.sample(4, n_step=3)


@pytest.mark.parametrize("n_added", [5, 11])
def test_state_goes_on_with_the_same_samples(n_added):
    replay = Replay(16, 2, 1, 1, seed=0)
    other = Replay(16, 2, 1, 1, seed=9)
    fill(replay, n_added, end_every=EPISODE)
    replay.sample(3)
    state = replay.state()
    arrays = {name: values.clone() for name, values in state.pop("arrays").items()}
    other.load({**json.loads(json.dumps(state)), "arrays": arrays})
    for k in range(3):
        a = replay.sample(32, n_step=3)
        b = other.sample(32, n_step=3)
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in Batch.__dataclass_fields__)
        fill(replay, 4, start=n_added + 4 * k, end_every=EPISODE)
        fill(other, 4, start=n_added + 4 * k, end_every=EPISODE)


def test_a_saved_replay_is_cut_to_what_it_holds():
    replay = Replay(1000, 2, 1, 1, seed=0)
    fill(replay, 4)
    assert all(len(v) == 4 for v in replay.state()["arrays"].values())


def samples(replay):
    batch = replay.sample(64, n_step=3)
    return [getattr(batch, field) for field in Batch.__dataclass_fields__]


@pytest.mark.parametrize("n_added", [5, 8, 11])
def test_a_replay_takes_memory_as_it_fills(n_added):
    """It samples as one that has all its memory from the start, also where the ring wraps."""
    whole = Replay(16, 2, 1, 1, seed=0)
    growing = Replay(16, 2, 1, 1, seed=0, expected=3)
    assert (whole.rows, growing.rows) == (8, 3)
    for replay in (whole, growing):
        fill(replay, n_added, end_every=EPISODE)
    assert growing.rows == min(8, 3 if n_added <= 3 else 6 if n_added <= 6 else 8)
    assert all(torch.equal(a, b) for a, b in zip(samples(whole), samples(growing), strict=True))


@pytest.mark.parametrize("n_added", [5, 8, 11, 19])
@pytest.mark.parametrize("capacity", [12, 14, 16, 20, 60])
def test_a_replay_of_another_capacity_is_taken_over(n_added, capacity):
    """As from a run of other env_steps, or of an older version, which took the whole capacity."""
    old = Replay(16, 2, 1, 1, seed=0)
    fill(old, n_added, end_every=EPISODE)
    new = Replay(capacity, 2, 1, 1, seed=9, expected=4)
    new.load(old.state())
    n_kept = min(n_added, 8, capacity // 2)
    assert new.n_rows == n_kept
    expected = Replay(2 * n_kept, 2, 1, 1, seed=0)
    fill(expected, n_kept, start=n_added - n_kept, end_every=EPISODE)
    for k in range(3):
        assert all(torch.equal(a, b) for a, b in zip(samples(new), samples(expected), strict=True))
        if capacity // 2 != n_kept:
            break  # it holds more than `expected` from here on
        for replay in (new, expected):
            fill(replay, 1, start=n_added + k, end_every=EPISODE)


def test_a_cut_ends_the_newest_step_and_no_sample_runs_over_it():
    replay = Replay(16, 2, 1, 1, seed=0)
    replay.cut()  # it holds nothing: nothing to end
    fill(replay, 4)
    replay.cut()
    fill(replay, 4, start=50)
    batch = replay.sample(400, n_step=3)
    step = batch.obs[:, 0] % 100
    n_valid = torch.where(step < 4, (4 - step).clamp(max=3), torch.tensor(3.0))
    torch.testing.assert_close(batch.valid.sum(-1), n_valid)
    assert not batch.terminated.any()  # values go on from the last observation


def test_a_mixture_takes_all_from_the_replay_that_holds_enough():
    short = Replay(16, 2, 1, 1, seed=0)
    fill(short, 2)
    long = Replay(16, 2, 1, 1, seed=0)
    fill(long, 6, start=50)
    for mixed in (MixedReplay(short, long), MixedReplay(long, short)):
        assert (mixed.sample(20, n_step=3).obs % 100 >= 50).all()
    with pytest.raises(TooFewSteps):
        MixedReplay(short, short).sample(20, n_step=3)


def test_a_replay_without_room_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 8 << 30)
    with pytest.raises(MemoryTooSmall, match=r"1,000,000 transitions .* 12,288 numbers takes 91\."):
        Replay(1_000_000, 16, 12_288, 1, seed=0)
    expected = Replay(1_000_000, 16, 12_288, 1, seed=0, expected=4)
    assert expected.obs.nbytes == 4 * 16 * 12_288 * 4


def test_the_free_memory_of_this_machine_is_known():
    free = memory.free_bytes()
    assert free is None or 1 << 20 < free < 1 << 50
