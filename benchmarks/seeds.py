"""What pre-training is worth, over several seeds.

    python benchmarks/seeds.py --seeds 0 1 2 3 --out runs/seeds

Each seed has a pre-training without reward, a fine-tuning from it, and the same training from
scratch with the same number of env_steps. Two processes run at a time, with one thread each. A run
that has its result is not run again.
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
    """Returns the results of one seed: pretrain, finetuned, scratch."""
    out = given.out / str(seed)
    start = str(out / "pretrain")
    chosen = ["--seed", str(seed)]
    explore = ["pretrain", "--task", "arm", *_steps(given.pretrain_steps), *chosen]
    tune = ["finetune", "--task", given.task, "--eval-episodes", str(given.episodes)]
    tune += [*_steps(given.finetune_steps), *chosen]
    options = ["--reuse-replay", given.reuse_replay] if given.reuse_replay else []
    finetuned = out / f"finetuned{given.mark}"
    scratch = out / f"scratch{given.mark}"
    made = {
        "pretrain": edp(out / "pretrain.json", *explore, "--out", start),
        "finetuned": edp(
            _json(finetuned), *tune, "--from", start, "--out", str(finetuned), *options
        ),
        "scratch": edp(_json(scratch), *tune, "--out", str(scratch)),
    }
    print(row(seed, made), flush=True)
    return made


def _steps(n: int | None) -> list[str]:
    return ["--env-steps", str(n)] if n else []


def _json(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def row(seed: int, made: dict[str, dict[str, float]]) -> str:
    """Returns one seed's line of the table."""
    pretrained = made["pretrain"]
    finetuned = made["finetuned"]["success"]
    scratch = made["scratch"]["success"]
    explored = f"{pretrained['coverage']:.3f} | {pretrained['n_success_episodes']:.0f}"
    gap = finetuned - scratch
    return f"| {seed} | {explored} | {finetuned:.3f} | {scratch:.3f} | {gap:+.3f} |"


def main() -> None:
    """Runs the seeds, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--task", default="arm-press")
    parser.add_argument("--pretrain-steps", type=int)
    parser.add_argument("--finetune-steps", type=int)
    parser.add_argument("--reuse-replay", choices=("True", "False"))
    parser.add_argument("--episodes", type=int, default=300)
    mark = "distinguishes fine-tunings of the same pre-training"
    parser.add_argument("--mark", default="", help=mark)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with ThreadPoolExecutor(given.processes) as pool:
        made = list(pool.map(lambda seed: one_seed(seed, given), given.seeds))
    print("\n| seed | coverage | presses | fine-tuned | scratch | gap |")
    print("|---|---|---|---|---|---|")
    print("\n".join(row(seed, m) for seed, m in zip(given.seeds, made, strict=True)))
    gaps = [m["finetuned"]["success"] - m["scratch"]["success"] for m in made]
    median = statistics.median(gaps)
    print(f"gap: median {median:+.3f}, least {min(gaps):+.3f}, of {len(gaps)} seeds")


if __name__ == "__main__":
    main()
