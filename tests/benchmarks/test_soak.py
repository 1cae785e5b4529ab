import json
import random

import numpy as np
import pytest
import soak
from peer_patterns.student import student
from soaking import asking, hostile, ledger, requests
from soaking.attacker import Attacker
from soaking.good import Segment, pooled
from soaking.ledger import Ledger
from soaking.mutations import bad_stream, mutated, valid_frames
from soaking.reloads import Checker
from soaking.serving import twin

from policy_server.contract import wire
from policy_server.contract.noise import NoiseStream
from policy_server.contract.wire import Header, Kind, Status
from policy_server.runtime.base import load_backend
from policy_server.transport import zmtp

FAULTS = ("n_lost", "n_twice", "n_stray", "n_unsent")


def account(*sequences, n=4, kind=Kind.ACT_REPLY, status=Status.OK):
    """Returns the ledger of `n` requests with answers to `sequences`."""
    book = Ledger()
    for _ in range(n):
        book.ask()
    for sequence in sequences:
        book.answer(Header(kind, status, sequence))
    return book


def test_each_once_is_clean():
    verdict = ledger.total([account(1, 2, 3, 4), account(2, 1, 4, 3)])
    assert (verdict["n_sent"], verdict["n_once"], verdict["answers"]) == (8, 8, {"ACT_REPLY": 8})
    assert not any(verdict[name] for name in FAULTS)
    assert ledger.clean(verdict)


@pytest.mark.parametrize(
    ("sequences", "fault"),
    [
        ((1, 2, 4), "n_lost"),
        ((1, 2, 2, 3, 4), "n_twice"),
        ((1, 2, 3, 4, 9), "n_stray"),
        ((0, 1, 2, 3, 4), "n_stray"),
    ],
)
def test_a_lost_a_doubled_and_a_stray_answer_are_seen(sequences, fault):
    verdict = ledger.total([account(1, 2, 3, 4), account(*sequences)])
    assert [name for name in FAULTS if verdict[name]] == [fault]
    assert verdict[fault] == 1 and not ledger.clean(verdict)


def test_one_lost_and_one_doubled_do_not_cancel_out():
    verdict = account(1, 2, 2, 4).verdict()
    assert (verdict["n_once"], verdict["n_lost"], verdict["n_twice"]) == (2, 1, 1)


def test_answered_many_times_is_doubled_once():
    assert account(*[1] * 600, 2, 3, 4).verdict()["n_twice"] == 1


def test_errors_are_answers_but_not_clean():
    verdict = ledger.total([account(1, 2, 3, 4, kind=Kind.ERROR, status=Status.LATE)])
    assert verdict["answers"] == {"LATE": 4}
    assert verdict["n_once"] == 4
    assert not ledger.clean(verdict)


def test_a_request_that_was_not_sent_is_not_lost():
    book = account(1, 2, 3)
    book.unsent(4)
    verdict = book.verdict()
    assert (verdict["n_sent"], verdict["n_once"]) == (3, 3)
    assert [name for name in FAULTS if verdict[name]] == ["n_unsent"]


def test_no_request_is_not_clean():
    assert not ledger.clean(ledger.total([]))


class FakeLink:
    """Answers each request with what `reply(sequence) -> sequences` says."""

    def __init__(self, reply):
        self.reply = reply
        self.answers = []

    def send(self, frame, deadline_ns):
        header, _ = wire.decode(frame)
        self.answers += [
            wire.encode(Header(Kind.ACT_REPLY, 0, k), b"") for k in self.reply(header.sequence)
        ]
        return True

    def receive(self, deadline_ns):
        return self.answers.pop(0) if self.answers else None

    def close(self):
        pass


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (lambda k: [k], (20, 0, 0)),
        (lambda k: [] if k == 3 else [k], (18, 2, 0)),
        (lambda k: [k, k] if k == 10 else [k], (18, 0, 2)),  # each client's last request
        (lambda k: [k - 1, k] if k > 1 else [1], (2, 0, 18)),
    ],
)
def test_a_closed_loop_accounts_for_every_request(monkeypatch, reply, counts):
    monkeypatch.setattr(asking, "connect", lambda endpoint: FakeLink(reply))
    askers = [asking.Asker("ipc://nowhere", np.zeros((2, 3), np.float32)) for _ in range(2)]
    asking.closed_loop(askers, lambda n: n < 20, settle_s=0)
    verdict = ledger.total([asker.ledger for asker in askers])
    assert (verdict["n_once"], verdict["n_lost"], verdict["n_twice"]) == counts
    assert verdict["n_sent"] == 20


def test_clients_of_a_dead_server_give_up(monkeypatch):
    monkeypatch.setattr(asking, "connect", lambda endpoint: FakeLink(lambda k: []))
    asker = asking.Asker("ipc://nowhere", np.zeros((2, 3), np.float32))
    asking.closed_loop([asker], lambda n: True, settle_s=0)
    assert asker.ledger.verdict()["n_lost"] == asking.MAX_LOST


def test_growth_is_from_a_tenth_to_the_end():
    n_sent = [0, 90, 100, 900, 1000]
    rss_mib = [50.0, 60.0, 61.0, 70.0, 64.5]
    n_files = [9, 9, 9, 9, 11]
    memory = requests.growth(np.array([n_sent, range(5), rss_mib, n_files]).T)
    assert (memory["rss_10_mib"], memory["growth_mib"], memory["rss_max_mib"]) == (61.0, 3.5, 70.0)
    assert (memory["n_files_10"], memory["n_files_end"]) == (9, 11)


def test_mutated_frames_are_of_every_fault_and_reproducible():
    frames = valid_frames(3)
    seen = set()
    for frame in frames:
        wire.decode(frame)
    for k in range(3000):
        data = mutated(random.Random(k), frames)
        assert data == mutated(random.Random(k), frames)
        try:
            header, _ = wire.decode(data)
            seen.add(Kind(header.kind))
        except wire.WireError as error:
            seen.add(error.status)
    assert seen >= {Kind.ACT, Kind.CONTROL, *(Status(k) for k in (1, 2, 3, 6))}


def test_bad_streams_break_every_step():
    rng = random.Random(1)
    frames = valid_frames(3)
    seen = set()
    for data in (bad_stream(rng, frames) for _ in range(500)):
        try:
            zmtp.check_greeting(data[:64])
            decoded = zmtp.Decoder(wire.MAX_FRAME_BYTES).feed(data[64:])
            seen.add("frames" if decoded else "half")
            zmtp.parse_ready(decoded[0].body)
            seen.add("ready")
        except zmtp.ZmtpError as error:
            seen.add(str(error).split()[0])
        except IndexError:
            pass
    assert seen >= {"frames", "half", "ready", "first", "frame", "command"}


def test_the_judgement_of_an_attack():
    def result(**changes):
        seen = {"alone": {"p99": 100.0, "n_wrong": 0}, "attacked": {"p99": 200.0, "n_wrong": 0}}
        seen["neighbour"] = {"p99": 160.0}
        well = {"alive": True, "exact": True, "n_tracebacks": 0, "peer": {"leaks": []}}
        return {**seen, **well, **changes}

    good = hostile.judged(result())
    assert (good["met"], good["p99_ratio"], good["p99_ratio_neighbour"]) == (True, 2, 1.25)
    for fault in (
        {"alive": False},
        {"exact": False},
        {"n_tracebacks": 1},
        {"peer": {"leaks": ["Traceback"]}},
        {"attacked": {"p99": 201.0, "n_wrong": 0}},
        {"attacked": {"p99": None, "n_wrong": 0}},
        {"attacked": {"p99": 150.0, "n_wrong": 1}},
    ):
        assert not hostile.judged(result(**fault))["met"]


def test_misses_count_as_the_slowest():
    found = pooled([Segment(np.array([1.0, 2.0, np.inf]), 1, 0), Segment(np.array([3.0]), 0, 2)])
    assert (found["n"], found["n_missed"], found["n_errors"], found["n_wrong"]) == (4, 1, 1, 2)
    assert found["p50"] == 2.0 and found["p99"] is None


def test_answers_are_compared_with_the_policy_that_they_name(tmp_path):
    bundle = student(tmp_path / "a")
    bundles = [bundle, twin(bundle, tmp_path / "b")]
    rows = bundle.golden()["obs"]
    checker = Checker(bundles, rows, 1)
    noise = NoiseStream(0, 0)
    backends = [load_backend(each, "cpu") for each in bundles]
    for sequence in range(1, 7):
        drawn = noise.draw(np.zeros((1, bundle.manifest.latent_dim), np.float32))
        actions = [backend.act(rows[None, sequence], drawn)[0] for backend in backends]
        policy = bytes.fromhex(bundles[sequence % 2].hash)[:8]
        if sequence == 5:
            policy = bytes.fromhex(bundles[0].hash)[:8]  # the other policy
        if sequence == 6:
            policy = bytes(8)  # neither
        header = Header(Kind.ACT_REPLY, 0, sequence, policy=policy)
        checker.heard(0, header, wire.float_bytes(actions[sequence % 2]))
    assert checker.n_wrong() == 2


def test_a_soak_of_requests(tmp_path, capsys):
    assert soak.main(["requests", "--n", "400", "--clients", "3", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "requests.json").read_text())
    assert (result["n_sent"], result["n_once"], result["answers"]) == (400, 400, {"ACT_REPLY": 400})
    assert 20 < result["rss_10_mib"] < 1000 and result["alive"] and result["latency_us"]["n"] == 400
    arrays = np.load(tmp_path / "requests.npz", allow_pickle=False)
    assert arrays["latency_us"].shape == (400,) and arrays["rss"].shape == (201, 4)
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    row = "| 400 requests | none lost, none answered twice | 0 and 0 | met |"
    assert row in capsys.readouterr().out
    assert row in (tmp_path / "table.md").read_text()


def check_attack(found, n):
    peer = found["peer"]
    assert found["alive"] and found["exact"] and found["n_tracebacks"] == 0 and peer["leaks"] == []
    assert peer["n"] == peer["n_framed"] + peer["n_raw"] == n and peer["n_ids"] == n / 60
    assert sum(peer["answers"].values()) + peer["n_ignored"] == peer["n_framed"]
    assert peer["answers"]["MALFORMED"] > 50 and peer["answers"]["BAD_LENGTH"] > 50
    assert found["alone"]["n"] == found["attacked"]["n"] > 0 == found["attacked"]["n_wrong"]


def test_an_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "WARMUP_S", 0.05)
    attack = hostile.Attack(n=300, rate_hz=1000, n_segments=1)
    bundle = student(tmp_path / "b")
    found, arrays = hostile.run(bundle, tmp_path, attack, robot_hz=200, deadline_s=0.02)
    check_attack(found, 300)
    assert found["attacked"]["n"] > 50  # 0.3 s at 200 Hz
    assert {key: len(array) for key, array in arrays.items()} == {
        f"{name}_us": found[name]["n"] for name in ("alone", "attacked", "neighbour")
    }


@pytest.mark.slow
def test_a_soak_of_bad_frames(tmp_path):
    options = ["--n", "600", "--segments", "1", "--hostile-hz", "600", "--out", str(tmp_path)]
    soak.main(["hostile", *options])  # a busy machine's latencies may make it return 1
    result = json.loads((tmp_path / "hostile.json").read_text())
    for found in (result["paced"], result["remote"], result["flood"]):
        check_attack(found, 600)
    kinds = {
        f"{attack}_{kind}_us"
        for attack in ("paced", "remote", "flood")
        for kind in ("alone", "attacked", "neighbour")
    }
    assert set(np.load(tmp_path / "hostile.npz")) == kinds
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_soak_of_reloads(tmp_path):
    soak.main(["reload", "--n", "3", "--reload-clients", "2", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "reload.json").read_text())
    assert result["n_reloads"] == 3
    assert not any(result[name] for name in ("n_reloads_failed", "n_wrong", "n_lost"))
    assert result["n_once"] == result["n_sent"] == sum(result["policies"].values()) > 20
    assert len(result["policies"]) == 2 and 0 < result["longest_gap_s"] < 60
    table = (tmp_path / "table.md").read_text()
    assert "| 3 reloads under load | no failed request | 0 of " in table


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["requests", "--n", "0"], "got n 0; expected more than 0"), (["nothing"], "nothing")],
)
def test_what_makes_no_sense_is_refused(words, problem, capsys):
    with pytest.raises(SystemExit):
        soak.main(words)
    assert problem in capsys.readouterr().err


def test_a_server_that_is_not_there_refuses_ids():
    report = Attacker("ipc:///nowhere/at/all", 3).attack(70, 0, 1)
    assert report["n_ids_refused"] == 2 and report["answers"] == {}
