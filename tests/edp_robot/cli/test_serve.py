import json
import subprocess
import sys

import numpy as np

from edp_robot.cli import bench_server as bench_commands
from policy_server.bench import latency as bench
from policy_server.control.client import PolicyClient


def test_latency_in_this_process(bundle_path, tmp_path, capsys):
    file = tmp_path / "deep" / "latency.json"
    assert bench_commands.bench_latency(str(bundle_path), "cpu", n=400, json=file) == 0
    result = json.loads(file.read_text())
    row = result["inference_us"]
    assert row["n"] == 400 and 0 < row["p50"] <= row["p99"] <= row["p999"] <= row["max"]
    assert row["p99_ci"][0] <= row["p99"] <= row["p99_ci"][1]
    assert result["host"]["n_cores"] >= 1 and result["provider"] == "cpu"
    assert list(result) == sorted(result)
    assert "p99" in capsys.readouterr().out


def test_load_of_a_server(served, tmp_path, capsys):
    file = tmp_path / "load.json"
    assert bench_commands.bench_load(served.endpoint, n=300, json=file) == 0
    result = json.loads(file.read_text())
    assert result["roundtrip_us"]["n"] == 300
    assert (
        result["roundtrip_us"]["p50"] > result["server_us"]["p50"] >= result["inference_us"]["p50"]
    )
    with PolicyClient(served.endpoint, 10) as client:
        assert client.stats()["inference_us"]["n"] >= 500


def test_raw_samples_are_there_without_the_warmup(served):
    result = bench.bench_roundtrip(served.endpoint, 50, np.zeros(3), warmup=10)
    assert (
        result["samples_us"].shape == (50,)
        and result["roundtrip_us"]["max"] == result["samples_us"].max()
    )


def test_middle_of_the_limits(served):
    with PolicyClient(served.endpoint, 10) as client:
        np.testing.assert_allclose(bench.middle_obs(client.manifest), [0, 0, 0.01])


def test_failures_are_one_line_and_not_zero(tmp_path, capsys):
    assert bench_commands.bench_load("tcp://127.0.0.1:9", n=1) == 1
    assert bench_commands.bench_latency(str(tmp_path)) == 1
    assert bench_commands.bench_compare(tmp_path / "a", tmp_path / "b") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert (
        "is the server running there" in lines[0]
        and "no manifest.json" in lines[1]
        and "No such file" in lines[2]
    )


def test_compare_shows_ratios(tmp_path, capsys):
    for name, p50 in (("a", 100.0), ("b", 150.0)):
        (tmp_path / name).write_text(
            json.dumps({"x_us": {"p50": p50, "ci": [1, 2]}, name: 1, "flag": True})
        )
    assert bench_commands.bench_compare(tmp_path / "a", tmp_path / "b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["x_us.p50", "100", "150", "1.500"] and len(lines) == 2
    assert "nothing to compare" in bench.compare({"a": 1}, {"b": 1})


def test_nothing_heavy_is_imported():
    code = (
        "import sys, policy_server.control.client, policy_server.control.loop, policy_server.control.local, edp_robot.cli.serve; "
        "print([m for m in ('onnxruntime', 'torch', 'mujoco', 'gymnasium', 'edp_robot', 'sim') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "[]\n"
