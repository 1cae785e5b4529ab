"""Reads and writes a robot as vectors, and refuses one whose names are not the policy's."""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.contract.wire import all_finite
from policy_server.control.lost import Lost, losing
from policy_server.control.robot import (
    JudgesEpisodes,
    KnowsPosition,
    ReadsVectors,
    ResetsEpisodes,
    Robot,
    WritesVectors,
)

_NUMBERS = (float, int, bool, "float", "float32")  # types of a feature that is one number
_log = logging.getLogger(__name__)


class RobotError(RuntimeError):
    """The robot does not fit the policy. The message says where they differ."""


class RobotIO:
    """A robot, seen as vectors in the order of its features.

    Attributes:
        obs_names: The robot's names for the numbers of its observation.
        action_names: The robot's names for the numbers of its action.
        unchecked: Fields of the policy whose entries have no known names, like "obs.arm". Their
            order could not be compared with the robot's.

    Args:
        robot: The robot. It need not be connected.
        manifest: The manifest of the policy that will drive it.

    Raises:
        RobotError: The robot's names, their order or their number differ from the policy's, or a
            feature is not a number. Images among the observation are left out.
    """

    def __init__(self, robot: Robot, manifest: Manifest):
        self._robot = robot
        self.obs_names = _names("observation_features", _without_images(robot.observation_features))
        self.action_names = _names("action_features", robot.action_features)
        self.unchecked = (
            *_compare("obs", self.obs_names, manifest.obs),
            *_compare("action", self.action_names, manifest.action),
        )
        if self.unchecked:
            _log.warning(
                "the policy has no names for the entries of %s: check yourself that the robot has "
                "them in the same order",
                ", ".join(self.unchecked),
            )
        self._obs = np.zeros(len(self.obs_names), dtype=np.float32)
        self._read_obs = robot.read_obs if isinstance(robot, ReadsVectors) else None
        self._write_action = robot.write_action if isinstance(robot, WritesVectors) else None

    def read(self) -> np.ndarray:
        """Returns the observation (obs_dim,) float32. The next call overwrites it.

        Raises:
            Lost: The robot failed to give one, or what it gave lacks a number, or is not finite.
        """
        with losing("reading"):
            if self._read_obs is not None:
                self._read_obs(self._obs)
            else:
                self._obs[:] = numbers(self._robot.get_observation(), self.obs_names)
        if not all_finite(self._obs):
            read = zip(self.obs_names, self._obs.tolist(), strict=True)
            bad = [f"{name} is {value}" for name, value in read if not math.isfinite(value)]
            raise Lost(f"reading lost: {', '.join(bad)}")
        return self._obs

    def write(self, target: np.ndarray) -> None:
        """Sends a target (act_dim,).

        Raises:
            Lost: The robot failed to take it.
        """
        with losing("target"):
            if self._write_action is not None:
                self._write_action(target)
            else:
                self._robot.send_action(dict(zip(self.action_names, target.tolist(), strict=True)))

    def position(self) -> np.ndarray:
        """Returns where the robot is (act_dim,), in the action's units.

        Raises:
            RobotError: The robot has no position() and its observation lacks the action's names.
            Lost: The robot failed to say.
        """
        if isinstance(self._robot, KnowsPosition):
            with losing("position"):
                position = np.asarray(self._robot.position(), dtype=np.float64)
            if not np.isfinite(position).all():
                raise Lost(f"position lost: {position.tolist()} not finite")
            return position
        missing = [name for name in self.action_names if name not in self.obs_names]
        if missing:
            raise RobotError(
                f"the limiter must know where the robot is, and its observation lacks {missing}; "
                "give the robot a position() method or set start_action"
            )
        obs = dict(zip(self.obs_names, self.read().tolist(), strict=True))
        return np.array([obs[name] for name in self.action_names])

    def reset_episode(self, seed: int) -> None:
        """Sends the robot to the start that `seed` picks, where it can do that."""
        if isinstance(self._robot, ResetsEpisodes):
            self._robot.reset_episode(seed)

    def episode_success(self) -> bool | None:
        """Returns whether the episode so far is a success. None: the robot cannot tell.

        Raises:
            Lost: The robot failed to say.
        """
        if not isinstance(self._robot, JudgesEpisodes):
            return None
        with losing("success"):
            return bool(self._robot.episode_success())


def numbers(reading: Any, names: Collection[str]) -> list[float]:
    """Returns the numbers of a reading by name, in the order of `names`.

    Raises:
        Lost: The reading is no dictionary, lacks a name, or holds something that is no number.
    """
    if not isinstance(reading, Mapping):
        raise Lost(f"reading lost: the robot gave a {type(reading).__name__}, expected a dict")
    missing = [name for name in names if name not in reading]
    if missing:
        raise Lost(f"reading lost: it lacks {missing}")
    try:
        return [float(reading[name]) for name in names]
    except (TypeError, ValueError) as error:
        raise Lost(f"reading lost: not a number for each name: {error}") from error


def _names(what: str, features: Mapping[str, Any]) -> list[str]:
    """Returns the names of the features. Raises RobotError for a feature that is not a number."""
    not_numbers = {name: kind for name, kind in features.items() if kind not in _NUMBERS}
    if not_numbers:
        raise RobotError(
            f"{what} {not_numbers}: expected one number for each name, like shoulder_pan.pos: float"
        )
    return list(features)


def _without_images(features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the features that are no images (height, width, channels). No policy here sees any.

    Their cameras are read with every observation, which takes the robot's time.
    """
    images = [name for name, kind in features.items() if isinstance(kind, tuple) and len(kind) == 3]
    if images:
        _log.warning("images are left out, the policy sees none: %s", ", ".join(images))
    return {name: kind for name, kind in features.items() if name not in images}


def _compare(vector: str, names: list[str], fields: tuple[Field, ...]) -> list[str]:
    """Returns the fields that could not be compared: the policy has no names for their entries.

    Args:
        vector: "obs" or "action".
        names: Names of the robot's features, in order.
        fields: Fields of the policy, in order.

    Raises:
        RobotError: The number of features, or the name at some place, is not the policy's.
    """
    n_policy = fields[-1].stop
    if len(names) != n_policy:
        raise RobotError(
            f"the robot's {vector} has {len(names)} numbers {names}, the policy's has {n_policy}: "
            "the policy was not made for this robot"
        )
    unchecked = []
    for field in fields:
        expected = field.entry_names()
        if expected is None:
            unchecked.append(f"{vector}.{field.name}")
        else:
            _compare_field(vector, field, names[field.start : field.stop], expected)
    return unchecked


def _compare_field(vector: str, field: Field, names: list[str], expected: tuple[str, ...]) -> None:
    """Raises RobotError at the first name that is not the expected one.

    Args:
        vector: What the field belongs to, "obs" or "action".
        field: The field.
        names: The robot's names for its entries.
        expected: The policy's names for its entries.
    """
    for k, (name, wanted) in enumerate(zip(names, expected, strict=True)):
        if _plain(name) != _plain(wanted):
            raise RobotError(
                f"{vector} field {field.name!r}: the robot has {names}, the policy has "
                f"{list(expected)}. Names and order must be the same; the first that differs is "
                f"number {field.start + k} of the {vector}, {name!r} instead of {wanted!r}"
            )


def _plain(name: str) -> str:
    """Returns a name as it is compared: older bundles have button_travel for button.travel."""
    return name.replace(".", "_")
