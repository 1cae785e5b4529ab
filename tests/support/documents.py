"""Runs the commands and the code of a document in a folder, as a reader would.

A fenced block of `sh` is a list of commands, one a line. A block of `python` runs in one namespace
with those before it. A block of any language whose first line is a comment with nothing but a file
name, such as `# my_robot.py`, is written to that file. A `json` block must be valid JSON. Blocks of
`text`, `cpp` and the like are shown only. A block after `<!-- not run: REASON -->` is not run.

What changes so that a document runs quickly and touches nothing outside its folder:
- trainings run at `--preset smoke`, and measurements take few samples (SHORTER);
- servers run in the background on free ports, and hosts become 127.0.0.1;
- what a command makes is removed before, since a document may begin with what another has made;
- a program of CHECKED is not started: it is checked that what it is asked for exists;
- `examples/...` is the repository's folder, wherever the reader's own folder is.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path

from edp_robot import cli

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)
FILE_NAME = re.compile(r"(?:#|<!--|//) ?([\w/]+\.(?:py|xml|json|toml|csv))(?: -->)?\n")
SHOWN = {"text", "cpp", "cmake", "ini", "yaml", "mermaid"}
ADDRESS = re.compile(r"(?:127\.0\.0\.1|localhost|server|\*|\d+\.\d+\.\d+\.\d+):(\d{4,5})\b")
DEFAULT_PORT = "5599"
SMOKE = {"--preset": "smoke", "--env-steps": None, "--n-seeds": None}
SHORTER = {  # by command: the value of an option, None leaves the option out
    "pretrain": SMOKE,
    "finetune": {**SMOKE, "--eval-episodes": "4"},
    "clone": SMOKE,
    "distill": SMOKE,
    "export": {"--denoise-steps": "2"},
    "evaluate": {"--episodes": "4"},
    "control": {"--seconds": "1"},
    "bench sampler": {"--n": "20"},
    "bench latency": {"--n": "20"},
    "bench load": {"--n": "20", "--warmup-s": "0.05", "--seconds": None, "--clients": "1,2"},
    "calibrate latency": {"--seconds": "4"},
    "calibrate quant": {"--episodes": "2"},
    "top": {"--once": ""},
}
ONLY_IF_GIVEN = {"--clients"}
SHOWN_COMMANDS = {"demo", "study"}  # take minutes: only their options are checked
CLIENTS = ("top", "reload", "bench load", "evaluate", "control")
CHECKED = {"pip", "make", "git", "cd", "apt", "apt-get", "brew", "docker", "podman", "systemctl"}
CHECKED |= {"scp", "c++", "cmake", "taskset", "ssh"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    language: str
    text: str
    line: int
    reason: str  # why it is not run; "" where it is

    @property
    def file_name(self) -> str:
        """The name of the file that the block shows, "" where it shows none."""
        found = FILE_NAME.match(self.text)
        return found[1] if found else ""


def blocks(document: str) -> list[Block]:
    """Returns the fenced blocks of a document in order."""
    return [
        Block(
            language=found["language"],
            text=re.sub(rf"^{found['indent']}", "", found["text"], flags=re.M),
            line=document.count("\n", 0, found.start("language")) + 1,
            reason=found["reason"] or "",
        )
        for found in FENCE.finditer(document)
    ]


def commands(text: str) -> list[list[str]]:
    """Returns the words of each command of a shell block; comments are left out."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


def edp_command(words: list[str]) -> tuple[str, list[str]]:
    """Returns the command's name and its arguments in the short form that the tests run."""
    found = cli.find(words)
    if found is None:
        raise AssertionError(f"no command `edp {' '.join(words)}`")
    name, arguments = found
    for option, value in SHORTER.get(name, {}).items():
        arguments = _replace(arguments, option, value)
    return name, arguments


def _replace(arguments: list[str], option: str, value: str | None) -> list[str]:
    """Returns the arguments with `option value` in place of what stood there."""
    if option in arguments:
        start = arguments.index(option)
        n_words = 1 if value == "" else 2
        arguments = arguments[:start] + arguments[start + n_words :]
    elif option in ONLY_IF_GIVEN:
        return arguments
    if value is None:
        return arguments
    return [*arguments, option, value] if value else [*arguments, option]


class Reader:
    """Follows one document in the current folder.

    Args:
        path: The document.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict = {"__name__": "document"}
        self.ports: dict[str, str] = {}
        self.servers: dict[str, subprocess.Popen] = {}
        self.not_run: list[Block] = []

    def read(self) -> None:
        """Runs every block of the document.

        Raises:
            AssertionError: A block fails; the message has its line and what it printed.
        """
        try:
            for block in blocks(self.path.read_text()):
                if block.reason:
                    self.not_run.append(block)
                else:
                    self._run(block)
        finally:
            for port in list(self.servers):
                self._stop(port)

    def _run(self, block: Block) -> None:
        text = self._local(block.text)
        where = f"{self.path.name}:{block.line}"
        if block.file_name:
            file = Path(block.file_name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif block.language in ("sh", "bash"):
            for words in commands(text):
                self._command(words, f"{where}: {shlex.join(words)}")
        elif block.language == "python":
            self._python(text, where)
        elif block.language == "json":
            assert _is_json(text), f"{where}: this is no JSON"
        elif block.language not in SHOWN:
            raise AssertionError(f"{where}: language {block.language!r}; use sh, python or text")

    def _local(self, text: str) -> str:
        """Returns the text with free ports of this machine and a socket file in this folder."""
        for port in ADDRESS.findall(text):
            self.ports.setdefault(port, free_port())
        text = ADDRESS.sub(lambda found: f"127.0.0.1:{self.ports[found[1]]}", text)
        return re.sub(r"ipc://[\w./]+", "ipc://policy.sock", text)

    def _python(self, text: str, where: str) -> None:
        if "PolicyClient(" in text:
            self._need_server([])
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                exec(compile(text, where, "exec"), self.namespace)
        except Exception as error:
            raise AssertionError(
                f"{where}\n{printed.getvalue()}{traceback.format_exc()}"
            ) from error

    def _command(self, words: list[str], where: str) -> None:
        while "=" in words[0]:  # NAME=value in front of a command
            words = words[1:]
        program = words[0]
        if words[:3] == ["python", "-m", "pip"]:
            words = words[2:]
            program = "pip"
        if program == "edp":
            self._edp(words[1:], where)
        elif program == "python":
            self._script(words[1:], where)
        elif program in CHECKED:
            problem = missing(words)
            assert not problem, f"{where}: {problem}"
        else:
            words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"

    def _script(self, words: list[str], where: str) -> None:
        if words[0].startswith(("benchmarks/", "examples/")):  # have tests of their own
            assert (ROOT / words[0]).exists(), f"{where}: there is no such file"
            return
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}."}
        command = [sys.executable, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"

    def _edp(self, words: list[str], where: str) -> None:
        name, arguments = edp_command(words)
        if words[0] in SHOWN_COMMANDS:
            _, manual = run_edp(name, ["--help"])
            unknown = [word for word in arguments if word[:2] == "--" and word not in manual]
            assert not unknown, f"{where}: no option {unknown}"
            return
        if name == "serve":
            self._serve(arguments)
            return
        if name in CLIENTS:
            arguments = self._with_server(name, arguments)
        made = [arguments[arguments.index(o) + 1] for o in ("--out", "--json") if o in arguments]
        made += arguments[:1] if name == "keys new" else []
        for path in made:
            _remove(Path(path))
        status, printed = run_edp(name, arguments)
        assert status == 0, f"{where}\nedp {name} {shlex.join(arguments)}: {status}\n{printed}"
        if name == "keys new":
            self._carry_keys(Path(arguments[0]))

    def _with_server(self, name: str, arguments: list[str]) -> list[str]:
        """Returns the arguments with the server's address, after starting one where none runs."""
        if {"--bundle", "--from", "--help"} & set(arguments):
            return arguments
        if "--server" not in arguments and name in ("control", "evaluate"):
            return arguments
        keys = ["--keys", "keys"] if "--keys" in arguments else []
        endpoint = self._need_server(keys, arguments)
        return _replace(arguments, "--server", endpoint)

    def _need_server(self, keys: list[str], arguments: list[str] = ()) -> str:
        """Returns the endpoint of a running server, the one that the arguments name if any."""
        endpoint = f"tcp://127.0.0.1:{self.ports.setdefault(DEFAULT_PORT, free_port())}"
        if "--server" in arguments:
            endpoint = arguments[arguments.index("--server") + 1]
        if endpoint not in self.servers:
            self._serve(["bundle", "--bind", endpoint, *keys])
        return endpoint

    def _serve(self, arguments: list[str]) -> None:
        if "--bind" not in arguments:
            port = self.ports.setdefault(DEFAULT_PORT, free_port())
            arguments = [*arguments, "--bind", f"tcp://127.0.0.1:{port}"]
        endpoint = arguments[arguments.index("--bind") + 1]
        self._stop(endpoint)
        command = [sys.executable, "-m", "edp_robot.cli", "serve", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        log = open(f"server-{len(self.servers)}.log", "w")  # noqa: SIM115
        self.servers[endpoint] = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        log.close()
        self._wait_until_it_listens(endpoint, Path(log.name))

    def _wait_until_it_listens(self, endpoint: str, log: Path, limit_s: float = 60.0) -> None:
        give_up = time.monotonic() + limit_s
        while not _listens(endpoint):
            alive = self.servers[endpoint].poll() is None
            in_time = time.monotonic() < give_up
            assert alive and in_time, f"no server at {endpoint}:\n{log.read_text()}"
            time.sleep(0.02)

    def _stop(self, endpoint: str) -> None:
        server = self.servers.pop(endpoint, None)
        if server is not None:
            server.terminate()
            server.wait(timeout=30)

    def _carry_keys(self, folder: Path) -> None:
        """Copies the keys to this folder, which stands for the robot's computer, too."""
        for file in [*folder.glob("private/*"), *folder.glob("server.key")]:
            shutil.copy(file, file.name)


def run_edp(name: str, arguments: list[str]) -> tuple[int, str]:
    """Runs a command in this process and returns its exit status and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = cli.call(name, arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, printed.getvalue()


def missing(words: list[str]) -> str:
    """Returns what a command of CHECKED asks for and the repository lacks, "" where nothing."""
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"no target {unknown}" if unknown else ""
    if words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = set(project["optional-dependencies"])
        asked = {extra for word in words for extra in re.findall(r"[\w,]+(?=\])", word)}
        asked = {extra for listed in asked for extra in listed.split(",")}
        return f"no extra {sorted(asked - extras)}" if asked - extras else ""
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def free_port() -> str:
    """Returns a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _listens(endpoint: str) -> bool:
    kind, _, address = endpoint.partition("://")
    try:
        if kind == "ipc":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
