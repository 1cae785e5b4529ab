"""`edp bench latency | load | compare`, from end to end."""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.load_fakes import FakeServer

from edp_robot import cli
from edp_robot.cli.bench import parse_clients
from policy_server.bench.load import generator, plan
from policy_server.contract.bundle import Bundle
from policy_server.control.client import PolicyClient

EDP = [sys.executable, "-m", "edp_robot.cli"]


def bench(*words):
    return cli.main(["bench", *map(str, words)])


def nearest_rank(samples, p):
    return np.sort(samples)[math.ceil(p * len(samples)) - 1]


def test_latency_in_this_process(bundle_path, tmp_path, capsys):
    file = tmp_path / "deep" / "latency.json"
    assert bench("latency", bundle_path, "--provider", "cpu", "--n", 400, "--json", file) == 0
    result = json.loads(file.read_text())
    row = result["inference_us"]
    assert row["n"] == 400
    assert 0 < row["p50"] <= row["p99"] <= row["p999"] <= row["max"]
    assert row["p99_ci"][0] <= row["p99"] <= row["p99_ci"][1]
    assert result["host"]["n_cores"] >= 1
    assert result["provider"] == "cpu"
    assert list(result) == sorted(result)
    assert "p99" in capsys.readouterr().out


def test_the_sampler_times_the_graphs_of_bundles(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("edp_robot.deploy.export.to_onnx", lambda *_: pytest.fail("exported anew"))
    file = tmp_path / "sampler.json"
    bundles = ["--teacher-bundle", bundle, "--student-bundle", bundle]
    assert bench("sampler", *bundles, "--n", 20, "--json", file) == 0
    timed = json.loads(file.read_text())["latency_us"]
    assert timed["onnx_teacher"]["n"] == timed["onnx_student"]["n"] == 20
    assert timed["onnx_teacher"]["p50"] < timed["torch_teacher"]["p50"]


def test_the_sampler_refuses_a_bundle_of_another_task(bundle_path, capsys):
    assert bench("sampler", "--student-bundle", bundle_path, "--teacher-bundle", bundle_path) == 1
    assert "the runs are of 'arm-press'" in capsys.readouterr().err


def test_an_unknown_backend_lists_those_that_exist(bundle_path, capsys):
    assert bench("latency", bundle_path, "--backend", "onxruntime") == 1
    assert "Did you mean 'onnxruntime'?" in capsys.readouterr().err


def test_load_of_a_server(served, tmp_path):
    file = tmp_path / "load.json"
    assert bench("load", "--server", served.endpoint, "--n", 300, "--json", file) == 0
    result = json.loads(file.read_text())
    trip_us = result["roundtrip_us"]
    assert trip_us["n"] == 300
    assert trip_us["p50"] > result["server_us"]["p50"] >= result["inference_us"]["p50"]
    with PolicyClient(served.endpoint, 10) as client:
        assert client.stats()["inference_us"]["n"] >= 300


def test_the_numbers_are_those_of_the_raw_samples(served, tmp_path, capsys):
    file = tmp_path / "a" / "load.json"
    samples = tmp_path / "b" / "load.npz"
    options = ["--clients", 3, "--rate", 100, "--n", 600, "--deadline-s", 0.5]
    files = ["--json", file, "--samples", samples]
    assert bench("load", "--server", served.endpoint, *options, *files) == 0
    said = json.loads(file.read_text())
    with np.load(samples, allow_pickle=False) as archive:
        raw = dict(archive)
    assert {"scheduled_ns", "sent_ns", "received_ns", "client", "status", "n_clients"} <= raw.keys()
    elapsed_us = (raw["received_ns"] - raw["scheduled_ns"]) / 1000
    latencies_us = np.where(raw["status"] == 0, elapsed_us, np.inf)
    for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        expected = nearest_rank(latencies_us, p)
        assert said["roundtrip_us"][name] == (expected if np.isfinite(expected) else None)
    assert said["n"] == said["roundtrip_us"]["n"] == len(latencies_us) == 600
    assert set(raw["n_clients"]) == {3}
    assert said["deadline"]["n_missed"] == (latencies_us > 500_000).sum()
    assert said["counts"]["OK"] == (raw["status"] == 0).sum()
    assert said["policy"] == "tiny"
    assert said["rate_hz"] == 100
    assert not said["interrupted"]
    assert said["n_duplicate"] == said["n_stray"] == 0
    assert "fixed rate, 100 Hz each" in capsys.readouterr().out


def test_a_sweep_is_one_table_and_can_be_compared(served, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "sweep.json"
    picture = tmp_path / "sweep.png"
    options = ["--clients", "1,2,5", "--n", 200, "--warmup-s", 0.05]
    files = ["--json", file, "--figure", picture]
    assert bench("load", "--server", served.endpoint, *options, *files) == 0
    rows = capsys.readouterr().out.splitlines()[2:5]
    assert [row.split()[:2] for row in rows] == [["1", "200"], ["2", "200"], ["5", "200"]]
    said = json.loads(file.read_text())
    assert list(said["sweep"]) == ["clients_1", "clients_2", "clients_5"]
    assert said["host"]["n_cores"] >= 1
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert bench("--compare", file, file) == 0
    assert "same within the interval" in capsys.readouterr().out


def test_a_server_on_ipc(start_server, bundle_path, tmp_path, capsys):
    server = start_server(bundle_path, f"ipc://{tmp_path}/s")
    options = ["--clients", 2, "--n", 100, "--warmup-s", 0]
    assert bench("load", "--server", server.endpoint, *options) == 0
    assert "ipc://" in capsys.readouterr().out


def test_a_bundle_in_process_needs_no_server(bundle_path, tmp_path, capsys):
    file = tmp_path / "local.json"
    options = ["--provider", "cpu", "--n", 300, "--warmup-s", 0.1, "--json", file]
    assert bench("load", "--bundle", bundle_path, *options) == 0
    said = json.loads(file.read_text())
    assert said["roundtrip_us"]["n"] == 300
    assert said["bundle"] == str(bundle_path)
    assert "network_us" not in said
    assert said["inference_us"]["p50"] <= said["roundtrip_us"]["p50"]
    assert "in process" in capsys.readouterr().out


def test_ctrl_c_reports_what_was_measured(bundle_path, tmp_path):
    file = tmp_path / "some.json"
    options = ["--seconds", "600", "--clients", "4", "--warmup-s", "0", "--json", str(file)]
    with FakeServer(manifest=Bundle.load(bundle_path).manifest.to_dict()) as server:
        command = [*EDP, "bench", "load", "--server", server.endpoint, *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 30
        while len(server.headers) < 200 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    said = json.loads(file.read_text())
    assert said["interrupted"]
    assert 200 <= said["n"] <= len(server.headers)
    assert said["counts"] == {"OK": said["n"], "LOST": 0}
    assert "stopped by Ctrl-C" in out


def test_an_interruption_in_the_warmup_is_no_crash(bundle_path, tmp_path, capsys, monkeypatch):
    """Without samples there is nothing to summarise or draw. The other files are still written."""

    def nothing(asked, n_processes):
        columns = {name: np.zeros(0, np.int64) for name in generator.COLUMNS}
        return plan.LoadSamples(asked, columns, 0, 0, np.array([0.0]), True)

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plan, "run", nothing)
    file = tmp_path / "a.json"
    samples = tmp_path / "a.npz"
    words = ["load", "--bundle", bundle_path, "--json", file, "--samples", samples]
    assert bench(*words, "--deadline-s", 1) == 130
    assert json.loads(file.read_text())["roundtrip_us"] == {"n": 0}
    assert samples.exists()
    file.unlink()
    assert bench(*words, "--figure", tmp_path / "a.png") == 1
    assert "no request was answered" in capsys.readouterr().err
    assert file.exists()


def test_a_figure_without_matplotlib_is_refused_before_measuring(bundle_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench("load", "--bundle", bundle_path, "--figure", "x.png") == 1
    streams = capsys.readouterr()
    assert "pip install matplotlib" in streams.err
    assert streams.out == ""


def test_wrong_numbers_of_clients_are_refused():
    for text in ("", "1,x", "2,2", "-1", "1.5"):
        with pytest.raises(ValueError, match="--clients"):
            parse_clients(text)
    assert parse_clients("1, 16,64") == [1, 16, 64]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "--bundle", "BUNDLE", "--clients", "65"), "65 clients: expected 1 to 64"),
        (("load", "--bundle", "BUNDLE", "--rate", "-1"), "rate_hz -1.0"),
        (("load", "--server", "tcp://127.0.0.1:9", "--n", "1"), "is the server running there"),
        (("latency", "FOLDER"), "no manifest.json"),
        (("compare", "FOLDER/a", "FOLDER/b"), "No such file"),
    ],
)
def test_a_failure_is_one_line(bundle_path, tmp_path, capsys, words, said):
    places = {"BUNDLE": str(bundle_path), "FOLDER": str(tmp_path)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert bench(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edp bench {words[0]}: ")
    assert said in line


def test_compare_shows_ratios(tmp_path, capsys):
    for name, p50 in (("a", 100.0), ("b", 150.0)):
        result = {"x_us": {"p50": p50, "ci": [1, 2]}, name: 1, "flag": True}
        (tmp_path / name).write_text(json.dumps(result))
    assert bench("compare", tmp_path / "a", tmp_path / "b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["x_us.p50", "100", "150", "1.500"]
    assert len(lines) == 2
