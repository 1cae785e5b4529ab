"""The pictures of the demo's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import plots
from ..report import picture
from ..runs import load_tree, read_metrics


def sections(out: Path, numbers: dict[str, Any], data: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Returns (title, what one sees, pictures) in the order of the road."""
    control = np.load(out / "control.npz")
    return [
        ("The arm under the served policy", "A simulated robot in real time, one frame every 0.2 s.", film(control)),
        (
            "Exploration without reward",
            "Where the hand has been, after the same number of steps; grey is all that it can reach.",
            exploration(out),
        ),
        (
            "Learning to press the button",
            "Success within 2 s from a random pose, 100 episodes a point.",
            [picture(plots.curves(learning(out), "control steps of fine-tuning", "success", 1.02))],
        ),
        (
            "Fifteen steps to one",
            "The student reproduces the teacher's action for the same noise.",
            [picture(plots.teacher_and_student(*data["pairs"]))],
        ),
        (
            "Latency of one action",
            "Batch 1, one thread, calls interleaved.",
            [picture(plots.latencies({k: np.array(v) for k, v in data["samples_us"].items()}))],
        ),
        (
            "The control loop",
            f"{numbers['control']['ticks']} ticks at 100 Hz over ZeroMQ.",
            [picture(plots.control_times(control["late_ns"], control["work_ns"], 1e7))],
        ),
    ]


def exploration(out: Path) -> list[str]:
    """Returns the visited workspace and coverage over time, EDP beside random actions."""
    from sim import arm

    runs = {"EDP, no reward": out / "pretrain", "random actions": out / "random"}
    visited = {
        k: load_tree(v / "checkpoint.safetensors")["observer"]["visited"].numpy().astype(int) for k, v in runs.items()
    }
    reachable = np.array(sorted(arm.reachable_voxels()))
    coverage = {k: read_metrics(v, "coverage") for k, v in runs.items()}
    return [
        picture(plots.workspace(visited, reachable, arm.VOXEL_M)),
        picture(plots.curves(coverage, "control steps", "share of reachable workspace")),
    ]


def learning(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns success over env_steps of both fine-tunings."""
    return {
        "from EDP pre-training": read_metrics(out / "finetuned", "success"),
        "from scratch": read_metrics(out / "scratch", "success"),
    }


def film(control: Any) -> list[str]:
    """Returns a film strip of the first episode and a short video, or why there is none."""
    from sim import render

    if reason := render.available():
        return [f"<p class=note>No pictures of the arm: {reason}</p>"]
    poses = render.qpos_from_obs(control["obs"][:200:20])
    moving = render.qpos_from_obs(control["obs"][:400:10])
    path = Path(render.video(moving, Path(control.fid.name).with_name("arm.gif"), fps=10))
    return [picture(render.film_strip(poses, columns=5)), picture(path.read_bytes(), "gif")]
