"""A policy of plain torch, as anybody's code would have it, becomes a bundle that serves, evaluates and drives.

    .venv/bin/python examples/wrap_mlp.py --out runs/wrap_mlp

1. Look for a pose of the desk arm that has its hand at the target of arm-reach-left.
2. Clone a proportional controller towards that pose into a small MLP (nothing of edp_robot in it).
3. Export it by `torch.onnx.export`, weights in a file beside, as torch does by itself.
4. `edp wrap`, `edp evaluate --bundle`; the return is compared with that of the torch module in the same episodes.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import nn

from edp_robot.cli import main as edp
from sim.core.evaluate import evaluate
from sim.core.registry import task_spec
from sim.tasks import arm

TASK, SIDE = "arm-reach-left", "left"
GAIN = 6.0  # of the controller [1/rad]; full speed until 1/6 rad before the pose


def goal_pose(n_samples: int = 3000, seed: int = 0) -> np.ndarray:
    """Returns joint angles (6,) [rad] free of contact with the hand at the target, by random search."""
    model, rng, (low, high) = arm.load_model(), np.random.default_rng(seed), arm.joint_range()
    data, best, best_m = mujoco.MjData(model), np.zeros(6), np.inf
    for i in range(n_samples):
        wide = i < n_samples // 2
        pose = rng.uniform(low, high) if wide else np.clip(best + rng.normal(0, 0.03, 6), low, high)
        data.qpos[:6] = pose
        mujoco.mj_forward(model, data)
        away_m = float(np.linalg.norm(data.sensordata[12:15] - arm.TARGETS[SIDE]))
        if away_m < best_m and data.ncon == 0:
            best, best_m = pose, away_m
    return best


def teacher(obs: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Returns normalised joint rates (n, 6): proportional to what lies between the command and the goal."""
    return (GAIN * (goal - obs[:, arm.COMMAND])).clamp(-1, 1)


class Mlp(nn.Module):
    """Raw observation (n, 22) to normalised action (n, 6); scales its inputs itself."""

    middle: torch.Tensor
    spread: torch.Tensor

    def __init__(self, low: torch.Tensor, high: torch.Tensor, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("middle", (high + low) / 2)
        self.register_buffer("spread", (high - low) / 2)
        self.net = nn.Sequential(
            *(
                nn.Linear(len(low), width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, 6),
                nn.Tanh(),
            )
        )

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.net((obs - self.middle) / self.spread)


def train(goal: np.ndarray, n_steps: int, batch: int = 512, seed: int = 0) -> Mlp:
    """Returns an MLP fitted to the teacher on observations drawn inside their limits."""
    torch.manual_seed(seed)
    low, high = (torch.tensor(limit, dtype=torch.float32) for limit in task_spec(TASK).obs_limits())
    target = torch.tensor(goal, dtype=torch.float32)
    policy = Mlp(low, high)
    optimiser = torch.optim.Adam(policy.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(n_steps):
        obs = low + (high - low) * torch.rand(batch, len(low))
        loss = (policy(obs) - teacher(obs, target)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policy.eval()


def export(policy: Mlp, path: Path) -> None:
    """Writes the policy as anybody would; torch puts the weights into a file beside it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            policy,
            (torch.zeros(2, 22),),
            path,
            input_names=["observation"],
            output_names=["actions"],
            dynamic_shapes={"obs": {0: torch.export.Dim("batch")}},
            verbose=False,
        )


def measured(policy: Mlp, episodes: int, seed: int) -> tuple[float, float]:
    """Returns the mean return of the torch module, and of uniformly random actions."""
    rng = np.random.default_rng(seed)

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return policy(torch.from_numpy(obs)).numpy()

    before = evaluate(act, TASK, episodes, seed).mean_return
    return before, evaluate(
        lambda obs: rng.uniform(-1, 1, (len(obs), 6)), TASK, episodes, seed
    ).mean_return


def run(out: Path, n_steps: int, episodes: int, seed: int) -> dict[str, float]:
    """Returns the mean returns: {"random", "before", "after"}; the bundle is left in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    policy = train(goal_pose(), n_steps)
    onnx, bundle, result = out / "mlp.onnx", out / "bundle", out / "evaluation.json"
    export(policy, onnx)
    before, random = measured(policy, episodes, seed)
    for command in (
        ["wrap", "--onnx", str(onnx), "--out", str(bundle), "--task", TASK, "--action-map", "task"],
        [
            "evaluate",
            "--bundle",
            str(bundle),
            "--episodes",
            str(episodes),
            "--seed",
            str(seed),
            "--json",
            str(result),
        ],
    ):
        print(f"\n$ edp {' '.join(command)}")
        if edp(command):
            raise SystemExit(1)
    return {
        "random": random,
        "before": before,
        "after": json.loads(result.read_text())["mean_return"],
    }


def main() -> None:
    """Parses the command line, runs it all and prints the returns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/wrap_mlp"))
    parser.add_argument("--steps", type=int, default=1500, help="gradient steps of the cloning")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    found = run(args.out, args.steps, args.episodes, args.seed)
    print(
        f"\nmean return: random {found['random']:.2f}, in torch before wrapping {found['before']:.2f}, "
        f"wrapped {found['after']:.2f} ({time.monotonic() - began:.0f} s in all)"
    )


if __name__ == "__main__":
    main()
