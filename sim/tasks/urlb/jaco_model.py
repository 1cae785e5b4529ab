"""The world of the Jaco arm: dm_control's arena, arm, hand and brick, put together.

The parts are dm_control's files. What its Python classes add to them is added here: the floor, the
actuators, their limits of torque and speed, and the torque sensors' sites.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim.tasks.urlb.measured import dm_control_model

ARM = tuple(f"arm_joint_{i}" for i in range(1, 7))
FINGERS = tuple(f"hand_finger_{i}" for i in range(1, 4))
LARGE = ARM[:3]
ARM_BASE_M = (0.0, 0.4, 0.0)
ARM_GAIN = 500.0  # [Nm s/rad], for an actuator of speed
LARGE_TORQUE_NM = 30.5
SMALL_TORQUE_NM = 6.8
LARGE_SPEED = np.deg2rad(36.0)  # [rad/s]
SMALL_SPEED = np.deg2rad(48.0)
FINGER_GAIN = 10.0
FINGER_TORQUE_NM = 1.0
FINGER_SPEED = 5.0
STUD_RADIUS_M = 0.004647
FLANGE_CONTACTS = 4  # contype: flanges touch studs
BRICK_CENTRE_M = (0.0, 0.0, 0.0119)  # where the brick is observed, in its own frame


def jaco_spec() -> mujoco.MjSpec:
    """Returns the world, not compiled: arm at the back, hand at its wrist, a brick that is loose.

    Raises:
        ImportError: dm_control is not installed.
    """
    spec = dm_control_model("composer/arena.xml")
    _furnish(spec)
    arm = spec.worldbody.add_body(name="arm", pos=ARM_BASE_M)
    _attach(spec, arm, "third_party/kinova/jaco_arm.xml", "arm_")
    wrist = spec.site("arm_wristsite")
    hand = wrist.parent.add_body(name="hand", pos=wrist.pos, quat=wrist.quat)
    _attach(spec, hand, "third_party/kinova/jaco_hand.xml", "hand_")
    brick = spec.worldbody.add_body(name="brick")
    brick.add_freejoint()
    _attach(spec, brick, "entities/props/duplo/duplo2x4.xml", "brick_")
    _loosen(spec)
    _actuate(spec)
    return spec


def _attach(spec: mujoco.MjSpec, body: mujoco.MjsBody, path: str, prefix: str) -> None:
    """Puts the model of a file of dm_control into a body; its options hold for the whole world."""
    part = dm_control_model(path)
    part.compiler.boundmass = spec.compiler.boundmass
    part.compiler.boundinertia = spec.compiler.boundinertia
    spec.option.disableflags |= part.option.disableflags
    spec.attach(part, prefix=prefix, frame=body.add_frame())


def _furnish(spec: mujoco.MjSpec) -> None:
    """Adds floor, light and camera."""
    spec.worldbody.add_geom(
        name="ground",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(1, 1, 0.1),
        friction=(0.4, 0.005, 0.0001),
        solimp=(0.95, 0.99, 0.001, 0.5, 2),
        solref=(0.002, 1),
    )
    spec.worldbody.add_light(pos=(0, 0, 1.5), dir=(0, 0, -1), diffuse=(0.7, 0.7, 0.7))
    camera = spec.worldbody.add_camera(name="front_close", pos=(0, -0.6, 0.75))
    camera.alt.xyaxes = (1, 0, 0, 0, 0.7, 0.75)
    # MuJoCo 3.11 looks up the material of an attached site without the prefix.
    spec.add_material(name="reference_site", rgba=(1, 0, 0, 0.5))


def _loosen(spec: mujoco.MjSpec) -> None:
    """Gives the brick the studs and flanges of dm_control's `Duplo`, and the colour red."""
    for geom in spec.body("brick").geoms:
        geom.rgba[:3] = (1, 0, 0)
        if geom.name.startswith("brick_flange"):
            geom.contype = FLANGE_CONTACTS
        if geom.name.startswith("brick_stud_"):
            geom.size[0] = STUD_RADIUS_M


def _actuate(spec: mujoco.MjSpec) -> None:
    """Adds an actuator of speed for each joint, and a site for the torque in the arm's."""
    for name in ARM:
        spec.joint(name).parent.add_site(name=name, size=(0.001, 0.001, 0.001), group=4)
        large = name in LARGE
        torque = LARGE_TORQUE_NM if large else SMALL_TORQUE_NM
        _add_speed(spec, name, ARM_GAIN, torque, LARGE_SPEED if large else SMALL_SPEED)
    for name in FINGERS:
        _add_speed(spec, name, FINGER_GAIN, FINGER_TORQUE_NM, FINGER_SPEED)


def _add_speed(spec: mujoco.MjSpec, joint: str, gain: float, torque: float, speed: float) -> None:
    """Adds an actuator that drives `joint` at a speed of up to `speed` [rad/s].

    Args:
        spec: The world.
        joint: Name of the joint, and of the actuator.
        gain: Torque for each rad/s that the joint is too slow [Nm s/rad].
        torque: Largest torque [Nm].
        speed: Largest speed [rad/s].
    """
    actuator = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=(-speed, speed),
        forcelimited=True,
        forcerange=(-torque, torque),
    )
    actuator.set_to_velocity(kv=gain)
