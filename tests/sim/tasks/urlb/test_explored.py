"""What exploration of a body is measured by: numbers that no policy sees."""

import mujoco
import numpy as np
import pytest

from sim.core.hold import Hold
from sim.core.registry import make_task, make_vec, task_spec

BODIES = ("walker",)


def by_name(fields, row):
    return {
        name: row[field.start + i]
        for field in fields
        for i, name in enumerate(field.entries or [field.name] * len(field))
    }


def test_the_walkers_numbers_are_those_of_the_simulation():
    """A walker upside down on the floor."""
    task = make_task("walker")
    model = task.model
    data = mujoco.MjData(model)
    data.joint("rootx").qpos = 3.0
    data.joint("rooty").qpos = np.pi + 0.5
    data.joint("rootz").qpos = -1.2
    data.joint("left_knee").qpos = -1.5
    data.joint("rootx").qvel = 2.0
    mujoco.mj_forward(model, data)
    hit = {
        model.body(model.geom_bodyid[geom]).name for pair in data.contact.geom for geom in pair
    } - {"world"}
    assert hit
    explored = task.explored(data.sensordata[None], np.zeros((1, model.nu)))[0]
    seen = by_name(task.explored_fields, explored)
    assert seen["x"] == pytest.approx(3.0) and seen["height"] == pytest.approx(0.1)
    assert seen["pitch"] == pytest.approx(0.5 - np.pi) and seen["left_knee"] == -1.5
    assert seen["speed"] == pytest.approx(2.0) and seen["right_hip"] == 0.0
    touched = {name for name in seen if name.startswith("contact.") and seen[name] > 0}
    assert touched == {f"contact.{body}" for body in hit}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_gives_finite_numbers_along_a_decision_and_counts_them(name):
    env = Hold(make_vec(name, 2, 0), 3)
    env.reset()
    counter = task_spec(name).new_coverage()
    shares = []
    for sign in (-1.0, 1.0):
        infos = env.step(np.full(env.action_space.shape, sign, np.float32))[-1]
        explored = infos["explored"]
        assert explored.shape == (3, 2, task_spec(name).explored[-1].stop)
        assert np.isfinite(explored).all()
        counter.visit(explored[0], explored)
        shares.append(counter.measures())
    env.close()
    assert all(value > 0 for value in shares[0].values())
    assert all(shares[1][measure] >= value for measure, value in shares[0].items())
    assert shares[1] != shares[0]
