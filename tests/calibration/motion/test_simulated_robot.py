"""The delay of the simulated robot in real time, against the injected one."""

import json
import subprocess
import sys

import pytest

LATENCY = [sys.executable, "-m", "edp_robot.cli", "calibrate", "latency"]


@pytest.mark.slow
@pytest.mark.realtime
@pytest.mark.parametrize("delay_s", [0.0, 0.03])
def test_the_injected_delay_is_found(tmp_path, delay_s):
    file = tmp_path / "r.json"
    words = [*LATENCY, "--robot", f"sim:arm?delay_s={delay_s}", "--json", str(file)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(file.read_text())["delay_s"] == pytest.approx(delay_s, abs=0.004)
