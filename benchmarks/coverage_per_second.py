"""What a pre-training of the desk arm covers after a minute, two and four of one core.

    python benchmarks/coverage_per_second.py --seconds 240 --out runs/per-second

Each recipe explores until it has used that much processor time (`loop.max_cpu_s`), not a number of
env_steps, so a recipe that learns more from each env_step does not win by being slow. Recipes take
turns, two processes at a time. A run that has its result is not run again, and one that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edp_robot.training.runs import read_metrics
from policy_server.bench.host import host
from policy_server.contract.disk.files import write_json

EDP = [sys.executable, "-m", "edp_robot.cli"]
WHOLE = ["reward.fields=[]", "reward.t_low=0.05"]
NETWORK = [*WHOLE, "reward.estimator=shared"]
BEFORE = ["loop.updates_per_round=16", "batch=128", "ddpg.learning_rate=3e-4"]
RECIPES = {  # method and settings on top of the preset
    "preset": ("edp", []),
    "preset, 2 updates a round": ("edp", ["loop.updates_per_round=2"]),
    "preset, 8 updates a round": ("edp", ["loop.updates_per_round=8"]),
    "preset, batch 128": ("edp", ["batch=128"]),
    "preset, width 64": ("edp", ["ddpg.width=64"]),
    "closed form on all 22 numbers": ("edp", ["reward.fields=[]", "reward.t_low=0.1"]),
    "state network": ("edp", NETWORK),
    "state network, pi_d in every update (before)": (
        "edp",
        [*NETWORK, *BEFORE, "action_model_every=1"],
    ),
    "particle": ("particle", []),
    "rnd": ("rnd", []),
}
TITLE = """# What the arm's exploration covers in a minute

Made by `python benchmarks/coverage_per_second.py --results results/per_second`.

"""
AT_S = (60, 120, 240)


def explore(name: str, seed: int, given: argparse.Namespace) -> Path:
    """Returns the run folder of a recipe that has used its processor time."""
    run = given.out / f"{re.sub('[^a-z0-9]+', '-', name)}-{seed}"
    if used_s(run) >= given.seconds:
        return run
    method, settings = RECIPES[name]
    words = ["pretrain", "--task", "arm", "--method", method, "--seed", str(seed)]
    words += ["--env-steps", "4000000", "--out", str(run), "--resume"]
    fixed = ["loop.n_logs=800", "loop.final_updates=0", "loop.checkpoint_every_s=60"]
    fixed += [f"loop.max_cpu_s={given.seconds}"]
    command = [*EDP, *words, "--set", *fixed, *settings]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if used_s(run) < given.seconds:
        raise RuntimeError(f"{' '.join(command)} ended early; see {run.with_suffix('.log')}")
    return run


def used_s(run: Path) -> float:
    """Returns the processor time that a run has used [s], as far as it has logged it."""
    if not (run / "metrics.csv").exists():
        return 0.0
    _, cpu_s = read_metrics(run, "cpu_s")
    return float(cpu_s[-1]) if len(cpu_s) else 0.0


def at(run: Path, metric: str, second: float) -> float:
    """Returns a metric when the run had used `second` [s] of a processor."""
    steps, cpu_s = read_metrics(run, "cpu_s")
    env_step = steps[np.searchsorted(cpu_s, second, side="right") - 1]
    at_steps, values = read_metrics(run, metric)
    return float(values[np.searchsorted(at_steps, env_step, side="right") - 1])


def measured(runs: list[Path], seconds: list[float]) -> dict[str, list[float]]:
    """Returns medians over one recipe's runs at each of `seconds`, and env_steps at the end."""
    found = {
        metric: [statistics.median(at(run, metric, second) for run in runs) for second in seconds]
        for metric in ("coverage", "n_success_episodes")
    }
    ends = [read_metrics(run, "cpu_s")[0] for run in runs]
    reached = [read_metrics(run, "cpu_s")[1] for run in runs]
    last = [
        float(steps[np.searchsorted(cpu_s, seconds[-1], side="right") - 1])
        for steps, cpu_s in zip(ends, reached, strict=True)
    ]
    return {**found, "env_steps": [statistics.median(last)]}


def table(rows: dict[str, dict[str, list[float]]], seconds: list[float], n_seeds: int) -> str:
    """Returns the table of all recipes."""
    names = [f"{s:.0f} s" for s in seconds]
    head = ["recipe", *names, "presses", "env_steps"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [name, *(f"{value:.3f}" for value in row["coverage"])]
        cells += [f"{row['n_success_episodes'][-1]:.0f}", f"{row['env_steps'][0]:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    said = f"Coverage after so much time of one core, median over {n_seeds} seeds."
    return "\n".join([*lines, "", said])


def main() -> None:
    """Runs the recipes, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2000, 2001])
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--out", type=Path, default=Path("runs/per-second"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder for per_second.json and table.md")
    given = parser.parse_args()
    pairs = [(name, seed) for seed in given.seeds for name in given.recipes]
    with ThreadPoolExecutor(given.processes) as pool:
        runs = list(pool.map(lambda pair: explore(*pair, given), pairs))
    by_recipe = {
        name: [run for run, pair in zip(runs, pairs, strict=True) if pair[0] == name]
        for name in given.recipes
    }
    seconds = [second for second in AT_S if second <= given.seconds] or [given.seconds]
    rows = {name: measured(found, seconds) for name, found in by_recipe.items()}
    text = table(rows, seconds, len(given.seeds))
    print(text)
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        held = {"host": host(), "seeds": given.seeds, "seconds": seconds, "recipes": rows}
        write_json(given.results / "per_second.json", held)
        (given.results / "table.md").write_text(f"{TITLE}{text}\n")


if __name__ == "__main__":
    main()
