"""What pre-training is worth, over several seeds: python benchmarks/seeds.py --seeds 0 1 2 3 --out runs/seeds

For each seed: a pre-training without reward, fine-tuning from it, and the same training from scratch with the same
number of env_steps. Two processes at a time, one thread each; a run that has its result is not run again.
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
        RuntimeError: it failed; its log is beside the result.
    """
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        with result.with_suffix(".log").open("w") as log:
            command = [*EDP, *args, "--json", str(result)]
            status = subprocess.run(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            ).returncode
        if status:
            raise RuntimeError(
                f"`edp {' '.join(args)}` ended with status {status}; see {result.with_suffix('.log')}"
            )
    return json.loads(result.read_text())


def one_seed(seed: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the results of one seed: pretrain, finetuned, scratch."""
    out, chosen = given.out / str(seed), ["--seed", str(seed)]
    start = str(out / "pretrain")
    steps = ["--env-steps", str(given.pretrain_steps)] if given.pretrain_steps else []
    made = {
        "pretrain": edp(
            out / "pretrain.json", "pretrain", "--task", "arm", "--out", start, *steps, *chosen
        )
    }
    steps = ["--env-steps", str(given.finetune_steps)] if given.finetune_steps else []
    shared = ["--task", given.task, "--eval-episodes", str(given.episodes), *steps, *chosen]
    options = ["--reuse-replay", given.reuse_replay] if given.reuse_replay else []
    name = f"finetuned{given.mark}"
    made["finetuned"] = edp(
        out / f"{name}.json",
        "finetune",
        "--from",
        start,
        "--out",
        str(out / name),
        *options,
        *shared,
    )
    name = f"scratch{given.mark}"
    made["scratch"] = edp(out / f"{name}.json", "finetune", "--out", str(out / name), *shared)
    print(row(seed, made), flush=True)
    return made


def row(seed: int, made: dict[str, dict[str, float]]) -> str:
    """Returns one seed's line of the table."""
    pre, fine, scratch = made["pretrain"], made["finetuned"]["success"], made["scratch"]["success"]
    explored = f"{pre['coverage']:.3f} | {pre['n_success_episodes']:.0f}"
    return f"| {seed} | {explored} | {fine:.3f} | {scratch:.3f} | {fine - scratch:+.3f} |"


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
    parser.add_argument(
        "--mark", default="", help="distinguishes fine-tunings of the same pre-training"
    )
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with ThreadPoolExecutor(given.processes) as pool:
        made = list(pool.map(lambda seed: one_seed(seed, given), given.seeds))
    print("\n| seed | coverage | presses | fine-tuned | scratch | gap |\n|---|---|---|---|---|---|")
    print("\n".join(row(seed, m) for seed, m in zip(given.seeds, made, strict=True)))
    gaps = [m["finetuned"]["success"] - m["scratch"]["success"] for m in made]
    print(
        f"gap: median {statistics.median(gaps):+.3f}, least {min(gaps):+.3f}, of {len(gaps)} seeds"
    )


if __name__ == "__main__":
    main()
