import mujoco
import numpy as np
import pytest

from sim import MujocoTask, Part
from sim.robots.robot_process import RobotCore

MJCF = """
<mujoco model="mass">
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor name="push" joint="x" ctrlrange="-4 8"/></actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>
"""


class Mass(MujocoTask):
    """A free mass of 2 kg, pushed by a force in [-4, 8] N. It ends beyond 1 m."""

    name = "mass"
    mjcf = MJCF
    control_period_s = 0.05
    episode_steps = 20
    action_unit = "N"

    def obs_parts(self):
        return (Part("position", "m", -2, 2), Part("velocity", "m/s", -9, 9))

    def reward(self, obs):
        return obs[:, 1]

    def terminated(self, obs):
        return obs[:, 0] > 1.0


def test_an_action_is_spread_over_the_actuators_range():
    spec = Mass().spec
    assert (spec.action_map.scale, spec.action_map.offset) == ((6.0,), (2.0,))
    assert [field.name for field in spec.action] == ["push.target"]
    assert spec.action[0].unit == "N" and spec.success is None


def test_force_moves_the_mass_as_newton_says():
    """Full force 8 N on 2 kg is 4 m/s2; sensors are those of the last physics step's beginning."""
    env = Mass().make_vec(2, 0)
    env.reset()
    obs, reward, *_ = env.step(np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(obs[:, 1], [4 * 0.04, -2 * 0.04], rtol=1e-6)
    np.testing.assert_allclose(reward, obs[:, 1])


def test_commands_are_forces():
    env = Mass().make_vec(1, 0)
    other = Mass().make_vec(1, 0)
    env.reset()
    other.reset()
    np.testing.assert_array_equal(
        env.step(np.array([[0.5]]))[0], other.step_commands(np.array([[5.0]]))[0]
    )
    too_much = other.step_commands(np.array([[100.0]]))[0]
    np.testing.assert_array_equal(env.step(np.array([[1.0]]))[0], too_much)


def test_termination_starts_the_next_episode():
    env = Mass().make_vec(1, 0)
    env.reset()
    ends = [env.step(np.ones((1, 1))) for _ in range(20)]
    terminated = [bool(end[2][0]) for end in ends]
    first = terminated.index(True)
    assert ends[first][4]["final_obs"][0, 0] > 1.0 and ends[first][0][0, 0] == 0.0
    assert not ends[first][3].any()


SPRUNG = (
    MJCF.replace('axis="1 0 0"', 'axis="1 0 0" stiffness="100"')
    .replace("<geom", '<site name="middle"/><geom')
    .replace("</sensor>", '<accelerometer site="middle"/></sensor>')
)


class Sprung(Mass):
    """The mass on a spring of 100 N/m, with an accelerometer."""

    mjcf = SPRUNG
    terminated = None

    def obs_parts(self):
        return (*super().obs_parts(), Part("acceleration", "m/s2", [-9] * 3, [9] * 3))


class AtEnd(Sprung):
    """The same, seen at the end of the control step."""

    sensors_at_end = True


def test_positions_and_velocities_are_read_at_the_end_where_a_task_says_so():
    """A physics step adds (8 - 100 x) / 2 * .01 to the velocity, then .01 times that to x."""
    x = [0.0]
    v = [0.0]
    for _ in range(5):
        v.append(v[-1] + (8 - 100 * x[-1]) / 2 * 0.01)
        x.append(x[-1] + 0.01 * v[-1])
    before = Sprung().make_vec(1, 0)
    at_end = AtEnd().make_vec(1, 0)
    for env, k in ((before, 4), (at_end, 5)):
        env.reset()
        obs = env.step(np.ones((1, 1)))[0][0]
        last = (8 - 100 * x[4]) / 2  # a force acts during a physics step: it is that of the last
        np.testing.assert_allclose(obs, [x[k], v[k], last, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(before.get_state()["state"], at_end.get_state()["state"])


def test_reading_at_the_end_does_not_change_what_follows():
    envs = (Sprung().make_vec(9, 0), AtEnd().make_vec(9, 0))
    rng = np.random.default_rng(0)
    for env in envs:
        env.reset()
    for action in rng.uniform(-1, 1, (6, 9, 1)):
        states = [(env.step(action), env.get_state()["state"])[1] for env in envs]
        np.testing.assert_array_equal(*states)


class TwoMasses(Mass):
    """The mass of 2 kg or of 4 kg."""

    @property
    def worlds(self):
        heavy = mujoco.MjModel.from_xml_string(MJCF.replace('mass="2"', 'mass="4"'))
        return (self.model, heavy)


def test_copies_have_the_tasks_worlds_in_turn():
    """Full force 8 N is 4 or 2 m/s2; the speed is that after four physics steps of .01 s."""
    env = TwoMasses().make_vec(4, 0)
    env.reset(seed=0)
    obs = env.step(np.ones((4, 1)))[0]
    expected = np.array([0.16, 0.08, 0.16, 0.08])
    first = int(obs[0, 1] < 0.1)
    np.testing.assert_allclose(obs[:, 1], np.roll(expected, -first), rtol=1e-6)


class Measured(Mass):
    """The mass, paid by what is measured and commanded: 10 x + u. Old data are paid by speed."""

    def measured_reward(self, rows, command):
        return 10 * rows[:, 0] + command[:, 0]


def test_a_measured_reward_is_paid_instead_of_that_of_the_obs():
    """After four physics steps at 4 and -2 m/s2, x is .01^2 (1 + 2 + 3 + 4) a."""
    env = Measured().make_vec(2, 0)
    env.reset()
    obs, reward, *_ = env.step(np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(reward, [10 * 0.004 + 8, 10 * -0.002 - 4], rtol=1e-9)
    np.testing.assert_array_equal(env.task_spec.reward(obs), obs[:, 1])


def test_a_measured_reward_alone_cannot_relabel():
    task = type("Alone", (Measured,), {"reward": None})()
    assert task.spec.reward is None
    env = task.make_vec(1, 0)
    env.reset()
    assert env.step(np.ones((1, 1)))[1][0] == pytest.approx(8.04)


class Lagging(Mass):
    """The mass, pushed by an actuator that follows its command with a time constant of 100 ms."""

    mjcf = MJCF.replace('<motor name="push"', '<general name="push" dyntype="filter" dynprm="0.1"')

    def obs_parts(self):
        return (*super().obs_parts(), Part("activation", "N", -4, 8))


def test_activations_follow_the_sensors_in_a_reading():
    """In each of five physics steps the activation goes a tenth of the way to 8 N."""
    env = Lagging().make_vec(1, 0)
    obs, _ = env.reset()
    assert obs.tolist() == [[0, 0, 0]]
    obs, *_ = env.step(np.ones((1, 1)))
    pushes = 8 * (1 - 0.9 ** np.arange(6))
    np.testing.assert_allclose(obs[0, 2], pushes[5], rtol=1e-6)  # of the state that is reached
    np.testing.assert_allclose(obs[0, 1], 0.01 * pushes[:4].sum() / 2, rtol=1e-6)


class Rated(Mass):
    """The mass with a rate of the force as its action."""

    action_kind = "increment"
    max_rate = 20.0

    def obs_parts(self):
        return (*super().obs_parts(), Part("command", "N", -4, 8))

    def start_command(self, sensor):
        return np.zeros((len(sensor), 1))


def test_an_increment_needs_a_command_in_the_obs():
    class Blind(Mass):
        action_kind = "increment"
        max_rate = 1.0

    with pytest.raises(ValueError, match=r"3 .*make them equal|called 'command'"):
        _ = Blind().spec


def test_an_increment_moves_the_command_by_its_rate():
    env = Rated().make_vec(1, 0)
    env.reset()
    obs = env.step(np.array([[0.5]]))[0]
    assert obs[0, 2] == pytest.approx(0.5 * 20.0 * 0.05)
    obs = env.step_commands(np.array([[8.0]]))[0]  # 20 N/s for 50 ms is 1 N
    assert obs[0, 2] == pytest.approx(1.5)


class Slow(Mass):
    """The mass with a force that changes by no more than 1 N in a control step."""

    max_rate = 20.0


def test_an_absolute_action_moves_no_faster_than_its_command_may():
    by_action = Slow().make_vec(1, 0)
    by_command = Slow().make_vec(1, 0)
    for env in (by_action, by_command):
        env.reset()
        assert env.command[0, 0] == 2.0  # the middle of [-4, 8]
    for action, force in ((1.0, 3.0), (1.0, 4.0), (0.3, 3.8), (-1.0, 2.8)):
        obs = by_action.step(np.array([[action]]))[0]
        wanted = Slow().spec.action_map.command(by_command.command, np.array([[action]]))
        np.testing.assert_array_equal(obs, by_command.step_commands(wanted)[0])
        assert by_action.command[0, 0] == pytest.approx(force)


def test_a_task_is_called_by_its_path_unless_it_has_a_name():
    assert Mass().spec.name == "mass"
    assert Rated().spec.name == f"{__name__}:Rated"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_period_s": 0.025}, "no whole number of timesteps of 0.01 s"),
        ({"mjcf": MJCF.replace('ctrlrange="-4 8"', "")}, "give every actuator .* a ctrlrange"),
        (
            {"obs_parts": lambda self: (Part("position", "m", -2, 2),)},
            r"has 1 numbers, observe\(\) returns 2",
        ),
    ],
)
def test_a_task_that_contradicts_its_mjcf_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        type("Wrong", (Mass,), changes)().make_vec(1, 0)


def test_no_usable_start_is_an_error_that_ends():
    task = type("Nowhere", (Mass,), {"place": lambda self, data, rng: False})()
    with pytest.raises(RuntimeError, match="only 0 of 102400 start states are usable"):
        _ = task.starts


def test_the_mjcf_may_be_a_file_beside_the_class(tmp_path, monkeypatch):
    (tmp_path / "mass.xml").write_text(MJCF)
    source = "from sim import MujocoTask\nclass FromFile(MujocoTask):\n    mjcf = 'mass.xml'\n"
    (tmp_path / "mass_of_the_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    from mass_of_the_test import FromFile

    assert FromFile().model.nu == 1


def test_the_real_time_robot_moves_as_the_batch_does():
    task = Rated()
    env = task.make_vec(1, 0)
    env.reset()
    core = RobotCore(task)
    commands = np.linspace(0.5, 3.0, 6)
    for k, command in enumerate(commands):
        obs = env.step_commands(np.array([[command]]))[0]
        core.receive(np.array([command]), 0)
        for i in range(task.n_substeps):
            core.step((5 * k + i) * core.period_ns)
    np.testing.assert_allclose(core.obs(), obs[0], atol=1e-6)
    assert mujoco.mj_stateSize(task.model, mujoco.mjtState.mjSTATE_QPOS) == 1
