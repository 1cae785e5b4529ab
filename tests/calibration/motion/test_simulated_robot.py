"""The delay of the simulated robot, in a process of its own and in real time, against what was
injected.
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.realtime
@pytest.mark.parametrize("delay_s", [0.0, 0.03])
def test_the_injected_delay_is_found(tmp_path, delay_s):
    words = [
        "calibrate",
        "latency",
        "--robot",
        f"sim:arm?delay_s={delay_s}",
        "--json",
        str(tmp_path / "r.json"),
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "edp_robot.cli", *words], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "r.json").read_text())["delay_s"] == pytest.approx(
        delay_s, abs=0.004
    )
