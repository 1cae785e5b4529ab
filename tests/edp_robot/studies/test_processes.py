import os
import signal
import sys
import time

import pytest

from edp_robot.studies.processes import run_all, start_logged

SAVES = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
def save(*_):
    (out / "saved").write_text(str(int((out / "saved").exists()) + 1))
    sys.exit(5)
signal.signal(signal.SIGINT, save)
(out / "ready").touch()
time.sleep(60)
"""


class Fake:
    """A process that ends with `status` at its second poll; `alive` counts those at work."""

    def __init__(self, status, alive):
        self.status = status
        self.alive = alive
        self.polls = 0
        alive.append(self)

    def poll(self):
        self.polls += 1
        if self.polls == 2:
            self.alive.remove(self)
        return self.status if self.polls > 1 else None

    def send_signal(self, sig):
        pass

    def wait(self):
        return self.status


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_no_more_than_asked_run_beside_each_other(at_once):
    alive = []
    most = []
    ended = []

    def start(job):
        child = Fake(job % 2, alive)
        most.append(len(alive))
        return child

    run_all(range(5), start, at_once, lambda job, problem: ended.append((job, problem)))
    assert max(most) == min(at_once, 5)
    assert sorted(ended) == [
        (0, ""),
        (1, "ended with status 1"),
        (2, ""),
        (3, "ended with status 1"),
        (4, ""),
    ]


def test_one_that_cannot_start_does_not_stop_the_others():
    ended = {}

    def start(job):
        if job == "a":
            raise OSError("no such thing")
        return Fake(0, [])

    run_all("ab", start, 1, ended.__setitem__)
    assert ended == {"a": "no such thing", "b": ""}


def test_ctrl_c_lets_children_save_once_and_starts_no_more(tmp_path):
    started = []
    ended = []

    def start(job):
        command = [sys.executable, "-c", SAVES, str(tmp_path)]
        started.append(start_logged(command, tmp_path / f"{job}.log", 1))
        while not (tmp_path / "ready").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    with pytest.raises(KeyboardInterrupt):
        run_all([1, 2], start, 1, lambda *said: ended.append(said))
    assert (tmp_path / "saved").read_text() == "1"
    assert [child.returncode for child in started] == [5]
    assert ended == []


def test_an_error_of_ours_leaves_no_child_behind(tmp_path):
    children = []

    def start(job):
        command = ["true"] if job == "short" else ["sleep", "60"]
        children.append(start_logged(command, tmp_path / f"{job}.log", 1))
        return children[-1]

    def finished(job, problem):
        raise RuntimeError("cannot draw")

    with pytest.raises(RuntimeError, match="cannot draw"):
        run_all(["short", "long"], start, 2, finished)
    assert [child.poll() for child in children] == [0, -signal.SIGINT]


def test_a_process_is_not_started_beside_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    log = tmp_path / "new" / "run.log"
    first = start_logged(["sleep", "60"], log, 3)
    assert os.getpgid(first.pid) != os.getpgid(0)  # a terminal's Ctrl-C would reach it twice
    with pytest.raises(BlockingIOError, match="still at work"):
        start_logged(["true"], log, 3)
    first.kill()
    first.wait()
    says = ["sh", "-c", "echo $OMP_NUM_THREADS threads $OMP_WAIT_POLICY"]
    assert start_logged(says, log, 3).wait() == 0
    assert "$ sleep 60\n" in log.read_text()
    assert log.read_text().endswith("3 threads PASSIVE\n")
