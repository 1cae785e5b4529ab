"""The ablation of exploration: one thing changed at a time (`edp study ablation`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from edp_robot.methods.ranges import Ranged, Seed
from edp_robot.studies.exploration_report import about, run_rows
from edp_robot.studies.exploration_runs import NETWORK, Pretraining, Result
from edp_robot.studies.study_options import MAZE_PREFIX, check_mazes, check_names, command_line
from edp_robot.studies.tables import CONFIDENCE, as_csv, bold, interval, markdown
from policy_server.contract.disk.files import write_atomic
from policy_server.contract.disk.outputs import OutFolder

BASE = "default"
SHARED = ("score_reward.estimator=shared", *NETWORK)
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: (what is changed, settings)
    BASE: ("nothing", ()),
    "shared": ("estimator", SHARED),
    "antithetic": ("estimator", ("score_reward.estimator=antithetic", *NETWORK)),
    "stratified": ("estimator", ("score_reward.estimator=stratified", *NETWORK)),
    "centred": ("estimator", ("score_reward.estimator=centred", *NETWORK)),
    "fixed": ("estimator", ("score_reward.estimator=fixed", *NETWORK)),
    "iid": ("estimator", ("score_reward.estimator=iid", *NETWORK)),
    "shared-smooth": ("its model", SHARED[:1]),
    "shared-no-features": ("its model", (*SHARED[:1], "state_model.n_features=0")),
    "shared-even-in-t": ("its t spacing", (*SHARED, "score_reward.spacing=time")),
    "shared-t-05-6": (
        "its t range",
        (*SHARED, "score_reward.t_low=0.05", "score_reward.t_high=0.6"),
    ),
    "shared-t-whole": (
        "its t range",
        (*SHARED, "score_reward.t_low=0.001", "score_reward.t_high=1.0"),
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
NOTE = """Coverage by the released metric: mean [95 % interval of the mean, Student's t] over the
seeds. `gain` is the difference to the default with Welch's interval, bold where that leaves out 0.
One thing is changed at a time."""


@dataclass(frozen=True)
class Options(Ranged):
    """What is run, and where the runs and the table lie.

    Attributes:
        mazes: Any of a, b, c, d, tree, bottleneck, large.
        variants: Changes to the default, each run by itself.
        n_seeds: Learners of each run, trained at once in one process; 2 or more for an interval.
        env_steps: Control steps of a run, as in `edp pretrain`.
        seed: Seeds all random generators.
        runs: Folder for runs, results and logs.
        out: Folder for ablation.csv and ablation.md.
        processes: Runs at the same time. Each gets its share of the cores.
    """

    mazes: tuple[str, ...] = ("bottleneck", "large")
    variants: tuple[str, ...] = tuple(VARIANTS)
    n_seeds: int = 3
    env_steps: int = 100_000
    seed: Seed = 0
    runs: OutFolder = Path("runs/ablation")
    out: OutFolder = Path("results/exploration")
    processes: int = 1

    def __post_init__(self) -> None:
        """Checks the options."""
        check_mazes(self.mazes)
        check_names("variant", self.variants, VARIANTS)
        if self.n_seeds < 2:
            raise ValueError(f"n_seeds={self.n_seeds}: give 2 or more, an interval needs them")
        super().__post_init__()

    def jobs(self) -> list[Pretraining]:
        """Returns the runs, the default's first."""
        names = sorted(self.variants, key=lambda name: name != BASE)
        return [self.job(MAZE_PREFIX + maze, name) for name in names for maze in self.mazes]

    def job(self, task: str, variant: str) -> Pretraining:
        """Returns the run of a variant on a task."""
        sizes = {"env_steps": self.env_steps, "n_seeds": self.n_seeds, "seed": self.seed}
        changes = {"variant": variant, "settings": VARIANTS[variant][1]}
        return Pretraining(self.runs, task, "edp", **sizes, **changes)

    def write(self, results: list[Result]) -> None:
        """Writes ablation.csv and ablation.md to `out`."""
        rows = [{"variant": r.job.variant, **row} for r in results for row in run_rows([r])]
        write_atomic(self.out / "ablation.csv", as_csv(rows))
        made = about(results, command_line("ablation", self), date.today().isoformat())
        parts = ["# What mattered in exploration", table(self, results), NOTE, made]
        write_atomic(self.out / "ablation.md", "\n\n".join(parts) + "\n")


def gain(values: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Returns (difference of the means, half width of its 95 % interval by Welch)."""
    from scipy import stats

    difference = float(values.mean() - base.mean())
    if np.ptp(values) == np.ptp(base) == 0:
        return difference, 0.0
    low, high = stats.ttest_ind(values, base, equal_var=False).confidence_interval(CONFIDENCE)
    return difference, float(high - low) / 2


def table(options: Options, results: Sequence[Result]) -> str:
    """Returns the Markdown table: variants x mazes."""
    there = {(r.job.variant, r.job.task): r for r in results}
    tasks = [MAZE_PREFIX + maze for maze in options.mazes]
    columns = [f"{maze}{part}" for maze in options.mazes for part in ("", ", gain")]
    body = []
    for name in options.variants:
        made = [r for task in tasks if (r := there.get((name, task)))]
        if not made:
            continue
        what, settings = VARIANTS[name]
        said = f"`{' '.join(settings)}`" if settings else "the default"
        pairs = [(there.get((name, task)), there.get((BASE, task))) for task in tasks]
        cells = [cell for pair in pairs for cell in _cells(*pair)]
        costs = [f"{made[0].grad_steps:,}", f"{np.mean([r.wall_s for r in made]):.0f}"]
        body.append([what, said, *cells, *costs])
    return markdown(["changed", "to", *columns, "grad_steps", "wall s"], body)


def _cells(result: Result | None, base: Result | None) -> list[str]:
    """Returns [coverage, gain] of a variant in one maze."""
    if result is None:
        return ["-", "-"]
    mean, half = interval(result.coverage)
    first = f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
    if base is None or result is base:
        return [first, ""]
    more, half = gain(result.coverage, base.coverage)
    return [first, bold(f"{more:+.3f} +- {half:.3f}", abs(more) > half)]
