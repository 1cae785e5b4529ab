"""`edp demo`: the whole pipeline once on this machine, with a report at the end."""

from __future__ import annotations

from pathlib import Path

from edp_robot.cli.arguments import Preset


def demo(
    out: Path = Path("runs/demo"),
    preset: Preset = "demo",
    seed: int = 0,
    control_seconds: float = 40.0,
    episodes: int = 300,
    resume: bool = False,
) -> int:
    """Train in MuJoCo without reward, fine-tune, distil, export, serve, drive a robot, measure.

    Example: edp demo --preset smoke --out runs/smoke

    Args:
        out: Folder for runs, bundle, report.html and report.json. An earlier demo in it is
            replaced.
        preset: Sizes. smoke runs every stage and learns nothing.
        seed: Seeds all random generators.
        control_seconds: How long the robot is driven in real time [s].
        episodes: Episodes of every evaluation.
        resume: Continue an interrupted demo.
    """
    if preset == "paper":
        raise ValueError(
            "the paper's sizes need a GPU and days; run the stages one by one with --preset paper"
        )
    from edp_robot.demo.road import Options, Road, prepare

    prepare(out, resume)
    Road(Options(out, preset, seed, control_seconds, episodes, resume)).run()
    return 0
