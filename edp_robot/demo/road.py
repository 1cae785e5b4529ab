"""`edp demo`: the whole road once, on this machine, with a report at the end."""

from __future__ import annotations

import json as json_module
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edp_robot.cli.arguments import Preset
from edp_robot.demo.leash import leashed

STAGES = ("pretrain", "random", "finetuned", "scratch", "student", "bundle")
TASK = "arm-press"
EVAL_EVERY = 4_000  # env_steps of fine-tuning between points of the learning curve
EDP = [sys.executable, "-m", "edp_robot.cli"]


def demo(
    out: Path = Path("runs/demo"),
    preset: Preset = "demo",
    seed: int = 0,
    control_seconds: float = 40.0,
    episodes: int = 300,
    resume: bool = False,
) -> int:
    """Train in MuJoCo without reward, fine-tune, distil, export, serve over ZeroMQ, drive a robot, measure.

    Example: edp demo --preset smoke --out runs/smoke

    Args:
        out: Folder for runs, bundle, report.html and report.json; an earlier demo's there is replaced.
        preset: Sizes; smoke shows that everything runs, and learns nothing.
        seed: Of everything.
        control_seconds: How long the robot is driven in real time [s].
        episodes: Of every evaluation.
        resume: Go on with an interrupted demo.
    """
    if preset == "paper":
        raise ValueError(
            "the paper's sizes want a GPU and days: run the stages one by one with --preset paper"
        )
    prepare(out, resume)
    road = Road(out, preset, seed, episodes, control_seconds, resume)
    for stage in (road.explore, road.tune, road.shrink, road.export, road.serve, road.report):
        stage()
    return 0


def prepare(out: Path, resume: bool) -> None:
    """Empties the folder of an earlier demo, and of nothing else.

    Raises:
        FileExistsError: `out` holds something that no demo made.
    """
    mark = out / "demo.json"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise FileExistsError(f"{out} is not empty and no demo made it; choose another --out")
    if not resume:
        for stage in STAGES:
            shutil.rmtree(out / stage, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    if not (resume and mark.exists()):
        mark.write_text("{}\n")


class Road:
    """The demo's stages in order; each leaves its numbers in `numbers` and its pictures' data in `data`."""

    def __init__(
        self,
        out: Path,
        preset: Preset,
        seed: int,
        episodes: int,
        control_seconds: float,
        resume: bool,
    ) -> None:
        self.out, self.seed, self.resume = out, seed, resume
        self.preset: Preset = preset
        self.episodes, self.control_seconds = episodes, control_seconds
        self.mark = out / "demo.json"
        self.started = time.monotonic() - json_module.loads(self.mark.read_text()).get(
            "elapsed_s", 0.0
        )
        self.numbers: dict[str, Any] = {"wall_s": {}, "success": {}, "preset": preset, "seed": seed}
        self.data: dict[str, Any] = {}

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announces a stage and keeps its time."""
        began = time.monotonic()
        print(f"\n[{began - self.started:4.0f} s] {text}", flush=True)
        yield
        self.numbers["wall_s"][name] = round(time.monotonic() - began, 2)
        self.mark.write_text(
            json_module.dumps({"elapsed_s": time.monotonic() - self.started}) + "\n"
        )

    def explore(self) -> None:
        """Pre-trains without reward, and acts randomly for the same number of env_steps."""
        import torch

        from edp_robot.cli import train

        torch.set_num_threads(
            1
        )  # of these sizes two threads are hardly faster, and wait for each other when disturbed
        with self.stage("pretrain", "exploring without reward"):
            train.pretrain(
                self.out / "pretrain", preset=self.preset, seed=self.seed, resume=self.resume
            )
            result = train.pretrain(
                self.out / "random",
                method="random",
                preset=self.preset,
                seed=self.seed,
                resume=self.resume,
            )
            assert result == 0
        from edp_robot.training.runs import read_metrics

        for key, metric in (("coverage", "coverage"), ("presses", "n_success_episodes")):
            values = {"edp": "pretrain", "random": "random"}
            self.numbers[key] = {
                k: float(read_metrics(self.out / v, metric)[1][-1]) for k, v in values.items()
            }
        episodes = read_metrics(self.out / "pretrain", "n_episodes")[1][-1]
        self.numbers["presses"]["episodes"] = float(episodes)

    def tune(self) -> None:
        """Fine-tunes the diffusion policy, and one from scratch beside it in a process of its own."""
        import torch

        from edp_robot.cli import train

        torch.set_num_threads(1)  # one core each
        with self.stage("finetune", f"fine-tuning to {TASK}, and from scratch beside it"):
            options = [
                "--preset",
                self.preset,
                "--seed",
                str(self.seed),
                "--eval-every",
                str(EVAL_EVERY),
            ]
            options += ["--eval-episodes", str(self.episodes)]
            options += [
                "--json",
                str(self.out / "scratch.json"),
                *(["--resume"] if self.resume else []),
            ]
            command = [
                *EDP,
                "finetune",
                "--task",
                TASK,
                "--out",
                str(self.out / "scratch"),
                *options,
            ]
            with (self.out / "scratch.log").open("w") as log:
                one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
                beside = subprocess.Popen(
                    leashed(command), stdout=log, stderr=log, env=one_thread, start_new_session=True
                )
                try:
                    train.finetune(
                        self.out / "finetuned",
                        TASK,
                        self.out / "pretrain",
                        preset=self.preset,
                        seed=self.seed,
                        eval_every=EVAL_EVERY,
                        eval_episodes=self.episodes,
                        resume=self.resume,
                        json=self.out / "finetuned.json",
                    )
                    if beside.wait():
                        raise RuntimeError(
                            f"training from scratch failed; see {self.out / 'scratch.log'}"
                        )
                finally:
                    beside.terminate()
        for name in ("finetuned", "scratch"):
            self.numbers["success"][name] = json_module.loads(
                (self.out / f"{name}.json").read_text()
            )["success"]

    def shrink(self) -> None:
        """Distils to one step, and evaluates the policy before fine-tuning and the student."""
        import torch

        from edp_robot.cli import train
        from edp_robot.training.actor import torch_actor
        from edp_robot.training.distill import load_student
        from edp_robot.training.source import load_source
        from sim.core.evaluate import evaluate

        torch.set_num_threads(os.cpu_count() or 1)
        with self.stage("distill", "distilling 15 steps to one"):
            train.distill(
                self.out / "finetuned", self.out / "student", preset=self.preset, resume=self.resume
            )
        with self.stage("evaluate", "evaluating before and after"):
            before = load_source(self.out / "pretrain").teacher
            student, source = load_student(self.out / "student")
            for name, policy in (("before", before), ("student", student)):
                result = evaluate(
                    torch_actor(policy, 1_000), TASK, self.episodes, 1_000, source.n_action_steps
                )
                self.numbers["success"][name] = result.success
                print(f"success {name}: {result.success:.3f}")
            obs = source.replay_obs[-500:]
            noise = torch.randn(len(obs), source.spec.act_dim)
            with torch.no_grad():
                self.data["pairs"] = [p(obs, noise).numpy() for p in (source.teacher, student)]

    def export(self) -> None:
        """Exports the student, and times teacher and student."""
        from edp_robot.cli import bench, train

        with self.stage("export", "exporting to ONNX, checking it against torch"):
            metrics = self.out / "metrics.json"
            metrics.write_text(json_module.dumps({"success": self.numbers["success"]}))
            result = self.out / "export.json"
            train.export(self.out / "student", self.out / "bundle", metrics=metrics, json=result)
            self.numbers["parity"] = {
                "max_abs_error": json_module.loads(result.read_text())["max_abs_error"]
            }
        with self.stage("latency", "timing one action"):
            result = self.out / "latency.json"
            bench.sampler(self.out / "finetuned", self.out / "student", json=result)
            said = json_module.loads(result.read_text())
            self.numbers["latency_us"] = {
                k: {p: v[p] for p in ("p50", "p99")} for k, v in said["latency_us"].items()
            }
            self.numbers["host"], self.data["samples_us"] = said["host"], said["samples_us"]

    def serve(self) -> None:
        """Starts a server process, measures round trips, and drives a robot in real time under the remote policy."""
        from edp_robot.demo.server_process import run_server

        load, control = self.out / "roundtrip.json", self.out / "control.json"
        options = [
            "--seconds",
            str(self.control_seconds),
            "--episode-s",
            "2",
            "--seed",
            str(self.seed),
        ]
        options += ["--json", str(control), "--record", str(self.out / "control.npz")]
        with (
            self.stage("serve", "serving, and driving a robot at 100 Hz in real time"),
            run_server(self.out / "bundle", self.out / "server.log") as endpoint,
        ):
            self.edp("bench", "load", "--server", endpoint, "--n", "20000", "--json", str(load))
            self.edp("control", "--server", endpoint, "--robot", f"sim:{TASK}", *options)
        roundtrip = json_module.loads(load.read_text())["roundtrip_us"]
        self.numbers["roundtrip_us"] = {k: roundtrip[k] for k in ("p50", "p99", "p999", "n")}
        said = json_module.loads(control.read_text())
        self.numbers["control"] = {
            "ticks": said["ticks"],
            "missed_deadlines": said["missed_deadlines"],
            "holds": said["n_holds"],
            "period_jitter_us_p99": said["period_jitter_us"]["p99"],
            "act_us_p99": said["act_us"]["p99"],
        }
        self.numbers["success"]["served"] = sum(said["successes"]) / max(1, len(said["successes"]))
        self.numbers["success"]["served_episodes"] = len(said["successes"])

    def report(self) -> None:
        """Draws the pictures, writes the report, prints what was asked and measured."""
        from edp_robot.demo import report as page
        from edp_robot.demo.pictures import sections
        from policy_server.contract.source import source_commit

        with self.stage("report", "drawing the report"):
            made = sections(self.out, self.numbers, self.data)
        self.numbers["wall_s"]["total"] = round(time.monotonic() - self.started, 1)
        self.numbers["commit"] = source_commit()
        page.write(self.out, self.numbers, made)
        rows = [["figure", "asked", "measured", ""], *(t.row() for t in page.targets(self.numbers))]
        print(f"\n{page.text_table(rows)}\n\n{self.out / 'report.html'}\n{self.out / 'bundle'}")

    def edp(self, *args: str) -> None:
        """Runs `edp` with these arguments in a process of its own, without torch in it.

        Raises:
            RuntimeError: it failed.
        """
        if status := subprocess.run([*EDP, *args], check=False).returncode:
            raise RuntimeError(f"`edp {' '.join(args)}` ended with status {status}")
