import pytest

from policy_server.contract.doors.registries import UnknownName
from policy_server.control.robot import ROBOTS, KnowsConnection, Robot, make_robot

DRIVER = """
class Driver:
    observation_features = {"joint.pos": float}
    action_features = {"joint.pos": float}

    def __init__(self, port: str, rate_hz: float = 50.0, n_joints: int = 1, slow: bool = False):
        self.options = (port, rate_hz, n_joints, slow)

    def connect(self): ...
    def disconnect(self): ...
    def get_observation(self): ...
    def send_action(self, action): ...


class Useless:
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a driver in a file that nothing else names."""
    (tmp_path / "driver_of_the_test.py").write_text(DRIVER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_class_in_a_file_gets_its_options():
    robot = make_robot("driver_of_the_test:Driver?port=/dev/ttyUSB0&rate_hz=20&slow=true")
    assert robot.options == ("/dev/ttyUSB0", 20.0, 1, True)
    assert isinstance(robot, Robot) and not isinstance(robot, KnowsConnection)


def test_a_registered_kind_gets_name_and_options(monkeypatch):
    from driver_of_the_test import Driver

    monkeypatch.setitem(ROBOTS._parts, "toy", Driver)
    assert make_robot("toy:/dev/a?n_joints=2").options == ("/dev/a", 50.0, 2, False)
    assert make_robot("toy?port=/dev/b").options[0] == "/dev/b"


def test_an_unknown_kind_lists_those_that_exist():
    with pytest.raises(UnknownName, match=r"no robot 'none:arm-press'.*sim.*package.module"):
        make_robot("none:arm-press")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:Driver", "No module named 'no_such_module' in .* There are: .*sim"),
        ("driver_of_the_test:Diver", "has no 'Diver'; it has: .*Driver"),
        ("driver_of_the_test:Driver?speed=3", r"no option 'speed'; the options are port \(str\)"),
        ("driver_of_the_test:Driver?port=a&rate_hz=fast", "rate_hz='fast': expected float"),
        ("driver_of_the_test:Driver?port=a&slow=maybe", "slow='maybe': expected bool"),
        ("driver_of_the_test:Driver", "missing a required argument: 'port'"),
        ("driver_of_the_test:Useless", "is a Useless, which lacks some of connect"),
    ],
)
def test_a_robot_that_cannot_be_made_is_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_robot(text)
    assert "\n" not in str(caught.value)
