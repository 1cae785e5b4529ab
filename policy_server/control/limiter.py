"""Makes every target safe: finite, inside its position limits, no faster than its rate limits."""

from collections.abc import Sequence
from enum import IntFlag

import numpy as np

from policy_server.contract.manifest import Manifest


class Intervention(IntFlag):
    """What the limiter changed in a target."""

    NONE = 0
    NOT_FINITE = 1
    POSITION = 2
    VELOCITY = 4


# Rounding of float32 at a few units. A policy that moves exactly at a limit is clamped, but not
# counted.
ROUNDING = 2e-6
# A rate that lets the whole range pass in so few steps would make the first target a jump.
FREE_STEPS = 10


class Limiter:
    """Turns the policy's targets into safe ones.

    A target with NaN or infinity is replaced by the last safe target. Any other is clamped to [low,
    high], then to a change of max_rate * control_period_s from the last safe target. A robot that
    starts outside [low, high] is led back at that rate, never by a jump.

    Where no rate limits a target (it is infinite, or lets the whole range pass in FREE_STEPS or
    fewer), the first targets are led from the robot's position to the wanted ones within `n_start`
    steps. With 10 steps or more, the first change inside the range is at most a tenth of it.

    Attributes:
        last: The last safe target (act_dim,). None before the first.
        counts: Number of targets changed so far, by kind.

    Args:
        low: (act_dim,) lowest target [unit], -inf for no limit.
        high: (act_dim,) highest target [unit], inf for no limit.
        max_rate: (act_dim,) fastest change [unit/s], inf for no limit.
        control_period_s: Time between two targets [s].
        n_start: Steps in which a target without a rate leaves the robot's position. 1: at once.

    Raises:
        ValueError: The lengths differ, or a limit is NaN or out of order.
    """

    def __init__(
        self,
        low: Sequence[float] | np.ndarray,
        high: Sequence[float] | np.ndarray,
        max_rate: Sequence[float] | np.ndarray,
        control_period_s: float,
        n_start: int = 1,
    ):
        self._low = np.array(low, dtype=np.float64)
        self._high = np.array(high, dtype=np.float64)
        rate = np.array(max_rate, dtype=np.float64)
        shapes = {self._low.shape, self._high.shape, rate.shape}
        if len(shapes) != 1 or self._low.ndim != 1:
            raise ValueError(
                f"limits of shapes {shapes}: expected (act_dim,) for each of low, high and max_rate"
            )
        if not (self._low <= self._high).all() or not (rate > 0).all() or not control_period_s > 0:
            raise ValueError(
                f"low {low}, high {high}, max_rate {max_rate}, control_period_s "
                f"{control_period_s}: expected low <= high, rates and period above 0, no NaN"
            )
        self._max_change = rate * control_period_s
        self._is_free = self._max_change * FREE_STEPS >= self._high - self._low
        self._n_start = n_start
        self._n_applied = 0
        self.last: np.ndarray | None = None
        self.counts = {"not_finite": 0, "position": 0, "velocity": 0}

    @classmethod
    def from_manifest(
        cls, manifest: Manifest, control_period_s: float | None = None, n_start: int = 1
    ) -> "Limiter":
        """Returns the limiter of a policy's action limits.

        Args:
            manifest: The policy's manifest.
            control_period_s: Time between two targets [s]. None: the policy's own.
            n_start: Steps in which a target without a rate leaves the robot's position.
        """
        return cls(
            low=manifest.action_low,
            high=manifest.action_high,
            max_rate=manifest.action_max_rate,
            control_period_s=control_period_s or manifest.control_period_s,
            n_start=n_start,
        )

    def reset(self, current: np.ndarray) -> None:
        """Starts again from where the robot is, so that the next target cannot jump.

        Args:
            current: (act_dim,) measured or commanded position.

        Raises:
            ValueError: Wrong length, NaN or infinity. The position must be known before the robot
                moves.
        """
        current = np.array(current, dtype=np.float64)
        if current.shape != self._low.shape or not np.isfinite(current).all():
            raise ValueError(
                f"robot's position {current}: expected {self._low.shape[0]} finite numbers"
            )
        self.last = current
        self._start = current
        self._n_applied = 0
        # The robot has one target between these two. They differ after a target that may be lost.
        self._least = current
        self._most = current
        self._before = (current, current, current)

    def forget(self) -> None:
        """Forgets the last target. `reset` must come before the next `apply`."""
        self.last = None

    def apply(self, target: np.ndarray) -> tuple[np.ndarray, Intervention]:
        """Returns the safe target (act_dim,) float64, and what was changed.

        Args:
            target: (act_dim,) wanted.

        Raises:
            ValueError: Wrong length, or `reset` was never called.
        """
        if self.last is None:
            raise ValueError("the limiter does not know where the robot is: call reset() first")
        target = np.asarray(target, dtype=np.float64)
        if target.shape != self.last.shape:
            raise ValueError(f"target {target.shape}, expected {self.last.shape}")
        if not np.isfinite(target).all():
            self.counts["not_finite"] += 1
            return self.last.copy(), Intervention.NOT_FINITE
        clamped = np.minimum(np.maximum(target, self._low), self._high)
        slow = self._eased(clamped)
        limited = np.minimum(
            np.maximum(slow, self._most - self._max_change), self._least + self._max_change
        )
        flags = Intervention.NONE
        if (np.abs(clamped - target) > ROUNDING).any():
            flags |= Intervention.POSITION
            self.counts["position"] += 1
        if (np.abs(limited - clamped) > ROUNDING).any():
            flags |= Intervention.VELOCITY
            self.counts["velocity"] += 1
        self._before = (self.last, self._least, self._most)
        self.last = limited
        self._least = limited
        self._most = limited
        return limited.copy(), flags

    def lose(self) -> None:
        """Notes that sending the target of the last `apply` failed.

        The robot may have it or not. `last` is the one before again, which the robot had.
        The next target is near enough to both.
        """
        lost = self.last
        assert lost is not None
        self.last, least, most = self._before
        self._least = np.minimum(least, lost)
        self._most = np.maximum(most, lost)

    def _eased(self, target: np.ndarray) -> np.ndarray:
        """Returns the target, nearer to the start where no rate limits it and the run is young."""
        self._n_applied += 1
        if self._n_applied >= self._n_start:
            return target
        share = self._n_applied / self._n_start
        return np.where(self._is_free, self._start + share * (target - self._start), target)
