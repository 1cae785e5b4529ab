"""`edp study exploration | ablation | distillation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def exploration(
    mazes: tuple[str, ...] = ("a", "b", "c", "d", "tree", "bottleneck", "large"),
    methods: tuple[str, ...] = ("edp", "rnd", "particle", "random"),
    n_seeds: int = 3,
    env_steps: int = 100_000,
    seed: int = 0,
    runs: Path = Path("runs/exploration"),
    out: Path = Path("results/exploration"),
    processes: int = 1,
    arm: bool = False,
    arm_env_steps: int = 64_000,
) -> int:
    """Make the table of exploration results: each method in each maze, several seeds, with curves and maps of visits.

    Ctrl-C stops it; the same command goes on, and runs nothing twice. Tables and figures are rewritten after every run.

    Example: edp study exploration --mazes a tree --methods edp random --n-seeds 3

    Args:
        mazes: Of a, b, c, d, tree, bottleneck, large; none at all, with --arm, for the arm alone.
        methods: Of edp, rnd, particle, random.
        n_seeds: Learners of each run, trained at once in one process.
        env_steps: Control steps of a run, as in `edp pretrain`.
        seed: Of everything.
        runs: Folder for runs, results and logs.
        out: Folder for runs.csv, curves.csv, table.md, coverage.png, visits.png.
        processes: Runs beside each other; each gets its share of the cores.
        arm: The desk arm too, in a table of its own.
        arm_env_steps: Control steps of a run of the arm.
    """
    from edp_robot.studies import exploration as study

    options = study.Options(
        mazes, methods, n_seeds, env_steps, seed, runs, out, processes, arm, arm_env_steps
    )
    return _run(study.study(options, _machine()), out / "table.md")


def ablation(
    mazes: tuple[str, ...] = ("bottleneck", "large"),
    variants: tuple[str, ...] = (),
    n_seeds: int = 3,
    env_steps: int = 100_000,
    seed: int = 0,
    runs: Path = Path("runs/ablation"),
    out: Path = Path("results/exploration"),
    processes: int = 1,
) -> int:
    """Make the table of what mattered in exploration: the default with one thing changed at a time.

    Ctrl-C stops it; the same command goes on, and runs nothing twice.

    Example: edp study ablation --mazes large --variants default iid t-whole

    Args:
        mazes: Of a, b, c, d, tree, bottleneck, large.
        variants: Which; all where none is given.
        n_seeds: Learners of each run, trained at once in one process.
        env_steps: Control steps of a run, as in `edp pretrain`.
        seed: Of everything.
        runs: Folder for runs, results and logs.
        out: Folder for ablation.csv and ablation.md.
        processes: Runs beside each other; each gets its share of the cores.
    """
    from edp_robot.studies import ablation as study

    chosen = variants or tuple(study.VARIANTS)
    options = study.Options(mazes, chosen, n_seeds, env_steps, seed, runs, out, processes)
    return _run(study.study(options, _machine()), out / "ablation.md")


def distillation(
    tasks: tuple[str, ...] = ("modes", "arm-press", "arm-reach-left", "gym:FetchReach-v4"),
    episodes: int = 300,
    n_latency: int = 2_000,
    seed: int = 0,
    runs: Path = Path("runs/distillation"),
    out: Path = Path("results/distillation"),
    processes: int = 2,
) -> int:
    """Make the table of distillation: teachers of 1 to 15 denoising steps, students of 1, 2 and 4 calls, four tasks.

    Ctrl-C stops it; the same command goes on, trains nothing and measures no return twice; times are taken anew.

    Example: edp study distillation --tasks modes arm-press

    Args:
        tasks: Of modes, arm-press, arm-reach-left, gym:FetchReach-v4.
        episodes: Of every return; the same for all policies of a task.
        n_latency: Calls of each policy on each runtime.
        seed: Of everything.
        runs: Folder for runs, results and logs.
        out: Folder for table.md and return_latency.png.
        processes: Trainings beside each other; each gets its share of the cores.
    """
    from edp_robot.studies import distillation as study
    from policy_server.bench.statistics import summary
    from policy_server.runtime.base import OnnxPolicy

    options = study.Options(tasks, episodes, n_latency, seed, runs, out, processes)
    runtimes: dict[str, Any] = {"ONNX Runtime": lambda graph: OnnxPolicy(graph).act}
    made = study.DistillationStudy(options, _machine(), runtimes, summary)
    if made():
        print(out / "table.md")
        return 0
    return 1


def _machine() -> str:
    """Returns this machine in words."""
    from policy_server.bench.latency import host

    here = host()
    return f"{here['cpu']}, {here['n_cores']} cores, {here['kernel']}, Python {here['python']}"


def _run(study: Any, table: Path) -> int:
    """Runs a study; returns the exit status, 1 where a run failed."""
    if study():
        print(table)
        return 0
    print(f"{len(study.failed)} of {len(study.jobs)} runs failed:")
    for job, problem in study.failed.items():
        print(f"  {job.task}, {job.name}: {problem}; log: {job.log_path}")
    return 1
