"""The study of exploration: each method in each maze, several seeds (`edp study exploration`).

With `--domains` it is that of bodies, at equal processor time (`edp_robot.studies.domains`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edp_robot.methods.ranges import Natural, Ranged, Seed
from edp_robot.studies import exploration_report as report
from edp_robot.studies.exploration_runs import ARM, METHODS, Pretraining, Result
from edp_robot.studies.study_options import MAZE_PREFIX, check_mazes, check_names, command_line
from policy_server.contract.disk.outputs import OutFolder

OF_BODIES = (
    "domains",
    "recipes",
    "cpu_s",
    "at_env_steps",
    "downstream_steps",
    "downstream_episodes",
    "downstream_tasks",
    "downstream_seeds",
)


@dataclass(frozen=True)
class Options(Ranged):
    """What is run, and where the runs and the tables lie.

    Attributes:
        mazes: Any of a, b, c, d, tree, bottleneck, large. May be empty with --arm.
        methods: Any of edp, edp-network, rnd, particle, random.
        n_seeds: Learners of each run, trained at once in one process.
        env_steps: Control steps of a run, as in `edp pretrain`.
        seed: Seeds all random generators.
        runs: Folder for runs, results and logs.
        out: Folder for runs.csv, curves.csv, table.md, coverage.png and visits.png.
        processes: Runs at the same time. Each gets its share of the cores.
        arm: Runs the desk arm too, in a table of its own.
        arm_env_steps: Control steps of a run of the arm.
        domains: Bodies, such as walker, hopper, quadruped, arm. They are run instead of mazes: each
            recipe explores for `cpu_s`, in n_seeds processes of one thread, and ddpg then
            learns tasks from each run. The options below are theirs, and --methods is not.
        recipes: Recipes of exploring (edp_robot/studies/domains/recipes.py). Empty: all.
        cpu_s: Processor time of each exploring run [s].
        at_env_steps: env_steps at which recipes are compared too.
        downstream_steps: env_steps of fine-tuning at which the return is measured. Empty: no
            fine-tuning.
        downstream_episodes: Episodes of each such measurement, always the same ones.
        downstream_tasks: What is learned after exploring
            (edp_robot/studies/domains/recipes.py). Empty: all tasks of each domain.
        downstream_seeds: How many of the n_seeds are fine-tuned. 0: all.
    """

    mazes: tuple[str, ...] = ("a", "b", "c", "d", "tree", "bottleneck", "large")
    methods: tuple[str, ...] = tuple(METHODS)
    n_seeds: int = 3
    env_steps: int = 100_000
    seed: Seed = 0
    runs: OutFolder = Path("runs/exploration")
    out: OutFolder = Path("results/exploration")
    processes: int = 1
    arm: bool = False
    arm_env_steps: int = 64_000
    domains: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    cpu_s: float = 240.0
    at_env_steps: int = 50_000
    downstream_steps: tuple[int, ...] = (10_000, 50_000, 100_000)
    downstream_episodes: int = 20
    downstream_tasks: tuple[str, ...] = ()
    downstream_seeds: Natural = 0

    def __post_init__(self) -> None:
        """Checks the options, and shortens names of mazes that are written out."""
        mazes = [name.removeprefix("maze-").removeprefix("square-") for name in self.mazes]
        object.__setattr__(self, "mazes", tuple(dict.fromkeys(mazes)))
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))
        check_mazes(self.mazes)
        check_names("method", self.methods, METHODS)
        super().__post_init__()
        if not (self.mazes or self.arm) or not self.methods:
            raise ValueError("nothing to run: give --mazes or --arm, and --methods")

    def of_bodies(self) -> dict[str, Any]:
        """Returns the options that the study of bodies takes, by name."""
        shared = ("n_seeds", "seed", "runs", "out", "processes")
        return {name: getattr(self, name) for name in (*OF_BODIES, *shared)}

    def tasks(self) -> list[str]:
        """Returns the names of the tasks, mazes first."""
        return [MAZE_PREFIX + maze for maze in self.mazes] + [ARM] * self.arm

    def jobs(self) -> list[Pretraining]:
        """Returns the runs in order, those of random actions first, because they are fast."""
        pairs = [(task, method) for task in self.tasks() for method in self.methods]
        pairs.sort(key=lambda pair: pair[1] != "random")
        return [self.job(task, method) for task, method in pairs]

    def job(self, task: str, method: str) -> Pretraining:
        """Returns the run of a method on a task."""
        env_steps = self.arm_env_steps if task == ARM else self.env_steps
        made = METHODS[method]
        sizes = (env_steps, self.n_seeds, self.seed)
        variant = method if made.settings else ""
        return Pretraining(self.runs, task, made.method, *sizes, variant, made.settings)

    def write(self, results: list[Result]) -> None:
        """Writes the tables and figures to `out`."""
        command = command_line("exploration", self, leave_out=OF_BODIES)
        report.write(self.out, self.tasks(), self.methods, results, command)
