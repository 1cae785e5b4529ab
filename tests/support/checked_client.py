"""A client whose answers are compared, bit for bit, with the policy in this process."""

import contextlib
import signal
import time

import numpy as np
import pytest

from policy_server.contract.errors import PolicyError
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy


class Checked:
    """A client of a server. `act` fails where the server answers something else."""

    def __init__(self, endpoint, bundle_path, timeout_s=10):
        self.client = PolicyClient(endpoint, timeout_s)
        self.local = LocalPolicy(bundle_path, "cpu")
        self.rng = np.random.default_rng(0)

    def reset(self, seed):
        self.client.reset(seed)
        self.local.reset(seed)

    def act(self, deadline_s=None):
        obs = self.rng.normal(size=3).astype(np.float32)
        answer = self.client.act(obs, deadline_s)
        assert answer.tobytes() == self.local.act(obs).tobytes()


@contextlib.contextmanager
def checked_clients(bundle_path):
    """Yields a function that makes such a client of an endpoint. Closes all clients at the end."""
    with contextlib.ExitStack() as stack:

        def make(endpoint):
            one = Checked(endpoint, bundle_path)
            stack.enter_context(one.client)
            one.reset(1)
            return one

        yield make


def ended_well(process):
    """Ends a server. Returns whether it ended with 0 and without a traceback."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    return process.returncode == 0 and "Traceback" not in errors


def refusal(action):
    """Returns status and message of the PolicyError that `action` raises."""
    with pytest.raises(PolicyError) as caught:
        action()
    return caught.value.status, str(caught.value)


def until(condition, timeout_s=20.0):
    """Waits until `condition()` is true."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)
