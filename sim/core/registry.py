"""Finds tasks by name, and makes their vector environments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Protocol, runtime_checkable

from policy_server.contract.doors.options import canonical_name, make_part
from policy_server.contract.doors.registries import Registry, UnknownName
from sim.core.spec import TaskSpec
from sim.core.vec import TaskVectorEnv

GYM = "gym"


@runtime_checkable
class MakesEnvironments(Protocol):
    """Makes vector environments. An imported name that does not is refused before it is called."""

    def make_vec(self, n_envs: int, seed: int) -> TaskVectorEnv:
        """Returns `n_envs` copies as one vector environment; see `sim.core.vec`."""
        ...


class Task(MakesEnvironments, Protocol):
    """A task: its contract and its environments."""

    @property
    def spec(self) -> TaskSpec:
        """The task's contract."""
        ...


TASKS: Registry[Callable[..., Task]] = Registry(
    "task", package="sim.tasks", group="edp_robot.tasks", base=MakesEnvironments
)
"""The registry of tasks."""


def task_names() -> tuple[str, ...]:
    """Returns every registered name; `gym:<id>` stands for any Gymnasium environment."""
    return tuple(f"{GYM}:<id>" if name == GYM else name for name in TASKS.names())


def make_task(name: str, may_import: bool = True) -> Task:
    """Returns the task called `name`.

    Args:
        name: A registered name, `gym:<id>`, `gym:module:<id>` or `package.module:Task`, each with
            `?option=value&...` where the task takes options. The module may be in the current
            folder.
        may_import: Whether a module that `name` names may be imported. Pass False for a name that
            comes from a file that others may have written, like a bundle's manifest.

    Raises:
        ValueError: There is no such task. The message lists those that exist.
        ImportError: The module of `package.module:Task` cannot be imported or lacks the attribute.
    """
    if not may_import:
        _check_imported(name)
    return _made(name, may_import)


def make_vec(task: str, n_envs: int = 1, seed: int = 0) -> TaskVectorEnv:
    """Returns `n_envs` copies of `task` as one vector environment; see `sim.core.vec`.

    Args:
        task: Name of the task; see `make_task`.
        n_envs: Number of copies.
        seed: Seeds the first `reset()` that gives no seed itself.

    Raises:
        ValueError: There is no such task. The message lists those that exist.
    """
    env = make_task(task).make_vec(n_envs, seed)
    env.task_spec = replace(env.task_spec, name=canonical_name(TASKS, task))
    return env


def task_spec(task: str, may_import: bool = True) -> TaskSpec:
    """Returns the spec of `task`, which has `task` in its canonical form as its name.

    So a name that was saved makes the same environments again. Arguments and errors are those of
    `make_task`.
    """
    spec = make_task(task, may_import).spec
    return replace(spec, name=canonical_name(TASKS, task))


def _check_imported(name: str) -> None:
    """Raises UnknownName where Gymnasium would have to import the module of `gym:module:<id>`."""
    kind, _, rest = name.partition("?")[0].partition(":")
    module, colon, _ = rest.partition(":")
    if kind == GYM and colon and module not in sys.modules:
        raise UnknownName(
            f"task {name!r}: a name out of a file does not import the module {module!r}; "
            "give the name with --task"
        )


@cache
def _made(name: str, may_import: bool) -> Task:
    """Returns one object for each name, so that a world is compiled only once."""
    return make_part(TASKS, name, may_import)
