"""Serving and control with real processes: `edp serve`, `edp control` and a simulated robot."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edp_robot.demo.server_process import endpoint_of, run_server
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy

EDP = [sys.executable, "-m", "edp_robot.cli"]
HOLD_A_SERVER = """
import sys
from pathlib import Path
from edp_robot.demo.server_process import run_server

with run_server(Path(sys.argv[1]), Path(sys.argv[2])) as endpoint:
    print(endpoint, flush=True)
    sys.stdin.read()
"""


def control(*args):
    """Starts `edp control` with the simulated robot."""
    command = [*EDP, "control", "--robot", "sim:arm-press", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_served_policy_equals_the_local_one(bundle, tmp_path):
    obs = np.random.default_rng(0).normal(size=(20, 22)).astype(np.float32)
    with run_server(bundle, tmp_path / "log") as endpoint, PolicyClient(endpoint) as client:
        client.reset(7)
        served = np.stack([client.act(row) for row in obs])
    with LocalPolicy(bundle) as local:
        local.reset(7)
        assert np.array_equal(served, np.stack([local.act(row) for row in obs]))


def test_a_robot_runs_under_a_served_policy(bundle, tmp_path):
    file = tmp_path / "c.json"
    with run_server(bundle, tmp_path / "log") as endpoint:
        run = control("--server", endpoint, "--seconds", 2, "--episode-s", 1, "--json", file)
        said, _ = run.communicate(timeout=60)
    report = json.loads(file.read_text())
    assert (run.returncode, report["error"]) == (0, None), said
    assert report["ticks"] + report["skipped"] == 200
    assert len(report["successes"]) == 2


def test_killing_the_server_during_control_holds_and_fails_clearly(bundle, tmp_path):
    log = tmp_path / "log"
    file = tmp_path / "c.json"
    record = tmp_path / "c.npz"
    command = [*EDP, "serve", bundle, "--bind", "tcp://127.0.0.1:*"]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        endpoint = endpoint_of(server, log)
        files = ["--json", file, "--record", record]
        run = control("--server", endpoint, "--seconds", 60, *files)
        with PolicyClient(endpoint) as client:  # wait until the robot moves
            until = time.monotonic() + 60
            while client.stats()["inference_us"]["n"] < 5 and time.monotonic() < until:
                time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
        said, _ = run.communicate(timeout=60)
    finally:
        server.kill()
        server.wait()
    report = json.loads(file.read_text())
    assert run.returncode == 1, said
    assert report["error"]
    assert report["n_holds"] >= 1
    targets = np.load(record)["target"]
    assert (targets[-1] == targets[-2]).all()  # the last safe target, held


def has_robot(pid):
    """Returns whether the process `pid` has started the process of the simulated robot."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    except FileNotFoundError:  # a child that has ended since
        return False
    return any(b"sim.robots.robot_process" in command for command in commands)


def test_ctrl_c_ends_control(bundle):
    run = control("--bundle", bundle, "--seconds", 60)
    until = time.monotonic() + 60
    while time.monotonic() < until and not has_robot(run.pid):  # before, Ctrl-C may be ignored
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode not in (0, None)


def test_a_server_ends_with_a_demo_that_is_killed(bundle, tmp_path):
    """kill -9 runs no clean-up. The server still has to end, and to free its endpoint."""
    words = [sys.executable, "-c", HOLD_A_SERVER, str(bundle), str(tmp_path / "log")]
    demo = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    endpoint = demo.stdout.readline().strip()
    with PolicyClient(endpoint) as client:
        assert client.act(np.zeros(22, np.float32)).shape == (10, 6)
    demo.kill()
    demo.wait()
    port = int(endpoint.rpartition(":")[2])
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the server still holds {endpoint}")
