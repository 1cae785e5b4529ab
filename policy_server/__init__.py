"""Serves a policy to robots, drives a robot with it, and measures how fast that is.

Needs no torch and no simulator. Each name loads when it is first used: PolicyClient loads neither
ONNX Runtime nor SciPy.

Bundles:
    Bundle: A policy on disk, checked. `Bundle.load(folder)`.
    Manifest: What the policy expects and answers, and what it was made from.
    Field: A named part of an obs or action vector, with unit and limits.

Policies:
    Policy: The Protocol of every policy: `reset`, `act`, `close`, and its manifest.
    PolicyClient: A policy on a server. `PolicyClient(endpoint).act(obs, deadline_s=0.05)`.
    LocalPolicy: A bundle's policy in this process.
    PolicyServer: Serves a bundle. `PolicyServer(folder, endpoint).run()`.
    load_backend: Loads a bundle's graph for many obs at once, without a server or sessions.

Robots:
    Robot: The Protocol of every robot; a LeRobot robot has it.
    make_robot: Makes a robot from a text like "sim:arm-press" or "my_robot:MyRobot?hz=50".
    run: Drives a robot with a policy in real time.
    ControlConfig: How `run` drives it: rate, length, limits.

Keys (encrypted connections):
    ClientKeys: A robot's keys. `ClientKeys.load(folder)`.
    ServerKeys: A server's keys, and which clients it admits.

Errors:
    BundleError: A bundle is damaged or inconsistent.
    BackendError: Runtime, provider or graph are not what is needed.
    PolicyTimeout: No answer came before the deadline.
    PolicyError: The policy refused an obs, or failed.
    PolicyChanged: The endpoint has another policy now, with another interface.
    MemoryLost: A policy with memory forgot the episode before its end.
    RobotError: The robot does not fit the policy.
    ServerError: The server cannot listen, or its keys are wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy_server.contract.doors.lazy import lazy_names
from policy_server.contract.onnx_import import switch_telemetry_off

if TYPE_CHECKING:
    from policy_server.contract.bundle import Bundle
    from policy_server.contract.errors import (
        BackendError,
        BundleError,
        MemoryLost,
        PolicyChanged,
        PolicyError,
        PolicyTimeout,
        ServerError,
    )
    from policy_server.contract.field import Field
    from policy_server.contract.manifest import Manifest
    from policy_server.contract.policy import Policy
    from policy_server.control.client import PolicyClient
    from policy_server.control.local import LocalPolicy
    from policy_server.control.loop import ControlConfig, run
    from policy_server.control.robot import Robot, make_robot
    from policy_server.control.robot_io import RobotError
    from policy_server.runtime.base import load_backend
    from policy_server.serving.server import PolicyServer
    from policy_server.transport.keys import ClientKeys, ServerKeys

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ClientKeys",
    "ControlConfig",
    "Field",
    "LocalPolicy",
    "Manifest",
    "MemoryLost",
    "Policy",
    "PolicyChanged",
    "PolicyClient",
    "PolicyError",
    "PolicyServer",
    "PolicyTimeout",
    "Robot",
    "RobotError",
    "ServerError",
    "ServerKeys",
    "load_backend",
    "make_robot",
    "run",
]

switch_telemetry_off()
__getattr__, __dir__ = lazy_names(__name__)
