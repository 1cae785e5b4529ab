"""Episodes begin as dm_control's do."""

import mujoco
import numpy as np
import pytest
from support.suite_twin import PAIRS, Twin

from sim.core.registry import make_task


def start_qpos(task):
    """Joint positions (m, nq) of the start states, which have no velocity unless they fall."""
    states, _ = task.starts
    return states[:, 1 : 1 + task.model.nq]


@pytest.mark.parametrize("name", ["walker", "hopper"])
def test_joints_start_anywhere_in_their_range(name):
    task = make_task(name)
    model = task.model
    qpos = start_qpos(task)
    for joint in range(model.njnt):
        low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-np.pi, np.pi)
        turns = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
        drawn = qpos[:, model.jnt_qposadr[joint]]
        if turns:
            share = (drawn - low) / (high - low)
            assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1
            assert share.mean() == pytest.approx(0.5, abs=0.05)  # five standard errors
        else:
            assert not drawn.any()
    assert not task.starts[0][:, 1 + model.nq :].any()


def test_the_cheetah_starts_fallen_as_dm_controls_does():
    twin = Twin("cheetah-run", *PAIRS["cheetah-run"])
    theirs = []
    for _ in range(60):
        twin.theirs.reset()
        theirs.append(twin.theirs.physics.data.qpos[1:].copy())
    ours = start_qpos(twin.task)[:, 1:]
    error = np.std(theirs, axis=0) / np.sqrt(60)
    np.testing.assert_array_less(np.abs(np.mean(theirs, axis=0) - ours.mean(axis=0)), 5 * error)
    np.testing.assert_allclose(np.std(theirs, axis=0), ours.std(axis=0), rtol=0.5, atol=0.01)
    assert not twin.task.starts[0][:, 0].any()  # time


def test_the_quadruped_starts_turned_anyhow_just_above_the_floor():
    task = make_task("quadruped")
    qpos = start_qpos(task)
    np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7], axis=1), 1)
    np.testing.assert_allclose(qpos[:, 3:7].mean(axis=0), 0, atol=0.08)  # five standard errors
    np.testing.assert_array_equal(qpos[:, 7:], np.zeros_like(qpos[:, 7:]))
    data = mujoco.MjData(task.model)
    for row in qpos[:50]:
        n_contacts = []
        for down in (0.0, 0.01):
            data.qpos[:] = row - down * np.eye(len(row))[2]
            mujoco.mj_forward(task.model, data)
            n_contacts.append(data.ncon)
        assert n_contacts[0] == 0 < n_contacts[1]
