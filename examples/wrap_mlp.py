"""A policy of plain torch becomes a bundle that serves, evaluates and drives.

    python examples/wrap_mlp.py --out runs/wrap_mlp

1. Search for a pose of the desk arm that has its hand at the target of arm-reach-left.
2. Clone a proportional controller towards that pose into a small MLP, without edp_robot.
3. Export it by `torch.onnx.export`, which puts the weights into a file beside the graph.
4. `edp wrap`, `edp evaluate --bundle`. Compare the return with that of the torch module.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from pathlib import Path

import mujoco
import numpy as np
import torch
import tyro
from torch import nn

from edp_robot.cli import main as edp
from sim.core.evaluate import evaluate
from sim.core.registry import task_spec
from sim.tasks import arm

TASK = "arm-reach-left"
COMMAND = task_spec(TASK).obs_slice("command")
GAIN = 6.0  # of the controller [1/rad]; full speed until 1/6 rad before the pose


def goal_pose(n_samples: int = 3000, seed: int = 0) -> np.ndarray:
    """Returns joint angles (6,) [rad] without contact and with the hand at the target."""
    model = arm.load_model()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    low, high = arm.joint_range()
    best = np.zeros(6)
    best_m = np.inf
    for i in range(n_samples):
        wide = i < n_samples // 2
        pose = rng.uniform(low, high) if wide else np.clip(best + rng.normal(0, 0.03, 6), low, high)
        data.qpos[:6] = pose
        mujoco.mj_forward(model, data)
        away_m = float(np.linalg.norm(data.sensordata[12:15] - arm.TARGETS["left"]))
        if away_m < best_m and data.ncon == 0:
            best = pose
            best_m = away_m
    return best


def teacher(obs: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Returns normalised joint rates (n, 6), proportional to the way from command to goal."""
    return (GAIN * (goal - obs[:, COMMAND])).clamp(-1, 1)


class Mlp(nn.Module):
    """Raw observation (n, 22) to normalised action (n, 6); scales its inputs itself."""

    middle: torch.Tensor
    spread: torch.Tensor

    def __init__(self, low: torch.Tensor, high: torch.Tensor, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("middle", (high + low) / 2)
        self.register_buffer("spread", (high - low) / 2)
        hidden = [nn.Linear(len(low), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(width, 6), nn.Tanh())

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
    """Writes the policy with a free batch."""
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

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        return policy(torch.from_numpy(obs)).numpy()

    def act_randomly(obs: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(obs), 6))

    before = evaluate(act, TASK, episodes, seed)
    return before.mean_return, evaluate(act_randomly, TASK, episodes, seed).mean_return


def run(out: Path, n_steps: int, episodes: int, seed: int) -> dict[str, float]:
    """Returns the mean returns {"random", "before", "after"}; the bundle is left in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    policy = train(goal_pose(), n_steps)
    bundle = str(out / "bundle")
    result = out / "evaluation.json"
    export(policy, out / "mlp.onnx")
    before, random = measured(policy, episodes, seed)
    what = ["--onnx", str(out / "mlp.onnx"), "--task", TASK, "--action-map", "task"]
    how = ["--episodes", str(episodes), "--seed", str(seed), "--json", str(result)]
    for command in (["wrap", *what, "--out", bundle], ["evaluate", "--bundle", bundle, *how]):
        print(f"\n$ edp {' '.join(command)}")
        if edp(command):
            raise SystemExit(1)
    after = json.loads(result.read_text())["mean_return"]
    return {"random": random, "before": before, "after": after}


def main(
    out: Path = Path("runs/wrap_mlp"), steps: int = 1500, episodes: int = 100, seed: int = 0
) -> None:
    """Wrap a policy of plain torch, and compare its return before and after.

    Args:
        out: Folder for the policy and its bundle.
        steps: Gradient steps of the cloning.
        episodes: Episodes of each return.
        seed: Seeds the start states.
    """
    began = time.monotonic()
    found = run(out, steps, episodes, seed)
    print(
        f"\nmean return: random {found['random']:.2f}, in torch before wrapping "
        f"{found['before']:.2f}, wrapped {found['after']:.2f} "
        f"({time.monotonic() - began:.0f} s in all)"
    )


if __name__ == "__main__":
    tyro.cli(main)
