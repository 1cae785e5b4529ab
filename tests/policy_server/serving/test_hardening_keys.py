"""A real server with keys, and clients that it must not admit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.serving import SERVE

from policy_server.contract.errors import PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.transport.keys import ClientKeys, make_keys

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from soaking.attacker import Attacker

OBS = np.float32([0.1, -0.2, 0.01])


@pytest.fixture(scope="module")
def keyed(bundle_path, tmp_path_factory):
    """A server with keys, as (endpoint, key folder)."""
    folder = tmp_path_factory.mktemp("keys") / "server"
    make_keys(folder, "robot-1")
    where = ["--bind", "tcp://127.0.0.1:*", "--provider", "cpu"]
    command = [*SERVE, str(bundle_path), *where, "--keys", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process.stdout.readline().split(" on ")[1].split(",")[0], folder
    finally:
        process.kill()
        process.communicate()


def wrong_keys(folder, tmp_path, fault):
    """Returns keys that the server must refuse."""
    right = ClientKeys.load(folder / "private" / "robot-1.key_secret")
    make_keys(tmp_path / "foreign", "robot-1")
    foreign = ClientKeys.load(tmp_path / "foreign" / "private" / "robot-1.key_secret")
    return {
        "no keys": None,
        "unknown client": ClientKeys(foreign.public, foreign.secret, right.server),
        "wrong server": ClientKeys(right.public, right.secret, foreign.server),
        "not its secret": ClientKeys(right.public, foreign.secret, right.server),
    }[fault]


@pytest.mark.parametrize("fault", ["no keys", "unknown client", "wrong server", "not its secret"])
def test_wrong_keys_get_no_session_and_cost_the_others_nothing(keyed, tmp_path, fault):
    endpoint, folder = keyed
    keys = ClientKeys.load(folder / "private" / "robot-1.key_secret")
    with (
        PolicyClient(endpoint, 10, keys) as good,
        PolicyClient(endpoint, 0.2, wrong_keys(folder, tmp_path, fault)) as bad,
    ):
        n_sessions = good.stats()["n_sessions"]
        with pytest.raises(PolicyTimeout):
            bad.hello()
        for _ in range(20):
            assert good.act(OBS, deadline_s=2).shape == (2, 2)
        assert good.stats()["n_sessions"] == n_sessions


def test_garbage_at_a_server_with_keys(keyed):
    endpoint, folder = keyed
    report = Attacker(endpoint, 3).attack(60, 0, 1)
    assert report["answers"] == {} and report["n_ids_refused"] == 1
    with PolicyClient(
        endpoint, 10, ClientKeys.load(folder / "private" / "robot-1.key_secret")
    ) as good:
        assert good.act(OBS).shape == (2, 2)
