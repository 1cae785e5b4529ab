"""The table and the figure of the study of distillation: return against latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edp_robot.studies.plots import BLUE, GREEN, GREY, ORANGE, columns, png
from edp_robot.studies.tables import markdown
from policy_server.contract.disk.files import write_atomic

LOOKS = {
    "teacher": (GREY, "D"),
    "paired": (BLUE, "o"),
    "consistency": (ORANGE, "s"),
    "paired-small": (GREEN, "^"),
}
BASE = "teacher-15"
RANDOM = "random-0"
KEPT = 0.98  # retained return that a student is asked for
Numbers = Mapping[str, Mapping[str, Any]]  # by policy, or by policy and runtime
LEGEND = """Retained: (return - random actions') / (15-step teacher's - random actions'), with the
standard error of this policy's episodes. Energy distance: between the policy's actions and those of
the 64-step teacher, x 1000, mean over states; 0 is the same distribution. The row of the 64-step
teacher shows what chance alone gives. Times: one action, batch 1, one thread, all rows interleaved
in one run [us]. Students of one kind share one network, trained once."""


@dataclass(frozen=True)
class TaskResult:
    """What was measured of a task's policies.

    Attributes:
        policies: (family, network calls) of each policy.
        quality: Return, success and energy distance by `family-calls`.
        latency: Percentiles [us] by `family-calls runtime`.
    """

    policies: list[tuple[str, int]]
    quality: Numbers
    latency: Numbers

    def runtimes(self) -> list[str]:
        """Returns the runtimes that were timed, torch first."""
        return list(dict.fromkeys(name.split(" ", 1)[1] for name in self.latency))

    def retained(self, policy: str) -> float:
        """Returns (return - random actions') / (15-step teacher's - random actions')."""
        more = self.quality[policy]["mean_return"] - self.quality[RANDOM]["mean_return"]
        return more / self._span if self._span else float("nan")

    def retained_sem(self, policy: str) -> float:
        """Returns the standard error of `retained`, from this policy's episodes alone."""
        sem = self.quality[policy]["return_sem"]
        return sem / abs(self._span) if self._span else float("nan")

    @property
    def _span(self) -> float:
        """What the 15-step teacher's return is above that of random actions."""
        return self.quality[BASE]["mean_return"] - self.quality[RANDOM]["mean_return"]


def write(out: Path, results: Mapping[str, TaskResult], about: str) -> None:
    """Writes table.md and return_latency.png.

    Args:
        out: Folder of the files.
        results: What was measured, by task.
        about: How the results were made.
    """
    parts = ["# Distillation", about, LEGEND]
    parts += [f"## {task}\n{table(result)}" for task, result in results.items()]
    write_atomic(out / "table.md", "\n\n".join(parts) + "\n")
    write_atomic(out / "return_latency.png", figure(results))


def table(result: TaskResult) -> str:
    """Returns a task's table in Markdown."""
    runtimes = result.runtimes()
    head = ["policy", "calls", "return", "success", "retained", "energy distance x1000"]
    head += [f"{name} p50 / p99 [us]" for name in runtimes]
    rows = [("random actions", 0, RANDOM), ("teacher", 64, "teacher-64")]
    rows += [(family, n, f"{family}-{n}") for family, n in result.policies]
    body = [
        [label, str(n), *_quality(result, name), *(_time(result, name, r) for r in runtimes)]
        for label, n, name in rows
    ]
    return markdown(head, body)


def _quality(result: TaskResult, policy: str) -> list[str]:
    """Returns a policy's cells from return to energy distance."""
    q = result.quality[policy]
    retained = f"{result.retained(policy):.3f} +- {result.retained_sem(policy):.3f}"
    distance = f"{1e3 * q['energy_distance']:.2f}"
    success = "-" if q["success"] is None else f"{q['success']:.3f}"
    return [f"{q['mean_return']:.2f}", success, retained, distance]


def _time(result: TaskResult, policy: str, runtime: str) -> str:
    row = result.latency.get(f"{policy} {runtime}")
    return f"{row['p50']:.1f} / {row['p99']:.1f}" if row else ""


def figure(results: Mapping[str, TaskResult]) -> bytes:
    """Returns a panel for each task: retained return over p50 in the fastest runtime."""
    made, axes = columns(len(results), 3.4 * len(results))
    for axis, (task, result) in zip(axes, results.items(), strict=True):
        _panel(axis, task, result)
    axes[0].set_ylabel("return retained")
    axes[-1].legend(frameon=False, loc="lower right")
    return png(made)


def _panel(axis: Any, task: str, result: TaskResult) -> None:
    """Draws a task's policies, with the number of calls beside each mark."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    runtime = result.runtimes()[-1]
    for family, (colour, marker) in LOOKS.items():
        calls = [n for name, n in result.policies if name == family]
        x = [result.latency[f"{family}-{n} {runtime}"]["p50"] for n in calls]
        y = [result.retained(f"{family}-{n}") for n in calls]
        axis.plot(x, y, marker=marker, color=colour, lw=1, ms=5, label=family)
        look = {"textcoords": "offset points", "xytext": (4, 4), "color": colour, "fontsize": 8}
        for point, n in zip(zip(x, y, strict=True), calls, strict=True):
            axis.annotate(str(n), point, **look)
    axis.axhline(KEPT, color=GREY, lw=0.8, ls=":")
    bottom = min(0, axis.get_ylim()[0])
    axis.set(title=task, xscale="log", xlabel=f"p50, {runtime} [us]", ylim=(bottom, 1.12))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
