"""Writes what the study of bodies found: domains.md, domains.csv and two figures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from edp_robot.studies.domains.domain_plots import downstream_figure, exploring_figure
from edp_robot.studies.domains.domain_tables import (
    Found,
    downstream_table,
    exploring_table,
    long_rows,
)
from edp_robot.studies.domains.recipes import RECIPES
from edp_robot.studies.tables import as_csv, markdown
from policy_server.contract.commit import source_commit
from policy_server.contract.disk.files import write_atomic

NOTE = """Cells: mean [95 % interval of the mean, Student's t] (n) over n seeds, each a process of
its own with one thread. The best mean of a column is bold. `coverage_*`: share of a grid's bins.
How many can be reached is unknown, so it compares rows of one table only. The hand's is the share
of what the arm can reach. `n_contacts`: distinct sets of limbs in contact, by bins of speed where
the body has them. The module of each body (sim/tasks) says what its measures are.
`entropy`: k-NN estimate of 4,000 states of the run's replay, each number of the obs divided by its
standard deviation under random actions."""
AFTER = """Return after so many env_steps of fine-tuning by one learner (`--method ddpg`). It goes
on with the run's actor and learns from its newest data too, where the reward is a function of the
observation. Random actions leave no actor. The size of the actor is the recipe's."""


@dataclass(frozen=True)
class Plan:
    """What the tables compare.

    Attributes:
        domains: Names of the tasks without reward.
        cpu_s: Processor time of exploring [s].
        env_steps: Where recipes are compared at equal env_steps.
        at: env_steps of fine-tuning at which returns were measured.
        command: The command that repeats the study.
    """

    domains: tuple[str, ...]
    cpu_s: float
    env_steps: int
    at: tuple[int, ...]
    command: str


def write(out: Path, found: Found, plan: Plan) -> None:
    """Writes the files.

    Args:
        out: Their folder.
        found: What the runs gave.
        plan: What is compared.
    """
    write_atomic(out / "domains.csv", as_csv(long_rows(found)))
    write_atomic(out / "domains.md", "\n\n".join(parts(found, plan)) + "\n")
    there = {job.task for job in found.explored}
    domains = [domain for domain in plan.domains if domain in there]
    write_atomic(out / "domains.png", exploring_figure(found, domains))
    if found.returns:
        learned = [domain for domain in domains if found.tasks(domain)]
        tasks = {domain: found.tasks(domain) for domain in learned}
        write_atomic(out / "downstream.png", downstream_figure(found, tasks, plan.at))


def parts(found: Found, plan: Plan) -> list[str]:
    """Returns the parts of domains.md."""
    said = ["# Exploration of bodies", NOTE, recipes_table()]
    for domain in plan.domains:
        if not found.measures(domain):
            continue
        said += [f"## {domain}", f"After {plan.cpu_s:g} s of one processor:"]
        said.append(
            exploring_table(found, domain, lambda c, m: c.at_time(m, plan.cpu_s), "env_step")
        )
        said.append(f"After {plan.env_steps:,} env_steps, where a run got so far:")
        said.append(
            exploring_table(found, domain, lambda c, m: c.at_step(m, plan.env_steps), "cpu_s")
        )
        if tasks := found.tasks(domain):
            said += [AFTER, downstream_table(found, domain, tasks, plan.at)]
    return [*said, about(found, plan.command)]


def recipes_table() -> str:
    """Returns the table of what each recipe is."""
    rows = [
        [
            name,
            recipe.method,
            recipe.preset,
            "named numbers" if recipe.on_named else "all",
            f"`{' '.join(recipe.settings)}`" * bool(recipe.settings),
        ]
        for name, recipe in RECIPES.items()
    ]
    return markdown(["recipe", "--method", "--preset", "looks at", "--set"], rows)


def about(found: Found, command: str) -> str:
    """Returns where, from what and how the results were made, as a Markdown list."""
    machines = {curves.made.get("machine", "unknown") for curves in found.explored.values()}
    said = {"Machine": "; ".join(sorted(machines)), "Commit": source_commit()[:12]}
    said |= {"Command": f"`{command}`", "Written": date.today().isoformat()}
    return "\n".join(f"- {name}: {text}" for name, text in said.items())
