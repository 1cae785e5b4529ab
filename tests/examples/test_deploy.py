"""The files of examples/deploy agree with each other and with the commands, and they work."""

import configparser
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.serving import read_line

from edp_robot import cli
from policy_server.serving.server import DRAIN_S, LINGER_S
from policy_server.transport.keys import make_keys

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples/deploy"
CONTAINER = (DEPLOY / "Containerfile").read_text()
EDP = [sys.executable, "-m", "edp_robot.cli"]


def unit():
    """Returns the systemd unit. configparser reads its format."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",)
    )
    parser.optionxform = str
    parser.read_string((DEPLOY / "edp-serve.service").read_text())
    return parser


def instruction(name):
    """Returns the text of an instruction of the Containerfile."""
    found = re.findall(rf"^{name} (.+)$", CONTAINER.replace("\\\n", " "), re.MULTILINE)
    assert len(found) == 1, f"{name} is there {len(found)} times"
    return found[0]


def environment(words):
    return dict(word.split("=", 1) for word in shlex.split(words))


UNIT = unit()
COMMANDS = {  # how each starts the server, without the name of the program
    "unit": shlex.split(UNIT["Service"]["ExecStart"])[1:],
    "container": [*json.loads(instruction("ENTRYPOINT"))[1:], *json.loads(instruction("CMD"))],
}


def value(words, flag):
    return words[words.index(flag) + 1]


def probe():
    """Returns the container's health check as a command."""
    return json.loads(instruction("HEALTHCHECK").split(" CMD ")[1])


@pytest.fixture(scope="module")
def serve_help():
    command = [*EDP, "serve", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_exists(serve_help, name):
    flags = [word for word in COMMANDS[name] if word.startswith("--")]
    assert {"--bind", "--keys", "--metrics", "--log"} <= set(flags)
    assert [flag for flag in flags if f"{flag} " not in serve_help] == []


def test_the_commands_in_comments_exist():
    text = "\n".join(path.read_text() for path in DEPLOY.iterdir())
    named = re.findall(r"(?:bin/|\(|`|^# +)edp ([a-z][^)`&\n]*)", text, re.MULTILINE)
    assert len(named) >= 3
    assert [words for words in named if cli.find(shlex.split(words)) is None] == []


def test_the_unit_is_one_that_systemd_would_start():
    service = UNIT["Service"]
    assert UNIT.sections() == ["Unit", "Service", "Install"]
    assert UNIT["Install"]["WantedBy"] == "multi-user.target"
    assert os.path.isabs(shlex.split(service["ExecStart"])[0])  # systemd refuses others
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    # SIGKILL must not come before the last answer.
    assert float(service["TimeoutStopSec"]) > DRAIN_S + LINGER_S
    assert service["Restart"] == "on-failure"
    assert service["NoNewPrivileges"] == service["ProtectHome"] == "yes"


def test_unit_and_container_are_the_same_server():
    one, other = COMMANDS.values()
    for flag in ("--bind", "--log"):
        assert value(one, flag) == value(other, flag)
    assert environment(UNIT["Service"]["Environment"]) == environment(instruction("ENV"))
    assert instruction("STOPSIGNAL") == "SIGTERM"
    ports = {value(other, flag).rpartition(":")[2] for flag in ("--bind", "--metrics")}
    published = re.findall(r"-p (?:[\d.]+:)?(\d+):\d+", CONTAINER)
    assert set(instruction("EXPOSE").split()) == ports == set(published)
    assert f":{value(other, '--metrics').rpartition(':')[2]}/healthz" in probe()[-1]


def test_the_container_has_what_it_names():
    assert all((ROOT / name).exists() for name in re.findall(r"/src/([\w.]+)", instruction("RUN")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = CONTAINER + (DEPLOY / "edp-serve.service").read_text()
    named = re.findall(r"(?:/src|edp-robot)\[(\w+)\]", text)
    assert named == ["serve", "serve"]
    assert project["optional-dependencies"]["serve"]
    uids = re.findall(r"(?:uid[ =]|gid=|USER |user )(\d+)", CONTAINER)
    assert len(uids) >= 4 and set(uids) == {instruction("USER")}


def test_prometheus_reads_where_the_unit_serves():
    text = (DEPLOY / "prometheus.yml").read_text()
    address = value(COMMANDS["unit"], "--metrics")
    assert f'targets: ["{address}"]' in text and f"--metrics {address}" in text
    (job,) = re.findall(r"job_name: (\w+)", text)
    assert f'up{{job="{job}"}}' in (DEPLOY / "alerts.yml").read_text()
    named = re.findall(r"- (\w+\.yml)", text)
    assert [name for name in named if not (DEPLOY / name).exists()] == []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probing:
        return probing.getsockname()[1]


@pytest.fixture
def started(bundle_path, tmp_path):
    """Starts a command of COMMANDS in its environment, with the test's bundle, keys and ports."""
    make_keys(tmp_path / "keys", "robot-1")
    metrics = f"127.0.0.1:{free_port()}"

    def start(words, variables):
        replaced = {
            value(words, "--bind"): "tcp://127.0.0.1:*",
            value(words, "--keys"): str(tmp_path / "keys"),
        }
        replaced |= {value(words, "--metrics"): metrics, words[1]: str(bundle_path)}
        own = [*EDP, *(replaced.get(word, word) for word in words), "--provider", "cpu"]
        log = stack.enter_context((tmp_path / "log").open("w"))
        streams = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
        popen = subprocess.Popen(own, env={**os.environ, **variables}, **streams)
        process = stack.enter_context(popen)
        stack.callback(process.kill)
        line = read_line(process)
        assert line and line.startswith("serving "), (tmp_path / "log").read_text()
        where = {"endpoint": line.split(" on ")[1].split(",")[0], "metrics": metrics}
        keys = tmp_path / "keys/private/robot-1.key_secret"
        return SimpleNamespace(process=process, keys=keys, log=tmp_path / "log", **where)

    with contextlib.ExitStack() as stack:
        yield start


def events(server):
    whole_lines = server.log.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line)["event"] for line in whole_lines]


def wait_for(condition, timeout_s=20):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_they_start_serves_and_is_healthy_until_it_is_stopped(started, name):
    variables = environment(
        UNIT["Service"]["Environment"] if name == "unit" else instruction("ENV")
    )
    server = started(COMMANDS[name], variables)
    checked = [word.replace("127.0.0.1:9464", server.metrics) for word in probe()]
    assert checked != probe() and checked[0] == "python"
    check = [sys.executable, *checked[1:]]
    subprocess.run(check, check=True, timeout=20)
    where = ["--server", server.endpoint, "--keys", server.keys]
    top = [*EDP, "top", "--once", "--interval-s", "0.1", *where]
    said = subprocess.run(top, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "1 sessions" in said.stdout, said.stderr
    server.process.send_signal(signal.SIGHUP)  # ExecReload
    wait_for(lambda: "reloaded" in events(server))
    server.process.send_signal(getattr(signal, instruction("STOPSIGNAL")))
    assert server.process.wait(20) == 0
    assert events(server) == ["serving", "client_admitted", "keys_read", "reloaded", "draining"]
    assert subprocess.run(check, stderr=subprocess.DEVNULL, timeout=20).returncode != 0
