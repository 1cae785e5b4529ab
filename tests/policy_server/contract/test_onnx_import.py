"""ONNX Runtime's telemetry is off in every process that imports something of ours first."""

import os
import signal
import subprocess
import sys

import pytest
from support.serving import running_server

from policy_server.contract.onnx_import import TELEMETRY_OFF

# With one of these set, ONNX Runtime keeps its telemetry off by itself, which would hide ours.
HIDING = {
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "CODEBUILD_BUILD_ID"),
    *("BUILD_ID", "BUILD_URL", "PROJECT_ID", "TEAMCITY_VERSION", "TRAVIS", "CIRCLECI", "APPVEYOR"),
    *("ORT_RUNNING_UNIT_TESTS", TELEMETRY_OFF),
}
HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR")


def run(code, home, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in HIDING}
    folders = {name: str(home) for name in HOMES}
    environment = {**kept, **folders, **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "code",
    [
        "import policy_server, onnxruntime",
        "import sim, onnxruntime",
        "import calibration, onnxruntime",
        "import edp_robot, onnxruntime",
        "from policy_server.contract.bundle import Bundle; import onnxruntime",
        "from calibration.precision.layers import load_quantization; load_quantization()",
        "from policy_server.runtime.onnxruntime.providers import import_runtime; import_runtime()",
    ],
)
def test_a_process_of_ours_writes_nothing_into_the_home_folder(code, tmp_path):
    run(code, tmp_path)
    assert written(tmp_path) == []


@pytest.mark.parametrize(("given", "kept"), [("0", "0"), ("true", "true"), ("", "1")])
def test_what_the_user_says_about_telemetry_stays(given, kept, tmp_path):
    code = f"import os, policy_server; print(os.environ[{TELEMETRY_OFF!r}])"
    assert run(code, tmp_path, **{TELEMETRY_OFF: given}).stdout == f"{kept}\n"


def test_a_server_writes_nothing_into_the_home_folder(monkeypatch, tmp_path, bundle_path):
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    for name in HOMES:
        monkeypatch.setenv(name, str(tmp_path))
    with running_server(bundle_path) as server:
        assert written(tmp_path) == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert written(tmp_path) == []
