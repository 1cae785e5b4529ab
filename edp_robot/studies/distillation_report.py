"""The study's table and figure: return against latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edp_robot.studies.plots import BLUE, GREEN, GREY, ORANGE, _figure, _png
from policy_server.contract.files import write_atomic

LOOKS = {
    "teacher": (GREY, "D"),
    "paired": (BLUE, "o"),
    "consistency": (ORANGE, "s"),
    "paired-small": (GREEN, "^"),
}
BASE = "teacher-15"
Numbers = Mapping[str, Mapping[str, Any]]  # by policy, or by policy and runtime


@dataclass(frozen=True)
class TaskResult:
    """A task's policies (family, calls); measurements by `family-calls`, latency by `family-calls runtime`."""

    policies: list[tuple[str, int]]
    quality: Numbers
    latency: Numbers

    def runtimes(self) -> list[str]:
        """Returns the runtimes that were timed, torch first."""
        return list(dict.fromkeys(name.split(" ", 1)[1] for name in self.latency))

    def retained(self, policy: str) -> float:
        """Returns (return - random actions') / (15-step teacher's - random actions'): 1 as good as the teacher."""
        low, high = (self.quality[name]["mean_return"] for name in ("random-0", BASE))
        return (
            (self.quality[policy]["mean_return"] - low) / (high - low)
            if high != low
            else float("nan")
        )

    def retained_sem(self, policy: str) -> float:
        """Returns the standard error of `retained`, from this policy's episodes alone."""
        low, high = (self.quality[name]["mean_return"] for name in ("random-0", BASE))
        return self.quality[policy]["return_sem"] / abs(high - low) if high != low else float("nan")


def write(out: Path, results: Mapping[str, TaskResult], about: str) -> None:
    """Writes table.md and return_latency.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [f"Made by `{about.split(';')[0]}`;{about.split(';', 1)[1]}.", _legend()]
    parts += [f"## {task}\n{table(result)}" for task, result in results.items()]
    write_atomic(out / "table.md", ("\n\n".join(["# Distillation", *parts]) + "\n").encode())
    write_atomic(out / "return_latency.png", figure(results))


def _legend() -> str:
    return (
        "Retained: (return - random actions') / (15-step teacher's - random actions'), with the standard error of this "
        "policy's episodes. Energy distance: of the actions to those of the 64-step teacher, x 1000, mean over states; "
        "0 is the same distribution; how far chance alone leads from it, the row of that teacher itself shows. Times: "
        "one action, batch 1, one thread, all rows interleaved in one run [us]. Students of one "
        "kind share one network, trained once."
    )


def table(result: TaskResult) -> str:
    """Returns a task's table in Markdown."""
    runtimes = result.runtimes()
    head = ["policy", "calls", "return", "success", "retained", "energy distance x1000"]
    head += [f"{name} p50 / p99 [us]" for name in runtimes]
    rows = [[*_quality_cells("random actions", 0, result, "random-0"), *["" for _ in runtimes]]]
    rows += [[*_quality_cells("teacher", 64, result, "teacher-64"), *["" for _ in runtimes]]]
    for family, n in result.policies:
        name = f"{family}-{n}"
        rows.append(
            [
                *_quality_cells(family, n, result, name),
                *(_time(result.latency, name, r) for r in runtimes),
            ]
        )
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _quality_cells(label: str, n: int, result: TaskResult, name: str) -> list[str]:
    """Returns the cells that are not times."""
    q = result.quality[name]
    retained = f"{result.retained(name):.3f} +- {result.retained_sem(name):.3f}"
    return [
        label,
        str(n),
        f"{q['mean_return']:.2f}",
        f"{q['success']:.3f}",
        retained,
        f"{1e3 * q['energy_distance']:.2f}",
    ]


def _time(latency: Numbers, policy: str, runtime: str) -> str:
    row = latency.get(f"{policy} {runtime}")
    return f"{row['p50']:.1f} / {row['p99']:.1f}" if row else ""


def figure(results: Mapping[str, TaskResult]) -> bytes:
    """Returns a panel a task: retained return against p50 in the fastest runtime, calls written beside the marks."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    made, axes = _figure(len(results), (3.4 * len(results), 3.2))
    for axis, (task, result) in zip(axes, results.items(), strict=True):
        runtime = result.runtimes()[-1]
        for family, (colour, marker) in LOOKS.items():
            mine = [n for f, n in result.policies if f == family]
            x = [result.latency[f"{family}-{n} {runtime}"]["p50"] for n in mine]
            y = [result.retained(f"{family}-{n}") for n in mine]
            axis.plot(x, y, marker=marker, color=colour, lw=1, ms=5, label=family)
            for xi, yi, n in zip(x, y, mine, strict=True):
                axis.annotate(
                    str(n),
                    (xi, yi),
                    textcoords="offset points",
                    xytext=(4, 4),
                    color=colour,
                    fontsize=8,
                )
        axis.axhline(0.98, color=GREY, lw=0.8, ls=":")
        axis.set(
            title=task,
            xscale="log",
            xlabel=f"p50, {runtime} [us]",
            ylim=(min(0, axis.get_ylim()[0]), 1.12),
        )
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("return retained")
    axes[-1].legend(frameon=False, loc="lower right")
    return _png(made)
