import json
import subprocess
import sys

import pytest

from edp_robot import cli
from edp_robot.cli import arguments, machine

EDP = [sys.executable, "-m", "edp_robot.cli"]


def edp(*args, timeout=120):
    return subprocess.run([*EDP, *map(str, args)], capture_output=True, text=True, timeout=timeout)


def fails(capsys, *args):
    """Returns what a command that fails says: one line that starts with its name."""
    assert cli.main([str(arg) for arg in args]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edp {args[0]}")
    return line


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
    commands = "bench sampler, bench latency, bench load, bench compare"
    assert f"there are: {commands}" in capsys.readouterr().err


def test_an_unknown_task_lists_those_that_exist(tmp_path, capsys):
    said = fails(capsys, "pretrain", "--task", "arm-pres", "--out", tmp_path / "x")
    assert "Did you mean 'arm-press'?" in said
    assert "maze-square-large" in said
    assert not (tmp_path / "x").exists()


def test_an_unknown_method_lists_those_that_exist(tmp_path, capsys):
    said = fails(capsys, "pretrain", "--method", "edpp", "--out", tmp_path / "x")
    assert "edp, particle, random, rnd" in said
    said = fails(capsys, "finetune", "--method", "edpp", "--out", tmp_path / "x")
    assert "ddpg, dipo, dql, edp, edp-guidance" in said
    assert not (tmp_path / "x").exists()


def test_an_unknown_preset_lists_those_that_exist(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "--out", str(tmp_path / "x"), "--preset", "big"])
    assert ended.value.code == 2
    streams = capsys.readouterr()
    assert "smoke" in streams.err + streams.out


def test_presets_are_those_of_the_configuration():
    from edp_robot.config import presets

    assert arguments.Preset.__args__ == presets.NAMES


def test_an_unknown_robot_lists_the_kinds(capsys):
    said = fails(capsys, "calibrate", "latency", "--robot", "lego:arm")
    assert "There are: sim" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_library_of_mine", "No module named 'a_library_of_mine' (imported in"),
        ("from json import nothing", "cannot import name 'nothing' from 'json'"),
        ("class Mine(:", "my_part.py, line 1: invalid syntax"),
        ("Other = 1", "my_part.py has no 'Mine'; it has: Other"),
    ],
)
def test_a_part_that_does_not_load_is_one_clear_line(tmp_path, capsys, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_part", raising=False)
    (tmp_path / "my_part.py").write_text(source)
    line = fails(capsys, "pretrain", "--method", "my_part:Mine", "--out", tmp_path / "x")
    assert said in line
    assert "pip install" not in line
    sys.modules.pop("my_part", None)


def test_a_part_of_ours_that_is_not_installed_names_its_extra():
    def problem(name):
        return machine.import_problem(ModuleNotFoundError(f"No module named {name!r}", name=name))

    assert "pip install 'edp-robot[train]'" in problem("torch.nn")
    assert "pip install 'edp-robot[sim]'" in problem("gymnasium_robotics")
    assert "pip install 'edp-robot[serve]'" in problem("onnxruntime")


def test_a_run_is_not_overwritten(tmp_path, capsys):
    sizes = ["--method", "random", "--env-steps", "640", "--preset", "smoke"]
    options = ["pretrain", *sizes, "--out", str(tmp_path / "r")]
    result = tmp_path / "result.json"
    assert cli.main([*options, "--json", str(result)]) == 0
    assert json.loads(result.read_text())["env_steps"] == 640
    assert "holds a run already; add --resume" in fails(capsys, *options)
    assert cli.main([*options, "--resume"]) == 0


def test_control_without_a_server_says_so_and_fails():
    where = ["--server", "tcp://127.0.0.1:9", "--robot", "sim:arm-press"]
    ended = edp("control", *where, "--seconds", "1")
    assert ended.returncode == 1
    assert "tcp://127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_control_wants_exactly_one_policy(capsys):
    assert "exactly one of --server ENDPOINT and --bundle FOLDER" in fails(capsys, "control")


def test_a_folder_without_a_bundle_is_not_served(tmp_path):
    ended = edp("serve", tmp_path)
    assert ended.returncode == 1
    assert "manifest.json" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_tasks_and_doctor_run(capsys):
    assert cli.main(["tasks"]) == 0
    said = capsys.readouterr().out
    assert "arm-press" in said
    assert "gym:<id>" in said
    assert cli.main(["doctor"]) == 0
    assert "robot (client, control loop)" in capsys.readouterr().out


def test_tasks_that_lack_a_package_are_listed_with_what_to_install(capsys, monkeypatch):
    def lacking(name):
        raise ModuleNotFoundError("no model", name="dm_control")

    monkeypatch.setattr("sim.core.registry.task_spec", lacking)
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [walker] = [line for line in lines if line.split()[0] == "walker"]
    assert walker.endswith("which is not installed: pip install 'edp-robot[urlb]'")


@pytest.mark.slow
def test_the_whole_road_with_the_smoke_preset(tmp_path):
    """Runs every stage with real processes. It learns nothing, and writes everything."""
    out = tmp_path / "d"
    sizes = ["--preset", "smoke", "--episodes", 10, "--control-seconds", 4]
    ended = edp("demo", "--out", out, *sizes, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert set(report["success"]) >= {"before", "scratch", "finetuned", "student", "served"}
    assert set(report["latency_us"]) >= {"torch_teacher", "onnx_teacher", "onnx_student"}
    assert report["roundtrip_us"]["n"] == 10_000
    assert report["parity"]["max_abs_error"] <= 1e-5
    control = json.loads((out / "control.json").read_text())
    assert control["ticks"] + control["skipped"] == 400  # a busy machine skips some
    assert report["control"]["ticks"] == control["ticks"]
    assert report["coverage"]["edp"] > 0
    page = (out / "report.html").read_text()
    assert page.count("data:image/") >= 6
    assert "http" not in page.split("</style>")[1].split("<img")[0]
    served = edp("evaluate", "--bundle", out / "bundle", "--episodes", 5)
    assert served.returncode == 0
    assert "arm-press: success" in served.stdout
