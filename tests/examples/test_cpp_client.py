"""The C++ client against real servers of the tiny policy."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from support.cpp_client import CLIENT, compiled, link_flags, values
from support.serving import read_line, running_server

from policy_server.control.client import PolicyClient


def obs(k, n):
    """Returns the numbers that test_client.cpp makes, exactly."""
    return (np.arange(k, k + n) / 8).astype(np.float32)


@pytest.mark.parametrize("command", ["acts", "pipeline"])
def test_the_same_bits_as_the_python_client(tiny, run, served, command):
    lines = run(command, served, 7, tiny.obs_dim, 5)
    with PolicyClient(served, timeout_s=10) as client:
        client.reset(7)
        expected = np.stack([client.act(obs(k, tiny.obs_dim)).ravel() for k in range(5)])
    assert [line.split()[0] for line in lines] == ["2", "3", "4", "5", "6"]
    assert values(lines).tobytes() == expected.tobytes()


def test_hello_is_the_servers_json(run, served):
    with PolicyClient(served, timeout_s=10) as client:
        expected = client.hello()
    answer = json.loads("".join(run("hello", served)))
    assert answer.pop("session") != expected.pop("session")
    assert answer == expected


def test_bad_observations_are_refused_and_the_session_goes_on(tiny, run, served):
    *refused, good = run("bad", served, tiny.obs_dim)
    assert [line.split()[0] for line in refused] == ["4", "4", "3", "3", "3"]
    assert "NaN or infinity at index [0]" in refused[0]
    assert "payload of 16 bytes, expected 12" in refused[2]
    assert "1048632 bytes, a message holds at most 1048576" in refused[4]
    assert values([good]).shape == (1, tiny.horizon * tiny.act_dim)


def test_a_bad_seed_is_refused(tiny, run, served):
    assert run("acts", served, -1, tiny.obs_dim, 1)[0].startswith("refused 1 ")


def test_a_call_allocates_nothing(tiny, run, served):
    assert run("allocations", served, tiny.obs_dim, 50) == ["0 1"]


def test_a_restarted_server_is_found_again(tiny, program, bundle_path, tmp_path):
    endpoint = f"ipc://{tmp_path}/s"
    command = [program, "reconnect", endpoint, str(tiny.obs_dim)]
    with running_server(bundle_path, endpoint):
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        before = read_line(client)
    try:
        assert client.stdin and before
        client.stdin.write("\n")
        client.stdin.flush()
        assert read_line(client) == f"held {tiny.horizon * tiny.act_dim}\n"
        with running_server(bundle_path, endpoint):
            after = read_line(client)
        assert after  # a new session draws the same first noise
        np.testing.assert_array_equal(values([after]), values([before]))
    finally:
        client.kill()
        client.communicate()


def test_a_bad_endpoint_is_refused(program):
    done = subprocess.run([program, "hello", "127.0.0.1:5599"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "endpoint '127.0.0.1:5599', expected tcp://HOST:PORT or ipc://PATH" in done.stderr


def test_the_example_drives(tiny, served, tmp_path):
    example = compiled(CLIENT / "example.cpp", tmp_path / "example")
    command = [example, served, str(tiny.obs_dim), "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].replace(",", "").replace(";", "").split()
    n_answers, p50_us, p99_us, n_held, n_skipped = (float(word) for word in words if word.isdigit())
    assert n_answers + n_held + n_skipped == 50
    assert n_answers > 0
    assert 0 < p50_us <= p99_us < 20_000


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake")
def test_cmake_builds_it(tmp_path):
    flags = link_flags() or pytest.skip("needs libzmq")
    library = [f"-DZMQ_LIBRARY={flags[0]}"] if flags[0].startswith("/") else []
    configure = ["-S", str(CLIENT), "-B", str(tmp_path), *library]
    for arguments in (configure, ["--build", str(tmp_path)]):
        done = subprocess.run(["cmake", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([str(tmp_path / "edp_example")], capture_output=True, text=True)
    assert done.returncode == 2 and "usage:" in done.stderr
