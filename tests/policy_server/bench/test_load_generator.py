"""The generator against a channel that does exactly what it is told."""

import time

import numpy as np
import pytest

from policy_server.bench.load.channel import LocalChannel, Reply
from policy_server.bench.load.generator import BAD_REPLY, LOST, UNSENT, Generator, Timing
from policy_server.bench.load.load_report import counts, latency_us, missed, table, warnings

CLOSED = Timing([0, 0], 0, 0, 6, 0, 20_000_000, 0)


class Script:
    """Answers a request at once with what `answer(client, sequence)` says; sends what `takes(sequence)` lets it."""

    def __init__(self, answer, takes=lambda sequence: True):
        self.sent, self._answer, self._takes, self._ready = [], answer, takes, []

    def send(self, client, sequence, now_ns, budget_us):
        if not self._takes(sequence):
            return False
        self.sent.append((client, sequence))
        self._ready += self._answer(client, sequence)
        return True

    def receive(self, wait_s):
        replies, self._ready = self._ready, []
        if not replies:
            time.sleep(wait_s)
        return [r._replace(received_ns=time.monotonic_ns()) for r in replies]

    def close(self):
        pass


def reply(client, sequence, status=0):
    return Reply(client, sequence, status, 0, (1, 2, 3))


def generate(channel, timing=CLOSED):
    generator, done = Generator(channel, timing), []
    samples = generator.run(time.monotonic_ns(), lambda: bool(done), lambda: done.append(True))
    assert len(done) == 1
    return generator, samples


def test_a_closed_loop_asks_again_when_it_is_answered():
    channel = Script(lambda client, sequence: [reply(client, sequence)])
    generator, samples = generate(channel)
    assert len(samples["sent_ns"]) == 6 and counts(samples) == {"OK": 6, "LOST": 0}
    for client in (0, 1):
        mine = samples["client"] == client
        assert mine.sum() == 3
        assert (samples["sent_ns"][mine][1:] >= samples["received_ns"][mine][:-1]).all()
    assert (samples["scheduled_ns"] == samples["sent_ns"]).all()
    assert samples["server_us"].tolist() == [3] * 6
    assert [s for _, s in channel.sent] == list(range(1, len(channel.sent) + 1))
    assert generator.n_duplicate == generator.n_stray == 0


def test_an_answer_that_another_client_receives_is_a_stray():
    generator, samples = generate(
        Script(lambda client, sequence: [reply(1 - client if sequence == 3 else client, sequence)])
    )
    assert generator.n_stray == 1 and counts(samples) == {"OK": 5, "LOST": 1}


def test_an_answer_after_the_timeout_is_late_not_lost_and_not_a_duplicate():
    held = []

    def answer(client, sequence):
        if sequence == 1:
            held.append(reply(client, sequence))
            return []
        return [reply(client, sequence)] + (
            [held.pop()] if held and client == held[0].client else []
        )

    generator, samples = generate(Script(answer), Timing([0], 0, 0, 4, 0, 20_000_000, 0))
    assert counts(samples) == {"OK": 4, "LOST": 0} and generator.n_duplicate == 0
    assert latency_us(samples)[0] >= 20_000 > latency_us(samples)[1:].max()


def test_what_cannot_be_sent_is_unsent_and_tried_again_later():
    generator, samples = generate(
        Script(lambda client, sequence: [reply(client, sequence)], lambda sequence: sequence != 2),
        Timing([0], 0, 0, 4, 0, 20_000_000, 0),
    )
    assert counts(samples) == {"OK": 3, "LOST": 0, "UNSENT": 1}
    assert np.diff(samples["sent_ns"])[1] >= 10_000_000 and samples["status"][1] == UNSENT
    assert generator.n_stray == 0


def test_a_policy_in_this_process_answers_in_turn():
    """Three clients, 10 ms each: a closed loop waits for the other two, so the third and all later take 30 ms."""

    class Slow:
        def act(self, obs):
            time.sleep(0.01)

        def close(self):
            pass

    _, samples = generate(
        LocalChannel(Slow(), np.zeros(1)), Timing([0, 0, 0], 0, 0, 6, 0, 10**9, 0)
    )
    waited_ms = latency_us(samples)[3:] / 1000
    assert (waited_ms >= 29).all() and (samples["queue_us"][3:] >= 19_000).all()


def test_a_request_without_an_action_misses_every_deadline():
    columns = {
        "scheduled_ns": np.zeros(5, np.int64),
        "received_ns": np.array([1_000_000, 3_000_000, -1, 1_000, 1_000], np.int64),
        "status": np.array([0, 0, LOST, 5, BAD_REPLY]),
    }
    said = missed(latency_us(columns), 0.002)
    assert said is not None and (said["n_missed"], said["n"], said["rate"]) == (4, 5, 0.8)
    assert said["ci"] == pytest.approx([0.3755, 0.9638], abs=1e-4)
    assert missed(latency_us(columns), None) is None


def test_what_a_reader_must_know_is_said():
    calm = {
        "bundle": None,
        "generator": {"cpu_share": [0.1]},
        "roundtrip_us": {"p99": 100.0},
        "n_duplicate": 0,
    }
    calm |= {"n_stray": 0, "send_late_us": {"p99": 10.0}}
    assert warnings(calm) == []
    assert "bottleneck" in warnings({**calm, "generator": {"cpu_share": [0.1, 0.95]}})[0]
    assert "sent late" in warnings({**calm, "send_late_us": {"p99": 60.0}})[0]
    assert warnings({**calm, "n_duplicate": 2}) == ["2 duplicate answers, 0 to requests never made"]


def test_a_table_says_what_went_wrong():
    one = {"n_clients": 4, "n": 100, "answered_hz": 50.0, "counts": {"OK": 98, "LOST": 2}}
    one |= {"roundtrip_us": {"p50": 12.34, "p90": 20.0, "p99": None, "p999": None, "max": 30.0}}
    one |= {
        "deadline": {
            "n": 100,
            "n_missed": 2,
            "deadline_s": 0.02,
            "rate": 0.02,
            "ci": [0.0055, 0.07],
        }
    }
    row = table([one]).splitlines()[1]
    assert row.split()[:8] == ["4", "100", "50.0", "12.3", "20.0", "-", "-", "30.0"]
    assert row.endswith("2 of 100 later than 20 ms (2.00%, 95 % [0.55%, 7.00%]), 2 LOST")
