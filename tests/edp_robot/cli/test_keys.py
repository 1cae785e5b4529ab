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
from policy_server.contract.errors import PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.transport.keys import ClientKeys, make_keys

TALKERS = {  # every command that talks to a server, and what makes it short
    "control": ("--robot", "sim:arm-press", "--seconds", "0.3"),
    "evaluate": ("--episodes", "1"),
    "bench load": (
        "--n",
        "60",
        "--warmup-s",
        "0.02",
        "--clients",
        "3",
        "--processes",
        "2",
        "--rate",
        "100",
    ),
    "top": ("--once", "--interval-s", "0.1"),
    "reload": (),
}


def test_new_keys_and_their_list(tmp_path, capsys):
    assert keys.new(tmp_path / "k", "robot-7") == 0
    out = capsys.readouterr().out
    assert (
        "private/robot-7.key_secret  (secret, mode 0600)" in out and f"--keys {tmp_path}/k" in out
    )
    robot = ClientKeys.load(tmp_path / "k/private/robot-7.key_secret")
    assert keys.list_keys(tmp_path / "k") == 0
    out = capsys.readouterr().out
    assert (
        robot.public.decode() in out
        and robot.secret.decode() not in out
        and "its secret is still here" in out
    )


def test_an_unusable_file_is_listed_and_an_exit_status(tmp_path, capsys):
    keys.new(tmp_path / "k")
    (tmp_path / "k/clients/x.key").write_text("nothing")
    assert (
        keys.list_keys(tmp_path / "k") == 1
        and "unusable: cannot read the key" in capsys.readouterr().out
    )


@pytest.fixture(scope="module")
def keyed(bundle, tmp_path_factory):
    """`edp serve --keys`: its endpoint, and the secret of its robot."""
    folder = tmp_path_factory.mktemp("keyed")
    make_keys(folder / "keys", "robot-1")
    words = [
        sys.executable,
        "-m",
        "edp_robot.cli",
        "serve",
        bundle,
        "--bind",
        "tcp://127.0.0.1:*",
        "--provider",
        "cpu",
    ]
    with (folder / "log").open("w") as log, contextlib.ExitStack() as stack:
        server = subprocess.Popen([*words, "--keys", folder / "keys"], stdout=log, stderr=log)
        stack.callback(server.wait)
        stack.callback(server.kill)
        endpoint = endpoint_of(server, folder / "log")
        yield SimpleNamespace(
            endpoint=endpoint, secret=folder / "keys/private/robot-1.key_secret", log=folder / "log"
        )


def test_a_keyed_client_gets_the_same_actions(bundle, keyed):
    obs = np.random.default_rng(0).normal(size=(5, 22)).astype(np.float32)
    with (
        PolicyClient(keyed.endpoint, 10, ClientKeys.load(keyed.secret)) as client,
        LocalPolicy(str(bundle)) as local,
    ):
        client.reset(7), local.reset(7)
        for row in obs:
            assert np.array_equal(client.act(row), local.act(row))
            client.send(row)
            received = client.receive(10)
            assert received is not None and np.array_equal(received, local.act(row))


def test_a_keyed_client_finds_a_restarted_server_again(bundle, tmp_path):
    make_keys(tmp_path / "keys", "robot-1")
    obs, endpoint = np.zeros(22, np.float32), f"ipc://{tmp_path}/s"
    words = [
        sys.executable,
        "-m",
        "edp_robot.cli",
        "serve",
        bundle,
        "--bind",
        endpoint,
        "--keys",
        tmp_path / "keys",
    ]
    with (tmp_path / "log").open("w") as log, contextlib.ExitStack() as stack:
        client = stack.enter_context(
            PolicyClient(endpoint, 20, ClientKeys.load(tmp_path / "keys/private"))
        )
        for _ in range(2):
            server = subprocess.Popen(words, stdout=log, stderr=log)
            stack.callback(server.wait)
            stack.callback(server.kill)
            client.reset(1)  # waits for it
            assert client.act(obs).shape == (10, 6)
            server.kill()
            server.wait()
            with pytest.raises(PolicyTimeout):
                client.act(obs, deadline_s=0.05)


@pytest.mark.parametrize("name", TALKERS)
def test_every_command_that_talks_to_a_server_takes_keys(keyed, name, capsys):
    words = [*name.split(), "--server", keyed.endpoint, *TALKERS[name]]
    status = cli.main([*words, "--keys", str(keyed.secret)])
    out, err = capsys.readouterr()
    assert (status, err) == (0, ""), out
    said = {
        "control": " ticks, ",
        "evaluate": "arm-press: success",
        "bench load": "untrained at",
        "top": "acts/s",
    }
    assert said.get(name, "serving ") in out


def test_without_keys_it_says_what_may_be_missing(keyed, capsys):
    """At once: to wait a minute for a reload's answer is not to wait a minute for a connection."""
    start_s = time.monotonic()
    assert cli.main(["reload", "--server", keyed.endpoint]) == 1
    assert time.monotonic() - start_s < 20
    said = capsys.readouterr().err
    assert (
        said.startswith(f"edp reload: not connected to {keyed.endpoint}")
        and "without them (--keys)" in said
    )
    assert said.count("\n") == 1


def test_wrong_keys_are_said_to_be(keyed, tmp_path):
    make_keys(tmp_path, "robot-1")
    mine, foreign = ClientKeys.load(keyed.secret), ClientKeys.load(tmp_path / "private")
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
    """Neither into its result nor into what it tells the processes that play the clients."""
    from policy_server.bench.load.plan import LoadPlan, _parts

    secret = ClientKeys.load(keyed.secret).secret.decode()
    files = {name: tmp_path / f"load.{name}" for name in ("json", "samples")}
    options = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    words = [
        "bench",
        "load",
        "--server",
        keyed.endpoint,
        *TALKERS["bench load"],
        "--keys",
        str(keyed.secret),
    ]
    assert cli.main([*words, *options]) == 0
    said = json.loads(files["json"].read_text())
    assert said["counts"] == {"OK": 60, "LOST": 0} and said["n_duplicate"] == said["n_stray"] == 0
    plan = LoadPlan((0.0,), 16, keyed.endpoint, keys=str(keyed.secret))
    assert secret not in files["json"].read_text() + json.dumps(_parts(plan, 1)) + repr(plan)


@pytest.mark.parametrize("name", ["control", "evaluate", "bench load"])
def test_keys_without_a_server_are_refused(bundle, keyed, name, capsys):
    assert (
        cli.main(
            [*name.split(), "--bundle", str(bundle), *TALKERS[name], "--keys", str(keyed.secret)]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert (
        said.startswith(f"edp {name}: --keys ")
        and "give --server ENDPOINT as well, or leave --keys out" in said
    )


@pytest.mark.parametrize("name", TALKERS)
def test_keys_that_cannot_be_read_are_said_before_anything_else(name, tmp_path, capsys):
    words = [
        *name.split(),
        "--server",
        "tcp://127.0.0.1:9",
        "--keys",
        str(tmp_path / "robot-1.key_secret"),
    ]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"edp {name}: ") and "server.key" in said and said.count("\n") == 1


def test_no_other_command_has_a_server_option(capsys):
    """A new one must be in TALKERS, and so take keys."""
    for name in cli.COMMANDS:
        with contextlib.suppress(SystemExit):
            cli.main([*name.split(), "--help"])
        assert ("--server " in capsys.readouterr().out) == (name in TALKERS), name
