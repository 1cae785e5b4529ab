"""Runs the study of bodies: explores, fine-tunes, and writes tables that grow with every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from edp_robot.methods.ranges import Natural, Ranged, Seed
from edp_robot.studies.domains import domain_report as report
from edp_robot.studies.domains.domain_runs import Downstream, exploring, read_curves
from edp_robot.studies.domains.domain_tables import Found
from edp_robot.studies.domains.recipes import DOWNSTREAM, RECIPES, SCRATCH
from edp_robot.studies.domains.state_entropy import kept_entropy
from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.jobs import Job, JobStudy
from edp_robot.studies.study_options import check_names, command_line
from policy_server.contract.disk.outputs import OutFolder
from sim.core.registry import task_spec


@dataclass(frozen=True)
class BodyOptions(Ranged):
    """What is run on bodies. The fields are those of the study of exploration.

    Attributes:
        domains: Names of tasks without reward.
        recipes: Any of RECIPES; empty: all.
        cpu_s: Processor time of exploring [s].
        at_env_steps: Where recipes are compared at equal env_steps.
        downstream_steps: env_steps of fine-tuning at which returns are measured; empty: none.
        downstream_episodes: Episodes of each measurement.
        downstream_tasks: Any of the domains' tasks in DOWNSTREAM; empty: all.
        downstream_seeds: How many of the seeds are fine-tuned, the first ones; 0: all.
        n_seeds: Runs of each recipe, each in a process of its own with one thread.
        seed: The first one's seed; the others' follow.
        runs: Folder for runs, results and logs.
        out: Folder for domains.md, domains.csv and the figures.
        processes: Runs at the same time.
    """

    domains: tuple[str, ...]
    recipes: tuple[str, ...]
    cpu_s: float
    at_env_steps: int
    downstream_steps: tuple[int, ...]
    downstream_episodes: int
    downstream_tasks: tuple[str, ...]
    downstream_seeds: Natural
    n_seeds: int
    seed: Seed
    runs: OutFolder
    out: OutFolder
    processes: int

    def __post_init__(self) -> None:
        """Checks the options; fills in what was left empty."""
        object.__setattr__(self, "recipes", tuple(dict.fromkeys(self.recipes)) or tuple(RECIPES))
        object.__setattr__(self, "domains", tuple(dict.fromkeys(self.domains)))
        object.__setattr__(self, "downstream_steps", tuple(sorted(set(self.downstream_steps))))
        check_names("recipe", self.recipes, RECIPES)
        known = [task for domain in self.domains for task in DOWNSTREAM.get(domain, ())]
        check_names("downstream task", self.downstream_tasks, known)
        for domain in self.domains:
            if task_spec(domain).new_coverage is None:
                raise ValueError(f"task {domain!r} has no measure of coverage (new_coverage)")
        super().__post_init__()

    @property
    def seeds(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.n_seeds)

    def fitting(self, domain: str) -> tuple[str, ...]:
        """Returns the recipes that a domain has, without named numbers where it names none."""
        names = bool(task_spec(domain).novelty_fields)
        return tuple(name for name in self.recipes if names or not RECIPES[name].on_named)

    def tasks(self, domain: str) -> tuple[str, ...]:
        """Returns the names of the tasks that are learned after exploring a domain."""
        known = DOWNSTREAM.get(domain, ())
        chosen = tuple(task for task in known if task in self.downstream_tasks)
        return chosen if self.downstream_tasks else known

    def plan(self) -> report.Plan:
        """Returns what the tables compare."""
        command = command_line("exploration", self)
        return report.Plan(
            self.domains, self.cpu_s, self.at_env_steps, self.downstream_steps, command
        )


class BodyStudy(JobStudy[Pretraining | Downstream]):
    """A study of exploring and of what is learned after it.

    Attributes:
        found: What the complete runs gave.

    Args:
        options: What is run and written.
        machine: This machine in words.
        start: Starts a run's process. None: as `edp`, with one thread.
        entropy: Returns the entropy of a run's states, given its folder and a file to keep it in.

    Raises:
        ValueError: A run was made before with other options.
    """

    def __init__(
        self,
        options: BodyOptions,
        machine: str,
        start: Callable[[Job], Popen] | None = None,
        entropy: Callable[[Path, Path], float] = kept_entropy,
    ) -> None:
        self.options = options
        self.machine = machine
        self.found = Found()
        self._start = start or (lambda job: job.start(1))
        self._entropy = entropy
        waves = [wave for seed in options.seeds for wave in self._of_seed(seed)]
        super().__init__(waves, options.processes)

    def start(self, job: Pretraining | Downstream) -> Popen:
        """Returns the started process of a run."""
        if isinstance(job, Pretraining):
            job.note(f"{self.machine}; 1 thread a run, --processes {self.options.processes}")
        else:
            job.note()
        return self._start(job)

    def can_start(self, job: Pretraining | Downstream) -> bool:
        """Returns whether what the run starts from is there."""
        explored = job.explored if isinstance(job, Downstream) else None
        return explored is None or explored in self.found.explored

    def collect(self, job: Pretraining | Downstream) -> str:
        """Keeps what a complete run gave; returns its line."""
        if isinstance(job, Pretraining):
            curves = read_curves(job)
            self.found.entropy[job] = self._entropy(job.folder, job.beside(".entropy.json"))
            self.found.explored[job] = curves
        else:
            self.found.returns[job] = job.returns()
        return job.title

    def write(self) -> None:
        """Writes the tables and figures of the results so far, if there are any."""
        if self.found.explored:
            report.write(self.options.out, self.found, self.options.plan())

    def _of_seed(self, seed: int) -> list[Sequence[Pretraining | Downstream]]:
        """Returns a seed's runs in two waves: exploring, then what starts from it."""
        o = self.options
        first = [
            exploring(o.runs, domain, recipe, seed, o.cpu_s)
            for domain in o.domains
            for recipe in o.fitting(domain)
        ]
        sizes = (seed, o.cpu_s, o.downstream_steps, o.downstream_episodes)
        after = [
            Downstream(o.runs, domain, recipe, task, *sizes)
            for domain in o.domains
            for task in o.tasks(domain)
            for recipe in (*o.fitting(domain), SCRATCH)
        ]
        n_tuned = o.downstream_seeds or o.n_seeds
        is_tuned = bool(o.downstream_steps) and seed < o.seed + n_tuned
        return [first, after if is_tuned else []]
