import json
import math

import numpy as np
import pytest
from support.foreign import linear, written

from edp_robot.deploy.wrap.command_map import command_map, numbers, possible_maps
from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.known_fields import Draft, Known, from_file, from_metadata
from edp_robot.deploy.wrap.make_bundle import gather
from policy_server.contract.errors import BundleError
from sim.core.registry import task_spec

FILE = {
    "control_hz": 25,
    "obs": [
        {"name": "joint_pos", "size": 2, "unit": "rad", "low": -1.5, "high": [1.5, "none"]},
        {"name": "button"},
    ],
    "action": [
        {"name": "a.target", "unit": "rad", "low": -1, "high": 1, "max_rate": "none"},
        {"name": "b.target"},
    ],
}


@pytest.fixture
def foreign(tmp_path):
    metadata = {
        "joint_names": "hip,knee",
        "observation_names": "joint_pos,command",
        "observation_dims": "2,1",
    }
    return written(linear(metadata=metadata), tmp_path / "p.onnx")


def file(tmp_path, content):
    path = tmp_path / "fields.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_first_that_knows_counts_and_says_so(foreign, tmp_path):
    bare = gather(foreign)
    assert [(d.name, d.size, d.sources) for d in bare.obs] == [
        ("joint_pos", 2, ("metadata",)),
        ("command", 1, ("metadata",)),
    ]
    assert [d.name for d in bare.action] == ["hip.target", "knee.target"]
    assert bare.control_hz is None
    told = Known(control_hz=100.0, sources={"control_hz": "--control-hz"})
    both = gather(foreign, None, file(tmp_path, FILE), told)
    names = [d.name for d in both.obs + both.action]
    assert names == ["joint_pos", "button", "a.target", "b.target"]
    assert (both.control_hz, both.sources["control_hz"]) == (100.0, "--control-hz")
    assert both.sources["obs"] == "fields.json"


def test_a_task_that_does_not_fit_the_graph_is_refused(tmp_path):
    spec = task_spec("modes")
    foreign = written(linear(), tmp_path / "p.onnx")
    message = rf"task modes has {spec.obs_dim} obs entries, but the graph's input 'obs' has 3"
    with pytest.raises(WrapError, match=message):
        gather(foreign, spec)


def test_a_task_says_everything_but_the_action_map(tmp_path):
    arm = task_spec("arm")
    fitting = written(linear(weights=np.ones((22, 6), np.float32)), tmp_path / "q.onnx")
    known = gather(fitting, arm)
    assert known.missing() == [("", 0, "action_map")]
    assert known.control_hz == 100
    assert (known.to_fields("obs"), known.to_fields("action")) == (arm.obs, arm.action)
    file(tmp_path, {"action_map": "none", "obs": [{"name": "x", "size": 22}]})
    both = gather(fitting, arm, tmp_path / "fields.json")
    assert both.obs == known.obs
    assert (both.action_map, both.sources["action_map"]) == ("none", "fields.json")
    with pytest.raises(WrapError, match="task arm acts at 100 Hz, but 50 Hz was given"):
        gather(fitting, arm, told=Known(control_hz=50.0))


def test_what_a_file_leaves_open_is_missing_and_a_template_reads_back(foreign, tmp_path):
    known = gather(foreign, None, file(tmp_path, FILE))
    assert known.missing() == [
        ("", 0, "action_map"),
        *(("obs", 1, key) for key in ("unit", "low", "high")),
        *(("action", 1, key) for key in ("unit", "low", "high", "max_rate")),
    ]
    low_high = known.to_fields("obs")[0]
    assert (low_high.low, low_high.high) == ((-1.5, -1.5), (1.5, math.inf))
    assert known.to_fields("action")[0].max_rate is None
    again = from_file(file(tmp_path, known.to_json()))
    assert again.to_json() == known.to_json()
    assert again.obs == known.obs


def test_a_file_names_the_numbers_of_a_field(tmp_path):
    legs = {"name": "legs", "size": 2, "unit": "rad", "entries": ["hip.pos", "knee.pos"]}
    known = from_file(file(tmp_path, {"obs": [legs, {"name": "button", "unit": "1"}]}))
    named, single = known.to_fields("obs")
    assert named.entry_names() == ("hip.pos", "knee.pos")
    assert single.entry_names() == ("button",)
    assert from_file(file(tmp_path, known.to_json())).obs == known.obs
    one = from_file(file(tmp_path, {"obs": [{**legs, "entries": ["hip.pos"]}]}))
    with pytest.raises(BundleError, match="expected 2 different names"):
        one.to_fields("obs")


def test_one_unknown_size_is_worked_out_and_sizes_must_add_up(foreign, tmp_path):
    three = {"obs": [{"name": "a", "size": None}, {"name": "b"}], "action": []}
    assert [d.size for d in gather(foreign, None, file(tmp_path, three)).obs] == [2, 1]
    four = {"obs": [{"name": "a", "size": 4}]}
    message = r"fields.json has 4 obs entries, but the graph's input 'obs' has 3"
    with pytest.raises(WrapError, match=message):
        gather(foreign, None, file(tmp_path, four))
    message = r"has 1 action entries, but the graph's output 'actions' has 2"
    with pytest.raises(WrapError, match=message):
        gather(foreign, None, file(tmp_path, {"action": [{"name": "a"}]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"control_hz": NaN}', "strict JSON"),
        ("[]", "expected an object with"),
        ({"observation": []}, r"unknown keys \['observation'\]; there are .*'obs'"),
        ({"obs": {"name": "a"}}, "expected a list"),
        ({"obs": [{"size": 2, "entries": "a,b"}]}, r"obs\[0\].entries is 'a,b', expected a list"),
        ({"obs": [{"max_rate": 1}]}, r"obs\[0\] has unknown keys \['max_rate'\]"),
        ({"obs": [{"name": 3}]}, r"obs\[0\].name is 3, expected a text"),
        ({"obs": [{"size": 0}]}, "size is 0, expected a whole number >= 1"),
        ({"obs": [{"size": True}]}, "size is True, expected a whole number"),
        ({"action": [{"low": [1, None]}]}, "or null for the whole"),
        ({"action": [{"low": "unbounded"}]}, "'unbounded', expected a number"),
        ({"control_hz": "fast"}, "control_hz is 'fast', expected a number"),
        ({"action_map": "tanh"}, "expected one of task, metadata, limits, none"),
    ],
)
def test_a_fields_file_that_is_not_of_the_schema_is_refused(tmp_path, content, message):
    with pytest.raises((WrapError, BundleError), match=message):
        from_file(file(tmp_path, content))


def test_a_fields_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WrapError, match="a template is written"):
        from_file(tmp_path / "none.json")


def test_limits_of_a_wrong_length_are_refused():
    with pytest.raises(BundleError, match="field a: low has 3 entries, expected 2"):
        Draft("a", 2, "1", (0.0,) * 3, (1.0,)).to_field(0)


def test_metadata_that_names_other_things_is_not_used():
    names = {"joint_names": "a,b,c", "observation_names": "x,y"}
    assert from_metadata(names, 5, 2).action == ()
    assert [d.size for d in from_metadata(names, 5, 2).obs] == [None, None]
    assert from_metadata(names, 1, 2).obs == ()
    assert from_metadata({"joint_names": "['a', 'b']"}, 5, 2).action[1].name == "b.target"


def test_metadata_numbers_are_one_for_all_or_one_each():
    assert numbers({"s": "0.5"}, "s", 3) == (0.5, 0.5, 0.5)
    assert numbers({"s": "0.5,-1.000"}, "s", 2) == (0.5, -1.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("a,b", "expected numbers"),
        ("1,2,3", "holds 3 numbers, the policy answers 2"),
        ("nan,1", "expected 1 or 2"),
    ],
)
def test_metadata_that_holds_other_numbers_is_refused(bad, message):
    with pytest.raises(WrapError, match=message):
        numbers({"s": bad}, "s", 2)


def test_maps_that_need_what_is_not_there():
    assert possible_maps(None, {}) == ("none", "limits")
    metadata = {"action_scale": "1", "default_joint_pos": "0"}
    assert possible_maps(task_spec("arm"), metadata)[:2] == ("metadata", "task")
    low = np.zeros(1)
    high = np.ones(1)
    with pytest.raises(WrapError, match="--action-map task needs --task"):
        command_map("task", None, {}, low, high)
    message = r"no metadata 'action_scale' in the file, which holds \['joint_names'\]"
    with pytest.raises(WrapError, match=message):
        command_map("metadata", None, {"joint_names": "a"}, low, high)
    with pytest.raises(WrapError, match="needs finite limits"):
        command_map("limits", None, {}, low - math.inf, high)
