"""The pictures of the demo's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.demo.report import picture
from edp_robot.studies import plots
from edp_robot.training.checkpoint import load_tree
from edp_robot.training.runs import read_metrics


def sections(
    out: Path, numbers: dict[str, Any], data: dict[str, Any]
) -> list[tuple[str, str, list[str]]]:
    """Returns (title, what one sees, pictures) in the order of the road; also writes road.png, the short of it."""
    control = np.load(out / "control.npz")
    strip, explored = film_strip(control), workspace(out)
    learned = plots.curves(learning(out), "control steps of fine-tuning", "success", 1.02)
    samples = {k: np.array(v) for k, v in data["samples_us"].items()}
    (out / "road.png").write_bytes(
        plots.collage([*([[strip]] if strip else []), [explored, learned]])
    )
    return [
        (
            "The arm under the served policy",
            "In real time, over the wire; a frame every 0.2 s.",
            film(control, strip),
        ),
        (
            "Exploration without reward",
            "The desk from above: where the hand has been, after the same number of control steps.",
            [
                picture(explored),
                picture(
                    plots.curves(coverage(out), "control steps", "share of reachable workspace")
                ),
            ],
        ),
        (
            "Learning to press the button",
            "Success within 2 s from a random pose, 100 episodes a point.",
            [picture(learned)],
        ),
        (
            "Fifteen steps to one",
            "The student reproduces the teacher's action for the same noise.",
            [picture(plots.teacher_and_student(*data["pairs"]))],
        ),
        (
            "Latency of one action",
            "Batch 1, one thread, calls interleaved.",
            [picture(plots.latencies(samples))],
        ),
        (
            "The control loop",
            f"{numbers['control']['ticks']} ticks at 100 Hz over ZeroMQ.",
            [picture(plots.control_times(control["late_ns"], control["work_ns"], 1e7))],
        ),
    ]


def workspace(out: Path) -> bytes:
    """Returns the visited workspace, EDP beside random actions."""
    from sim.tasks import arm

    runs = {"EDP, no reward": out / "pretrain", "random actions": out / "random"}
    visited = {
        k: load_tree(v / "checkpoint.safetensors")["observer"]["seeds"][0]["visited"]
        .numpy()
        .astype(int)
        for k, v in runs.items()
    }
    return plots.workspace(visited, np.array(sorted(arm.reachable_voxels())), arm.VOXEL_M)


def coverage(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns coverage over env_steps of both explorations."""
    return {
        "EDP, no reward": read_metrics(out / "pretrain", "coverage"),
        "random actions": read_metrics(out / "random", "coverage"),
    }


def learning(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns success over env_steps of both fine-tunings."""
    return {
        "from EDP pre-training": read_metrics(out / "finetuned", "success"),
        "from scratch": read_metrics(out / "scratch", "success"),
    }


def film_strip(control: Any) -> bytes | None:
    """Returns the first 2 s of the driven arm, or None where rendering does not work."""
    from sim.core import render

    if render.available():
        return None
    return render.film_strip(render.qpos_from_obs(control["obs"][:200:20]), columns=5)


def film(control: Any, strip: bytes | None) -> list[str]:
    """Returns the film strip and a short video, or why there is none."""
    from sim.core import render

    if strip is None:
        return [f"<p class=note>No pictures of the arm: {render.available()}</p>"]
    moving = render.qpos_from_obs(control["obs"][:400:10])
    path = Path(render.video(moving, Path(control.fid.name).with_name("arm.gif"), fps=10))
    return [picture(strip), picture(path.read_bytes(), "gif")]
