"""A client whose server is replaced, or that several threads and processes use."""

import asyncio
import concurrent.futures
import contextlib
import copy
import math
import multiprocessing
import os
import pickle
import threading
import time

import numpy as np
import pytest
from support.checked_client import until
from support.serving import running_server

from policy_server.contract.errors import PolicyChanged, PolicyError, PolicyTimeout
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest, differences
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.control.sole_use import SharedUse
from policy_server.transport.keys import ClientKeys, make_keys

OBS = np.float32([0.1, -0.2, 0.01])
LONG_S = 20


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def replace(start_server, endpoint):
    """Serves a bundle on one endpoint in place of the one before."""
    running = []

    def serve(bundle):
        for server in running:
            server.process.terminate()
            server.process.wait(LONG_S)
        running[:] = [start_server(bundle, endpoint)]

    return serve


def another(tiny, path, **changes):
    """Returns the folder of a bundle of another policy, of the same interface but for `changes`."""
    golden = tiny.golden()
    action = np.tanh(golden["obs"] @ (0.5 * tiny.W) + 0.1 * golden["noise"])
    shape = (len(action), changes.get("horizon", 2), -1)
    graph = tiny.onnx_bytes(np.float32(0.5) * tiny.W, horizon=shape[1])
    arrays = {**golden, "action": action.reshape(shape).astype(np.float32)}
    return tiny.save(path, name="other", onnx_bytes=graph, golden=arrays, **changes).path


def acted(client):
    """Returns an action as soon as the new server answers."""
    found = []

    def ask():
        with contextlib.suppress(PolicyTimeout):
            found.append(client.act(OBS, deadline_s=1))
        return found

    until(ask)
    return found[0]


def test_another_policy_of_the_same_interface_goes_on(
    replace, tiny, bundle_path, endpoint, tmp_path
):
    with PolicyClient(endpoint, LONG_S) as client:
        replace(bundle_path)
        client.act(OBS)
        first = client.last_policy
        replace(another(tiny, tmp_path / "b"))
        acted(client)
        assert client.last_policy != first and client.manifest.name == "other"
        n_controls = client.stats()["counts"]["OK"]
        client.act(OBS)
        assert client.stats()["counts"]["OK"] == n_controls + 2  # It says hello once.


LIMITS = {"low": (-0.5, -0.9), "high": (0.9, 0.9), "max_rate": (5.0, math.inf)}
INTERFACES = [
    (
        "act",
        "action arm_target.low [-0.5, -0.9] instead of [-0.9, -0.9]",
        {"action": (Field("arm_target", 0, 2, "rad", **LIMITS),)},
    ),
    (
        "act",
        "action 4 (arm_target) instead of 2 (arm_target)",
        {"horizon": 1, "action": (Field("arm_target", 0, 4, "rad", (-1.0,) * 4, (1.0,) * 4),)},
    ),
    ("receive", "control_period_s 0.02 instead of 0.01", {"control_period_s": 0.02}),
    ("reset", "n_action_steps 2 instead of 1", {"n_action_steps": 2}),
]


@pytest.mark.parametrize(("way", "said", "changes"), INTERFACES)
def test_another_interface_is_an_error_that_names_it(
    replace, tiny, bundle_path, endpoint, tmp_path, way, said, changes
):
    replace(bundle_path)
    with PolicyClient(endpoint, LONG_S) as client:
        client.act(OBS)
        replace(another(tiny, tmp_path / "b", **changes))
        for _ in range(2):  # The error stays: the client is of no use any more.
            with pytest.raises(PolicyChanged, match=r"'other'.*Make another client") as caught:
                ask(client, way)
            assert said in str(caught.value)


def ask(client, way):
    """Asks for an action, or begins an episode, as soon as the new server answers."""

    def done():
        with contextlib.suppress(PolicyTimeout):
            if way == "reset":
                client.reset(3)
            elif way == "act":
                client.act(OBS, deadline_s=1)
            else:
                client.send(OBS, deadline_s=1)
                client.receive(wait_s=1)
        return False

    until(done)


def test_another_obs_is_said_too(replace, tiny, bundle_path, endpoint, tmp_path):
    fields = (Field("arm", 0, 4, "rad", (-1.0,) * 4, (1.0,) * 4),)
    golden = tiny.golden()
    weights = np.concatenate([tiny.W, tiny.W[:1]])
    obs = np.concatenate([golden["obs"], golden["obs"][:, :1]], axis=1)
    action = tiny.golden()["action"]
    action = np.tanh(obs @ weights + 0.1 * golden["noise"]).reshape(action.shape)
    arrays = {**golden, "obs": obs, "action": action.astype(np.float32)}
    graph = tiny.onnx_bytes(weights, n_obs=4)
    tiny.save(tmp_path / "b", name="other", obs=fields, onnx_bytes=graph, golden=arrays)
    replace(bundle_path)
    with PolicyClient(endpoint, LONG_S) as client:
        client.act(OBS)
        replace(tmp_path / "b")
        with pytest.raises(PolicyChanged, match=r"obs 4 \(arm\) instead of 3 \(arm, button\)"):
            ask(client, "act")


def test_a_wrong_obs_is_still_only_that(served):
    with PolicyClient(served.endpoint, LONG_S) as client:
        with pytest.raises(PolicyError, match="BAD_LENGTH") as caught:
            client.act(np.zeros(5, np.float32))
        assert not isinstance(caught.value, PolicyChanged)


def in_child(work):
    """Returns what `work` returned in a forked process, or the text of its error."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write_fd, said.encode())
        os._exit(0)
    os.close(write_fd)
    with open(read_fd) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def opened(request, tmp_path_factory, bundle_path):
    """Opens clients of one server."""
    keys = None
    options = ()
    if request.param == "with keys":
        folder = tmp_path_factory.mktemp("shared") / "keys"
        make_keys(folder, "r1")
        keys = ClientKeys.load(folder / "private" / "r1.key_secret")
        options = ("--keys", str(folder))
    with running_server(bundle_path, options=options) as server:
        yield lambda: PolicyClient(server.endpoint, LONG_S, keys)


@pytest.fixture
def client(opened):
    """A client that the server has answered once."""
    with opened() as client:
        client.reset(1)
        client.act(OBS)
        yield client


def test_a_forked_client_has_a_session_of_its_own(client):
    own = client.hello()["session"]
    n_before = client.stats()["n_sessions"]
    client.send(OBS)
    session = in_child(lambda: (client.receive(0.05), client.hello()["session"]))
    assert session == f"(None, {own + 1})"  # The parent's answer is not the child's.
    assert client.receive(LONG_S) is not None
    assert client.hello()["session"] == own and client.stats()["n_sessions"] == n_before + 1


def test_parent_and_child_at_once_get_their_own_answers(client):
    obs = [np.float32([x, 0, 0]) for x in np.linspace(-1, 1, 20)]

    def answers():
        client.reset(5)
        return [client.act(one).tolist() for one in obs]

    executor = concurrent.futures.ThreadPoolExecutor(1)
    child = executor.submit(in_child, answers)
    mine = None
    while mine is None:  # The fork may copy the client while it is in use: that is the test.
        mine = answers()
    assert child.result(LONG_S) == repr(mine) == repr(answers())


def test_a_fork_in_the_middle_of_a_query_leaves_both_usable(client):
    """Another thread waits for an answer, with the client's lock, when the process is forked."""
    waiting = threading.Event()
    real = client._link.receive

    def slow(deadline_ns):
        waiting.set()
        time.sleep(0.05)
        return real(deadline_ns)

    client._link.receive = slow
    thread = threading.Thread(target=client.act, args=(OBS,))
    thread.start()
    assert waiting.wait(LONG_S)
    assert in_child(lambda: client.act(OBS).shape) == "(2, 2)"
    thread.join(LONG_S)
    client._link.receive = real
    assert client.act(OBS).shape == (2, 2)


def test_a_second_thread_at_the_same_time_is_an_error(client):
    inside = threading.Event()
    go_on = threading.Event()
    real = client._link.send

    def held(frame, deadline_ns):
        inside.set()
        assert go_on.wait(LONG_S)
        return real(frame, deadline_ns)

    client._link.send = held
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        first = executor.submit(client.act, OBS)
        assert inside.wait(LONG_S)
        for call in (lambda: client.act(OBS), client.receive, client.stats, client.reset):
            with pytest.raises(SharedUse, match="in use by another thread right now"):
                call()
        go_on.set()
        assert first.result(LONG_S).shape == (2, 2)
    assert client.act(OBS).shape == (2, 2)  # One after the other is no fault.


def test_answers_belong_to_the_thread_that_sent(client):
    client.send(OBS)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        found = executor.submit(client.receive, 1.0).exception(LONG_S)
    assert isinstance(found, SharedUse) and "the thread that called send" in str(found)
    assert client.receive(LONG_S) is not None


def test_an_executor_of_asyncio_may_act_one_after_the_other(client):
    async def work():
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(None, client.act, OBS) for _ in range(5)]

    assert [action.shape for action in asyncio.run(work())] == [(2, 2)] * 5


@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_is_not_copied(client, carry):
    with pytest.raises(TypeError, match="cannot be copied or sent to another process: send 'tcp"):
        carry(client)


def test_a_spawned_process_gets_no_client(client):
    process = multiprocessing.get_context("spawn").Process(target=print, args=(client,))
    with pytest.raises(TypeError, match="cannot be copied or sent to another process"):
        process.start()


def test_a_local_policy_is_for_one_thread_of_its_own_process(bundle_path):
    policy = LocalPolicy(bundle_path, "cpu")
    assert in_child(lambda: policy.act(OBS)).startswith("SharedUse: a LocalPolicy cannot be used")
    with policy._use, pytest.raises(SharedUse, match="this LocalPolicy is in use"):
        policy.act(OBS)
    assert policy.act(OBS).shape == (2, 2)


@pytest.mark.parametrize("wait_s", [math.inf, 1e300, 1e12, 86400, np.float32(5)])
def test_long_deadlines_wait_for_the_answer(client, wait_s):
    assert client.act(OBS, deadline_s=wait_s).shape == (2, 2)
    client.send(OBS, deadline_s=wait_s)
    assert client.receive(wait_s) is not None
    assert client.hello(wait_s)["provider"] == "cpu"
    assert client.reload(wait_s)["bundle_hash"]


@pytest.mark.parametrize("wait_s", [math.nan, -1.0, -math.inf])
def test_deadlines_that_are_none_are_refused(client, wait_s):
    calls = (
        lambda: client.act(OBS, deadline_s=wait_s),
        lambda: client.send(OBS, deadline_s=wait_s),
        lambda: client.receive(wait_s),
        lambda: client.hello(wait_s),
        lambda: client.reload(wait_s),
        lambda: PolicyClient(client.endpoint, wait_s),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"_s (nan|-1.0|-inf): expected 0 s or more"):
            call()
    assert client.act(OBS).shape == (2, 2)


def test_no_time_is_a_timeout(client):
    with pytest.raises((PolicyTimeout, PolicyError)):  # LATE, where the server was very quick.
        client.act(OBS, deadline_s=0)
    assert client.act(OBS).shape == (2, 2)


def test_differences_name_the_field(tiny):
    obs, action = tiny.fields()
    common = {"task": "t", "source_commit": "c", "config_hash": "h", "sampler": {}, "parity": {}}
    sizes = {"horizon": 2, "n_action_steps": 1, "control_period_s": 0.01, "latent_dim": 4}
    old = Manifest(name="a", obs=obs, action=action, **common, **sizes)
    assert differences(old, old) == []
    renamed = Field("leg", 0, 2, "rad", low=obs[0].low, high=obs[0].high)
    new = Manifest(name="b", obs=(renamed, obs[1]), action=action, **common, **sizes)
    assert differences(new, old) == ["obs 3 (leg, button) instead of 3 (arm, button)"]
