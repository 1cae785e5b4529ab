"""What of a pre-training a fine-tuning starts from, and which of it a method can have."""

from __future__ import annotations

from typing import NamedTuple

from edp_robot.methods.explore.intrinsic_reward import reward_class
from edp_robot.methods.finetune.fine_tuner import FineTuner, tuner_class
from edp_robot.studies.domains.recipes import DOWNSTREAM
from sim.core.registry import task_names, task_spec

SCRATCH = "scratch"
WEIGHTS = "weights"
DATA = "data"
BOTH = "both"


class Start(NamedTuple):
    """What is taken over from the pre-training: networks, the relabelled replay, both, nothing."""

    policy: bool
    replay: bool


STARTS = {
    BOTH: Start(True, True),
    WEIGHTS: Start(True, False),
    DATA: Start(False, True),
    SCRATCH: Start(False, False),
}


def explored_task(task: str) -> str:
    """Returns the name of the task without reward that is explored for `task`.

    It is one with the same observations and actions: the one that DOWNSTREAM names, that begins
    the task's name (`walker-mass` for `walker-mass-run`), or that has the name of its domain. Else
    it is the task itself: exploring sees no reward.
    """
    spec = task_spec(task)
    begins = [name for name in DOWNSTREAM if f"{task}-".startswith(f"{name}-")]
    named = [name for name, tasks in DOWNSTREAM.items() if task in tasks]
    likely = [*named, *sorted(begins, key=len, reverse=True), spec.domain]
    others = [(name, task_spec(name)) for name in likely if name in task_names()]
    same = [name for name, o in others if (o.obs, o.action) == (spec.obs, spec.action)]
    return same[0] if same else task


class Row(NamedTuple):
    """A row of the tables.

    Attributes:
        method: Name of the fine-tuner, then its settings, with spaces between.
        start: What it starts from, which is one of STARTS.
    """

    method: str
    start: str

    def __str__(self) -> str:
        """Returns its name in tables and figures."""
        return f"{self.method}, {self.start}"


def resolved(row: Row, task: str, explore: str) -> tuple[str, str]:
    """Returns the start that a row has on a task ("": none), and a sentence where it is another.

    Args:
        row: The row.
        task: Name of the task with a reward.
        explore: Name of the intrinsic reward of the pre-training.
    """
    wanted = STARTS[row.start]
    name = row.method.split()[0]
    lacks = []
    if wanted.policy and not reward_class(explore).learns:
        lacks.append(f"`{explore}` trains no networks")
    elif wanted.policy and tuner_class(name).start_from is FineTuner.start_from:
        lacks.append(f"`{name}` takes over no networks")
    policy = wanted.policy and not lacks
    replay = wanted.replay and task_spec(task).reward is not None
    if wanted.replay and not replay:
        lacks.append("its reward does not follow from the obs, so that data cannot be relabelled")
    if not lacks:
        return row.start, ""
    why = "; ".join(lacks)
    if not (policy or replay):
        return "", f"{task} has no row `{row}`: {why}."
    only = WEIGHTS if policy else DATA
    return only, f"On {task} the row `{row}` is `{row.method}, {only}`: {why}."
