"""`edp calibrate latency` and `edp calibrate quant`, from end to end."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support import graphs
from support.moving_robot import MovingRobot

from calibration import file
from calibration.motion import robot_delay
from calibration.precision import versions
from edp_robot import cli
from policy_server.contract.bundle import Bundle
from policy_server.control import robot as robots
from policy_server.runtime.onnxruntime import OnnxPolicy

COARSE = 1000.0  # a channel without information that leaves int8 no level for the two that count


def edp(*words):
    return cli.main([str(word) for word in words])


def quant(path, *options):
    return edp("calibrate", "quant", path, "--episodes", 40, *options)


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.fixture
def modes_bundle(tmp_path, monkeypatch):
    """Saves a bundle around the policy of task `modes`; few queries are timed."""
    monkeypatch.setattr(versions, "N_TIMED", 20)
    monkeypatch.setattr(versions, "N_TURNS", 1)  # each turn collects the garbage of all tests

    def make(third=1.0, task="modes"):
        return graphs.modes_bundle(tmp_path / "bundle", graphs.modes_graph(third), task)

    return make


@pytest.fixture
def robot(monkeypatch):
    """The robot that the command line makes, on its own clock."""
    made = MovingRobot()
    monkeypatch.setattr(robots, "make_robot", lambda text: made)
    monkeypatch.setattr(robot_delay, "Clock", lambda: made.clock)
    return made


def test_latency_prints_and_writes(robot, tmp_path, capsys):
    out = tmp_path / "calibration.json"
    result = tmp_path / "result.json"
    file.save(out, "fake", {"joints": {"zero": 1.0}})
    assert edp("calibrate", "latency", "--seconds", 6, "--out", out, "--json", result) == 0
    saved = file.Calibration.load(out)
    assert saved.section("latency")["delay_s"] == pytest.approx(0.03, abs=0.0015)
    assert saved.section("joints") == {"zero": 1.0}
    assert json.loads(result.read_text()) == saved.section("latency")
    printed = capsys.readouterr().out
    assert "delay [ms]" in printed
    assert "pan" in printed
    assert "95 %" in printed


def test_latency_fails_with_the_reason(robot, tmp_path, capsys):
    out = tmp_path / "calibration.json"
    file.save(out, "another", {})
    before = out.read_text()
    assert edp("calibrate", "latency", "--seconds", 4, "--out", out) == 1
    assert "belongs to robot 'another', not 'fake'" in capsys.readouterr().err
    assert out.read_text() == before


def test_measuring_latency_needs_neither_onnx_nor_a_simulation():
    code = (
        "import sys, calibration.motion.robot_delay, edp_robot.cli.calibrate\n"
        "print({'onnx', 'onnxruntime', 'mujoco', 'gymnasium'} & {*sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_quant_puts_good_versions_into_the_bundle(modes_bundle, tmp_path, capsys):
    path = modes_bundle()
    before = contents(path)
    assert quant(path, "--json", tmp_path / "q.json") == 0
    bundle = Bundle.load(path)
    assert bundle.precisions == ("fp32", "fp16", "int8")
    after = contents(path)
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    parity = bundle.manifest.parity
    assert parity["max_abs_error"] == 0.0  # what was there stays
    assert parity["int8"]["return_loss"] == 0.0
    assert parity["int8"]["forced"] is False
    assert parity["int8"]["calibration"] == {
        "method": "minmax",
        "n_rows": 32,
        "source": "32 simulated episodes of modes",
    }
    golden = bundle.golden()
    for name in ("fp16", "int8"):
        policy = OnnxPolicy(bundle.read(f"policy-{name}.onnx"), "cpu")
        error = np.abs(policy.act(golden["obs"], golden["noise"]) - golden["action"]).max((0, 1))
        assert (error <= parity[name]["golden_abs_errors"]).all()
    report = json.loads((tmp_path / "q.json").read_text())
    assert report["versions"]["fp32"]["loop"]["mean_return"] == 1.0
    assert report["refused"] == []
    assert report["versions"]["int8"]["latency_us"]["n"] == 20
    assert "int8: kept; it gains 0.00% of the return in 40 episodes" in capsys.readouterr().out


def test_quant_refuses_a_version_that_loses_return_unless_forced(modes_bundle, tmp_path, capsys):
    path = modes_bundle(COARSE)
    before = contents(path)
    result = tmp_path / "q.json"
    assert quant(path, "--precisions", "int8", "--json", result) == 1
    assert "int8: refused; it loses" in capsys.readouterr().out
    assert contents(path) == before
    assert json.loads(result.read_text())["refused"] == ["int8"]
    assert quant(path, "--precisions", "int8", "--force") == 0
    parity = Bundle.load(path).manifest.parity["int8"]
    assert parity["forced"] is True
    assert parity["return_loss"] > 0.5


def test_one_refused_version_does_not_keep_the_other_out(modes_bundle):
    path = modes_bundle(COARSE)
    assert quant(path) == 1
    assert Bundle.load(path).precisions == ("fp32", "fp16")


def test_a_recording_serves_where_there_is_no_simulation(modes_bundle, tmp_path, capsys):
    path = modes_bundle(task="a-robot-of-mine")
    recording = tmp_path / "r.npz"
    assert quant(path) == 1
    assert "no calibration data" in capsys.readouterr().err
    obs = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    np.savez(recording, obs=obs, target=np.zeros((80, 3)))
    assert quant(path, "--data", recording) == 0
    parity = Bundle.load(path).manifest.parity["int8"]
    assert parity["return_loss"] is None
    assert parity["n"] == 20
    assert parity["calibration"]["source"] == "recording r.npz, 80 rows"
    assert "its task is not one of sim's" in capsys.readouterr().out


def test_numbers_too_large_for_float16_are_refused_even_by_force(modes_bundle, capsys):
    assert quant(modes_bundle(1e5), "--precisions", "fp16", "--force") == 1
    assert "fp16 answers NaN or infinity" in capsys.readouterr().err


def test_quant_of_no_episodes_is_refused(modes_bundle, capsys):
    assert quant(modes_bundle(), "--episodes", 0) == 1
    assert "expected 1 or more, of fp16 and int8" in capsys.readouterr().err


def test_quant_of_a_folder_without_a_bundle_says_so(tmp_path, capsys):
    assert quant(tmp_path) == 1
    assert "no manifest.json in it: not a bundle folder" in capsys.readouterr().err
