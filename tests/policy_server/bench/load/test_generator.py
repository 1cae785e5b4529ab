"""The generator against a channel that does exactly what it is told."""

import time

import numpy as np

from policy_server.bench.load.channel import LocalChannel, Reply
from policy_server.bench.load.generator import UNSENT, Generator, Timing
from policy_server.bench.load.load_report import counts, latency_us


def closed(n_clients, n_requests, timeout_ns=20_000_000):
    """The timing of a closed loop without warm-up or deadline."""
    return Timing(
        phases_ns=[0] * n_clients,
        period_ns=0,
        warmup_ns=0,
        n_requests=n_requests,
        duration_ns=0,
        timeout_ns=timeout_ns,
        deadline_ns=0,
    )


class Script:
    """A channel that answers at once with `answer(client, sequence)`, a list of replies.

    It takes the requests for which `takes(sequence)` is true.
    """

    def __init__(self, answer, takes=lambda sequence: True):
        self.sent = []
        self._answer = answer
        self._takes = takes
        self._ready = []

    def send(self, client, request):
        sequence = request.sequence
        if not self._takes(sequence):
            return False
        self.sent.append((client, sequence))
        self._ready += self._answer(client, sequence)
        return True

    def receive(self, wait_s):
        replies = self._ready
        self._ready = []
        if not replies:
            time.sleep(wait_s)
        return [r._replace(received_ns=time.monotonic_ns()) for r in replies]

    def close(self):
        pass


def reply(client, sequence, status=0):
    return Reply(client, sequence, status, 0, (1, 2, 3))


def generate(channel, timing):
    generator = Generator(channel, timing)
    done = []
    samples = generator.run(time.monotonic_ns(), lambda: bool(done), lambda: done.append(True))
    assert len(done) == 1
    return generator, samples


def test_a_closed_loop_asks_again_when_it_is_answered():
    channel = Script(lambda client, sequence: [reply(client, sequence)])
    generator, samples = generate(channel, closed(n_clients=2, n_requests=6))
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
    def answer(client, sequence):
        return [reply(1 - client if sequence == 3 else client, sequence)]

    generator, samples = generate(Script(answer), closed(n_clients=2, n_requests=6))
    assert generator.n_stray == 1 and counts(samples) == {"OK": 5, "LOST": 1}


def test_an_answer_after_the_timeout_is_late_not_lost_and_not_a_duplicate():
    held = []

    def answer(client, sequence):
        if sequence == 1:
            held.append(reply(client, sequence))
            return []
        late = [held.pop()] if held else []
        return [reply(client, sequence), *late]

    generator, samples = generate(Script(answer), closed(n_clients=1, n_requests=4))
    assert counts(samples) == {"OK": 4, "LOST": 0} and generator.n_duplicate == 0
    latencies_us = latency_us(samples)
    assert latencies_us[0] >= 20_000 and latencies_us[0] == latencies_us.max()


def test_what_cannot_be_sent_is_unsent_and_tried_again_later():
    channel = Script(
        lambda client, sequence: [reply(client, sequence)], takes=lambda sequence: sequence != 2
    )
    generator, samples = generate(channel, closed(n_clients=1, n_requests=4))
    assert counts(samples) == {"OK": 3, "LOST": 0, "UNSENT": 1}
    assert np.diff(samples["sent_ns"])[1] >= 10_000_000 and samples["status"][1] == UNSENT
    assert generator.n_stray == 0


def test_a_policy_in_this_process_answers_in_turn():
    """Three clients, 10 ms each: from the third request on, each waits for the other two."""

    class Slow:
        def act(self, obs):
            time.sleep(0.01)

        def close(self):
            pass

    channel = LocalChannel(Slow(), np.zeros(1))
    _, samples = generate(channel, closed(n_clients=3, n_requests=6, timeout_ns=10**9))
    waited_ms = latency_us(samples)[3:] / 1000
    assert (waited_ms >= 29).all() and (samples["queue_us"][3:] >= 19_000).all()
