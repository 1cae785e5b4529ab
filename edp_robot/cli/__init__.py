"""`edp`: one entry point; each subcommand's module is imported when it is asked for, and not before."""

from __future__ import annotations

import difflib
import importlib
import sys

# name: (module, function, help line)
COMMANDS = {
    "demo": (
        "edp_robot.demo.road",
        "demo",
        "the whole road once: train, export, serve, drive a robot, measure",
    ),
    "doctor": (
        "edp_robot.cli.machine",
        "doctor",
        "what this machine has, and what each part of edp needs",
    ),
    "tasks": ("edp_robot.cli.machine", "tasks", "the tasks that exist"),
    "pretrain": ("edp_robot.cli.train", "pretrain", "explore without reward"),
    "finetune": (
        "edp_robot.cli.train",
        "finetune",
        "learn a task's reward, from a pre-training or from scratch",
    ),
    "clone": ("edp_robot.cli.train", "clone", "fit a diffusion policy to demonstrations"),
    "distill": ("edp_robot.cli.train", "distill", "many denoising steps to 1, 2 or 4"),
    "export": ("edp_robot.cli.train", "export", "a run to a policy bundle (ONNX)"),
    "wrap": ("edp_robot.cli.wrap", "wrap", "any ONNX policy to a policy bundle"),
    "evaluate": (
        "edp_robot.cli.evaluate",
        "evaluate",
        "success and return of a run, a bundle or a served policy",
    ),
    "study exploration": (
        "edp_robot.cli.study",
        "exploration",
        "the table of exploration: mazes x methods x seeds",
    ),
    "study ablation": (
        "edp_robot.cli.study",
        "ablation",
        "what mattered in exploration: one change at a time",
    ),
    "study distillation": (
        "edp_robot.cli.study",
        "distillation",
        "what fewer denoising steps cost and save",
    ),
    "serve": ("edp_robot.cli.serve", "serve", "serve a bundle to robots over ZeroMQ"),
    "reload": (
        "edp_robot.cli.serve",
        "reload",
        "let a running server load its bundle again, or go back",
    ),
    "top": (
        "edp_robot.cli.top",
        "top",
        "a running server, live: sessions, rates, percentiles, misses",
    ),
    "keys new": ("edp_robot.cli.keys", "new", "make keys for a server and a robot"),
    "keys list": ("edp_robot.cli.keys", "list_keys", "the robots that a folder of keys admits"),
    "control": ("edp_robot.cli.control", "control", "drive a robot with a policy, in real time"),
    "bench sampler": (
        "edp_robot.cli.bench",
        "sampler",
        "latency of torch and ONNX samplers, side by side",
    ),
    "bench latency": (
        "edp_robot.cli.bench_server",
        "bench_latency",
        "latency of a bundle in this process",
    ),
    "bench load": ("edp_robot.cli.bench_server", "bench_load", "round trips to a running server"),
    "bench compare": (
        "edp_robot.cli.bench_server",
        "bench_compare",
        "two results of --json side by side",
    ),
    "calibrate latency": (
        "edp_robot.cli.control",
        "calibrate_latency",
        "delay between command and motion",
    ),
    "calibrate quant": (
        "edp_robot.cli.calibrate",
        "quant",
        "FP16 and INT8 versions of a bundle, and what they lose",
    ),
}
POSITIONAL = {
    "serve",
    "keys new",
    "keys list",
    "bench latency",
    "bench compare",
    "calibrate quant",
}  # their required arguments carry no --name


def usage() -> str:
    """Returns the list of subcommands."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  edp {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items())
    return f"usage: edp COMMAND [options]; every COMMAND has --help with an example\n\n{rows}"


def find(args: list[str]) -> tuple[str, list[str]] | None:
    """Returns (command, its arguments), or None where the words name no command."""
    if args[:2] == ["bench", "--compare"]:
        return "bench compare", args[2:]
    for n in (2, 1):
        name = " ".join(args[:n])
        if len(args) >= n and name in COMMANDS:
            return name, args[n:]
    return None


def main(args: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status (2: no such command; 1: it failed; 130: Ctrl-C)."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    found = find(args)
    if found is None:
        said = " ".join(args[:2])
        close = difflib.get_close_matches(said, COMMANDS, 1) or difflib.get_close_matches(
            args[0], COMMANDS, 1
        )
        group = [c for c in COMMANDS if c.startswith(args[0] + " ")]
        hint = f"; did you mean `edp {close[0]}`?" if close else ""
        hint = f"; there are: {', '.join(group)}" if group else hint
        print(f"edp: no command {said!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    return call(*found)


def call(name: str, args: list[str]) -> int:
    """Parses `args` for the command's function and runs it; mistakes that a person can mend become one line."""
    import tyro

    module, function, _ = COMMANDS[name]
    try:
        target = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        print(
            f"edp {name} needs {error.name!r}, which is not installed; pip install 'edp-robot[train]'",
            file=sys.stderr,
        )
        return 1
    conf = (tyro.conf.PositionalRequiredArgs,) if name in POSITIONAL else ()
    try:
        return int(tyro.cli(target, prog=f"edp {name}", args=args, config=conf) or 0)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:  # a person can mend these
        print(f"edp {name}: {error}", file=sys.stderr)
        return 1
