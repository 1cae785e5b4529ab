"""`edp`: one entry point. Each command's module is imported when the command is asked for."""

from __future__ import annotations

import difflib
import importlib
import io
import sys
from typing import Any

from edp_robot.cli.streams import lasting_output
from edp_robot.cli.writing import checked

# Where each command's function is, and what it does. tyro's own subcommands want every function at
# the start: `edp --help` would import all modules, and one missing package would break them all.
COMMANDS = {
    "demo": ("edp_robot.cli.demo:demo", "train, export, serve, drive a robot, measure: all once"),
    "doctor": ("edp_robot.cli.machine:doctor", "show what this machine has and what is missing"),
    "tasks": ("edp_robot.cli.machine:tasks", "list the tasks"),
    "plugins": ("edp_robot.cli.plugins:plugins", "list methods, tasks, robots and backends"),
    "pretrain": ("edp_robot.cli.train:pretrain", "explore a task's world without reward"),
    "finetune": ("edp_robot.cli.train:finetune", "learn a task's reward"),
    "clone": ("edp_robot.cli.train:clone", "fit a diffusion policy to demonstrations"),
    "distill": ("edp_robot.cli.train:distill", "turn many denoising steps into 1, 2 or 4"),
    "export": ("edp_robot.cli.train:export", "write a run's policy as a bundle (ONNX)"),
    "wrap": ("edp_robot.cli.wrap:wrap", "make a bundle of any ONNX policy"),
    "evaluate": ("edp_robot.cli.evaluate:evaluate", "measure success and return of a policy"),
    "study exploration": ("edp_robot.cli.study:exploration", "compare methods, mazes and seeds"),
    "study ablation": ("edp_robot.cli.study:ablation", "change one thing at a time in exploration"),
    "study finetuning": ("edp_robot.cli.study:finetuning", "compare fine-tuners over tasks"),
    "study distillation": ("edp_robot.cli.study:distillation", "compare 1 to 15 denoising steps"),
    "serve": ("edp_robot.cli.serve:serve", "serve a bundle to robots over ZeroMQ"),
    "reload": ("edp_robot.cli.serve:reload", "make a running server load its bundle again"),
    "top": ("edp_robot.cli.top:top", "watch a running server"),
    "keys new": ("edp_robot.cli.keys:new", "make keys for a server and a robot"),
    "keys list": ("edp_robot.cli.keys:list_keys", "list the robots that a key folder admits"),
    "control": ("edp_robot.cli.control:control", "drive a robot with a policy in real time"),
    "bench sampler": ("edp_robot.cli.bench:sampler", "time samplers in torch and ONNX Runtime"),
    "bench latency": ("edp_robot.cli.bench:latency", "time a bundle in this process"),
    "bench load": ("edp_robot.cli.bench:load", "time round trips to a running server"),
    "bench compare": ("edp_robot.cli.bench:compare", "compare two results of --json"),
    "calibrate latency": ("edp_robot.cli.calibrate:latency", "measure a robot's delay"),
    "calibrate quant": ("edp_robot.cli.calibrate:quant", "make FP16 and INT8 versions of a bundle"),
}
FAILURES = (ValueError, OSError, RuntimeError, ArithmeticError)  # a person can mend these


def usage() -> str:
    """Returns the list of commands."""
    width = max(map(len, COMMANDS))
    rows = [f"  edp {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    head = "usage: edp COMMAND [options]; every COMMAND has --help with an example\n"
    return "\n".join([head, *rows])


def find(args: list[str]) -> tuple[str, list[str]] | None:
    """Returns (command, its arguments), or None where the first words are no command."""
    if args[:2] == ["bench", "--compare"]:
        return "bench compare", args[2:]
    for n_words in (2, 1):
        name = " ".join(args[:n_words])
        if name in COMMANDS:
            return name, args[n_words:]
    return None


def main(args: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    The status is 0 where it succeeded, 1 where it failed, 2 where there is no such command, and 130
    after Ctrl-C.
    """
    _show_anything()
    with lasting_output() as out:
        status = _main(sys.argv[1:] if args is None else args)
        if out is not None:
            out.flush()
            if out.is_cut():
                print(f"edp: stdout: {out.error}; output is missing", file=sys.stderr, flush=True)
                status = status or 1
    return status


def _main(args: list[str]) -> int:
    """Finds the command and runs it."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    found = find(args)
    if found is None:
        print(f"edp: {_no_command(args)}\n\n{usage()}", file=sys.stderr)
        return 2
    return call(*found)


def _show_anything() -> None:
    """Makes output that the terminal's encoding lacks appear as an escape, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def call(name: str, args: list[str]) -> int:
    """Runs the command `name` and returns its exit status; a failure becomes one line on stderr."""
    try:
        return int(_run(name, args) or 0)
    except KeyboardInterrupt:
        return 130
    except (ImportError, SyntaxError) as error:
        from edp_robot.cli.machine import import_problem

        problem = import_problem(error)
    except FAILURES as error:
        problem = str(error)
    from policy_server.contract.errors import printable

    lines = (printable(line, most=4000) for line in problem.splitlines() or [""])
    print(f"edp {name}: " + "\n".join(lines), file=sys.stderr, flush=True)
    return 1


def _run(name: str, args: list[str]) -> Any:
    """Parses `args` for the command's function and returns what it returns."""
    import tyro

    path, _ = COMMANDS[name]
    module, _, function = path.partition(":")
    command = checked(getattr(importlib.import_module(module), function))
    return tyro.cli(command, prog=f"edp {name}", args=args)


def _no_command(args: list[str]) -> str:
    """Returns what is wrong with `args`, with the nearest command or the commands of the group."""
    said = " ".join(args[:2])
    group = [name for name in COMMANDS if name.startswith(f"{args[0]} ")]
    if group:
        return f"no command {said!r}; there are: {', '.join(group)}"
    for words in (said, args[0]):
        if close := difflib.get_close_matches(words, COMMANDS, 1):
            return f"no command {said!r}; did you mean `edp {close[0]}`?"
    return f"no command {said!r}"
