"""The desk arm: one world and one observation, six tasks (as a URLB domain), on `sim.core.batch.MujocoBatch`.

Observation (22): joint_pos (6) [rad], joint_vel (6) [rad/s], command (6) [rad], end_effector (3) [m], button_travel
(1) [m]. Sensors are those of the last physics step, 2 ms before the end of the control step. Action (6): rate of the
position command of each joint in [-1, 1] of `MAX_RATE`.
"""

from __future__ import annotations

from functools import cache, partial
from importlib import resources

import mujoco
import numpy as np

from sim.core.batch import MujocoBatch
from sim.core.spec import ActionMap, TaskSpec, tile

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CONTROL_PERIOD_S = 0.01
N_SUBSTEPS = 5
MAX_RATE = 3.0  # [rad/s], under the servo's no-load speed of about 4.7
PRESSED_M = 0.005  # travel that counts as down, of 0.008
REACHED_M = 0.02
FAR_M = 0.25
REST_POSE = (0.0, -1.2, 1.2, 0.6, 0.0, 0.3)  # folded, hand above the desk
TARGETS = {
    "left": (0.12, 0.20, 0.20),
    "right": (0.12, -0.20, 0.20),
    "high": (0.16, 0.0, 0.34),
    "low": (0.26, 0.0, 0.05),
}
N_POSES = 1024
COMMAND = slice(12, 18)
END_EFFECTOR = slice(18, 21)
BUTTON = 21


@cache
def load_model() -> mujoco.MjModel:
    """Returns the compiled world."""
    return mujoco.MjModel.from_xml_string(
        resources.files("sim").joinpath("assets/desk_arm.xml").read_text()
    )


def joint_range() -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints' (low, high) [rad], each (6,)."""
    span = load_model().jnt_range[: len(JOINTS)]
    return span[:, 0].copy(), span[:, 1].copy()


def observe(sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
    """Returns observations (n, 22) float32 from sensor readings (n, 16) and commands (n, 6)."""
    return np.concatenate([sensor[:, :12], command, sensor[:, 12:]], 1).astype(np.float32)


def pressed(obs: np.ndarray) -> np.ndarray:
    """Returns (n,) bool: the button is down."""
    return obs[:, BUTTON] > PRESSED_M


def distance(obs: np.ndarray, target: tuple[float, ...]) -> np.ndarray:
    """Returns (n,) the end effector's distance to `target` [m]."""
    return np.linalg.norm(obs[:, END_EFFECTOR] - np.asarray(target, np.float32), axis=1)


def _press_reward(obs: np.ndarray) -> np.ndarray:
    return pressed(obs).astype(np.float32)


def _reach_reward(obs: np.ndarray, target: tuple[float, ...]) -> np.ndarray:
    return np.exp(-distance(obs, target) / 0.08).astype(np.float32)


def _reached(obs: np.ndarray, target: tuple[float, ...]) -> np.ndarray:
    return distance(obs, target) < REACHED_M


def task_names() -> tuple[str, ...]:
    """Names of the arm's tasks; the first has no reward."""
    return ("arm", "arm-press", *(f"arm-reach-{side}" for side in TARGETS))


def task_spec(name: str) -> TaskSpec:
    """Returns the spec of one of `task_names()`; episodes last 4 s without reward, 2 s with one."""
    low, high = joint_range()
    obs = tile(
        ("joint_pos", "rad", low, high),
        ("joint_vel", "rad/s", np.full(6, -6.0), np.full(6, 6.0)),
        ("command", "rad", low, high),
        ("end_effector", "m", [-0.45, -0.45, 0.0], [0.45, 0.45, 0.5]),
        ("button_travel", "m", 0.0, 0.008),
    )
    action = tile(
        *(
            (f"{j}.target", "rad", lo, hi, MAX_RATE)
            for j, lo, hi in zip(JOINTS, low, high, strict=True)
        )
    )
    scale = (MAX_RATE * CONTROL_PERIOD_S,) * 6
    action_map = ActionMap(
        "increment", scale, (0.0,) * 6, tuple(low.tolist()), tuple(high.tolist()), COMMAND.start
    )
    shared = {
        "obs": obs,
        "action": action,
        "action_map": action_map,
        "control_period_s": CONTROL_PERIOD_S,
    }
    if name == "arm":
        return TaskSpec(name, **shared, episode_steps=400, success=pressed)
    if name == "arm-press":
        return TaskSpec(name, **shared, episode_steps=200, reward=_press_reward, success=pressed)
    target = TARGETS[name.removeprefix("arm-reach-")]
    reward, success = partial(_reach_reward, target=target), partial(_reached, target=target)
    return TaskSpec(
        name, **shared, episode_steps=200, reward=reward, success=success, success_when="end"
    )


@cache
def poses(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns N_POSES start states (n, state) and sensor readings (n, 16); the same on every call and machine.

    `rest`: REST_POSE +- 0.05 rad. `random`: uniform in the joint ranges, nothing in contact, fingers 3 cm or more
    above the desk and FAR_M or more from the button, so that pressing it takes a real reach.
    """
    model, rng = load_model(), np.random.default_rng(7)
    data, (low, high) = mujoco.MjData(model), joint_range()
    states, sensors = [], []
    for _ in range(100 * N_POSES):
        if len(states) == N_POSES:
            break
        mujoco.mj_resetData(model, data)
        wide = rng.uniform(low, high)
        data.qpos[:6] = wide if kind == "random" else REST_POSE + rng.uniform(-0.05, 0.05, 6)
        mujoco.mj_forward(model, data)
        if data.ncon or data.sensordata[14] < 0.03:
            continue
        if (
            kind == "random"
            and np.linalg.norm(data.sensordata[12:15] - data.body("button").xpos) < FAR_M
        ):
            continue
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        states.append(state)
        sensors.append(data.sensordata.copy())
    else:
        raise RuntimeError(
            f"only {len(states)} of {100 * N_POSES} {kind!r} poses are free of contact; check the MJCF"
        )
    return np.array(states), np.array(sensors)


def make_vec(name: str, n_envs: int, seed: int) -> MujocoBatch:
    """Returns `n_envs` arms as one VectorEnv."""
    spec = task_spec(name)
    pool = poses("rest" if name == "arm" else "random")
    return MujocoBatch(
        load_model(), spec, n_envs, seed, pool=pool, observe=observe, n_substeps=N_SUBSTEPS
    )


VOXEL_M = 0.03


def voxels(positions: np.ndarray) -> np.ndarray:
    """Returns the distinct VOXEL_M cubes (n, 3) int that end-effector positions (m, 3) [m] fall into."""
    return np.unique(np.floor(positions / VOXEL_M).astype(np.int64), axis=0)


@cache
def reachable_voxels(n_samples: int = 200_000) -> frozenset[tuple[int, ...]]:
    """Returns the voxels that the end effector can reach without the hand in the desk or the box.

    Joint angles are drawn uniformly; a voxel counts when at least one collision-free pose reaches it.
    """
    model, rng = load_model(), np.random.default_rng(11)
    data, (low, high) = mujoco.MjData(model), joint_range()
    found = []
    for _ in range(n_samples):
        data.qpos[:4] = rng.uniform(low[:4], high[:4])
        mujoco.mj_kinematics(model, data)
        position = data.site_xpos[0]
        if position[2] < 0.0:
            continue
        mujoco.mj_collision(model, data)
        if data.ncon == 0:
            found.append(position.copy())
    return frozenset(map(tuple, voxels(np.array(found)).tolist()))


def workspace_coverage(positions: np.ndarray) -> float:
    """Returns the share of reachable voxels visited by end-effector positions (n, 3) [m]."""
    reachable = reachable_voxels()
    return len(reachable & set(map(tuple, voxels(positions).tolist()))) / len(reachable)
