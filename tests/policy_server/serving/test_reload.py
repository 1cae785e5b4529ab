"""Reload, rollback and the end of a server: real processes on real sockets."""

import contextlib
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from support.checked_client import refusal, until

from policy_server.contract import wire
from policy_server.contract.field import Field
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.transport.link import connect

OBS = np.float32([0.1, -0.2, 0.01])


class Stage:
    """A server whose bundle is a symbolic link to one of two bundles."""

    def __init__(self, tiny, folder, start_server):
        self.tiny = tiny
        self.folder = folder
        self.link = folder / "current"
        self.bundles = {name: self.make(name, factor) for name, factor in (("a", 1.0), ("b", 0.5))}
        self.point("a")
        assert self.hash("a") != self.hash("b") and expected(folder / "a") != expected(folder / "b")
        self.server = start_server(self.link)

    def make(self, name, factor):
        golden = self.tiny.golden()
        weights = np.float32(factor) * self.tiny.W
        V = 0.1 * golden["noise"]
        action = np.tanh(golden["obs"] @ weights + V).reshape(golden["action"].shape)
        return self.tiny.save(
            self.folder / name,
            name=name,
            onnx_bytes=self.tiny.onnx_bytes(weights),
            golden={**golden, "action": action},
        )

    def point(self, name):
        fresh = self.folder / "fresh"
        fresh.symlink_to(self.folder / name)
        os.replace(fresh, self.link)

    def hash(self, name):
        return self.bundles[name].hash

    def swapped(self, now, before):
        """Returns the answer to a reload or rollback."""
        return {"bundle_hash": self.hash(now), "previous_bundle_hash": self.hash(before)}

    def client(self):
        return PolicyClient(self.server.endpoint, 20)


@pytest.fixture
def stage(tiny, tmp_path, start_server):
    return Stage(tiny, tmp_path, start_server)


def expected(path, n_before=0):
    """Returns the action for OBS after reset(5) and `n_before` other actions."""
    local = LocalPolicy(path, "cpu")
    local.reset(5)
    return [local.act(OBS).tobytes() for _ in range(n_before + 1)][-1]


def test_a_reload_swaps_the_policy_and_keeps_sessions_and_noise(stage):
    with stage.client() as client:
        client.reset(5)
        assert client.act(OBS).tobytes() == expected(stage.folder / "a")
        stage.point("b")
        # Without a request the server keeps its policy.
        assert client.act(OBS).tobytes() == expected(stage.folder / "a", 1)
        assert client.reload() == stage.swapped("b", "a")
        assert client.act(OBS).tobytes() == expected(stage.folder / "b", 2)
        assert client.last_policy == bytes.fromhex(stage.hash("b"))[:8]
        hello = client.hello()
        assert (hello["manifest"]["name"], hello["session"]) == ("b", 0)
        assert hello["bundle_hash"] == stage.hash("b")
        assert client.reload() == stage.swapped("b", "b")
        assert client.stats()["reloads"] == {"ok": 2}


def test_rollback_goes_back_and_forth(stage):
    with stage.client() as client:
        status, reason = refusal(client.rollback)
        assert status == Status.REFUSED and "no earlier policy" in reason
        stage.point("b")
        client.reload()
        shutil.rmtree(stage.folder / "a")  # The previous policy is kept in memory.
        for now, before in ("ab", "ba", "ab"):
            assert client.rollback() == stage.swapped(now, before)
            client.act(OBS)
            assert client.last_policy.hex() == stage.hash(now)[:16]
        assert client.stats()["reloads"] == {"ok": 1, "rolled_back": 3}


def damage(stage):
    (stage.folder / "b" / "policy.onnx").write_bytes(b"broken")


def remove(stage):
    shutil.rmtree(stage.folder / "b")


def compute_otherwise(stage):
    remove(stage)
    stage.tiny.save(
        stage.folder / "b", onnx_bytes=stage.tiny.onnx_bytes(np.float32(1.1) * stage.tiny.W)
    )


def change_period(stage):
    stage.tiny.save(stage.folder / "b", control_period_s=0.02)


def change_obs_dim(stage):
    obs, _ = stage.tiny.fields()
    weights = np.concatenate([stage.tiny.W, np.zeros((1, stage.tiny.latent_dim), np.float32)])
    golden = stage.tiny.golden()
    golden["obs"] = np.concatenate(
        [golden["obs"], np.zeros((len(golden["obs"]), 1), np.float32)], axis=1
    )
    one_more = (*obs, Field("more", 3, 4, "m", (0.0,), (1.0,)))
    stage.tiny.save(
        stage.folder / "b",
        obs=one_more,
        onnx_bytes=stage.tiny.onnx_bytes(weights, 4),
        golden=golden,
    )


BAD_BUNDLES = [
    (damage, "policy.onnx is damaged"),
    (compute_otherwise, "self-test failed on cpu"),
    (change_period, "control_period_s 0.02 instead of 0.01"),
    (change_obs_dim, "another interface than the served one (obs "),
    (remove, "no manifest.json"),
]


def test_bad_bundles_leave_the_old_one_in_service(stage):
    stage.point("b")
    with stage.client() as client:
        for spoil, said in BAD_BUNDLES:
            spoil(stage)
            client.reset(5)
            status, reason = refusal(client.reload)
            assert status == Status.REFUSED and "the old policy stays" in reason and said in reason
            assert str(stage.folder) not in reason and "Traceback" not in reason
            assert client.act(OBS).tobytes() == expected(stage.folder / "a")
            assert client.health()["bundle_hash"] == stage.hash("a")
            # A failed reload leaves nothing to roll back.
            assert refusal(client.rollback)[0] == Status.REFUSED
        stage.point("a")
        client.reload()
        assert client.stats()["reloads"] == {"failed": len(BAD_BUNDLES), "ok": 1}


def test_a_second_reload_at_the_same_time_is_refused(stage):
    stage.point("b")
    link = connect(stage.server.endpoint)
    try:
        deadline_ns = time.monotonic_ns() + 20_000_000_000
        assert link.send(wire.encode(Header(Kind.CONTROL, 0, 1), b'{"op": "health"}'), deadline_ns)
        assert link.receive(deadline_ns)
        frames = [wire.encode(Header(Kind.CONTROL, 0, k), b'{"op": "reload"}') for k in (2, 3)]
        assert all(link.send(frame, deadline_ns) for frame in frames)
        answers = [wire.decode(link.receive(deadline_ns) or b"") for _ in frames]
    finally:
        link.close()
    (refused, reason), (done, payload) = answers
    assert (refused.kind, refused.status, refused.sequence) == (Kind.ERROR, Status.REFUSED, 3)
    assert b"under way already" in bytes(reason)
    assert (done.kind, done.sequence) == (Kind.CONTROL_REPLY, 2)
    assert wire.parse_object(payload)["bundle_hash"] == stage.hash("b")


def test_a_reload_happens_even_if_its_client_has_gone(stage):
    stage.point("b")
    asker = connect(stage.server.endpoint)
    assert asker.send(
        wire.encode(Header(Kind.CONTROL, 0, 1), b'{"op": "reload"}'), time.monotonic_ns() + 10**10
    )
    asker.close()
    with stage.client() as client:
        until(lambda: client.health()["bundle_hash"] == stage.hash("b"))


def test_sighup_reloads_and_a_failure_is_only_logged(stage):
    with stage.client() as client:
        client.reset(5)
        client.act(OBS)
        stage.point("b")
        stage.server.process.send_signal(signal.SIGHUP)
        until(lambda: client.health()["bundle_hash"] == stage.hash("b"))
        assert client.act(OBS).tobytes() == expected(stage.folder / "b", 1)
        damage(stage)
        stage.server.process.send_signal(signal.SIGHUP)
        until(lambda: client.stats()["reloads"].get("failed") == 1)
        health = client.health()
        assert (health["status"], health["ready"], health["reloading"]) == ("ok", True, False)
        assert health["bundle_hash"] == stage.hash("b")
    stage.server.process.send_signal(signal.SIGTERM)
    _, errors = stage.server.process.communicate(timeout=20)
    events = [line.split()[2] for line in errors.splitlines()]
    assert events == ["serving", "reloaded", "reload_failed", "draining"] and "is damaged" in errors


def test_reloads_under_load_fail_no_request(stage):
    """Each answer comes from the policy that it names, and the noise continues over reloads."""
    done = threading.Event()
    found = {}

    def drive(index):
        answers = []
        with stage.client() as client:
            client.reset(5)
            while not done.is_set():
                action = client.act(OBS)
                answers.append((client.last_policy, action.tobytes()))
        found[index] = answers

    threads = [threading.Thread(target=drive, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    try:
        with stage.client() as client:
            for k in range(8):
                now, before = ("ba", "ab")[k % 2]
                stage.point(now)
                assert client.reload() == stage.swapped(now, before)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert len(found) == 2  # No client got an error.
    for answers in found.values():
        policies = {
            bytes.fromhex(bundle.hash)[:8]: LocalPolicy(bundle.path, "cpu")
            for bundle in stage.bundles.values()
        }
        for policy in policies.values():
            policy.reset(5)
        for name, answer in answers:
            expected_answers = {key: policy.act(OBS).tobytes() for key, policy in policies.items()}
            assert expected_answers[name] == answer
        assert {name for name, _ in answers} == set(policies)


def test_sigterm_answers_what_waits(served_once):
    """The server is stopped while requests come, so that all wait when it sees SIGTERM."""
    server = served_once
    n = 12
    with contextlib.ExitStack() as stack:
        askers = [connect(server.endpoint) for _ in range(n)]
        deadline_ns = time.monotonic_ns() + 20_000_000_000
        for asker in askers:
            stack.callback(asker.close)
            assert asker.send(
                wire.encode(Header(Kind.ACT, 0, 1), wire.float_bytes(OBS)), deadline_ns
            )
            assert asker.receive(deadline_ns)
        os.kill(server.process.pid, signal.SIGSTOP)
        for asker in askers:
            assert asker.send(
                wire.encode(Header(Kind.ACT, 0, 2), wire.float_bytes(OBS)), deadline_ns
            )
        os.kill(server.process.pid, signal.SIGTERM)
        os.kill(server.process.pid, signal.SIGCONT)
        answers = [wire.decode(asker.receive(deadline_ns) or b"")[0] for asker in askers]
    assert [(header.kind, header.sequence) for header in answers] == [(Kind.ACT_REPLY, 2)] * n
    _, errors = server.process.communicate(timeout=20)
    assert server.process.returncode == 0 and "Traceback" not in errors


@pytest.fixture
def served_once(start_server, bundle_path):
    """A server that one test may end."""
    return start_server(bundle_path)


@pytest.mark.parametrize("wait_s", [0.0, 0.005])
def test_sigterm_in_the_middle_of_a_reload(served_once, wait_s):
    link = connect(served_once.endpoint)
    try:
        assert link.send(
            wire.encode(Header(Kind.CONTROL, 0, 1), b'{"op": "reload"}'),
            time.monotonic_ns() + 10**10,
        )
        time.sleep(wait_s)
        served_once.process.send_signal(signal.SIGTERM)
        _, errors = served_once.process.communicate(timeout=20)
    finally:
        link.close()
    assert served_once.process.returncode == 0 and "Traceback" not in errors
