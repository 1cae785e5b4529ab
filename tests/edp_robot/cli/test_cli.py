import json
import subprocess
import sys
from pathlib import Path

import pytest

from edp_robot import cli

EDP = [sys.executable, "-m", "edp_robot.cli"]


def edp(*args, timeout=120):
    return subprocess.run([*EDP, *map(str, args)], capture_output=True, text=True, timeout=timeout)


def test_usage_lists_every_command(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"edp {name}" in said for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"Example: edp {name.split()[0]}" in " ".join(capsys.readouterr().out.split())


def test_a_typing_mistake_is_answered_with_the_nearest_command(capsys):
    assert cli.main(["prtrain"]) == 2
    assert "did you mean `edp pretrain`" in capsys.readouterr().err
    assert cli.main(["bench", "everything"]) == 2
    assert (
        "there are: bench sampler, bench latency, bench load, bench compare"
        in capsys.readouterr().err
    )


def test_unknown_task_lists_those_that_exist(tmp_path, capsys):
    assert cli.main(["pretrain", "--task", "arm-pres", "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert (
        "Did you mean 'arm-press'?" in said and "maze-square-large" in said and "gym:<id>" in said
    )
    assert not (tmp_path / "x").exists()


def test_unknown_method_and_preset_list_those_that_exist(tmp_path, capsys):
    for option, wrong, known in (("--method", "edpp", "random"), ("--preset", "big", "smoke")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["pretrain", "--out", str(tmp_path / "x"), option, wrong])
        assert ended.value.code == 2
        streams = capsys.readouterr()
        assert known in streams.err + streams.out


def test_unknown_robot_lists_the_kinds(tmp_path, capsys):
    assert cli.main(["calibrate", "latency", "--robot", "lego:arm"]) == 1
    assert "one of ['sim']" in capsys.readouterr().err


def test_a_run_is_not_overwritten(tmp_path, capsys):
    options = [
        "pretrain",
        "--method",
        "random",
        "--env-steps",
        "640",
        "--preset",
        "smoke",
        "--out",
        str(tmp_path / "r"),
    ]
    result = tmp_path / "result.json"
    assert cli.main([*options, "--json", str(result)]) == 0
    assert json.loads(result.read_text())["env_steps"] == 640
    assert cli.main(options) == 1
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert cli.main([*options, "--resume"]) == 0


def test_control_without_a_server_says_so_and_fails(tmp_path):
    ended = edp(
        "control", "--server", "tcp://127.0.0.1:9", "--robot", "sim:arm-press", "--seconds", "1"
    )
    assert ended.returncode != 0
    assert "tcp://127.0.0.1:9" in ended.stderr and "Traceback" not in ended.stderr


def test_control_wants_exactly_one_policy(capsys):
    assert cli.main(["control"]) == 1
    assert "exactly one of --server ENDPOINT and --bundle FOLDER" in capsys.readouterr().err


def test_serving_what_is_no_bundle_says_why(tmp_path):
    ended = edp("serve", tmp_path)
    assert (
        ended.returncode == 1
        and "manifest.json" in ended.stderr
        and "Traceback" not in ended.stderr
    )


def test_tasks_and_doctor_run(capsys):
    assert cli.main(["tasks"]) == 0
    assert "arm-press" in capsys.readouterr().out
    assert cli.main(["doctor"]) == 0
    assert "robot (client, control loop)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_road_with_the_smoke_preset(tmp_path):
    """Every stage with real processes; what it learns is nothing, what it writes is everything."""
    ended = edp(
        "demo",
        "--preset",
        "smoke",
        "--out",
        tmp_path / "d",
        "--episodes",
        10,
        "--control-seconds",
        4,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert set(report["success"]) >= {"before", "scratch", "finetuned", "student", "served"}
    assert set(report["latency_us"]) >= {"torch_teacher", "onnx_teacher", "onnx_student"}
    assert report["roundtrip_us"]["n"] == 20_000 and report["parity"]["max_abs_error"] <= 1e-5
    assert report["control"]["ticks"] == 400 and report["coverage"]["edp"] > 0
    page = (tmp_path / "d" / "report.html").read_text()
    assert (
        page.count("data:image/") >= 6 and "http" not in page.split("</style>")[1].split("<img")[0]
    )
    served = edp("evaluate", "--bundle", tmp_path / "d" / "bundle", "--episodes", 5)
    assert served.returncode == 0 and "arm-press: success" in served.stdout
