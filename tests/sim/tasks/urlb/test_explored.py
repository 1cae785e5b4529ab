"""What exploration of a body is measured by: numbers that no policy sees."""

import mujoco
import numpy as np
import pytest

from sim.core.hold import Hold
from sim.core.registry import make_task, make_vec, task_spec
from sim.tasks.urlb.quadruped import LEGS, TOUCHING

BODIES = ("walker", "hopper", "cheetah", "quadruped", "quadruped-mass")


def by_name(fields, row):
    return {
        name: row[field.start + i]
        for field in fields
        for i, name in enumerate(field.entries or [field.name] * len(field))
    }


def explored(task, data):
    """Returns the numbers of a state by name, and the bodies that touch something there."""
    mujoco.mj_forward(task.model, data)
    hit = {
        task.model.body(task.model.geom_bodyid[geom]).name
        for pair in data.contact.geom
        for geom in pair
    } - {"world"}
    reading = np.concatenate([data.sensordata, data.act])[None]
    row = task.explored(reading, np.zeros((1, task.model.nu)))[0]
    return by_name(task.explored_fields, row), hit


def touched(seen):
    return {
        name.removeprefix("contact.")
        for name in seen
        if name.startswith("contact.") and seen[name] > 0
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
    seen, hit = explored(task, data)
    assert hit
    assert seen["x"] == pytest.approx(3.0) and seen["height"] == pytest.approx(0.1)
    assert seen["pitch"] == pytest.approx(0.5 - np.pi) and seen["left_knee"] == -1.5
    assert seen["speed"] == pytest.approx(2.0) and seen["right_hip"] == 0.0
    assert touched(seen) == hit


@pytest.mark.parametrize(("name", "drawn_m"), [("hopper", 1.0), ("cheetah", 0.7)])
def test_a_planar_bodys_numbers_are_those_of_the_simulation(name, drawn_m):
    """A body lying on its back, having turned once more; its torso is below the floor's edge."""
    task = make_task(name)
    data = mujoco.MjData(task.model)
    joints = task.joints
    data.joint("rootx").qpos = -4.0
    data.joint("rootz").qpos = 0.04 - drawn_m
    data.joint("rooty").qpos = 3 * np.pi - 0.25
    data.joint(joints[3]).qpos = 0.125
    data.joint("rootx").qvel = -3.0
    seen, hit = explored(task, data)
    assert seen["x"] == -4.0 and seen["height"] == pytest.approx(0.04)
    assert seen["pitch"] == pytest.approx(np.pi - 0.25) and seen["speed"] == pytest.approx(-3.0)
    assert [seen[joint] for joint in joints[3:5]] == [0.125, 0.0]
    assert "torso" in hit and touched(seen) == hit
    data.joint("rootz").qpos = 5.0
    seen, hit = explored(task, data)
    assert not hit and not touched(seen) and seen["height"] == pytest.approx(5.0 + drawn_m)


def test_the_quadrupeds_numbers_are_those_of_the_simulation():
    """A body on its side, half rolled over, that moves along the diagonal and falls."""
    task = make_task("quadruped")
    data = mujoco.MjData(task.model)
    data.qpos[:3] = (2.0, -5.0, 0.2)
    data.qpos[3:7] = (np.cos(np.pi / 3), np.sin(np.pi / 3), 0.0, 0.0)  # by 120 degrees about x
    data.qvel[:3] = (0.6, -0.8, -7.0)
    data.joint("knee_back_right").qpos = 0.125
    seen, hit = explored(task, data)
    assert (seen["x"], seen["y"]) == (2.0, -5.0) and seen["height"] == pytest.approx(0.2)
    assert seen["tilt"] == pytest.approx(2 * np.pi / 3) and seen["speed"] == pytest.approx(1.0)
    assert seen["knee_back_right"] == 0.125 and seen["knee_front_left"] == 0.0
    assert "torso" in hit and touched(seen) == hit & set(TOUCHING)
    data.qpos[3:7] = (1.0, 0.0, 0.0, 0.0)
    lowest = task.model.geom("toe_front_left").id
    mujoco.mj_forward(task.model, data)
    data.qpos[2] -= data.geom_xpos[lowest, 2] - 0.07  # toes of 8 cm
    seen, _ = explored(task, data)
    assert touched(seen) == {f"toe_{leg}" for leg in LEGS} and seen["tilt"] == 0.0


@pytest.mark.parametrize("name", BODIES)
def test_a_body_gives_finite_numbers_along_a_decision_and_counts_them(name):
    env = Hold(make_vec(name, 2, 0), 20)
    env.reset()
    counter = task_spec(name).new_coverage()
    shares = []
    for sign in (-1.0, 1.0):
        infos = env.step(np.full(env.action_space.shape, sign, np.float32))[-1]
        explored = infos["explored"]
        assert explored.shape == (20, 2, task_spec(name).explored[-1].stop)
        assert np.isfinite(explored).all()
        counter.visit(explored[0], explored)
        shares.append(counter.measures())
    env.close()
    assert all(value > 0 for value in shares[0].values())
    assert all(shares[1][measure] >= value for measure, value in shares[0].items())
    assert shares[1] != shares[0]


@pytest.mark.parametrize("name", ["hopper", "cheetah", "quadruped"])
def test_random_actions_fill_more_bins_of_each_measure_and_few_of_all(name):
    env = make_vec(name, 8, 0)
    env.reset()
    rng = np.random.default_rng(0)
    counter = task_spec(name).new_coverage()
    counted = []
    for _ in range(40):
        action = rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        seen = env.step(action)[-1]["explored"]
        counter.visit(seen, seen[None])
        counted.append(counter.measures())
    env.close()
    assert all(counted[-1][measure] > value for measure, value in counted[0].items())
    assert all(0 < value < 0.1 for measure, value in counted[-1].items() if "cover" in measure)


@pytest.mark.parametrize("name", ["hopper", "quadruped"])
def test_an_environment_saved_before_a_body_had_such_sensors_goes_on(name):
    env = make_vec(name, 2, 0)
    env.reset()
    saved = env.get_state()
    action = np.full(env.action_space.shape, 0.5, np.float32)
    expected = env.step(action)
    older = make_vec(name, 2, 1)
    older.reset()
    older.set_state(saved | {"sensor": saved["sensor"][:, :20]})
    seen = older.step(action)
    np.testing.assert_array_equal(seen[0], expected[0])
    np.testing.assert_array_equal(seen[-1]["explored"], expected[-1]["explored"])
    env.close()
    older.close()
