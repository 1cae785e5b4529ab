import json

import onnx
import pytest
from support.foreign import linear

from edp_robot import cli
from policy_server.contract.bundle import Bundle


@pytest.fixture
def policy(tmp_path):
    onnx.save(linear(), tmp_path / "p.onnx")
    return tmp_path / "p.onnx"


@pytest.fixture
def terminal(monkeypatch):
    """Answers typed on a terminal; none at first."""
    answers = []

    def ask(text):
        print(text, end="")
        if not answers:
            raise EOFError
        return answers.pop(0)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ask)
    return answers


def edp(*args):
    return cli.main([str(arg) for arg in args])


def test_without_a_terminal_a_template_is_written_then_filled_in(
    policy, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    out = tmp_path / "b"
    template = tmp_path / "b.fields.json"
    again = ["wrap", "--onnx", policy, "--out", out, "--fields", template]
    assert edp("wrap", "--onnx", policy, "--out", out, "--control-hz", 20) == 1
    said = capsys.readouterr().out
    assert "action_map" in said
    assert "obs[0].name" in said
    assert "control_hz\n" not in said
    assert not out.exists()
    assert f"edp wrap --onnx {policy} --out {out} --control-hz 20.0 --fields {template}" in said
    held = json.loads(template.read_text())
    assert held["control_hz"] == 20
    assert held["obs"] == [
        {"name": None, "size": 3, "unit": None, "low": None, "high": None, "entries": None}
    ]
    held["obs"][0].update(name="state", unit="m", low="none", high=1.5)
    held["action"][0].update(name="motor", unit="V", low=-1, high=1, max_rate=10)
    template.write_text(json.dumps(held))
    assert edp(*again) == 1  # the action map is still open
    assert "action_map\n" in capsys.readouterr().out
    assert json.loads(template.read_text()) == held
    assert edp(*again, "--action-map", "none") == 0
    said = capsys.readouterr().out
    assert "b.fields.json" in said
    assert "max abs error" in said
    assert f"edp serve {out}" in said
    manifest = Bundle.load(out).manifest
    assert manifest.name == "p"
    assert manifest.action[0].max_rate == (10.0, 10.0)
    assert manifest.obs[0].high == (1.5, 1.5, 1.5)
    assert manifest.control_period_s == 0.05


def test_a_template_that_is_there_is_not_replaced(policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    template = tmp_path / "b.fields.json"
    template.write_text("mine")
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b") == 1
    assert "was not replaced" in capsys.readouterr().out
    assert template.read_text() == "mine"


def test_on_a_terminal_what_is_missing_is_asked_for(policy, tmp_path, terminal, capsys):
    terminal += ["limits", "", "a:2,b", "m *", "none *", "none *", "motor:2", "V", "-2", "2", ""]
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "motor  2     V     -2    2     none" in said
    assert "how many times a second does it act [Hz] [50]:" in said
    assert "asked" in said
    assert not terminal
    manifest = Bundle.load(tmp_path / "b").manifest
    assert [(f.name, f.stop, f.unit) for f in manifest.obs] == [("a", 2, "m"), ("b", 3, "m")]
    assert manifest.action[0].low == (-2.0, -2.0)
    assert manifest.sampler["action_map"] == "limits"


def test_an_input_that_ends_writes_nothing(policy, tmp_path, terminal, capsys):
    terminal += ["none"]
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_much_clipping_is_pointed_out(policy, tmp_path, terminal, capsys):
    terminal += ["none", *[""] * 7, "-0.01", "0.01", ""]  # the policy's answers reach 3 to 9
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b") == 0
    assert "more than half was clipped: check --action-map" in capsys.readouterr().out


def test_contradictions_are_one_line(policy, tmp_path, capsys):
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b", "--task", "arm-press") == 1
    sizes = "task arm-press has 22 obs entries, but the graph's input 'obs' has 3"
    assert sizes in capsys.readouterr().err
    assert edp("wrap", "--onnx", policy, "--out", tmp_path / "b", "--control-hz", "0") == 1
    assert "expected a number above 0" in capsys.readouterr().err
