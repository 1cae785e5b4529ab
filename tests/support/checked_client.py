"""A client whose every answer is compared with the policy in this process, bit for bit."""

import contextlib
import signal

import numpy as np

from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy


class Checked:
    """Such a client; `act` fails where the answer is another one."""

    def __init__(self, endpoint, bundle_path, timeout_s=10):
        self.client, self.local = PolicyClient(endpoint, timeout_s), LocalPolicy(bundle_path, "cpu")
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
    """A function that makes such clients of an endpoint; they are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(endpoint):
            one = Checked(endpoint, bundle_path)
            stack.enter_context(one.client)
            one.reset(1)
            return one

        yield make


def ended_well(process):
    """Ends a server; returns whether it had no trouble to tell of."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    return process.returncode == 0 and "Traceback" not in errors
