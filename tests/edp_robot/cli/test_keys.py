"""Keys at the command line: `edp keys`, and --keys of every command that talks to a server."""

import contextlib
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from edp_robot import cli
from edp_robot.cli import keys
from edp_robot.demo.server_process import endpoint_of
from policy_server.bench.load import plan
from policy_server.contract.errors import PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.transport.keys import ClientKeys, make_keys

SERVE = [sys.executable, "-m", "edp_robot.cli", "serve"]
TALKERS = {  # every command that talks to a server, with options that make it short
    "control": "--robot sim:arm-press --seconds 0.3",
    "evaluate": "--episodes 1",
    "bench load": "--n 60 --warmup-s 0.02 --clients 3 --processes 2 --rate 100",
    "top": "--once --interval-s 0.1",
    "reload": "",
}
SAID = {
    "control": " ticks, ",
    "evaluate": "arm-press: success",
    "bench load": "untrained at",
    "top": "acts/s",
    "reload": "serving ",
}


def talk(name, *options):
    """Returns the exit status of a command that talks to a server."""
    return cli.main([*name.split(), *TALKERS[name].split(), *map(str, options)])


def test_new_keys_and_their_list(tmp_path, capsys):
    folder = tmp_path / "k"
    assert keys.new(folder, "robot-7") == 0
    out = capsys.readouterr().out
    assert "private/robot-7.key_secret  (secret, mode 0600)" in out
    assert f"--keys {folder}" in out
    robot = ClientKeys.load(folder / "private/robot-7.key_secret")
    assert keys.list_keys(folder) == 0
    out = capsys.readouterr().out
    assert robot.public.decode() in out
    assert robot.secret.decode() not in out
    assert "its secret is still here" in out


def test_an_unusable_file_is_listed_and_an_exit_status(tmp_path, capsys):
    folder = tmp_path / "k"
    keys.new(folder)
    (folder / "clients/x.key").write_text("nothing")
    assert keys.list_keys(folder) == 1
    assert "unusable: cannot read the key" in capsys.readouterr().out


@pytest.fixture(scope="module")
def keyed(bundle, tmp_path_factory):
    """A server with keys: its endpoint, its log, and the secret of its robot."""
    folder = tmp_path_factory.mktemp("keyed")
    key_folder = folder / "keys"
    make_keys(key_folder, "robot-1")
    log = folder / "log"
    words = [*SERVE, bundle, "--bind", "tcp://127.0.0.1:*", "--provider", "cpu"]
    with log.open("w") as out, contextlib.ExitStack() as stack:
        server = subprocess.Popen([*words, "--keys", key_folder], stdout=out, stderr=out)
        stack.callback(server.wait)
        stack.callback(server.kill)
        endpoint = endpoint_of(server, log)
        secret = key_folder / "private/robot-1.key_secret"
        yield SimpleNamespace(endpoint=endpoint, secret=secret, log=log)


def test_a_keyed_client_gets_the_same_actions(bundle, keyed):
    obs = np.random.default_rng(0).normal(size=(5, 22)).astype(np.float32)
    my_keys = ClientKeys.load(keyed.secret)
    with PolicyClient(keyed.endpoint, 10, my_keys) as client, LocalPolicy(bundle) as local:
        client.reset(7)
        local.reset(7)
        for row in obs:
            assert np.array_equal(client.act(row), local.act(row))
            client.send(row)
            received = client.receive(10)
            assert received is not None
            assert np.array_equal(received, local.act(row))


def test_a_keyed_client_finds_a_restarted_server_again(bundle, tmp_path):
    key_folder = tmp_path / "keys"
    make_keys(key_folder, "robot-1")
    my_keys = ClientKeys.load(key_folder / "private")
    endpoint = f"ipc://{tmp_path}/s"
    obs = np.zeros(22, np.float32)
    words = [*SERVE, bundle, "--bind", endpoint, "--keys", key_folder]
    with (tmp_path / "log").open("w") as log, contextlib.ExitStack() as stack:
        client = stack.enter_context(PolicyClient(endpoint, 20, my_keys))
        for _ in range(2):
            server = subprocess.Popen(words, stdout=log, stderr=log)
            stack.callback(server.wait)
            stack.callback(server.kill)
            client.reset(1)  # waits for the server
            assert client.act(obs).shape == (10, 6)
            server.kill()
            server.wait()
            with pytest.raises(PolicyTimeout):
                client.act(obs, deadline_s=0.05)


@pytest.mark.parametrize("name", TALKERS)
def test_every_command_that_talks_to_a_server_takes_keys(keyed, name, capsys):
    status = talk(name, "--server", keyed.endpoint, "--keys", keyed.secret)
    out, err = capsys.readouterr()
    assert (status, err) == (0, ""), out
    assert SAID[name] in out


def test_without_keys_the_message_says_that_they_may_be_missing(keyed, capsys):
    """It comes at once. The minute that a reload may take is not for connecting."""
    start_s = time.monotonic()
    assert cli.main(["reload", "--server", keyed.endpoint]) == 1
    assert time.monotonic() - start_s < 20
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edp reload: not connected to {keyed.endpoint}")
    assert "without them (--keys)" in line


def test_wrong_keys_are_named_as_the_reason(keyed, tmp_path):
    make_keys(tmp_path, "robot-1")
    mine = ClientKeys.load(keyed.secret)
    foreign = ClientKeys.load(tmp_path / "private")
    unknown = ClientKeys(foreign.public, foreign.secret, mine.server)
    with (
        PolicyClient(keyed.endpoint, 0.3, unknown) as client,
        pytest.raises(PolicyTimeout, match="this client's key"),
    ):
        client.hello()
    until = time.monotonic() + 10
    while unknown.public.decode() not in keyed.log.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert "client_refused" in keyed.log.read_text()


def test_a_measurement_does_not_write_the_secret_down(keyed, tmp_path):
    """The secret is neither in the result nor in the messages to the processes of the clients."""
    secret = ClientKeys.load(keyed.secret).secret.decode()
    file = tmp_path / "load.json"
    files = ["--json", file, "--samples", tmp_path / "load.npz"]
    assert talk("bench load", "--server", keyed.endpoint, "--keys", keyed.secret, *files) == 0
    said = json.loads(file.read_text())
    assert sum(said["counts"].values()) == 60 and said["counts"]["OK"] > 0  # a busy machine is late
    assert said["counts"]["LOST"] == 0
    assert said["n_duplicate"] == said["n_stray"] == 0
    asked = plan.LoadPlan((0.0,), 16, keyed.endpoint, keys=str(keyed.secret))
    assert secret not in file.read_text() + json.dumps(plan._parts(asked, 1)) + repr(asked)


@pytest.mark.parametrize("name", ["control", "evaluate", "bench load"])
def test_keys_without_a_server_are_refused(bundle, keyed, name, capsys):
    assert talk(name, "--bundle", bundle, "--keys", keyed.secret) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"edp {name}: --keys ")
    assert "give --server ENDPOINT as well, or leave --keys out" in said


@pytest.mark.parametrize("name", TALKERS)
def test_unreadable_keys_are_reported_before_anything_else(name, tmp_path, capsys):
    secret = tmp_path / "robot-1.key_secret"
    assert talk(name, "--server", "tcp://127.0.0.1:9", "--keys", secret) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edp {name}: ")
    assert "server.key" in line


def test_no_other_command_has_a_server_option(capsys):
    """A new one has to be in TALKERS, so that its --keys are tested."""
    for name in cli.COMMANDS:
        with contextlib.suppress(SystemExit):
            cli.main([*name.split(), "--help"])
        assert ("--server " in capsys.readouterr().out) == (name in TALKERS), name
