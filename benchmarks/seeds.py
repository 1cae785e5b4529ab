"""What pre-training is worth, over several seeds.

    python benchmarks/seeds.py --seeds 0 1 2 3 --out runs/seeds

Each seed has a pre-training without reward, a fine-tuning from it, and trainings from scratch: the
same one and DDPG with as many env_steps, and DDPG with LONG times as many. Two processes run at a
time, with one thread each. A run that has its result is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edp_robot.config import presets
from policy_server.bench.host import host
from policy_server.contract.disk.files import write_json

TITLE = """# What pre-training is worth

Made by `python benchmarks/seeds.py --results results/seeds`.

"""
LONG = 4
DEMO_STEPS = presets.finetune("demo", "arm-press").loop.env_steps
SCRATCH = {  # method, and whether it gets more env_steps
    "scratch-edp": ("resampling", False),
    "scratch-ddpg": ("ddpg", False),
    "scratch-ddpg-long": ("ddpg", True),
}
EDP = [sys.executable, "-m", "edp_robot.cli"]


def edp(result: Path, *args: str) -> dict[str, float]:
    """Runs `edp` unless its result is there, and returns the result.

    Raises:
        RuntimeError: It failed. Its log is beside the result.
    """
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        log_path = result.with_suffix(".log")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log_path.open("w") as log:
            command = [*EDP, *args, "--json", str(result)]
            ended = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
        if ended.returncode:
            raise RuntimeError(
                f"`edp {' '.join(args)}` ended with status {ended.returncode}; see {log_path}"
            )
    return json.loads(result.read_text())


def one_seed(seed: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the results of one seed: pretrain, finetuned, and one from scratch by each method."""
    out = given.out / str(seed)
    start = str(out / "pretrain")
    chosen = ["--seed", str(seed)]
    explore = ["pretrain", "--task", "arm", *_steps(given.pretrain_steps), *chosen]
    tune = ["finetune", "--task", given.task, "--eval-episodes", str(given.episodes), *chosen]
    equal = _steps(given.finetune_steps or DEMO_STEPS)
    options = ["--reuse-replay", given.reuse_replay] if given.reuse_replay else []
    finetuned = out / f"finetuned{given.mark}"
    made = {
        "pretrain": edp(out / "pretrain.json", *explore, "--out", start),
        "finetuned": edp(
            _json(finetuned), *tune, *equal, "--from", start, "--out", str(finetuned), *options
        ),
    }
    for name, (method, is_long) in SCRATCH.items():
        folder = out / f"{name}{given.mark}"
        steps = _steps(LONG * (given.finetune_steps or DEMO_STEPS)) if is_long else equal
        words = [*tune, "--method", method, *steps, "--out", str(folder)]
        made[name] = edp(_json(folder), *words)
    print(row(seed, made), flush=True)
    return made


def _steps(n: int | None) -> list[str]:
    return ["--env-steps", str(n)] if n else []


def _json(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def best_scratch(made: dict[str, dict[str, float]]) -> float:
    """Returns the best success from scratch with as many env_steps as the fine-tuning."""
    return max(made[name]["success"] for name, (_, is_long) in SCRATCH.items() if not is_long)


def row(seed: int, made: dict[str, dict[str, float]]) -> str:
    """Returns one seed's line of the table."""
    explored = made["pretrain"]
    finetuned = made["finetuned"]["success"]
    cells = [
        str(seed),
        f"{explored['coverage']:.3f}",
        f"{explored['n_success_episodes']:.0f}",
        f"{finetuned:.3f}",
        *(f"{made[name]['success']:.3f}" for name in SCRATCH),
        f"{finetuned - best_scratch(made):+.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(made: dict[int, dict[str, dict[str, float]]]) -> str:
    """Returns the table of all seeds, and what is least in it."""
    names = ["seed", "coverage", "presses", "fine-tuned", *SCRATCH, "gap"]
    head = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    gaps = [each["finetuned"]["success"] - best_scratch(each) for each in made.values()]
    least = min(each["finetuned"]["success"] for each in made.values())
    said = (
        f"Least success {least:.3f}; gap to the best from scratch with as many env_steps: median "
        f"{statistics.median(gaps):+.3f}, least {min(gaps):+.3f}, of {len(gaps)} seeds. "
        f"long: {LONG} times the env_steps."
    )
    return "\n".join([*head, *(row(seed, each) for seed, each in made.items()), "", said])


def main() -> None:
    """Runs the seeds, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--task", default="arm-press")
    parser.add_argument("--pretrain-steps", type=int)
    parser.add_argument("--finetune-steps", type=int)
    parser.add_argument("--reuse-replay", choices=("True", "False"))
    parser.add_argument("--episodes", type=int, default=300)
    mark = "distinguishes fine-tunings of the same pre-training"
    parser.add_argument("--mark", default="", help=mark)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder for seeds.json and table.md")
    given = parser.parse_args()
    with ThreadPoolExecutor(given.processes) as pool:
        results = pool.map(lambda seed: one_seed(seed, given), given.seeds)
        made = dict(zip(given.seeds, results, strict=True))
    print(f"\n{table(made)}")
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        write_json(given.results / "seeds.json", {"host": host(), "seeds": made})
        (given.results / "table.md").write_text(f"{TITLE}{table(made)}\n")


if __name__ == "__main__":
    main()
