import mujoco
import numpy as np

from sim.core import readings

MODEL = mujoco.MjModel.from_xml_string("""
<mujoco>
  <worldbody>
    <body>
      <joint name="x" type="slide"/>
      <geom size="0.1"/>
      <site name="middle"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="x"/>
    <general joint="x" dyntype="filter" dynprm="1"/>
    <general joint="x" dyntype="integrator"/>
  </actuator>
  <sensor>
    <jointpos joint="x"/>
    <accelerometer site="middle"/>
    <jointvel joint="x"/>
    <touch site="middle"/>
    <actuatorpos actuator="push"/>
  </sensor>
</mujoco>""")


def test_a_reading_is_the_sensors_and_then_the_activations():
    data = mujoco.MjData(MODEL)
    data.sensordata[:] = np.arange(7)
    data.act[:] = [10, 20]
    assert readings.n_readings(MODEL) == 9
    assert readings.reading(data).tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 20]


def test_activations_come_out_of_the_state():
    state = np.array([[0.5, 1, 2, 10, 20], [0.6, 3, 4, 30, 40]])  # time, qpos, qvel, act
    assert mujoco.mj_stateSize(MODEL, mujoco.mjtState.mjSTATE_FULLPHYSICS) == state.shape[1]
    sensor = np.arange(14.0).reshape(2, 7)
    made = readings.readings(MODEL, state, sensor)
    assert made.tolist() == [[*range(7), 10, 20], [*range(7, 14), 30, 40]]


def test_without_activations_a_reading_is_the_sensors_and_does_not_share_their_memory():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='x'/><geom size='1'/></body></worldbody>"
        "<sensor><jointpos joint='x'/></sensor></mujoco>"
    )
    sensor = np.ones((2, 1))
    made = readings.readings(model, np.zeros((2, 3)), sensor)
    sensor[:] = 0
    assert made.tolist() == [[1], [1]]


def test_forces_do_not_follow_from_the_state_alone():
    late = readings.of_the_state(MODEL)
    assert late.tolist() == [True, False, False, False, True, False, True]


def test_all_can_be_read_at_the_end():
    assert readings.at_the_end(MODEL, "all").all()
    assert (readings.at_the_end(MODEL, True) == readings.of_the_state(MODEL)).all()


def test_a_full_physics_state_holds_the_activations_where_readings_looks():
    data = mujoco.MjData(MODEL)
    data.act[:] = [7, 8]
    state = np.empty(mujoco.mj_stateSize(MODEL, mujoco.mjtState.mjSTATE_FULLPHYSICS))
    mujoco.mj_getState(MODEL, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    made = readings.readings(MODEL, state[None], np.zeros((1, 7)))
    assert made[0, 7:].tolist() == [7, 8]


LIMITED = """
<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body pos="0 0 .05">
      <joint name="z" type="slide" axis="0 0 1" range="-1 -.5" limited="true"/>
      <geom size=".1"/>
    </body>
  </worldbody>
  <sensor><jointpos joint="z"/><jointvel joint="z"/>{}</sensor>
</mujoco>"""


def read_after_a_step(model):
    data = mujoco.MjData(model)
    data.qvel[:] = 2
    mujoco.mj_step(model, data)
    return data.nefc, data.sensordata.tolist()


def test_positions_and_velocities_are_read_without_contacts_and_limits():
    model = mujoco.MjModel.from_xml_string(LIMITED.format(""))
    n_constraints, read = read_after_a_step(model)
    assert n_constraints > 0 and read == [0, 2]
    assert read_after_a_step(readings.without_contacts(model)) == (0, [0, 2])
    assert read_after_a_step(model)[0] == n_constraints  # the model itself is as before


def test_sensors_of_limits_keep_them():
    model = mujoco.MjModel.from_xml_string(LIMITED.format('<jointlimitpos joint="z"/>'))
    _, read = read_after_a_step(readings.without_contacts(model))
    assert read == [0, 2, -0.5]  # that far beyond the range
