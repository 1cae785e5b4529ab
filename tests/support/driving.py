"""Drives a robot with a scripted policy, on a clock of the test's own."""

import dataclasses

import numpy as np
from support.fake_clock import FakeClock

from policy_server.contract.bundle import Bundle
from policy_server.control.loop import ControlConfig, run

PERIOD_NS = 10_000_000


class Scripted:
    """A policy that answers with `script(call, obs)`: a chunk, or an exception to raise."""

    def __init__(self, manifest, script):
        self.manifest = manifest
        self.script = script
        self.calls = 0
        self.seeds = []
        self.deadlines = []

    def reset(self, seed=None):
        self.seeds.append(seed)

    def close(self):
        pass

    def act(self, obs, deadline_s=None):
        self.calls += 1
        self.deadlines.append(deadline_s)
        answer = self.script(self.calls, obs)
        if isinstance(answer, Exception):
            raise answer
        return np.asarray(answer, dtype=np.float32)


def still(call, obs):
    """A script of a policy that wants one place."""
    return [[0.2, -0.1], [0.2, -0.1]]


def with_rate(path, max_rate):
    """Returns the manifest of a bundle, with another rate for every number of the action."""
    manifest = Bundle.load(path).manifest
    rates = [None if max_rate is None else (max_rate,) * len(field) for field in manifest.action]
    action = zip(manifest.action, rates, strict=True)
    return dataclasses.replace(
        manifest, action=tuple(dataclasses.replace(f, max_rate=rate) for f, rate in action)
    )


def unhindered(path):
    """Returns the manifest of a bundle whose targets of 1 or less come through as they are.

    A tick lets 1 pass, of a range of 180.
    """
    manifest = with_rate(path, 100.0)
    wide = [
        dataclasses.replace(field, low=(-90.0,) * len(field), high=(90.0,) * len(field))
        for field in manifest.action
    ]
    return dataclasses.replace(manifest, action=tuple(wide))


def drive(robot, policy, n_ticks, time_source=None, on_tick=None, stop=None, **config):
    """Returns the report of `n_ticks` that take no time beyond what the test adds."""
    clock = (time_source or FakeClock()).clock
    return run(robot, policy, ControlConfig(n_ticks=n_ticks, **config), on_tick, clock, stop)


def failing(robot, method, errors):
    """Makes a method of `robot` fail: errors {number of the call, from 1: exception}.

    Returns the list of its calls, to which every call adds its number.
    """
    true = getattr(robot, method)
    calls = []

    def call(*args):
        calls.append(len(calls) + 1)
        error = errors.get(calls[-1], errors.get("always"))
        if error is not None:
            raise error
        return true(*args)

    setattr(robot, method, call)
    return calls
