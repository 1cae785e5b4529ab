import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from policy_server.contract.bundle import Bundle
from policy_server.contract.field import Field
from policy_server.control.robot_io import RobotError, RobotIO

JOINTS = ("hip", "knee", "ankle")


def field(name, start, entries=None, width=1):
    """A field of `width` numbers, or of one for each of `entries`."""
    width = len(entries) if entries else width
    return Field(
        name,
        start,
        start + width,
        unit="rad",
        low=(-1.0,) * width,
        high=(1.0,) * width,
        entries=entries,
    )


class Leg:
    """A robot with these features. Each observation is its own place in the vector."""

    def __init__(self, obs=JOINTS, action=JOINTS):
        self.observation_features = dict.fromkeys(obs, float)
        self.action_features = dict.fromkeys(action, float)
        self.sent = []

    def connect(self):
        pass

    def disconnect(self):
        pass

    def get_observation(self):
        return {name: float(k) for k, name in enumerate(self.observation_features)}

    def send_action(self, action):
        self.sent.append(action)


def manifest(obs=None, action=None):
    """A policy with these fields; by default one obs field and one action field of three joints."""
    obs = obs or (field("leg", 0, JOINTS),)
    action = action or (field("leg_target", 0, JOINTS),)
    return SimpleNamespace(obs=obs, action=action)


def test_a_robot_with_the_policys_names_is_accepted():
    assert RobotIO(Leg(), manifest()).unchecked == ()


@pytest.mark.parametrize("vector", ["obs", "action"])
def test_wrong_order_inside_a_field_is_refused(vector):
    swapped = Leg(**{vector: ("ankle", "hip", "knee")})
    with pytest.raises(RobotError, match="Names and order must be the same") as caught:
        RobotIO(swapped, manifest())
    message = str(caught.value)
    assert "['ankle', 'hip', 'knee']" in message and "['hip', 'knee', 'ankle']" in message
    assert f"number 0 of the {vector}, 'ankle' instead of 'hip'" in message


def test_the_first_place_that_differs_is_named():
    with pytest.raises(RobotError, match="number 1 of the obs, 'ankle' instead of 'knee'"):
        RobotIO(Leg(obs=("hip", "ankle", "knee")), manifest())


def test_fields_beside_one_of_two_entries_are_checked():
    obs = (field("tip", 0, ("tip.x", "tip.y")), field("hip", 2), field("knee", 3))
    RobotIO(Leg(obs=("tip.x", "tip.y", "hip", "knee")), manifest(obs))
    with pytest.raises(RobotError, match="number 2 of the obs, 'knee' instead of 'hip'"):
        RobotIO(Leg(obs=("tip.x", "tip.y", "knee", "hip")), manifest(obs))
    with pytest.raises(RobotError, match=r"obs field 'tip'.*number 0"):
        RobotIO(Leg(obs=("tip.y", "tip.x", "hip", "knee")), manifest(obs))


def test_a_field_without_names_is_skipped_said_and_the_others_are_checked(caplog):
    obs = (field("tip", 0, width=2), field("hip", 2))
    with caplog.at_level(logging.WARNING):
        robot_io = RobotIO(Leg(obs=("whatever", "else", "hip")), manifest(obs))
    assert robot_io.unchecked == ("obs.tip",)
    assert "obs.tip" in caplog.text
    with pytest.raises(RobotError, match="'knee' instead of 'hip'"):
        RobotIO(Leg(obs=("whatever", "else", "knee")), manifest(obs))


def test_an_older_bundle_has_no_names_for_fields_of_several_numbers(tiny, bundle_path):
    robot_io = RobotIO(tiny.Robot(), Bundle.load(bundle_path).manifest)
    assert robot_io.unchecked == ("obs.arm", "action.arm_target")


def test_a_dot_and_an_underscore_are_the_same_in_a_name():
    """Older bundles of the arm have button_travel, the robot has button.travel."""
    robot_io = RobotIO(Leg(obs=("button.travel",)), manifest((field("button_travel", 0),)))
    assert robot_io.unchecked == ()


@pytest.mark.parametrize(
    ("vector", "names", "message"),
    [
        ("action", ("hip",), "action has 1 numbers .*the policy's has 3"),
        ("obs", (*JOINTS, "toe"), "obs has 4 numbers .*the policy's has 3"),
    ],
)
def test_another_number_of_features_is_refused(vector, names, message):
    with pytest.raises(RobotError, match=message):
        RobotIO(Leg(**{vector: names}), manifest())


def test_a_camera_of_a_robot_whose_policy_sees_none_is_left_out(caplog):
    """As LeRobot has it: numbers by name, and images by their shape, in any place."""
    robot = Leg()
    robot.observation_features = {"front": (480, 640, 3), **robot.observation_features}
    robot.get_observation = lambda: {"front": None, **dict.fromkeys(JOINTS, 0.5)}
    assert RobotIO(robot, manifest()).read().tolist() == [0.5] * 3
    assert "images are left out, the policy sees none: front" in caplog.text


@pytest.mark.parametrize(
    "kind", [(3,), (480, 640), {"dtype": "float32", "shape": (3,)}, "image", (480, 640, 3)]
)
def test_a_feature_of_several_numbers_is_refused(kind):
    robot = Leg()
    robot.action_features["state"] = kind
    with pytest.raises(RobotError, match=r"state.*expected one number for each name"):
        RobotIO(robot, manifest())


LEROBOT = [f"{j}.pos" for j in ("shoulder_pan", "shoulder_lift", "elbow_flex", "gripper")]


@pytest.mark.parametrize("split", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("vector", ["obs", "action"])
def test_every_entry_is_compared_however_the_fields_are_cut(vector, split):
    """All orders of four names but the policy's own are refused, in fields of any length."""
    fields = []
    for n in split:
        start = fields[-1].stop if fields else 0
        fields.append(field(f"field_{start}", start, tuple(LEROBOT[start : start + n])))
    other = (field("leg", 0, JOINTS),)
    policy = manifest(**{"obs": other, "action": other, vector: tuple(fields)})
    for names in itertools.permutations(LEROBOT):
        robot = Leg(**{vector: names})
        if list(names) == LEROBOT:
            assert RobotIO(robot, policy).unchecked == ()
            continue
        first = next(k for k in range(4) if names[k] != LEROBOT[k])
        with pytest.raises(RobotError, match=f"number {first} of the {vector}, '{names[first]}'"):
            RobotIO(robot, policy)


def test_a_wrong_name_among_right_ones_is_refused():
    names = ("hip", "hip.2", "ankle")
    with pytest.raises(RobotError, match=r"'hip\.2' instead of 'knee'"):
        RobotIO(Leg(obs=names), manifest())


def test_obs_and_action_may_have_different_orders():
    """Each is compared with its own field; the position is found by name."""
    obs = ("ankle", "knee", "hip")
    robot = Leg(obs=obs)
    robot_io = RobotIO(robot, manifest(obs=(field("leg", 0, obs),)))
    assert robot_io.position().tolist() == [2.0, 1.0, 0.0]


def test_observations_are_read_in_the_features_order():
    robot = Leg()
    robot.get_observation = lambda: {"ankle": 3.0, "hip": 0.25, "knee": 0.5}
    obs = RobotIO(robot, manifest()).read()
    assert obs.tolist() == [0.25, 0.5, 3.0] and obs.dtype == np.float32


def test_vectors_are_used_where_the_robot_has_them():
    robot = Leg()
    robot.read_obs = lambda out: out.__setitem__(slice(None), [0.1, 0.2, 0.3])
    written = []
    robot.write_action = written.append
    robot_io = RobotIO(robot, manifest())
    robot_io.write(robot_io.read())
    np.testing.assert_array_equal(written, np.float32([[0.1, 0.2, 0.3]]))
    assert robot.sent == []


def test_the_position_comes_from_the_observation_by_name():
    robot = Leg(obs=("tip", *JOINTS))
    policy = manifest(obs=(field("tip", 0), field("leg", 1, JOINTS)))
    assert RobotIO(robot, policy).position().tolist() == [1.0, 2.0, 3.0]


def test_a_robot_that_knows_its_position_is_asked():
    robot = Leg(obs=("tip",))
    robot.position = lambda: [7.0, 8.0, 9.0]
    position = RobotIO(robot, manifest((field("tip", 0),))).position()
    assert position.tolist() == [7.0, 8.0, 9.0] and position.dtype == np.float64


def test_without_a_known_position_the_error_says_what_to_do():
    robot_io = RobotIO(Leg(obs=("tip",)), manifest((field("tip", 0),)))
    with pytest.raises(RobotError, match=r"lacks \['hip', 'knee', 'ankle'\].*position\(\)"):
        robot_io.position()


def test_episodes_belong_to_robots_that_have_them():
    robot = Leg()
    plain = RobotIO(robot, manifest())
    plain.reset_episode(3)
    assert plain.episode_success() is None
    seeds = []
    robot.reset_episode = seeds.append
    robot.episode_success = lambda: np.True_
    able = RobotIO(robot, manifest())
    able.reset_episode(3)
    assert seeds == [3] and able.episode_success() is True
