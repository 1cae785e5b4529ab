import numpy as np
import pytest

from sim.core.evaluate import evaluate
from sim.tasks import experts, modes


def test_the_hand_is_led_to_the_goal():
    """What the fetch expert shows, without its noise, reaches the goal in every episode."""

    def act(obs):
        move = experts.GAIN * (obs[:, experts.GOAL] - obs[:, experts.HAND])
        return np.clip(np.concatenate([move, np.zeros((len(obs), 1))], 1), -1, 1)

    assert evaluate(act, experts.FETCH_REACH, 10, 0).success == 1.0
    obs, action = experts.demonstrations(experts.FETCH_REACH, 30, 0)
    assert obs.shape == (30, 16) and action.shape == (30, 4) and np.abs(action).max() <= 1
    far = (
        np.abs(obs[:, experts.GOAL] - obs[:, experts.HAND]) > 0.06
    )  # three deviations of the noise
    towards = np.sign(obs[:, experts.GOAL] - obs[:, experts.HAND]) == np.sign(action[:, :3])
    assert far.sum() > 10 and towards[far].all()


def test_demonstrations_are_as_many_as_asked_and_repeat():
    obs, action = experts.demonstrations("modes", 7, 3)
    assert obs.shape == (7, 2) and (modes.distances(obs, action).min(1) < 2 * modes.RADIUS).all()
    np.testing.assert_array_equal(experts.demonstrations("modes", 7, 3)[1], action)
    with pytest.raises(
        ValueError, match="task 'arm' has no expert of its own; there are: modes, gym:FetchReach-v4"
    ):
        experts.demonstrations("arm", 1, 0)
