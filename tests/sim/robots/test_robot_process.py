import mmap
import subprocess
import sys

import numpy as np
import pytest

from sim.core.registry import make_task, make_vec
from sim.robots.robot_process import Layout, Ring, RobotCore, handle
from sim.tasks import arm

LAYOUT = Layout(n_commands=6, n_sensors=16)
PERIOD_NS = 2_000_000
ABOVE = np.array([-0.524, -1.2, -1.55, 0.8, 0.0, 0.1])  # leaning back, forearm over the button
DOWN = ABOVE - np.array([0, 0.55, 0, 0, 0, 0])


def settle(core, target, n_steps=1000):
    """Steps `core` under `target`; returns the observation."""
    core.receive(np.asarray(target, float), 0)
    for k in range(n_steps):
        core.step(10**12 + k * PERIOD_NS)
    return core.obs()


# The core, without a clock.


def test_the_core_moves_as_the_training_environment_does():
    env = make_vec("arm-press", 1, 0)
    core = RobotCore(make_task("arm-press"))
    rng = np.random.default_rng(1)
    env.reset()
    states, sensors = arm.poses("random")
    chosen = np.random.default_rng(4).integers(len(states))
    one = {"state": states[[chosen]], "sensor": sensors[[chosen]], "command": sensors[[chosen], :6]}
    env.set_state(env.get_state() | one)
    core.start_episode(4)
    now_ns = 0
    command = sensors[chosen, :6]
    travelled = 0.0
    for k in range(150):
        if k % 15 == 0:
            action = rng.uniform(-1, 1, (1, 6))
        command = np.clip(command + 0.03 * action[0], *arm.joint_range())
        core.receive(command, now_ns)
        for _ in range(5):
            core.step(now_ns)
            now_ns += PERIOD_NS
        expected = env.step(action)[0][0]
        # the solver starts warm here, cold there; in contact that is a few mm/s, of up to 3 rad/s
        np.testing.assert_allclose(core.obs(), expected, atol=5e-3)
        travelled += np.abs(expected[6:12]).max() * 0.01
    assert travelled > 1.0


def test_a_target_has_its_effect_exactly_the_delay_later():
    for delay_ms in (0, 30):
        core = RobotCore(make_task("arm"), delay_ns=delay_ms * 1_000_000)
        target = core.obs()[:6] + 0.3
        core.receive(target, 4_000_000)
        felt = []
        for now_ns in range(0, 60_000_000, PERIOD_NS):
            core.step(now_ns)
            felt.append(core.data.ctrl[0] == target[0])
        assert felt.index(True) * 2 == 4 + delay_ms and all(felt[felt.index(True) :])


def test_delayed_targets_arrive_in_order_and_the_command_is_known_at_once():
    core = RobotCore(make_task("arm"), delay_ns=10_000_000)
    targets = [core.obs()[:6] + shift for shift in (0.1, 0.2)]
    seen = []
    for k in range(10):
        if k < 2:
            core.receive(targets[k], k * PERIOD_NS)
            np.testing.assert_allclose(core.obs()[12:18], targets[k], atol=1e-6)
        core.step(k * PERIOD_NS)
        seen.append(core.data.ctrl[0])
    assert (
        seen[5] == targets[0][0]
        and seen[6:] == [targets[1][0]] * 4
        and targets[0][0] not in seen[:5]
    )


def test_success_at_any_step_is_kept_until_the_next_episode():
    core = RobotCore(make_task("arm-press"))
    settle(core, ABOVE)
    assert not core.reading["success"]
    assert settle(core, DOWN)[21] > 0.005 and core.reading["success"]
    assert settle(core, ABOVE)[21] < 0.005 and core.reading["success"]
    core.start_episode(0)
    assert not core.reading["success"]


def test_success_at_the_end_is_lost_when_the_arm_leaves():
    core = RobotCore(make_task("arm-reach-low"))
    core._begin(arm.poses("rest"), 0)  # from some poses the straight way is blocked by the desk
    assert (
        arm.distance(settle(core, [0, 0.68, -0.57, 1.12, 1.14, 1.35])[None], arm.TARGETS["low"])[0]
        < 0.02
    )
    assert core.reading["success"]
    settle(core, ABOVE)
    assert not core.reading["success"]


def test_a_request_starts_an_episode_once_and_forgets_the_old_target():
    core = RobotCore(make_task("arm"))
    request = np.zeros((), LAYOUT.request)
    request["target"] = 0.5
    request["sent_ns"] = 7
    last = handle(core, request[()], 0)
    assert last == 7 and (core.reading["command"] == 0.5).all()
    request["episode"] = 1
    request["seed"] = 3
    request["sent_ns"] = 0
    last = handle(core, request[()], last)
    pose = core.reading["command"].copy()
    assert (pose != 0.5).all() and core.reading["episode"] == 1
    core.step(100)
    handle(core, request[()], last)
    assert core.reading["n_steps"] == 1 and core.data.time > 0  # not started again
    np.testing.assert_array_equal(core.data.ctrl, pose)


# Shared memory.


def test_a_half_written_row_is_never_read():
    memory = mmap.mmap(-1, LAYOUT.n_bytes)
    ring, _ = LAYOUT.rings(memory)
    assert ring.read() is None
    row = np.zeros((), LAYOUT.request)
    for k in range(1, 7):
        row["target"] = k
        row["sent_ns"] = k
        ring.write(row)
        assert (ring.read()["target"] == k).all() and ring.read()["sent_ns"] == k
    slot = ring._slot(7)
    memory[slot.start : slot.start + 30] = b"\xff" * 30  # a writer that was stopped half-way
    assert ring.read()["sent_ns"] == 6
    memory[ring._slot(6).stop - 20] ^= 1  # a newest row that is torn
    with pytest.raises(RuntimeError, match="no whole row"):
        ring.read()


def test_rows_from_another_process_are_whole_and_in_order(tmp_path):
    path = tmp_path / "rings"
    path.write_bytes(bytes(LAYOUT.n_bytes))
    code = (
        "import sys, mmap, time, numpy as np; from sim.robots.robot_process import Layout\n"
        "LAYOUT = Layout(n_commands=6, n_sensors=16)\n"
        "file, row = open(sys.argv[1], 'r+b'), np.zeros((), LAYOUT.request)\n"
        "ring = LAYOUT.rings(mmap.mmap(file.fileno(), LAYOUT.n_bytes))[0]\n"
        "until = time.monotonic() + 1\n"
        "while time.monotonic() < until:\n"
        "    row['sent_ns'] += 1; row['target'] = row['sent_ns']; ring.write(row)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    with open(path, "r+b") as file:
        ring, _ = LAYOUT.rings(mmap.mmap(file.fileno(), LAYOUT.n_bytes))
    seen = 0
    last = 0
    while writer.poll() is None:
        row = ring.read()
        assert row is not None or not last  # a ring that was written to never seems empty again
        if row is not None and row["sent_ns"] != last:
            assert (row["target"] == row["sent_ns"]).all() and row["sent_ns"] > last
            seen = seen + 1
            last = int(row["sent_ns"])
    assert writer.returncode == 0 and seen >= 10 and last > 1000


def test_a_ring_is_aligned():
    assert (
        Ring.n_bytes(LAYOUT.request) % 8 == 0
    )  # the counter of the ring after it is written in one piece
