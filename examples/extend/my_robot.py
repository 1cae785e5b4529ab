"""A robot of your own: two servos that speak degrees, driven in radians.

    edp control --bundle BUNDLE --robot "my_robot:MyRobot?port=/dev/ttyUSB0&lag_s=0.05"
    edp calibrate latency --robot my_robot:MyRobot --out calibration.json

Run it in the folder of this file. No other file names it: what follows the `?` are keyword
arguments, which the annotations convert. `Servos` simulates the motors; put your motors' library in
its place.
"""

import time

import numpy as np

JOINTS = ("shoulder", "elbow")
RANGE_DEG = 120.0


class Servos:
    """Two simulated servos on a serial port. Angles are in degrees, as on the wire.

    Each servo closes the distance to its target exponentially, with the time constant `lag_s` [s].
    """

    def __init__(self, port: str, lag_s: float) -> None:
        if not lag_s > 0:
            raise ValueError(f"lag_s {lag_s}: expected a time above 0 [s]")
        self.port = port
        self.targets_deg = np.zeros(len(JOINTS))
        self._angles_deg = np.zeros(len(JOINTS))
        self._lag_s = lag_s
        self._time_s = time.monotonic()

    def read(self) -> np.ndarray:
        """Returns the angles now (2,) [deg]."""
        now_s = time.monotonic()
        share = 1 - np.exp((self._time_s - now_s) / self._lag_s)
        self._angles_deg += share * (self.targets_deg - self._angles_deg)
        self._time_s = now_s
        return self._angles_deg.copy()

    def write(self, targets_deg: np.ndarray) -> None:
        """Moves towards the targets (2,) [deg] from now on."""
        self.read()
        self.targets_deg = np.clip(targets_deg, -RANGE_DEG, RANGE_DEG)


class MyRobot:
    """The driver: LeRobot's names, radians, and the names that the policy has for its numbers."""

    observation_features = dict.fromkeys([f"{joint}.pos" for joint in JOINTS] + ["supply_v"], float)
    action_features = dict.fromkeys([f"{joint}.pos" for joint in JOINTS], float)

    def __init__(self, port: str = "simulated", lag_s: float = 0.03) -> None:
        self._make_servos = lambda: Servos(port, lag_s)
        self.servos: Servos | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the port is open."""
        return self.servos is not None

    def connect(self) -> None:
        """Opens the port."""
        self.servos = self._make_servos()

    def disconnect(self) -> None:
        """Closes the port. The servos hold their last targets."""
        self.servos = None

    def get_observation(self) -> dict[str, float]:
        """Returns joint angles [rad] and the supply voltage [V]."""
        values = [*np.deg2rad(self._bus().read()).tolist(), 12.0]
        return dict(zip(self.observation_features, values, strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Sends targets [rad] and returns them."""
        self._bus().write(np.rad2deg([action[name] for name in self.action_features]))
        return action

    def _bus(self) -> Servos:
        if self.servos is None:
            raise RuntimeError("the robot is not connected; call connect() first")
        return self.servos
