"""The pictures of the demo's report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from edp_robot.demo import charts
from edp_robot.demo.report import Section, picture
from edp_robot.training.checkpoint import load_tree
from edp_robot.training.distill import load_student
from edp_robot.training.runs import read_metrics
from policy_server.contract.disk.files import write_atomic

EXPLORED = {"EDP, no reward": "pretrain", "random actions": "random"}
LEARNED = {
    "from EDP pre-training": "finetuned",
    "from scratch, edp": "scratch-edp",
    "from scratch, ddpg": "scratch-ddpg",
}
PERIOD_NS = 1e7  # control period


def sections(out: Path, numbers: dict[str, Any]) -> list[Section]:
    """Returns the report's sections in the order of the stages, and writes road.png, a summary.

    Args:
        out: The demo's folder.
        numbers: The demo's numbers.
    """
    control = np.load(out / "control.npz")
    strip = film_strip(control["obs"])
    explored = workspace(out)
    learned = charts.curves(
        curves(out, LEARNED, "success"), "control steps of fine-tuning", "success", top=1.02
    )
    road = [*([[strip]] if strip else []), [explored, learned]]
    write_atomic(out / "road.png", charts.collage(road))
    return [
        Section(
            "The arm under the served policy",
            "In real time, over the wire; a frame every 0.2 s.",
            film(control["obs"], strip, out / "arm.gif"),
        ),
        Section(
            "Exploration without reward",
            "The desk from above: where the hand has been, after the same number of control steps.",
            [picture(explored), picture(coverage(out))],
        ),
        Section(
            "Learning to press the button",
            "Success within 2 s from a random pose, 100 episodes a point.",
            [picture(learned)],
        ),
        Section(
            "Fifteen steps to one",
            "The student reproduces the teacher's action for the same noise.",
            [picture(charts.teacher_and_student(*actions(out)))],
        ),
        Section(
            "Latency of one action",
            "Batch 1, one thread, calls interleaved.",
            [picture(latencies(out))],
        ),
        Section(
            "The control loop",
            f"{numbers['control']['ticks']} ticks at 100 Hz over ZeroMQ.",
            [picture(charts.control_times(control["late_ns"], control["work_ns"], PERIOD_NS))],
        ),
    ]


def coverage(out: Path) -> bytes:
    """Returns coverage over env_steps, EDP beside random actions."""
    series = curves(out, EXPLORED, "coverage")
    return charts.curves(series, "control steps", "share of reachable workspace")


def latencies(out: Path) -> bytes:
    """Returns the latencies of teacher and student."""
    timed = json.loads((out / "latency.json").read_text())["samples_us"]
    return charts.latencies({name: np.array(times) for name, times in timed.items()})


def workspace(out: Path) -> bytes:
    """Returns a picture of the visited workspace, EDP beside random actions."""
    from sim.tasks.arm_reach import VOXEL_M, reachable_voxels

    visited = {}
    for name, run in EXPLORED.items():
        observer = load_tree(out / run / "checkpoint.safetensors")["observer"]
        visited[name] = observer["seeds"][0]["visited"].numpy().astype(int)
    reachable = np.array(sorted(reachable_voxels()))
    return charts.workspace(visited, reachable, VOXEL_M)


def curves(out: Path, runs: dict[str, str], metric: str) -> dict[str, charts.Curve]:
    """Returns (env_steps, values) of a metric for each run.

    Args:
        out: The demo's folder.
        runs: Folder of each run by its label.
        metric: Name of the metric.
    """
    return {label: read_metrics(out / run, metric) for label, run in runs.items()}


@torch.no_grad()
def actions(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns what teacher and student answer (n, act_dim) to the newest obs and the same noise."""
    student, source = load_student(out / "student")
    obs = source.replay_obs[-500:]
    noise = torch.randn(len(obs), source.spec.act_dim, generator=torch.Generator().manual_seed(0))
    return source.teacher(obs, noise).numpy(), student(obs, noise).numpy()


def film_strip(obs: np.ndarray) -> bytes | None:
    """Returns the first 2 s of the driven arm, or None where rendering does not work."""
    from sim.robots import render

    if render.available():
        return None
    return render.film_strip("arm", obs[:200:20], columns=5)


def film(obs: np.ndarray, strip: bytes | None, path: Path) -> list[Markup]:
    """Returns the film strip and a short video, or a note that says why there are none.

    Args:
        obs: The driven arm's observations (n_ticks, obs_dim).
        strip: The film strip, or None where rendering does not work.
        path: File for the video.
    """
    from sim.robots import render

    if strip is None:
        note = Markup("<p class=note>No pictures of the arm: {}</p>")
        return [note.format(render.available())]
    video = render.video("arm", obs[:400:10], path, fps=10)
    return [picture(strip), picture(video.read_bytes(), "gif")]
