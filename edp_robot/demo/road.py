"""The demo's stages: each runs `edp` commands as a user would, and keeps their results."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edp_robot.cli import main
from edp_robot.cli.arguments import Preset
from edp_robot.demo.beside import EDP, Beside
from edp_robot.demo.leash import leashed
from edp_robot.methods.ranges import Ranged, Seed
from policy_server.contract.commit import source_commit
from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFolder

TASK = "arm-press"
TEACHER = "resampling"  # the fine-tuner whose policy is distilled
SCRATCH = {TEACHER: "scratch-edp", "ddpg": "scratch-ddpg"}  # run folders by method
STAGES = ("pretrain", "random", "finetuned", *SCRATCH.values(), "teacher", "student", "bundle")
EVAL_EVERY = 5_000  # env_steps of fine-tuning between points of the learning curve
EVAL_SEED = 1_000
STAGE_FILES = (  # what runs and bundles hold, with what a kill leaves of a file
    *("config.json", "metrics.csv", "*.safetensors", "events.out.tfevents.*", "*.tmp", "*.lock"),
    *("manifest.json", "golden.npz", "policy*.onnx", "calibration.json"),
)
MARK = "demo.json"  # says that a demo made the folder, and how long it took so far


@dataclass(frozen=True)
class Options(Ranged):
    """What the demo runs.

    Attributes:
        out: Folder for runs, bundle and report. An earlier demo in it is replaced.
        preset: Sizes. smoke runs every stage and learns nothing.
        seed: Seeds all random generators.
        control_seconds: How long the robot is driven in real time [s].
        episodes: Episodes of every evaluation.
        resume: Continue an interrupted demo.
    """

    out: OutFolder = Path("runs/demo")
    preset: Preset = "demo"
    seed: Seed = 0
    control_seconds: float = 20.0
    episodes: int = 300
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses the paper's sizes, and numbers that cannot be."""
        if self.preset == "paper":
            raise ValueError(
                "the paper's sizes need a GPU and days; run the stages one by one with "
                "--preset paper"
            )
        super().__post_init__()


def prepare(out: Path, resume: bool) -> None:
    """Removes what an earlier demo left in `out`, and nothing else.

    Raises:
        FileExistsError: `out` holds files and no demo made it, or a stage's folder holds files that
            no demo makes.
    """
    mark = out / MARK
    if out.exists() and any(out.iterdir()) and not _is_mark(mark):
        raise FileExistsError(f"{out} is not empty and no demo made it; choose another --out")
    if not resume:
        made = {out / stage: _made(out / stage) for stage in STAGES if (out / stage).exists()}
        for folder, files in made.items():
            for file in files:
                file.unlink()
            folder.rmdir()
    if not (resume and mark.exists()):
        write_json(mark, {})


def _is_mark(mark: Path) -> bool:
    """Returns whether a demo wrote the file."""
    try:
        held = json.loads(mark.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and set(held) <= {"elapsed_s"}


def _made(folder: Path) -> list[Path]:
    """Returns the files of a stage's folder. Raises FileExistsError for what no demo makes."""
    files = [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())
    guests = [file.name for file in files if not _is_made(file)]
    if guests or folder.is_symlink() or not folder.is_dir():
        what = f"holds {', '.join(guests)}" if guests else "is no folder"
        raise FileExistsError(
            f"{folder} {what}, which no demo makes: nothing was removed; choose another --out, or "
            "move it away"
        )
    return files


def _is_made(file: Path) -> bool:
    """Returns whether a demo may have made the file."""
    plain = file.is_file() and not file.is_symlink()
    return plain and any(fnmatch(file.name, pattern) for pattern in STAGE_FILES)


def edp(*words: str) -> None:
    """Runs an `edp` command in this process, which has torch loaded already.

    Raises:
        RuntimeError: The command failed.
    """
    status = main([*words])
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise RuntimeError(f"`edp {' '.join(words)}` ended with status {status}")


def edp_process(*words: str) -> None:
    """Runs an `edp` command in a process of its own, without torch in it.

    However this one ends, the command is asked to end too, and has the time that it needs: it may
    drive a robot.

    Raises:
        RuntimeError: The command failed.
    """
    process = subprocess.Popen(leashed([*EDP, *words]))
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status:
        raise RuntimeError(f"`edp {' '.join(words)}` ended with status {status}")


class Road:
    """The demo's stages in order.

    Attributes:
        numbers: The report's numbers so far.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = options.out
        self.mark = options.out / MARK
        before_s = json.loads(self.mark.read_text()).get("elapsed_s", 0.0)
        self.started = time.monotonic() - before_s
        about = {"preset": options.preset, "seed": options.seed}
        self.numbers: dict[str, Any] = {"wall_s": {}, "success": {}, **about}
        self.training = ["--preset", options.preset, "--seed", str(options.seed)]
        self.training += ["--resume"] if options.resume else []

    def run(self) -> None:
        """Runs all stages. Training keeps two processes busy, with one thread each."""
        import torch

        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        with Beside(self.out / "beside.log") as beside:
            self.explore(beside)
            self.tune(beside)
            self.shrink(beside)
        for stage in (self.export, self.serve, self.report):
            stage()

    def explore(self, beside: Beside) -> None:
        """Pre-trains without reward. Beside it, random actions and trainings from scratch."""
        beside.add("pretrain", "--method", "random", *self.files("random"), *self.training)
        for method, folder in SCRATCH.items():
            beside.add(*self.tuning(method, self.options.episodes), *self.files(folder))
        with self.stage("pretrain", "exploring without reward; beside it, training from scratch"):
            edp("pretrain", *self.files("pretrain"), *self.training)

    def tune(self, beside: Beside) -> None:
        """Fine-tunes the diffusion policy. Beside it, the policy before that is evaluated."""
        pretrained = str(self.out / "pretrain")
        beside.add(*self.evaluation("before"), "--from", pretrained)
        with self.stage("finetune", f"fine-tuning to {TASK}"):
            words = [*self.tuning(TEACHER, episodes=0), "--from", pretrained]
            edp(*words, *self.files("finetuned"))

    def shrink(self, beside: Beside) -> None:
        """Distils to one step and evaluates. Beside it, the teacher is evaluated and exported."""
        student = str(self.out / "student")
        teacher = ["--from", str(self.out / "finetuned")]
        beside.add(*self.evaluation("finetuned"), *teacher)
        beside.add("export", *teacher, *self.files("teacher"))
        with self.stage("distill", "distilling 15 steps to one"):
            edp("distill", *teacher, *self.files("student"), *self.training)
        with self.stage("evaluate", "evaluating teacher and student"):
            edp(*self.evaluation("student"), "--from", student)
            beside.wait()
        self.count_training()

    def tuning(self, method: str, episodes: int) -> list[str]:
        """Returns the words of a fine-tuning, as many env_steps for each method.

        Args:
            method: The fine-tuner.
            episodes: Episodes of the evaluation at the end.
        """
        from edp_robot.config import presets

        config = presets.finetune(self.options.preset, TASK)
        words = ["finetune", "--task", TASK, "--method", method, *self.training]
        words += ["--env-steps", str(config.loop.env_steps)]
        return [*words, "--eval-every", str(EVAL_EVERY), "--eval-episodes", str(episodes)]

    def evaluation(self, name: str) -> list[str]:
        """Returns the words of an evaluation, without the policy; the result is success-`name`."""
        words = ["evaluate", "--task", TASK, "--episodes", str(self.options.episodes)]
        result = str(self.out / f"success-{name}.json")
        return [*words, "--seed", str(EVAL_SEED), "--json", result]

    def count_training(self) -> None:
        """Keeps the numbers of what was trained."""
        explored = self.result("pretrain")
        at_random = self.result("random")
        for key, metric in (("coverage", "coverage"), ("presses", "n_success_episodes")):
            self.numbers[key] = {"edp": explored[metric], "random": at_random[metric]}
        self.numbers["presses"]["episodes"] = explored["n_episodes"]
        success = self.numbers["success"]
        for method, folder in SCRATCH.items():
            success[f"scratch_{method}"] = self.result(folder)["success"]
        success["scratch"] = max(success[f"scratch_{method}"] for method in SCRATCH)
        for name in ("before", "finetuned", "student"):
            success[name] = self.result(f"success-{name}")["success"]

    def export(self) -> None:
        """Exports the student, and times teacher and student."""
        student = str(self.out / "student")
        metrics = self.out / "metrics.json"
        write_json(metrics, {"success": self.numbers["success"]})
        with self.stage("export", "exporting to ONNX, checking it against torch"):
            known = ["--from", student, "--metrics", str(metrics)]
            edp("export", *known, *self.files("bundle"))
        self.numbers["parity"] = {"max_abs_error": self.result("bundle")["max_abs_error"]}
        with self.stage("latency", "timing one action"):
            runs = ["--from", str(self.out / "finetuned"), "--student", student]
            bundles = ["--teacher-bundle", str(self.out / "teacher")]
            bundles += ["--student-bundle", str(self.out / "bundle")]
            result = ["--n", "1000", "--json", str(self.out / "latency.json")]
            edp("bench", "sampler", *runs, *bundles, *result)
        timed = self.result("latency")
        self.numbers["host"] = timed["host"]
        self.numbers["latency_us"] = {
            name: {key: times[key] for key in ("p50", "p99")}
            for name, times in timed["latency_us"].items()
        }

    def serve(self) -> None:
        """Serves the bundle, evaluates it over the wire, and drives a robot in real time."""
        from edp_robot.demo.server_process import run_server

        options = ["--seconds", str(self.options.control_seconds), "--episode-s", "2"]
        options += ["--seed", str(self.options.seed), "--robot", f"sim:{TASK}"]
        options += ["--json", str(self.out / "control.json")]
        options += ["--record", str(self.out / "control.npz")]
        with (
            self.stage("serve", "serving, and driving a robot at 100 Hz in real time"),
            run_server(self.out / "bundle", self.out / "server.log") as endpoint,
        ):
            server = ["--server", endpoint]
            edp(*self.evaluation("served"), *server)
            trips = ["--n", "10000", "--json", str(self.out / "roundtrip.json")]
            edp_process("bench", "load", *server, *trips)
            edp_process("control", *server, *options)
        self.numbers["success"]["served"] = self.result("success-served")["success"]
        roundtrip = self.result("roundtrip")["roundtrip_us"]
        self.numbers["roundtrip_us"] = {k: roundtrip[k] for k in ("p50", "p99", "p999", "n")}
        self.count_control(self.result("control"))

    def count_control(self, said: dict[str, Any]) -> None:
        """Keeps the numbers of `edp control`."""
        self.numbers["control"] = {
            "ticks": said["ticks"],
            "missed_deadlines": said["missed_deadlines"],
            "holds": said["n_holds"],
            "period_jitter_us_p99": said["period_jitter_us"]["p99"],
            "act_us_p99": said["act_us"]["p99"],
            "episodes": len(said["successes"]),
            "successes": sum(said["successes"]),
        }

    def report(self) -> None:
        """Draws the pictures, writes the report, and prints the targets and what was measured."""
        from edp_robot.demo import report
        from edp_robot.demo.pictures import sections

        with self.stage("report", "drawing the report"):
            made = sections(self.out, self.numbers)
        self.numbers["wall_s"]["total"] = round(time.monotonic() - self.started, 1)
        self.numbers["commit"] = source_commit()
        report.write(self.out, self.numbers, made)
        table = report.text_table(report.target_rows(self.numbers))
        print(f"\n{table}\n\n{self.out / 'report.html'}\n{self.out / 'bundle'}")

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announces a stage `text`, and keeps its time as `name` of `numbers`."""
        began = time.monotonic()
        print(f"\n[{began - self.started:4.0f} s] {text}", flush=True)
        yield
        self.numbers["wall_s"][name] = round(time.monotonic() - began, 2)
        write_json(self.mark, {"elapsed_s": time.monotonic() - self.started})

    def files(self, name: str) -> list[str]:
        """Returns the options that name a command's folder and its result beside it."""
        return ["--out", str(self.out / name), "--json", str(self.out / f"{name}.json")]

    def result(self, name: str) -> dict[str, Any]:
        """Returns the result of the command that `files(name)` was given to."""
        return read(self.out / f"{name}.json")


def read(path: Path) -> dict[str, Any]:
    """Returns a JSON file's content."""
    return json.loads(path.read_text())
