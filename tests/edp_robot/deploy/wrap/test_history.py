"""Histories of observations: the last ones, oldest first, the first repeated at the start."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.foreign import FLOAT, model, value

from edp_robot import cli
from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.foreign_policy import read_policy
from edp_robot.deploy.wrap.history import history
from edp_robot.deploy.wrap.known_fields import Known
from edp_robot.deploy.wrap.make_bundle import gather, wrap
from policy_server.contract.bundle import Bundle
from policy_server.control.local import LocalPolicy

LIMITS = {"unit": "1", "low": "none", "high": "none"}
TWO = [{"name": "a", "size": 2, **LIMITS}, {"name": "b", "size": 1, **LIMITS}]


def mirror(path, *dims, metadata=None):
    """Writes a policy that answers its whole input, flat."""
    n = int(np.prod(dims))
    nodes = [helper.make_node("Reshape", ["obs", "shape"], ["action"])]
    weights = [numpy_helper.from_array(np.array([-1, n]), "shape")]
    made = model(
        nodes,
        [value("obs", FLOAT, "n", *dims)],
        [value("action", FLOAT, "n", n)],
        weights,
        metadata=metadata,
    )
    onnx.save(made, path)
    return path


def fields(path, n_answers, obs=TWO, **more):
    """Writes a fields file for a policy that answers `n_answers` numbers."""
    action = [{"name": "seen", "size": n_answers, "max_rate": "none", **LIMITS}]
    said = {"control_hz": 50, "action_map": "none", "obs": obs, "action": action, **more}
    path.write_text(json.dumps(said))
    return path


def seen_by(bundle, n_steps=4):
    """Returns what the policy saw at each step of an episode; entry j of step t is 10 t + j."""
    dim = bundle.manifest.obs_dim
    with LocalPolicy(bundle.path, "cpu") as policy:
        policy.act(np.full(dim, 99.0, np.float32))  # an episode before, which must not show
        policy.reset()
        rows = [policy.act(np.float32(10 * t + np.arange(dim)))[0] for t in range(1, n_steps + 1)]
    return [row.astype(int).tolist() for row in rows]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            "term",
            [
                [10, 11, 10, 11, 10, 11, 12, 12, 12],
                [10, 11, 10, 11, 20, 21, 12, 12, 22],
                [10, 11, 20, 21, 30, 31, 12, 22, 32],
                [20, 21, 30, 31, 40, 41, 22, 32, 42],
            ],
        ),
        (
            "step",
            [
                [10, 11, 12, 10, 11, 12, 10, 11, 12],
                [10, 11, 12, 10, 11, 12, 20, 21, 22],
                [10, 11, 12, 20, 21, 22, 30, 31, 32],
                [20, 21, 22, 30, 31, 32, 40, 41, 42],
            ],
        ),
    ],
)
def test_a_policy_sees_the_last_observations(tmp_path, order, expected):
    path = mirror(tmp_path / "p.onnx", 9)
    told = Known(history=3, history_order=order)
    foreign = read_policy(path)
    start = gather(foreign, fields=fields(tmp_path / "f.json", 9), told=told)
    bundle = wrap(foreign, start, tmp_path / "b").bundle
    manifest = bundle.manifest
    assert (manifest.history, manifest.obs_dim, manifest.sampler["history_order"]) == (3, 3, order)
    assert seen_by(bundle) == expected
    golden = bundle.golden()
    assert (golden["obs"].shape, int((~golden["state"].any(1)).sum())) == ((32, 3), 2)


def test_an_input_with_rows_is_a_history_if_it_is_said(tmp_path):
    path = mirror(tmp_path / "p.onnx", 2, 3)
    file = fields(tmp_path / "f.json", 6)
    foreign = read_policy(path)
    with pytest.raises(WrapError, match=r"has 2 rows of 3 numbers.*give --history 2 if"):
        gather(foreign, fields=file)
    with pytest.raises(WrapError, match="the history is 3"):
        gather(foreign, fields=file, told=Known(history=3))
    start = gather(foreign, fields=file, told=Known(history=2))
    bundle = wrap(foreign, start, tmp_path / "b").bundle
    assert seen_by(bundle, 2) == [[10, 11, 12, 10, 11, 12], [10, 11, 12, 20, 21, 22]]


def test_fields_may_have_histories_of_their_own(tmp_path):
    obs = [{**TWO[0], "history": 3}, TWO[1]]
    file = fields(tmp_path / "f.json", 7, obs, history_order="term")
    foreign = read_policy(mirror(tmp_path / "p.onnx", 7))
    bundle = wrap(foreign, gather(foreign, fields=file), tmp_path / "b").bundle
    assert bundle.manifest.history == 3
    assert seen_by(bundle, 2) == [[10, 11, 10, 11, 10, 11, 12], [10, 11, 10, 11, 20, 21, 22]]
    with pytest.raises(WrapError, match=r"lengths \[3, 1\]: expected the same"):
        history((2, 1), (3, 1), "step")


def test_metadata_may_tell_the_histories(tmp_path):
    """As exporters for Isaac Lab write them."""
    metadata = {
        "observation_names": "joint_pos,command",
        "observation_dims": "2,1",
        "observation_history_lengths": "3,1",
    }
    foreign = read_policy(mirror(tmp_path / "p.onnx", 7, metadata=metadata))
    start = gather(foreign)
    assert [(d.name, d.size, d.history) for d in start.obs] == [
        ("joint_pos", 2, 3),
        ("command", 1, 1),
    ]
    assert (start.history_order, start.sources["history_order"]) == ("term", "metadata")
    past = start.past()
    assert past is not None
    assert (past.n, past.obs_dim, past.order.tolist()) == (3, 3, [0, 1, 3, 4, 6, 7, 8])


def test_sizes_that_do_not_fit_a_history_are_one_line(tmp_path):
    foreign = read_policy(mirror(tmp_path / "p.onnx", 10))
    file = fields(tmp_path / "f.json", 10)
    with pytest.raises(WrapError, match=r"9 obs entries in a history of 3, but .* has 10"):
        gather(foreign, fields=file, told=Known(history=3))
    with pytest.raises(WrapError, match=r"1 fields of unknown size in a history of 3"):
        gather(foreign, told=Known(history=3))


def test_the_order_is_asked_for_where_it_matters(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    path = mirror(tmp_path / "p.onnx", 9)
    words = ["wrap", "--onnx", path, "--fields", fields(tmp_path / "f.json", 9)]
    words = [str(word) for word in (*words, "--out", tmp_path / "b", "--history", 3)]
    assert cli.main(words) == 1
    said = capsys.readouterr().out
    assert "history_order\n    term: all steps of the first field" in said
    assert cli.main([*words, "--history-order", "term"]) == 0
    assert "the last 3 observations (order term)" in capsys.readouterr().out
    assert Bundle.load(tmp_path / "b").manifest.history == 3
    assert cli.main([*words[:-1], "0"]) == 1
    assert "--history 0: expected a whole number >= 1" in capsys.readouterr().err


def test_on_a_terminal_the_order_is_a_question(tmp_path, capsys, monkeypatch):
    answers = ["", *["1 *", "none *", "none *"]]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: (print(text), answers.pop(0))[1])
    path = mirror(tmp_path / "p.onnx", 4)
    obs = [{"name": name} for name in ("a", "b")]
    words = ["--onnx", path, "--fields", fields(tmp_path / "f.json", 4, obs), "--history", 2]
    assert cli.main(["wrap", *map(str, words), "--out", str(tmp_path / "b")]) == 0
    assert "how does the history lie in the input?" in capsys.readouterr().out
    assert seen_by(Bundle.load(tmp_path / "b"), 2) == [[10, 10, 11, 11], [10, 20, 11, 21]]


def test_a_history_and_a_state_share_the_memory(tmp_path):
    """Answers the observation before, plus a count that a state keeps."""
    nodes = [
        helper.make_node("Gather", ["obs", "old"], ["before"], axis=1),
        helper.make_node("Add", ["n_in", "one"], ["n_out"]),
        helper.make_node("Add", ["before", "n_out"], ["action"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([0]), "old"),
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
    ]
    inputs = [value("obs", FLOAT, "n", 2), value("n_in", FLOAT, "n", 1)]
    outputs = [value("action", FLOAT, "n", 1), value("n_out", FLOAT, "n", 1)]
    onnx.save(model(nodes, inputs, outputs, weights), tmp_path / "p.onnx")
    foreign = read_policy(tmp_path / "p.onnx")
    file = fields(tmp_path / "f.json", 1, [{"name": "x", **LIMITS}])
    bundle = wrap(
        foreign, gather(foreign, fields=file, told=Known(history=2)), tmp_path / "b"
    ).bundle
    assert bundle.manifest.state_dim == 3  # the count; whether there is a history, and that
    assert seen_by(bundle, 3) == [[11], [12], [23]]
