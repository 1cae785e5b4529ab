"""Commands that move a robot: signals, closed terminals, and where they write."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from edp_robot import cli

EDP = [sys.executable, "-m", "edp_robot.cli"]
TESTS = Path(__file__).parents[2]
ROBOT = "support.logging_robot:LoggingRobot"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file of the robot's events."""
    path = tmp_path / "robot.log"
    monkeypatch.setenv("ROBOT_LOG", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, sys.path)]))
    return path


def words(command, bundle_path):
    if command == "control":
        return ["control", "--bundle", str(bundle_path), "--robot", ROBOT, "--seconds", "1e9"]
    return ["calibrate", "latency", "--robot", ROBOT, "--seconds", "600"]


def in_a_terminal(args):
    """Starts a command as the leader of a terminal's session. Returns it and the terminal."""
    terminal, inside = pty.openpty()

    def own_the_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), inside)
    process = subprocess.Popen([*EDP, *args], preexec_fn=own_the_terminal, **streams)
    os.close(inside)
    return process, terminal


def n_due(report):
    """Returns the ticks of a run, those included that a busy machine skipped."""
    return report["ticks"] + report["skipped"]


def wait_until_it_moves(process, log):
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if log.exists() and log.read_text().count("send") > 5:
            return
        time.sleep(0.02)
    pytest.fail("the robot does not move")


@pytest.mark.parametrize("how", ["SIGHUP", "SIGTERM", "SIGQUIT", "close", "many"])
@pytest.mark.parametrize("command", ["control", "calibrate"])
def test_however_it_is_stopped_the_robot_is_disconnected(command, how, log, bundle_path, tmp_path):
    files = [tmp_path / "new" / "c.json", tmp_path / "new" / "c.npz"]
    args = words(command, bundle_path)
    if command == "control":
        args += ["--json", str(files[0]), "--record", str(files[1])]
    process, terminal = in_a_terminal(args)
    try:
        wait_until_it_moves(process, log)
        if how == "close":
            os.close(terminal)
        for number in {"close": (), "many": (signal.SIGINT, signal.SIGHUP, signal.SIGINT)}.get(
            how, [signal.Signals[how] if how.startswith("SIG") else None]
        ):
            process.send_signal(number)
        assert process.wait(120) == 130
    finally:
        process.kill()
        process.wait()
        if how != "close":
            os.close(terminal)
    events = log.read_text().split()
    assert events[-2:] == ["send", "disconnect"] and events.count("disconnect") == 1
    if command == "control":
        report = json.loads(files[0].read_text())
        assert report["interrupted"] and report["error"] is None
        with np.load(files[1]) as archive:
            assert len(archive["target"]) == report["ticks"] == events.count("send") - 1


def test_a_reader_that_went_away_loses_no_file(log, bundle_path, tmp_path):
    """As in `edp control ... | head -1`, with the reader gone before anything is printed."""
    result = tmp_path / "c.json"
    args = [*words("control", bundle_path)[:-1], "0.3", "--json", str(result)]
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [*EDP, *args], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writer)
    assert run.returncode == 0
    assert "Broken pipe" not in run.stderr and "Traceback" not in run.stderr
    assert json.loads(result.read_text())["error"] is None


def control(bundle_path, *options):
    given = ("--bundle", bundle_path, "--robot", ROBOT, *options)
    return cli.main(["control", *map(str, given)])


@pytest.mark.parametrize("option", ["--json", "--record"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("folder", "is a folder: give a file"),
        ("file/x.npz", "is a file, and must be a folder"),
        ("file/deeper/x.npz", "is a file, and must be a folder"),
        ("/proc/x.npz", "/proc cannot be written to"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_moves(
    option, place, why, log, bundle_path, tmp_path, capsys
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    assert control(bundle_path, option, tmp_path / place) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edp control: {option}: ") and why in line
    assert not log.exists() and sorted(tmp_path.rglob("*")) == before


def test_one_file_for_two_outputs_is_refused(log, bundle_path, tmp_path, capsys):
    place = tmp_path / "x"
    (tmp_path / "a").mkdir()
    other = tmp_path / "a" / ".." / "x"
    assert control(bundle_path, "--json", place, "--record", other) == 1
    assert "--json and --record both name" in capsys.readouterr().err
    assert not log.exists()


def test_a_disk_that_is_full_at_the_end_costs_one_file(log, bundle_path, tmp_path, capsys):
    """The report is printed and the other file is written."""
    record = tmp_path / "new" / "c.npz"
    options = ("--seconds", 0.05, "--json", "/dev/full", "--record", record)
    assert control(bundle_path, *options) == 1
    streams = capsys.readouterr()
    with np.load(record) as archive:
        n_ticks = len(archive["obs"])
    assert 1 <= n_ticks <= 5  # a busy machine skips some
    assert f"{n_ticks} ticks" in streams.out and "No space left on device" in streams.err
    assert log.read_text().split()[-1] == "disconnect"


def test_what_is_no_file_is_written_to_and_left(log, bundle_path, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = tmp_path / "target.json"
    target.write_text("old")
    (tmp_path / "link.json").symlink_to(target)
    options = ("--seconds", 0.02, "--record", os.devnull)
    assert control(bundle_path, *options, "--json", pipe) == 0
    assert n_due(json.loads(os.read(reader, 65536))) == 2
    os.close(reader)
    assert control(bundle_path, *options, "--json", tmp_path / "link.json") == 0
    assert n_due(json.loads(target.read_text())) == 2
    assert Path(os.devnull).is_char_device() and (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--hz", value) for value in (0, -1, "inf", "nan", 1e-9, 1e9)],
        *[("--seconds", value) for value in (0, -1, "inf", "nan", 1e-9, 1e300)],
        *[("--episode-s", value) for value in (0, -1, "inf", "nan", 1e-9)],
        ("--seed", -1),
        ("--start-tolerance", "nan"),
    ],
)
def test_a_number_out_of_its_range_is_one_line(option, value, log, bundle_path, capsys):
    assert control(bundle_path, option, value) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert option.strip("-").replace("-", "_") in line.replace("-", "_")
    assert "expected" in line or "shorter than the control period" in line
    assert not log.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--hz", value) for value in (0, -1, "inf", "nan", 1e-9, 1e9)],
        *[("--seconds", value) for value in (0, -1, "inf", "nan", 1e9)],
        ("--seed", -1),
    ],
)
def test_calibrate_refuses_the_same_numbers_before_it_moves(option, value, log, capsys):
    assert cli.main(["calibrate", "latency", "--robot", ROBOT, option, str(value)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected" in line and not log.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "latency", "BUNDLE", "--n", "0"),
        ("bench", "load", "--bundle", "BUNDLE", "--processes", "0"),
        ("evaluate", "--bundle", "BUNDLE", "--task", "modes", "--seed", "-1"),
    ],
)
def test_counts_and_seeds_below_their_least_are_refused(words, bundle_path, capsys):
    assert cli.main([str(bundle_path) if word == "BUNDLE" else word for word in words]) == 1
    assert "expected" in capsys.readouterr().err


def test_a_calibration_of_another_robot_is_refused_before_it_moves(log, tmp_path, capsys):
    from calibration import file

    out = tmp_path / "calibration.json"
    file.save(out, "another", {})
    assert cli.main(["calibrate", "latency", "--robot", ROBOT, "--out", str(out)]) == 1
    assert "belongs to robot 'another'" in capsys.readouterr().err
    assert not log.exists()
