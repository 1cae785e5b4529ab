"""Backends of policies with memory: the state goes in and comes back, row by row."""

import numpy as np
import pytest
from support import remembering

from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import BackendError
from policy_server.runtime.base import CheckedBackend, load_backend
from policy_server.runtime.onnxruntime import OnnxPolicy
from policy_server.runtime.onnxruntime.bound import BoundGraph
from policy_server.runtime.onnxruntime.providers import import_runtime, open_session


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return remembering.save_bundle(tmp_path_factory.mktemp("memory") / "bundle")


class ByHand:
    """The known function, without a runtime. `change` makes another one of it."""

    provider = "cpu"

    def __init__(self, bundle, options):
        self.change = lambda state: None

    def act(self, obs, noise):
        pytest.fail("a policy with memory was asked without its state")

    def step(self, obs, noise, state):
        after = state.copy()
        after[:, 1:2] += (1 - state[:, :1]) * obs
        after[:, 2:3] += obs
        after[:, 0] = 1
        action = after[:, None, 1:3].copy()
        self.change(after)
        return action, after


def wrong_flag(state):
    state[:, 0] = 0


def drifts(state):
    state[:, 2] += 2e-4  # too little for one step, too much for an episode


def wrong_type(state):
    state.dtype = np.int32


HERE = f"{__name__}:ByHand"


def episode(backend, rows):
    """Returns the answers (n_steps, n, 2) to rows (n_steps, n) from an empty memory."""
    state = np.zeros((rows.shape[1], remembering.STATE_DIM), np.float32)
    answers = []
    for obs in rows.astype(np.float32):
        action, state = backend.step(obs[:, None], np.zeros((len(obs), 0), np.float32), state)
        answers.append(action[:, 0])
    return np.stack(answers)


@pytest.mark.parametrize("backend", ["onnxruntime", HERE])
@pytest.mark.parametrize("n", [1, 3, 4, 7])
def test_each_row_has_its_own_state(bundle, backend, n):
    """Sizes 1 and 4 have buffers; 3 rows share those of 4, and 7 rows take the open graph."""
    rows = np.random.default_rng(n).uniform(0, 1, (5, n))
    expected = np.stack([remembering.answers(column)[:, 0] for column in rows.T], axis=1)
    made = load_backend(bundle, "cpu", backend=backend)
    assert made.self_test() < 1e-5
    np.testing.assert_allclose(episode(made, rows), expected, rtol=1e-5)


def test_a_graph_of_one_row_answers_many_row_by_row(bundle):
    graph = remembering.graph(batch=1)
    policy = OnnxPolicy(graph, "cpu", batch_sizes=(1, 4))
    rows = np.random.default_rng(0).uniform(0, 1, (5, 3))
    expected = np.stack([remembering.answers(column)[:, 0] for column in rows.T], axis=1)
    np.testing.assert_allclose(episode(policy, rows), expected, rtol=1e-5)


@pytest.mark.parametrize("staged", [False, True], ids=["in place", "staged"])
def test_buffers_hold_the_state(staged):
    """Staged buffers are those of a GPU."""
    runtime = import_runtime()
    session = open_session(runtime, remembering.graph(), "cpu", 1, ("batch", 2))
    shapes = {"obs": (2, 1), "state": (2, 3), "action": (2, 1, 2), "next_state": (2, 3)}
    bound = BoundGraph(runtime, session, shapes, "cpu", staged)
    bound.obs[:] = [[5.0], [7.0]]
    bound.state[:] = [[1, 3, 4], [0, 0, 0]]
    bound.run()
    np.testing.assert_array_equal(bound.action[:, 0], [[3, 9], [7, 7]])
    np.testing.assert_array_equal(bound.next_state, [[1, 3, 9], [1, 7, 7]])
    one = np.ones((1, 1), np.float32)
    action, after = bound.step(one, np.zeros((1, 0), np.float32), np.float32([[1, 3, 4]]))
    bound.next_state[:] = 0  # the answer is the caller's own
    np.testing.assert_array_equal(action, [[[3, 5]]])
    np.testing.assert_array_equal(after, [[1, 3, 5]])


def test_act_does_not_forget_in_silence(bundle):
    made = load_backend(bundle, "cpu")
    one = np.ones((1, 1), np.float32)
    with pytest.raises(BackendError, match=r"has memory \(state_dim 3\): use step"):
        made.act(one, np.zeros((1, 0), np.float32))
    with pytest.raises(BackendError, match=r"expected \(\(1, 1\), \(1, 0\), \(1, 3\)\)"):
        made.step(one, np.zeros((1, 0), np.float32), np.zeros((1, 2), np.float32))


def test_a_backend_that_cannot_keep_a_state_is_refused(bundle):
    class Forgetful:
        provider = "cpu"

        def act(self, obs, noise):
            return np.zeros((len(obs), 1, 2), np.float32)

    with pytest.raises(BackendError, match=r"Forgetful has no method step.*choose another"):
        CheckedBackend(Forgetful(), bundle, "fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [(wrong_flag, "self-test failed"), (drifts, "self-test failed"), (wrong_type, "int32")],
)
def test_a_runtime_that_remembers_something_else_does_not_serve(bundle, change, message):
    backend = ByHand(bundle, None)
    made = CheckedBackend(backend, bundle, "fp32")
    assert made.self_test() < 1e-5
    backend.change = change
    with pytest.raises(BackendError, match=message):
        made.self_test()


def test_a_policy_without_memory_has_a_state_of_length_0(bundle_path):
    made = load_backend(bundle_path, "cpu")
    golden = Bundle.load(bundle_path).golden()
    state = np.zeros((5, 0), np.float32)
    action, after = made.step(golden["obs"], golden["noise"], state)
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)
    assert after.shape == (5, 0)


def test_a_graph_that_keeps_no_state_or_another_contradicts_its_manifest(tmp_path):
    made = remembering.save_bundle(tmp_path / "b", extra=1, graph_extra=0)
    with pytest.raises(BackendError, match=r"state is \['batch', 3\], .*\['batch', 4\]"):
        load_backend(made, "cpu")
