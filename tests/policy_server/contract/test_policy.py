"""What counts as an observation."""

import array

import numpy as np
import pytest

from policy_server.contract.errors import BackendError, PolicyError
from policy_server.contract.policy import obs_array
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.runtime.base import load_backend

RIGHT = np.array([0.25, -0.5, 1.0], np.float32)
SAME = {
    "float64": RIGHT.astype(np.float64),
    "float16": RIGHT.astype(np.float16),
    "list": [0.25, -0.5, 1],
    "tuple": (0.25, -0.5, 1.0),
    "every second number": np.repeat(RIGHT, 2)[::2],
    "backwards": RIGHT[::-1].copy()[::-1],
    "big-endian": RIGHT.astype(">f4"),
    "buffer": array.array("f", RIGHT),
    "read-only": np.frombuffer(RIGHT.tobytes(), np.float32),
}
WRONG = {  # what came, and what the error says
    "(3, 1)": (RIGHT[:, None], r"BAD_LENGTH: obs \(3, 1\), expected \(3,\)"),
    "(1, 3)": (RIGHT[None], r"BAD_LENGTH: obs \(1, 3\), expected \(3,\)"),
    "short": (RIGHT[:2], r"BAD_LENGTH: obs \(2,\)"),
    "long": (np.zeros(4), r"BAD_LENGTH: obs \(4,\)"),
    "empty": ([], r"BAD_LENGTH: obs \(0,\)"),
    "number": (1.0, r"BAD_LENGTH: obs \(\)"),
    "text": (["a", "b", "c"], r"MALFORMED: obs: <U1 \(3,\); expected an array of real numbers"),
    "complex": (RIGHT + 1j, r"MALFORMED: obs: complex64"),
    "nothing": (None, r"MALFORMED: obs: object \(\)"),
    "dictionary": ({"a": 1}, r"MALFORMED: obs: object"),
    "ragged": ([[1, 2], [3]], r"MALFORMED: obs: .*inhomogeneous"),
}


@pytest.fixture(scope="module")
def policies(served, bundle_path):
    """The same policy served and in this process."""
    with PolicyClient(served.endpoint, timeout_s=20) as client, LocalPolicy(bundle_path) as local:
        yield client, local


@pytest.mark.parametrize("what", SAME)
def test_numbers_of_any_kind_are_the_same_observation(policies, what):
    for policy in policies:
        policy.reset(seed=3)
        expected = policy.act(RIGHT)
        policy.reset(seed=3)
        np.testing.assert_array_equal(policy.act(SAME[what]), expected)


@pytest.mark.parametrize("what", WRONG)
def test_anything_else_is_an_error_on_both_sides_and_takes_no_noise(policies, what):
    obs, message = WRONG[what]
    for policy in policies:
        policy.reset(seed=3)
        expected = policy.act(RIGHT)
        policy.reset(seed=3)
        with pytest.raises(PolicyError, match=message):
            policy.act(obs)
        np.testing.assert_array_equal(policy.act(RIGHT), expected)
    with pytest.raises(PolicyError, match=message):
        policies[0].send(obs)


def test_whole_numbers_are_numbers():
    np.testing.assert_array_equal(obs_array(np.array([1, -2], np.int8), 2), [1, -2])
    np.testing.assert_array_equal(obs_array(np.array([True, False]), 2), [1, 0])
    assert obs_array([1, 2], 2).dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_a_number_that_float32_cannot_hold_is_not_finite(policies):
    for policy in policies:
        with pytest.raises(PolicyError, match="NOT_FINITE"):
            policy.act([1e300, 0, 0])


def test_a_batch_of_any_numbers_reaches_a_backend(tiny, bundle_path):
    backend = load_backend(bundle_path, "cpu")
    noise = np.zeros((2, 4))
    expected = backend.act(np.array([RIGHT, RIGHT]), noise)
    np.testing.assert_array_equal(backend.act([[0.25, -0.5, 1]] * 2, noise.tolist()), expected)
    wide = np.asfortranarray(np.array([RIGHT, RIGHT], np.float64))
    np.testing.assert_array_equal(backend.act(wide, noise), expected)
    for obs in (RIGHT, 1.0, np.zeros((2, 3, 1)), np.zeros((2, 4))):
        with pytest.raises(BackendError, match=r"obs \(.*expected \(\d, 3\)"):
            backend.act(obs, noise)
    for obs in ("abc", [[1, 2], [3]], np.zeros((2, 3), complex)):
        with pytest.raises(BackendError, match=r"an input: .*expected an array of"):
            backend.act(obs, noise)
