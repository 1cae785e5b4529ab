"""The study of fine-tuning: methods x tasks x seeds from shared pre-trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Literal

from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.methods.explore.intrinsic_reward import reward_class
from edp_robot.methods.ranges import Natural, Ranged, Seed
from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.finetuning import finetuning_report as report
from edp_robot.studies.finetuning.finetuning_runs import Outcome, Protocol, Tuning, collect, slug
from edp_robot.studies.finetuning.finetuning_tables import Found, Plan
from edp_robot.studies.finetuning.study_rows import (
    BOTH,
    SCRATCH,
    STARTS,
    Row,
    explored_task,
    resolved,
)
from edp_robot.studies.jobs import Job, JobStudy
from edp_robot.studies.processes import threads_each
from edp_robot.studies.study_options import check_names, command_line
from policy_server.contract.disk.outputs import OutFolder


@dataclass(frozen=True)
class Options(Ranged):
    """What is run, and where the runs and the tables lie.

    Attributes:
        methods: Fine-tuners (`edp plugins` lists them), or your own as package.module:Class.
            Settings may follow in the same word: "edp tuner.n_proposals=64".
        tasks: Tasks with a reward. All that share a world share its pre-trainings.
        rows_of: Methods that start from scratch, from pre-trained weights alone and from
            pre-trained data alone too. The first one is the reference of the comparison. Empty:
            all methods.
        n_seeds: Pre-trainings of each world, and runs of each row and task.
        seed: The first one's seed; the others' follow.
        explore: Intrinsic reward of the pre-trainings.
        pretrain_env_steps: Control steps of each pre-training. 0: the preset's.
        env_steps: Control steps of each fine-tuning.
        eval_every: Control steps between evaluations, the first of which is before the first step.
        eval_episodes: Episodes of each evaluation; those on the way are always the same ones.
        at_env_steps: Columns of the tables. Empty: 0, the first evaluation and the last.
        preset: Sizes and rates, of pre-training and fine-tuning.
        processes: Runs at the same time. Each gets its share of the cores.
        runs: Folder for runs, results and logs.
        out: Folder for table.md, runs.csv, curves.csv, curves.png and iqm.png.
    """

    methods: tuple[str, ...] = ("edp", "ddpg")
    tasks: tuple[str, ...] = ("arm-press", "arm-reach-left")
    rows_of: tuple[str, ...] = ()
    n_seeds: int = 3
    seed: Seed = 0
    explore: str = "edp"
    pretrain_env_steps: Natural = 0
    env_steps: int = 50_000
    eval_every: int = 5_000
    eval_episodes: int = 100
    at_env_steps: tuple[Natural, ...] = ()
    preset: Literal["smoke", "demo", "paper"] = "demo"
    processes: int = 1
    runs: OutFolder = Path("runs/finetuning")
    out: OutFolder = Path("results/finetuning")

    def __post_init__(self) -> None:
        """Checks the options; fills in what was left empty."""
        for name in ("methods", "tasks", "rows_of"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        super().__post_init__()
        if not (self.methods and self.tasks):
            raise ValueError("nothing to run: give --methods and --tasks")
        check_names("method for --rows-of among --methods", self.rows_of, self.methods)
        if self.eval_every > self.env_steps:
            raise ValueError(
                f"eval_every={self.eval_every}: give at most --env-steps {self.env_steps}"
            )
        at = sorted(set(self.at_env_steps)) or [0, self.eval_every, self._last]
        for step in at:
            if step % self.eval_every or step > self.env_steps:
                raise ValueError(
                    f"at_env_steps={step}: give multiples of --eval-every {self.eval_every}, at "
                    f"most --env-steps {self.env_steps}"
                )
        object.__setattr__(self, "at_env_steps", tuple(dict.fromkeys(at)))
        object.__setattr__(self, "rows_of", self.rows_of or self.methods)
        reward_class(self.explore)
        for task in self.tasks:
            for method in self.methods:
                name, *settings = method.split() or [method]
                changed(presets.finetune(self.preset, task, method=name), settings)

    @property
    def _last(self) -> int:
        """The env_steps of the last evaluation on the way."""
        return self.env_steps // self.eval_every * self.eval_every

    @property
    def protocol(self) -> Protocol:
        """What all runs share."""
        return Protocol(self.runs, self.preset, self.env_steps, self.eval_every, self.eval_episodes)

    @property
    def seeds(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.n_seeds)

    def pretraining(self, task: str, seed: int) -> Pretraining:
        """Returns the pre-training that a task's runs of a seed start from."""
        explored = explored_task(task)
        steps = self.pretrain_env_steps
        if not steps:
            steps = presets.pretrain(self.preset, explored, method=self.explore).loop.env_steps
        variant = f"{slug(self.explore)}-{seed}"
        runs = self.runs / "pretrained"
        sizes = (self.explore, steps, 1, seed, variant)
        return Pretraining(runs, explored, *sizes, preset=self.preset)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the tables."""
        return tuple(
            Row(method, start)
            for method in self.methods
            for start in (STARTS if method in self.rows_of else (BOTH,))
        )

    def starts(self) -> dict[tuple[str, Row], tuple[str, str]]:
        """Returns what each row starts from on each task, and a sentence where that is another."""
        pairs = [(task, row) for task in self.tasks for row in self.rows]
        return {(task, row): resolved(row, task, self.explore) for task, row in pairs}

    def tunings(self, seed: int) -> list[Tuning]:
        """Returns a seed's fine-tunings."""
        there = [(task, row, start) for (task, row), (start, _) in self.starts().items() if start]
        made = [self._tuning(task, row._replace(start=start), seed) for task, row, start in there]
        return list(dict.fromkeys(made))

    def _tuning(self, task: str, row: Row, seed: int) -> Tuning:
        explored = None if row.start == SCRATCH else self.pretraining(task, seed)
        return Tuning(self.protocol, task, row, seed, explored)

    def plan(self) -> Plan:
        """Returns what the tables compare."""
        starts = self.starts()
        return Plan(
            tasks=self.tasks,
            rows=self.rows,
            reference=Row(self.rows_of[0], BOTH),
            starts={key: start for key, (start, _) in starts.items() if start},
            left_out=tuple(said for _, said in starts.values() if said),
            at=self.at_env_steps,
            n_runs=self.n_seeds * len(self.tunings(self.seed)),
            command=command_line("finetuning", self),
        )


class FinetuningStudy(JobStudy[Pretraining | Tuning]):
    """A study of fine-tuning.

    Attributes:
        pretrained: The complete pre-trainings.
        outcomes: What the complete fine-tunings gave.

    Args:
        options: What is run and written.
        machine: This machine in words.
        start: Starts a run's process. None: as `edp`, with its share of the cores.

    Raises:
        ValueError: A run was made before with other options.
    """

    def __init__(
        self, options: Options, machine: str, start: Callable[[Job], Popen] | None = None
    ) -> None:
        self.options = options
        threads = threads_each(options.processes)
        self.machine = f"{machine}; {threads} threads a run, --processes {options.processes}"
        self.pretrained: set[Pretraining] = set()
        self.outcomes: dict[Tuning, Outcome] = {}
        self._start = start or (lambda job: job.start(threads))
        waves = [wave for seed in options.seeds for wave in self._of_seed(seed)]
        super().__init__(waves, options.processes)

    def start(self, job: Pretraining | Tuning) -> Popen:
        """Returns the started process of a run."""
        job.note(self.machine)
        return self._start(job)

    def can_start(self, job: Pretraining | Tuning) -> bool:
        """Returns whether what the run starts from is there."""
        explored = job.explored if isinstance(job, Tuning) else None
        return explored is None or explored in self.pretrained

    def collect(self, job: Pretraining | Tuning) -> str:
        """Keeps what a complete run gave; returns its line."""
        if isinstance(job, Pretraining):
            self.pretrained.add(job)
            return job.title
        self.outcomes[job] = collect(job)
        return f"{job.title}: {self.outcomes[job].score:.3f}"

    def write(self) -> None:
        """Writes the tables and figures of the results so far, if there are any."""
        if self.outcomes:
            plan = self.options.plan()
            done = sorted(self.outcomes.values(), key=lambda outcome: plan.place(outcome.job))
            found = Found(plan, done)
            report.write(self.options.out, found)

    def _of_seed(self, seed: int) -> list[Sequence[Pretraining | Tuning]]:
        """Returns a seed's runs in two waves: what starts from nothing, then all others."""
        tunings = self.options.tunings(seed)
        explored = dict.fromkeys(job.explored for job in tunings if job.explored)
        first = [job for job in tunings if not job.explored]
        return [[*explored, *first], [job for job in tunings if job.explored]]
