import json
import os

import numpy as np
import pytest

pytest.importorskip("grpc", reason="needs the extra `bench`: pip install -e '.[bench]'")
pytest.importorskip("msgpack", reason="needs the extra `bench`: pip install -e '.[bench]'")
pytest.importorskip("websockets", reason="needs the extra `bench`: pip install -e '.[bench]'")

import peers
from peer_patterns import PATTERNS, SEED, processes, report, student

from policy_server.runtime.base import load_backend


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    bundle = student.student(folder / "bundle")
    backend = load_backend(bundle, "cpu")
    obs = backend.golden["obs"][:5]
    np.save(folder / processes.OBS_FILE, obs)
    noise = np.random.Generator(np.random.PCG64(SEED))
    shape = (1, student.LATENT_DIM)
    expected = [
        backend.act(row[None], noise.standard_normal(shape, dtype=np.float32))[0] for row in obs
    ]
    return folder, bundle.path, np.array(expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_answers_with_the_backends_numbers(setup, pattern):
    folder, bundle, expected = setup
    if pattern == "openpi" and not processes.openpi_built():
        pytest.skip("openpi's environment is not built; benchmarks/peers.py builds it")
    with (
        processes.server(pattern, bundle, folder) as endpoint,
        processes.clients(pattern, endpoint, folder) as (worker,),
    ):
        actions = np.array(worker.ask(op="actions"), np.float32)
        times_ns = worker.ask(op="timed", n=3, warmup=1)
    np.testing.assert_array_equal(actions, expected)
    assert len(times_ns) == 3 and min(times_ns) > 0


def test_a_run_writes_what_it_measured(tmp_path):
    names = ["edp-tcp", "gr00t"]
    options = "--rounds 2 --n 20 --rounds-many 1 --seconds 0.3 --processes 2 --threads 2"
    where = ["--place", "apart", "--only", *names, "--out", str(tmp_path)]
    assert peers.main([*options.split(), *where]) == 0
    result = json.loads((tmp_path / "peers.json").read_text())
    samples = np.load(tmp_path / "samples.npz", allow_pickle=False)
    place = "apart" if len(os.sched_getaffinity(0)) > 1 else "free"
    one = {f"one/{name}/{i}" for name in names for i in (0, 1)}
    assert set(samples) == one | {f"{place}/{name}/0" for name in names}
    for name in names:
        rounds = [samples[f"one/{name}/{i}"] for i in (0, 1)]
        assert [len(row) for row in rounds] == [20, 20]
        p50 = np.sort(np.concatenate(rounds))[19]  # nearest rank of 40
        assert result["one_client"][name]["p50"] == pytest.approx(p50, abs=0.11)
        many = result["many_clients"][place][name]
        assert many["requests_hz"] == pytest.approx(len(samples[f"{place}/{name}/0"]) / 0.3)
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text()
    assert all(report.TITLES[name] in table for name in names)
    assert report.TITLES["lerobot"] not in table


def test_counts_below_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        peers.main(["--rounds", "0"])
    assert "got rounds 0; expected 1 or more" in capsys.readouterr().err


def test_ratios_are_judged_against_the_best_peer():
    def one(p50, p999):
        with_tail = np.array([p50] * 8 + [p999])
        return report.percentiles([np.full(9, p50), with_tail, with_tail])

    def many(n, time_us):
        rounds_us = [np.full(k * n, time_us) for k in (1, 3, 2)]
        return report.rates(rounds_us, seconds=2.0)

    row = one(100.0, 300.0)
    assert (row["p50"], row["p99"], row["n"]) == (100, 300, 27)
    assert row["rounds"]["p999"] == [100, 300, 300]
    assert many(10, 5.0)["requests_hz"] == 10  # 20 answers in 2 s, the median round
    ones = {"edp-tcp": one(100.0, 300.0), "openpi": one(200.0, 400.0), "lerobot": one(250.0, 900.0)}
    manys = {"edp-tcp": many(60, 9.0), "openpi": many(20, 8.0), "lerobot": many(10, 30.0)}
    rows = report.ratios(ones, {"free": manys})
    assert {row["what"]: (row["value"], row["met"]) for row in rows} == {
        "p50, of openpi's": (0.5, True),
        "p50, of lerobot's": (0.4, False),
        "p99.9, of the best peer's": (0.75, False),
        "req/s, free, of the best peer's": (3.0, True),
        "p99, free, of the best peer's": (9 / 8, False),
    }
    assert {row["ours"] for row in rows} == {"edp-tcp"}


def test_ratios_are_those_of_each_round():
    """The rounds' ratios are .25, .3 and 2/3; pooled rounds would give 200 / 400."""

    def one(*times_us):
        return report.percentiles([np.full(3, time_us) for time_us in times_us])

    rows = {"edp-ipc": one(100.0, 300.0, 200.0), "openpi": one(400.0, 1000.0, 300.0)}
    of_each_round, of_all_p999 = report.ratios(rows, {})
    assert of_each_round["value"] == pytest.approx(0.3)
    assert of_all_p999["value"] == pytest.approx(0.3)


def test_a_server_that_does_not_start_says_why(tmp_path):
    message = r"gr00t's server did not answer; its log ends:\n(.|\n)*no-bundle"
    with (
        pytest.raises(RuntimeError, match=message),
        processes.server("gr00t", tmp_path / "no-bundle", tmp_path),
    ):
        pass
