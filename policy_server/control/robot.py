"""What a robot must have to be driven, and how the command line names one.

A robot has LeRobot's names, so a LeRobot robot works as it is. What only some robots can do is an
optional ability: one small Protocol each, checked with isinstance.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policy_server.contract.doors.options import make_part
from policy_server.contract.doors.registries import Registry


@runtime_checkable
class Robot(Protocol):
    """A robot that a policy can drive."""

    @property
    def observation_features(self) -> Mapping[str, Any]:
        """Names of the observation's numbers, in order, each with its type."""
        ...

    @property
    def action_features(self) -> Mapping[str, Any]:
        """Names of the action's numbers, in order, each with its type."""
        ...

    def connect(self) -> None:
        """Opens the connection."""

    def get_observation(self) -> dict[str, Any]:
        """Returns the newest observation by name."""
        ...

    def send_action(self, action: dict[str, Any]) -> Any:
        """Sends a target by name. The robot keeps it until the next one."""

    def disconnect(self) -> None:
        """Closes the connection."""


@runtime_checkable
class ReadsVectors(Protocol):
    """A robot that gives its observation without a dictionary."""

    def read_obs(self, out: np.ndarray) -> None:
        """Writes the newest observation into `out` (obs_dim,), in the order of its features."""


@runtime_checkable
class WritesVectors(Protocol):
    """A robot that takes its target without a dictionary."""

    def write_action(self, target: np.ndarray) -> None:
        """Sends a target (act_dim,), in the order of its features."""


@runtime_checkable
class KnowsPosition(Protocol):
    """A robot that says where it is. Needed where the observation lacks the action's names."""

    def position(self) -> np.ndarray:
        """Returns where the robot is (act_dim,), in the action's units."""
        ...


@runtime_checkable
class KnowsConnection(Protocol):
    """A robot that says whether it is connected."""

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called, and `disconnect` not since."""
        ...


@runtime_checkable
class ResetsEpisodes(Protocol):
    """A robot that can go to the start of an episode."""

    def reset_episode(self, seed: int) -> None:
        """Goes to the start that `seed` picks."""


@runtime_checkable
class JudgesEpisodes(Protocol):
    """A robot that knows whether an episode succeeded."""

    def episode_success(self) -> bool:
        """Returns whether the episode so far is a success."""
        ...


ROBOTS: Registry[Callable[..., Robot]] = Registry("robot", group="edp_robot.robots")


def make_robot(text: str) -> Robot:
    """Returns the robot that `text` names. It is not connected yet.

    Args:
        text: `KIND[:NAME][?option=value&...]` for a registered kind, like
            sim:arm-press?delay_s=0.03, or `package.module:Class[?option=value&...]`. The class is
            called with NAME, where there is one, and the options as keywords, converted by its
            annotations.

    Raises:
        ValueError: There is no such kind, module or class, an option is unknown, or a value is not
            of its option's type.
    """
    try:
        robot = make_part(ROBOTS, text)
    except ImportError as error:
        kinds = ", ".join(ROBOTS.names())
        raise ValueError(f"robot {text!r}: {error}; registered kinds are {kinds}") from error
    if not isinstance(robot, Robot):
        needed = "connect, get_observation, send_action, disconnect"
        raise ValueError(
            f"robot {text!r} is a {type(robot).__name__}, which lacks some of {needed}, "
            "observation_features and action_features"
        )
    return robot
