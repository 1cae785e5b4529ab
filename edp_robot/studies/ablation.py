"""What mattered in exploration: the default with one thing changed at a time (`edp study ablation`)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from edp_robot.studies.exploration import known
from edp_robot.studies.exploration_report import about, as_csv, markdown, run_rows
from edp_robot.studies.exploration_runs import MAZE_PREFIX, Job, Result
from edp_robot.studies.processes import Child
from edp_robot.studies.study import Study, process
from edp_robot.training.runs import write_atomic
from sim.tasks.mazes import task_names

BASE = "default"
# the state model as a network: sharp enough to hold a maze, as far as it was found (docs/exploration.md)
NETWORK = (
    "state_model.n_blocks=1",
    "state_model.n_features=128",
    "state_model.learning_rate=0.003",
)
VARIANTS: dict[
    str, tuple[str, tuple[str, ...]]
] = {  # name: (what is changed, settings of `edp pretrain --set`)
    BASE: ("nothing", ()),
    "shared": ("estimator", ("score_reward.estimator=shared", *NETWORK)),
    "antithetic": ("estimator", ("score_reward.estimator=antithetic", *NETWORK)),
    "stratified": ("estimator", ("score_reward.estimator=stratified", *NETWORK)),
    "iid": ("estimator", ("score_reward.estimator=iid", *NETWORK)),
    "shared-smooth": ("its model", ("score_reward.estimator=shared",)),
    "shared-no-features": (
        "its model",
        ("score_reward.estimator=shared", "state_model.n_features=0"),
    ),
    "shared-even-in-t": (
        "its t spacing",
        ("score_reward.estimator=shared", *NETWORK, "score_reward.spacing=time"),
    ),
    "shared-t-05-6": (
        "its t range",
        (
            "score_reward.estimator=shared",
            *NETWORK,
            "score_reward.t_low=0.05",
            "score_reward.t_high=0.6",
        ),
    ),
    "shared-t-whole": (
        "its t range",
        (
            "score_reward.estimator=shared",
            *NETWORK,
            "score_reward.t_low=0.001",
            "score_reward.t_high=1.0",
        ),
    ),
    "t-low-002": ("t range", ("score_reward.t_low=0.002",)),
    "t-low-02": ("t range", ("score_reward.t_low=0.02",)),
    "updates-half": ("update ratio", ("loop.updates_per_round=4",)),
    "updates-double": ("update ratio", ("loop.updates_per_round=16",)),
    "discount-90": ("discount", ("ddpg.discount=0.9",)),
    "discount-99": ("discount", ("ddpg.discount=0.99",)),
    "not-centred": ("reward centring", ("centre_reward=false",)),
    "noise-small": ("exploration noise", ("ddpg.explore_noise=[0.05, 0.2]",)),
    "noise-large": ("exploration noise", ("ddpg.explore_noise=[0.2, 1.0]",)),
    "noise-white": ("exploration noise", ("ddpg.noise_correlation=0.0",)),
    "no-layer-norm": ("LayerNorm", ("ddpg.layer_norm=false",)),
    "no-ddpg-features": ("Fourier features", ("ddpg.n_features=0",)),
    "width-32": ("width", ("ddpg.width=32",)),
    "width-128": ("width", ("ddpg.width=128",)),
    "three-step": ("n-step returns", ("ddpg.n_step=3",)),
    "batch-128": ("batch", ("batch=128",)),
}
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
NOTE = """Coverage by the released metric: mean [95 % interval of the mean, Student's t] over the seeds; `gain` is the
difference to the default with Welch's interval; bold where that leaves out 0. One thing is changed at a time."""


@dataclass(frozen=True)
class Options:
    """What is run, and where the runs and the table lie."""

    mazes: tuple[str, ...] = ("bottleneck", "large")
    variants: tuple[str, ...] = tuple(VARIANTS)
    n_seeds: int = 3
    env_steps: int = 100_000
    seed: int = 0
    runs: Path = Path("runs/ablation")
    out: Path = Path("results/exploration")
    processes: int = 1

    def __post_init__(self) -> None:
        known("maze", self.mazes, [name.removeprefix(MAZE_PREFIX) for name in task_names()])
        known("variant", self.variants, list(VARIANTS))
        if not 2 <= self.n_seeds <= len(T95) + 1:
            raise ValueError(
                f"n_seeds={self.n_seeds}: give 2 to {len(T95) + 1}, for which the intervals are known"
            )

    def jobs(self) -> list[Job]:
        """Returns the runs, the default's first."""
        names = sorted(self.variants, key=lambda v: v != BASE)
        rest = (self.env_steps, self.n_seeds, self.seed)
        pairs = [(MAZE_PREFIX + maze, v) for v in names for maze in self.mazes]
        return [Job(self.runs, task, "edp", *rest, v, VARIANTS[v][1]) for task, v in pairs]

    def command(self) -> str:
        """Returns the command that makes the same table, every option written out."""
        words = ["edp", "study", "ablation", "--mazes", *self.mazes, "--variants", *self.variants]
        for name in ("n_seeds", "env_steps", "seed", "runs", "out", "processes"):
            words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return shlex.join(words)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns (mean, half width of its 95 % interval) of values (n,), n from 2 to 10."""
    n = len(values)
    return float(values.mean()), T95[n - 2] * float(values.std(ddof=1)) / np.sqrt(n)


def gain(values: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Returns (difference of means, half width of Welch's 95 % interval); degrees of freedom rounded down."""
    a, b = (v.var(ddof=1) / len(v) for v in (values, base))
    if a + b == 0:
        return float(values.mean() - base.mean()), 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(values) - 1) + b**2 / (len(base) - 1))
    t = T95[min(max(int(freedom), 1), len(T95)) - 1]
    return float(values.mean() - base.mean()), t * float(np.sqrt(a + b))


def table(options: Options, results: Sequence[Result]) -> str:
    """Returns the Markdown table: variants x mazes."""
    there = {(r.job.variant, r.job.task.removeprefix(MAZE_PREFIX)): r for r in results}
    head = [
        "changed",
        "to",
        *(f"{m}{c}" for m in options.mazes for c in ("", ", gain")),
        "grad_steps",
        "wall s",
    ]
    body = []
    for name in options.variants:
        row = [there.get((name, maze)) for maze in options.mazes]
        if not any(row):
            continue
        said = " ".join(VARIANTS[name][1]) or "the default"
        cells = [
            c
            for m, r in zip(options.mazes, row, strict=True)
            for c in _cells(r, there.get((BASE, m)))
        ]
        made = [r for r in row if r]
        costs = [f"{made[0].grad_steps:,}", f"{np.mean([r.wall_s for r in made]):.0f}"]
        body.append([VARIANTS[name][0], f"`{said}`" if VARIANTS[name][1] else said, *cells, *costs])
    return markdown(head, body)


def _cells(result: Result | None, base: Result | None) -> list[str]:
    if result is None:
        return ["-", "-"]
    mean, half = interval(result.coverage)
    first = f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
    if base is None or result is base:
        return [first, ""]
    more, half = gain(result.coverage, base.coverage)
    text = f"{more:+.3f} +- {half:.3f}"
    return [first, f"**{text}**" if abs(more) > half else text]


def write(options: Options, results: Sequence[Result]) -> None:
    """Writes ablation.csv and ablation.md to `options.out`."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [{"variant": r.job.variant, **row} for r in results for row in run_rows([r])]
    write_atomic(options.out / "ablation.csv", as_csv(rows))
    made = about(results, options.command(), date.today().isoformat())
    page = f"# What mattered in exploration\n\n{table(options, results)}\n\n{NOTE}\n\n{made}\n"
    write_atomic(options.out / "ablation.md", page.encode())


def study(options: Options, machine: str, start: Callable[[Job], Child] | None = None) -> Study:
    """Returns the study of `options`, not yet begun; arguments as `exploration.study`."""
    o = options
    begin = start or (lambda job: process(job, machine, o.processes))
    return Study(o.jobs(), o.processes, begin, lambda results: write(o, results))
