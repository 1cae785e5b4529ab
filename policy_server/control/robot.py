"""A robot with LeRobot's names, seen as vectors: dictionaries flattened in the order of its features."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from policy_server.contract.bundle import Field, Manifest


class RobotError(RuntimeError):
    """The robot does not fit the policy; the message says where they differ."""


class Robot(Protocol):
    """What a robot must have; LeRobot's robots do.

    Optional, used where present: `read_obs(out)` and `write_action(target)`, the same as vectors without
    dictionaries; `position() -> (act_dim,)`, where it is in the action's units, needed where the observation
    lacks the action's names; `reset_episode(seed)` and `episode_success() -> bool`.
    """

    @property
    def observation_features(self) -> Mapping[str, Any]:
        """Names of the observation, in order."""
        ...

    @property
    def action_features(self) -> Mapping[str, Any]:
        """Names of the action, in order."""
        ...

    def connect(self) -> None:
        """Opens the connection."""

    def get_observation(self) -> dict[str, float]:
        """Returns the newest observation."""
        ...

    def send_action(self, action: dict[str, float]) -> Any:
        """Sends a target."""

    def disconnect(self) -> None:
        """Closes the connection."""


class RobotIO:
    """Reads and writes a robot as vectors.

    Args:
        robot: The robot.
        manifest: Of the policy that will drive it.

    Raises:
        RobotError: Names or lengths differ from the manifest's, or a feature is not a number (an image).
    """

    def __init__(self, robot: Any, manifest: Manifest):
        self._robot = robot
        self._obs_names = _names("observation_features", robot.observation_features, manifest.obs)
        self._action_names = _names("action_features", robot.action_features, manifest.action)
        self._obs = np.zeros(len(self._obs_names), dtype=np.float32)
        self._fast_read = getattr(robot, "read_obs", None)
        self._fast_write = getattr(robot, "write_action", None)

    def read(self) -> np.ndarray:
        """Returns the observation, (obs_dim,) float32; overwritten by the next call."""
        if self._fast_read is not None:
            self._fast_read(self._obs)
        else:
            values = self._robot.get_observation()
            self._obs[:] = [values[name] for name in self._obs_names]
        return self._obs

    def write(self, target: np.ndarray) -> None:
        """Sends a target, (act_dim,)."""
        if self._fast_write is not None:
            self._fast_write(target)
        else:
            self._robot.send_action(dict(zip(self._action_names, target.tolist(), strict=True)))

    def position(self) -> np.ndarray:
        """Returns where the robot is, (act_dim,), in the action's units.

        Raises:
            RobotError: It has no `position()` and its observation lacks the action's names.
        """
        if hasattr(self._robot, "position"):
            return np.asarray(self._robot.position(), dtype=np.float64)
        missing = [name for name in self._action_names if name not in self._obs_names]
        if missing:
            raise RobotError(
                f"the limiter must know where the robot is: its observation lacks {missing}; "
                "give the robot a position() method or set start_action"
            )
        obs = self.read()
        return np.array(
            [obs[self._obs_names.index(name)] for name in self._action_names], dtype=np.float64
        )


def _names(what: str, features: Mapping[str, Any], fields: tuple[Field, ...]) -> list[str]:
    """Returns the names of the features. Raises RobotError unless they fit the fields.

    Names are compared only where every field of the manifest is one number; a field of several has one name.
    """
    not_numbers = {
        name: kind
        for name, kind in features.items()
        if kind not in (float, int, bool, "float", "float32")
    }
    if not_numbers:
        raise RobotError(f"{what} {not_numbers}: expected numbers; this control loop has no images")
    names, dim = list(features), fields[-1].stop
    if len(names) != dim:
        raise RobotError(
            f"robot's {what} are {len(names)} ({names}), the policy has {dim}: not made for this robot"
        )
    expected = [field.name for field in fields]
    if len(expected) == dim and names != expected:
        raise RobotError(
            f"robot's {what} are {names}, the policy's are {expected}: names and order must be the same"
        )
    return names
