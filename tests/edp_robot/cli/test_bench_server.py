"""`edp bench load` from end to end."""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.load_fakes import FakeServer

from edp_robot.cli import bench_server as bench_commands
from edp_robot.cli.bench_server import bench_compare, bench_load, parse_clients
from policy_server.bench.host import commit, host
from policy_server.bench.load import figure as load_figure
from policy_server.bench.load import generator as load_generator
from policy_server.bench.load import plan as load
from policy_server.contract.bundle import Bundle

LOAD = "import sys; from edp_robot.cli.bench_server import bench_load as b; sys.exit(b(*sys.argv[1:2], seconds=600, "
LOAD += "clients='4', warmup_s=0, json=__import__('pathlib').Path(sys.argv[2])))"


def nearest_rank(samples, p):
    return np.sort(samples)[math.ceil(p * len(samples)) - 1]


def test_the_numbers_are_those_of_the_raw_samples(served, tmp_path, capsys):
    files = {"json": tmp_path / "a" / "load.json", "samples": tmp_path / "b" / "load.npz"}
    assert bench_load(served.endpoint, clients="3", rate=100, n=600, deadline_s=0.5, **files) == 0
    said = json.loads(files["json"].read_text())
    with np.load(files["samples"], allow_pickle=False) as file:
        raw = dict(file)
    assert {"scheduled_ns", "sent_ns", "received_ns", "client", "status", "n_clients"} <= raw.keys()
    latencies_us = np.where(
        raw["status"] == 0, (raw["received_ns"] - raw["scheduled_ns"]) / 1000, np.inf
    )
    for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert said["roundtrip_us"][name] == nearest_rank(latencies_us, p)
    assert said["n"] == said["roundtrip_us"]["n"] == len(latencies_us) == 600 and set(
        raw["n_clients"]
    ) == {3}
    assert said["deadline"]["n_missed"] == (latencies_us > 500_000).sum()
    assert said["counts"]["OK"] == (raw["status"] == 0).sum()
    assert said["policy"] == "tiny" and said["rate_hz"] == 100 and not said["interrupted"]
    assert said["n_duplicate"] == said["n_stray"] == 0
    assert "fixed rate, 100 Hz each" in capsys.readouterr().out


def test_a_sweep_is_one_table_and_can_be_compared(served, tmp_path, capsys):
    file, picture = tmp_path / "sweep.json", tmp_path / "sweep.png"
    pytest.importorskip("matplotlib")
    assert (
        bench_load(
            served.endpoint, clients="1,2,5", n=200, warmup_s=0.05, json=file, figure=picture
        )
        == 0
    )
    rows = capsys.readouterr().out.splitlines()[2:5]
    assert [row.split()[:2] for row in rows] == [["1", "200"], ["2", "200"], ["5", "200"]]
    said = json.loads(file.read_text())
    assert (
        list(said["sweep"]) == ["clients_1", "clients_2", "clients_5"]
        and said["host"]["n_cores"] >= 1
    )
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert bench_compare(file, file) == 0
    assert "same within the interval" in capsys.readouterr().out


def test_a_server_on_ipc(start_server, bundle_path, tmp_path, capsys):
    server = start_server(bundle_path, f"ipc://{tmp_path}/s")
    assert bench_load(server.endpoint, clients="2", n=100, warmup_s=0.0) == 0
    assert "ipc://" in capsys.readouterr().out


def test_a_bundle_in_process_needs_no_server(bundle_path, tmp_path, capsys):
    file = tmp_path / "local.json"
    assert bench_load(bundle=str(bundle_path), provider="cpu", n=300, warmup_s=0.1, json=file) == 0
    said = json.loads(file.read_text())
    assert (
        said["roundtrip_us"]["n"] == 300
        and said["bundle"] == str(bundle_path)
        and "network_us" not in said
    )
    assert said["inference_us"]["p50"] <= said["roundtrip_us"]["p50"]
    assert "in process" in capsys.readouterr().out


def test_ctrl_c_reports_what_there_is(bundle_path, tmp_path):
    file = tmp_path / "some.json"
    with FakeServer(manifest=Bundle.load(bundle_path).manifest.to_dict()) as server:
        command = [sys.executable, "-c", LOAD, server.endpoint, str(file)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 30
        while len(server.headers) < 200 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and not err, err
    said = json.loads(file.read_text())
    assert said["interrupted"] and 200 <= said["n"] <= len(server.headers)
    assert said["counts"] == {"OK": said["n"], "LOST": 0}
    assert "stopped by Ctrl-C" in out


def test_an_interruption_in_the_warmup_is_no_crash(bundle_path, tmp_path, capsys, monkeypatch):
    """A measurement without samples: there is nothing to summarise or draw, and the rest is still written."""

    def nothing(plan, n_processes):
        columns = {name: np.zeros(0, np.int64) for name in load_generator.COLUMNS}
        return load.LoadSamples(plan, columns, 0, 0, np.array([0.0]), True)

    monkeypatch.setattr(bench_commands, "run", nothing)
    files = {"json": tmp_path / "a.json", "samples": tmp_path / "a.npz"}
    assert bench_load(bundle=str(bundle_path), deadline_s=1.0, **files) == 130
    assert (
        json.loads(files["json"].read_text())["roundtrip_us"] == {"n": 0}
        and files["samples"].exists()
    )
    files["json"].unlink()
    pytest.importorskip("matplotlib")
    assert bench_load(bundle=str(bundle_path), figure=tmp_path / "a.png", **files) == 1
    assert "no request was answered" in capsys.readouterr().err and files["json"].exists()


def test_a_figure_without_matplotlib_is_refused_before_measuring(bundle_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench_load(bundle=str(bundle_path), figure="x.png") == 1
    streams = capsys.readouterr()
    assert "pip install matplotlib" in streams.err and streams.out == ""


def test_the_tail_ends_at_one_over_n():
    latencies, share = load_figure.tail_curve(np.array([3.0, 1.0, np.inf, 2.0]))
    assert latencies.tolist() == [1, 2, 3] and share.tolist() == [1, 0.75, 0.5]


def test_wrong_options_are_said_in_one_line(bundle_path, capsys):
    for text in ("", "1,x", "2,2", "-1", "1.5"):
        with pytest.raises(ValueError, match="--clients"):
            parse_clients(text)
    assert parse_clients("1, 16,64") == [1, 16, 64]
    assert bench_load(bundle=str(bundle_path), clients="65") == 1
    assert bench_load(bundle=str(bundle_path), rate=-1.0) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 2
        and "65 clients: expected 1 to 64" in lines[0]
        and "rate_hz -1.0" in lines[1]
    )


def test_the_host_is_known_by_what_matters():
    here = host()
    names = {
        "cpu",
        "n_cores",
        "governor",
        "virtual_machine",
        "kernel",
        "load_average",
        "commit",
        "python",
        "numpy",
    }
    assert names <= here.keys() and json.dumps(here, allow_nan=False)


def test_a_commit_is_that_of_a_file_under_version_control(tmp_path):
    def git(*args):
        me = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *me, *args], check=True, capture_output=True)

    file, other = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("1")
    other.write_text("2")
    assert commit(file) is None
    git("init")
    git("add", "a.py")
    git("commit", "-m", "x")
    head = commit(file)
    assert head is not None and len(head) == 40 and commit(other) is None
    file.write_text("3")
    assert commit(file) == f"{head}+changes"
