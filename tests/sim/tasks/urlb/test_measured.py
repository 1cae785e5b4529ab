import mujoco
import numpy as np
import pytest

from sim.core.registry import make_task
from sim.tasks.urlb import measured
from sim.tasks.urlb.measured import Measured, Readings, measure


def pendulum():
    """A mass of 1 kg, .5 m under a hinge about y without friction, and its sensors."""
    spec = mujoco.MjSpec.from_string("""
<mujoco>
  <worldbody>
    <body name="bob">
      <joint name="turn" axis="0 1 0"/>
      <geom pos="0 0 -.5" size=".01" mass="1"/>
      <site name="end" pos="0 0 -.5"/>
    </body>
  </worldbody>
  <actuator><motor name="twist" joint="turn" ctrlrange="-1 1"/></actuator>
</mujoco>""")
    measure(spec, mujoco.mjtSensor.mjSENS_JOINTVEL, mujoco.mjtObj.mjOBJ_JOINT, "turn")
    measure(spec, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_SITE, "end")
    return spec.compile()


def test_states_read_as_their_positions_and_velocities():
    """At angle a the mass stands at (-.5 sin a, 0, -.5 cos a)."""
    model = pendulum()
    angle = np.linspace(-3, 3, 7)
    rows = Readings(model)(angle[:, None], np.arange(7.0)[:, None])
    seen = Measured(model, rows)
    np.testing.assert_allclose(seen("jointvel.turn")[:, 0], np.arange(7), atol=1e-12)
    end = np.stack([-0.5 * np.sin(angle), 0 * angle, -0.5 * np.cos(angle)], axis=1)
    np.testing.assert_allclose(seen("framepos.end"), end, atol=1e-12)
    both = seen("framepos.end", "jointvel.turn")
    np.testing.assert_array_equal(both, np.concatenate([rows[:, 1:], rows[:, :1]], axis=1))


def test_a_command_that_is_unknown_is_not_made_up():
    model = pendulum()
    with pytest.raises(ValueError, match="does not tell the command"):
        _ = Measured(model, np.zeros((1, 4))).command
    assert Measured(model, np.zeros((1, 4)), np.ones((1, 1))).command.tolist() == [[1]]


def test_activations_are_the_end_of_a_reading():
    task = make_task("quadruped")
    rows = np.arange(task.model.nsensordata + 12.0)[None]
    assert task.measured(rows).activation.tolist() == [rows[0, -12:].tolist()]


def test_without_dm_control_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(measured, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'edp-robot\[urlb\]'") as caught:
        measured.suite_model("walker")
    assert caught.value.name == "dm_control" and "\n" not in str(caught.value)
