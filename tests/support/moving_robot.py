"""A robot of second order, on a clock of its own: ten seconds of it take milliseconds."""

import numpy as np

from calibration.motion.recording import SPIN_NS
from policy_server.contract.clock import Clock

JOINTS = ("pan", "lift", "roll")
NATURAL_RAD_S = 25.0
DAMPING = 0.8
STEP_S = 0.0005
QUANTUM = 0.0015  # of the encoder [rad]


def moved(x, v, target, step_s, natural=NATURAL_RAD_S, damping=DAMPING):
    """Returns position and velocity after one small Euler step towards `target`."""
    acceleration = natural**2 * (target - x) - 2 * damping * natural * v
    x = x + step_s * v + 0.5 * step_s**2 * acceleration
    return x, v + step_s * acceleration


def plant(command, period_s, delay_s, natural=NATURAL_RAD_S, damping=DAMPING, step_s=0.00025):
    """Returns the motion (n, k) of held commands (n, k), each delay_s (k,) late.

    It integrates step by step, which is another way than the estimator's.
    """
    per_tick = round(period_s / step_s)
    held = np.repeat(command, per_tick, axis=0)
    late = held.copy()
    for column, n_late in zip(late.T, np.round(delay_s / step_s).astype(int), strict=True):
        column[n_late:] = column[: len(column) - n_late].copy()
        column[:n_late] = column[0]
    x = held[0].copy()
    v = np.zeros(held.shape[1])
    motion = np.empty_like(command)
    for i, target in enumerate(late):
        if i % per_tick == 0:
            motion[i // per_tick] = x
        x, v = moved(x, v, target, step_s, natural, damping)
    return motion


class MovingRobot:
    """A robot with LeRobot's names. Readings take 4 ms and are quantised.

    Args:
        delay_s: Time from `send_action` to the motion [s].
        stuck: Joints that do not move, by index.
        late_s: How late every tenth tick wakes [s].
        fail_at: Number of actions after which readings fail.
    """

    name = "fake"

    def __init__(self, delay_s=0.03, stuck=(), late_s=0.0, fail_at=None):
        self.observation_features = {f"{j}.pos": float for j in JOINTS} | {"camera": (3, 4, 5)}
        self.action_features = {f"{j}.target": float for j in JOINTS}
        self.delay_s = delay_s
        self.stuck = list(stuck)
        self.late_s = late_s
        self.fail_at = fail_at
        self.t_s = 0.0
        self.x = np.array([0.3, -0.7, 0.0])
        self.v = np.zeros(3)
        self.command = self.x.copy()
        self.queue = []
        self.log = []
        self.sent = []
        self.clock = Clock(self._now_ns, self._sleep)

    def connect(self):
        self.log.append("connect")

    def disconnect(self):
        self.log.append("disconnect")

    def get_observation(self):
        if self.fail_at is not None and len(self.sent) >= self.fail_at:
            raise ConnectionError("the bus is gone")
        self._run(0.002)
        seen = np.round(self.x / QUANTUM) * QUANTUM
        self._run(0.002)
        return {f"{j}.pos": float(s) for j, s in zip(JOINTS, seen, strict=True)}

    def send_action(self, action):
        target = np.array([action[f"{j}.target"] for j in JOINTS])
        self.sent.append(target)
        self.queue.append((self.t_s + self.delay_s, target))

    def _now_ns(self):
        return round(self.t_s * 1e9)

    def _sleep(self, seconds):
        """Sleeps also while the caller would watch the clock, which stands still here."""
        late_s = self.late_s if len(self.sent) % 10 == 5 else 0.0
        self._run(seconds + SPIN_NS * 1e-9 + late_s)

    def _run(self, seconds):
        until_s = self.t_s + seconds
        while self.t_s < until_s - 1e-9:
            while self.queue and self.queue[0][0] <= self.t_s + 1e-9:
                self.command = self.queue.pop(0)[1]
            self.x, self.v = moved(self.x, self.v, self.command, STEP_S)
            self.x[self.stuck] = -0.7
            self.v[self.stuck] = 0.0
            self.t_s += STEP_S
        self.t_s = max(self.t_s, until_s)
