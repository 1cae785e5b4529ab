"""Writes what the study of fine-tuning found: table.md, runs.csv, curves.csv and two figures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from edp_robot.studies.finetuning import finetuning_plots as plots
from edp_robot.studies.finetuning import scores
from edp_robot.studies.finetuning.finetuning_tables import (
    Found,
    cost_table,
    curve_rows,
    pooled_table,
    run_rows,
    task_table,
)
from edp_robot.studies.tables import as_csv
from policy_server.contract.disk.files import write_atomic

NOTE = """Rows: a fine-tuner (`edp finetune --method`) and what it takes over from the pre-training
of its seed. `weights`: the networks. `data`: the replay, relabelled with the task's reward, from
which it learns before the first env_step. `both`, or neither: `scratch`. All rows of a seed start
from the same pre-training.

Score: the return over an expert's where one is published (URLB), else the share of episodes that
succeed where the task reports it, else the return. Columns `at ...` are scores of evaluations on
the way, after so many env_steps of fine-tuning; 0 is before the first of them. These evaluations
are always of the same episodes, those at the end of others.

Cells: mean [95 % interval] (n) over n seeds. A column's best mean is bold. Intervals are
percentiles of a stratified bootstrap: seeds are drawn anew within each task (5,000 times). With two
or three seeds a cell's is the span of the seeds, and with one there is none."""
POOLED = """IQM: mean of the middle half of the scores at the end, all tasks and seeds pooled. Mean:
over tasks. `P(> row)`: probability that a run scores higher than one of that row on the same task,
ties half, mean over tasks. Definitions: Agarwal et al. 2021 (rliable)."""
COSTS = """Means over tasks and seeds. `grad_steps`: the critic's, as the method counts a round.
`grad_steps / s`: over the processor time of learning. `cpu_s`: processor time of the run, with its
evaluations on the way."""


def write(out: Path, found: Found) -> None:
    """Writes the files of the results so far into the folder `out`."""
    write_atomic(out / "runs.csv", as_csv(run_rows(found)))
    write_atomic(out / "curves.csv", as_csv(curve_rows(found)))
    write_atomic(out / "table.md", "\n\n".join(parts(found)) + "\n")
    write_atomic(out / "curves.png", plots.curves_figure(found))
    write_atomic(out / "iqm.png", plots.iqm_figure(found))


def parts(found: Found) -> Iterator[str]:
    """Yields the parts of table.md."""
    plan = found.plan
    yield "# Fine-tuning"
    if len(found.outcomes) < plan.n_runs:
        yield f"**{len(found.outcomes)} of {plan.n_runs} runs are complete.**"
    yield NOTE
    yield "## All tasks"
    yield "![Aggregates of all tasks](iqm.png)"
    yield POOLED
    if raw := [task for task in found.tasks if task not in found.pooled_tasks]:
        yield f"IQM and mean leave out {', '.join(raw)}, whose returns are of another unit."
    yield pooled_table(found)
    yield "![Curves of each task](curves.png)"
    shown = plots.drawn(found)
    few = "" if len(shown) == len(plan.rows) else f" Shown: {', '.join(map(str, shown))}."
    yield f"Line: mean of the seeds. Band: its 95 % interval.{few}"
    for task in found.tasks:
        yield f"## {task}"
        yield f"Score: {found.unit(task)}{_expert(task)}."
        yield task_table(found, task)
    yield "## Costs"
    yield COSTS
    yield cost_table(found)
    if plan.left_out:
        yield "## Rows that a task does not have"
        yield "\n".join(f"- {sentence}" for sentence in plan.left_out)
    yield about(found)


def _expert(task: str) -> str:
    """Returns the expert's return in words, "" where none is published."""
    known = scores.EXPERT_RETURNS.get(task)
    return f", which is {known:g}" if known else ""


def about(found: Found) -> str:
    """Returns where, from what and how the results were made, as a Markdown list."""
    made = [outcome.made for outcome in found.outcomes]
    said = {"Machine": {m.get("machine", "unknown") for m in made}}
    said |= {"Commit": {m["commit"] for m in made}, "Command": {f"`{found.plan.command}`"}}
    said |= {"Written": {date.today().isoformat()}}
    return "\n".join(f"- {name}: {'; '.join(sorted(text))}" for name, text in said.items())
