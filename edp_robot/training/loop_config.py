"""What the training loop is told and where it stands: how long, how often, how far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from edp_robot.methods.ranges import Natural, NotNegative, Ranged


@dataclass(frozen=True)
class LoopConfig(Ranged):
    """How long to train, and how often to do what. One env_step is a control step of one world.

    Learning begins after `random_env_steps`, once the replay holds the n_step that the learner
    samples. The replay takes memory for what `env_steps` can fill, at most `replay_capacity`. Where
    several learners are trained at once, all numbers are those of one of them. `final_updates` are
    grad_steps after the last env_step, of what takes no part in acting. `n_logs` counts the rows of
    each metric over the run.

    `max_cpu_s` is a budget of processor time [s] of the whole process: no decision begins after it,
    `final_updates` still follow, and a resumed run counts what it used before. 0: no such limit.
    """

    env_steps: int = 100_000
    max_cpu_s: NotNegative = 0.0
    n_envs: int = 32
    n_action_steps: int = 1
    random_env_steps: Natural = 4_000
    replay_capacity: int = 1_000_000
    decisions_per_update: int = 1
    updates_per_round: int = 32
    final_updates: Natural = 0
    n_logs: int = 50
    checkpoint_every_s: NotNegative = 30.0


@runtime_checkable
class SavableWorlds(Protocol):
    """An environment whose state goes into the checkpoint. Gymnasium's own have none."""

    def get_state(self) -> dict[str, Any]:
        """Returns the state of all worlds."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        ...


@dataclass
class Progress:
    """Where a run stands. Every checkpoint holds it.

    `wall_s` is the time that it took, `cpu_s` that of all its threads on a processor, which other
    processes do not lengthen as much [s]. `grad_steps` are those of all rounds but the final ones,
    and took `learn_cpu_s` of `cpu_s`.
    """

    env_step: int = 0
    decision: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    final_updates: int = 0
    offline_rounds: int = 0
    grad_steps: int = 0
    learn_cpu_s: float = 0.0
